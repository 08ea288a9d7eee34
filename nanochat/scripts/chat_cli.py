"""Talk to a trained model in the terminal.

    python -m nanochat.scripts.chat_cli                                    # the largest fine-tuned model found
    python -m nanochat.scripts.chat_cli -i sft -g d4 -p "Why is the sky blue?"
    python -m nanochat.scripts.chat_cli -i base -p "The capital of France is"

Flags are nanochat's own, and a few more. A base model has never seen a conversation, so it continues what you type as
plain text; fine-tuned models get the chat format. `clear` starts over and `quit` leaves. The conversation is kept as
tokens, so that the model reads its own earlier words, tool calls included, exactly as it wrote them.
"""

from __future__ import annotations

import argparse
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.errors import exit_status, is_message
from nanochat.paths import STAGE_FOLDERS, roots

if TYPE_CHECKING:
    from nanochat.checkpoint_manager import LoadedModel
    from nanochat.engine import Engine
    from nanochat.kept_cache import KeptCache

REPLY_TOKENS = 256  # nanochat's own limit on a reply


def parser() -> argparse.ArgumentParser:
    """Every flag, each with its help."""
    p = argparse.ArgumentParser(
        prog="nanochat chat_cli",
        description="Talk to a trained model in the terminal. Without -p it holds a conversation: Ctrl-C stops a "
        "reply, `clear` starts over, `quit` leaves. A base model continues what you type as plain text.",
    )
    p.add_argument("-i", "--source", default="sft", choices=list(STAGE_FOLDERS), help="training stage to load (sft)")
    p.add_argument("-g", "--model-tag", help="run, such as d20; needed where two are equally deep (the deepest)")
    p.add_argument("-s", "--step", type=int, help="step to load (the last complete one)")
    p.add_argument("-p", "--prompt", help="answer this one prompt and leave")
    p.add_argument("-t", "--temperature", type=float, default=0.6, help="0 always takes the likeliest token (0.6)")
    p.add_argument("-k", "--top-k", type=int, default=50, help="choose among the k likeliest tokens; 0 for all (50)")
    p.add_argument("--top-p", type=float, help="choose among the likeliest tokens that hold this share (all)")
    p.add_argument(
        "--min-p", type=float, help="drop tokens below this fraction of the likeliest one's probability (none)"
    )
    p.add_argument("--max-tokens", type=int, default=REPLY_TOKENS, help=f"longest reply in tokens ({REPLY_TOKENS})")
    p.add_argument("--seed", type=int, default=42, help="the same seed and settings give the same reply (42)")
    p.add_argument("--device-type", default="auto", help="auto, cuda, mps or cpu (auto)")
    p.add_argument("--base-dir", type=Path, help="nanochat base dir to look in (the workspace, then nanochat's own)")
    p.add_argument("--tokenizer-dir", type=Path, help="the model's tokenizer, where it does not lie in its base dir")
    p.add_argument(
        "--softcap", type=float, help="overrule the logit cap where a checkpoint cannot tell (nanochat.eras)"
    )
    p.add_argument(
        "--python", action="store_true", help="let the model run Python, contained; the calculator always works"
    )
    p.add_argument(
        "--trust-model", action="store_true", help="with --python: run it even where nothing contains it, at your risk"
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Load a model, answer one prompt or hold a conversation."""
    args = parser().parse_args(argv)
    if args.prompt is not None and not args.prompt.strip():
        parser().error("the prompt is empty; write something after -p, or leave it out for a conversation")
    loaded, engine = _load(args)
    if args.prompt is not None:
        _reply(args, engine, _turn(args, engine, [], args.prompt))
    else:
        _converse(args, loaded, engine)
    return 0


def _load(args: argparse.Namespace) -> tuple[LoadedModel, Engine]:
    from nanochat.checkpoint_manager import load_model_from
    from nanochat.device import choose_device
    from nanochat.engine import Engine

    device = choose_device(args.device_type or "auto")
    places = [args.base_dir] if args.base_dir else [root.path for root in roots()]
    loaded = load_model_from(
        places, args.source, args.model_tag, args.step, device.device, args.tokenizer_dir, softcap=args.softcap
    )
    engine = Engine(loaded.model, loaded.tokenizer, python=args.python, trust_model=args.trust_model)
    for line in (*loaded.notes, device.describe(), *engine.notes):
        print(line, file=sys.stderr)
    return loaded, engine


def _turn(args: argparse.Namespace, engine: Engine, conversation: list[int], text: str) -> list[int]:
    """The conversation so far and what the user now says, as tokens that end where the model's turn begins."""
    tokenizer = engine.tokenizer
    bos = [] if conversation else [tokenizer.get_bos_token_id()]
    if args.source == "base":
        return [*conversation, *bos, *tokenizer.encode(text)]
    said = tokenizer.encode(text, prepend="<|user_start|>", append="<|user_end|>")
    return [*conversation, *bos, *said, tokenizer.encode_special("<|assistant_start|>")]


def _reply(
    args: argparse.Namespace, engine: Engine, tokens: list[int], name: str = "", kept: KeptCache | None = None
) -> list[int] | None:
    """Stream one reply to standard output, behind the speaker's name; return the conversation with it.

    kept: what the model has read of the conversation before; it reads on from there.
    Ctrl-C ends the reply, and what was said so far stays in the conversation; None if nothing was.
    """
    from nanochat.engine import TextStream

    names = ("temperature", "top_k", "top_p", "min_p", "seed")
    settings: dict[str, Any] = {setting: getattr(args, setting) for setting in names}
    room = max(engine.model.config.sequence_len - len(tokens), 1)
    stream, reply = TextStream(engine.tokenizer), []
    try:
        columns = engine.generate(tokens, max_tokens=min(args.max_tokens, room), kept=kept, **settings)
        print(name, end="", flush=True)
        for (token,), _ in columns:
            if token is None or token in engine.ends:
                break
            reply.append(token)
            print(_harmless(stream.push(token)), end="", flush=True)
    except KeyboardInterrupt:
        if args.prompt is not None:
            raise
        print(" [stopped]", end="")
        if not reply:
            print(flush=True)
            return None
    print(_harmless(stream.finish()), flush=True)
    if len(reply) == room:
        print(f"The model's context of {len(tokens) + room:,} tokens is full.", file=sys.stderr)
    ending = [] if args.source == "base" else [engine.tokenizer.encode_special("<|assistant_end|>")]
    return [*tokens, *reply, *ending]


def _harmless(text: str) -> str:
    """Text as a terminal may have it: a model's control characters would move the cursor, rename the window or worse.

    They are written as their codes; a pipe or a file gets the text as it is.
    """
    if not sys.stdout.isatty():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if c not in "\n\t" and unicodedata.category(c) == "Cc" else c for c in text
    )


def _converse(args: argparse.Namespace, loaded: LoadedModel, engine: Engine) -> None:
    from nanochat.kept_cache import KeptCache

    print(f"{args.source} model, step {loaded.meta.get('step', 'unknown')}.")
    print("Type a message. Ctrl-C stops a reply, `clear` starts over, `quit` leaves.")
    conversation: list[int] = []
    kept = KeptCache()
    while True:
        try:
            line = input("\nYou: ").strip()
        except EOFError:
            print()
            return
        if line.lower() in ("quit", "exit"):
            return
        if line.lower() == "clear":
            conversation = []
            kept.forget()
            print("A new conversation.")
        elif line:
            try:
                tokens = _turn(args, engine, conversation, line)
                conversation = _reply(args, engine, tokens, "\nAssistant: ", kept) or conversation
            except ValueError as error:
                if not is_message(error):
                    raise
                print(f"{error}. Nothing was added; type `clear` to start over.", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(exit_status("chat_cli", main))
