"""Talk to a trained model in the terminal.

    python -m nanochat.scripts.chat_cli                                    # the largest fine-tuned model found
    python -m nanochat.scripts.chat_cli -i sft -g d4 -p "Why is the sky blue?"
    python -m nanochat.scripts.chat_cli -i base -p "The capital of France is"

Flags are nanochat's own, and a few more. A base model has never seen a conversation, so it continues the prompt as
plain text; fine-tuned models get the chat format. In a conversation, `clear` starts over and `quit` leaves.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanochat.checkpoint_manager import LoadedModel
    from nanochat.engine import Engine

REPLY_TOKENS = 256  # nanochat's own limit on a reply


def parser() -> argparse.ArgumentParser:
    """Every flag, each with its help."""
    p = argparse.ArgumentParser(prog="nanochat chat_cli", description="Talk to a trained model in the terminal.")
    p.add_argument(
        "-i", "--source", default="sft", choices=["base", "mid", "sft", "rl"], help="training stage to load (sft)"
    )
    p.add_argument("-g", "--model-tag", help="run to load, such as d20 (the largest model, then the newest)")
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
    p.add_argument(
        "--softcap", type=float, help="overrule the logit cap where a checkpoint cannot tell (see nanochat.eras)"
    )
    p.add_argument(
        "--python", action="store_true", help="let the model run Python in the sandbox; the calculator always works"
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Load a model, answer one prompt or hold a conversation. Exit codes: 0 done, 1 a sentence on standard error."""
    args = parser().parse_args(argv)
    try:
        loaded, engine = _load(args)
        if args.prompt is not None:
            _reply(args, engine, _prompt_tokens(args, engine, [{"role": "user", "content": args.prompt}]))
        else:
            _converse(args, loaded, engine)
    except ValueError as error:  # every bad input in this project is one: a sentence with its remedy
        print(f"chat_cli: {error}", file=sys.stderr)
        return 1
    return 0


def _load(args: argparse.Namespace) -> tuple[LoadedModel, Engine]:
    from nanochat.checkpoint_manager import load_model_from
    from nanochat.device import choose_device
    from nanochat.engine import Engine

    device = choose_device(args.device_type or "auto")
    base_dir = args.base_dir or _root_with_run(args.source, args.model_tag)
    loaded = load_model_from(
        base_dir, args.source, args.model_tag, args.step, device=device.device, softcap=args.softcap
    )
    for line in (*loaded.notes, device.describe()):
        print(line, file=sys.stderr)
    return loaded, Engine(loaded.model, loaded.tokenizer, python=args.python)


def _root_with_run(source: str, tag: str | None) -> Path:
    """The first root, ours before nanochat's, that holds a run of this stage, and of this tag if one is named."""
    from nanochat.checkpoint_manager import find_runs
    from nanochat.paths import roots

    for root in roots():
        if any(run.stage == source and run.steps and tag in (None, run.tag) for run in find_runs(root.path)):
            return root.path
    named = f"{source} run" if tag is None else f"{source} run {tag!r}"
    places = " or ".join(str(root.path) for root in roots())
    raise ValueError(f"no {named} with a complete checkpoint in {places}; name another folder with --base-dir")


def _prompt_tokens(args: argparse.Namespace, engine: Engine, messages: list[dict[str, str]]) -> list[int]:
    """The conversation so far as tokens that end where the model's turn begins."""
    if args.source == "base":
        return engine.tokenizer.encode("".join(message["content"] for message in messages), prepend="<|bos|>")
    # Rendering for completion drops the last assistant message and opens a new one, so the turn to come is named here.
    return engine.tokenizer.render_for_completion({"messages": [*messages, {"role": "assistant", "content": ""}]})


def _reply(args: argparse.Namespace, engine: Engine, tokens: list[int]) -> str:
    """Stream one reply to standard output; return its text."""
    from nanochat.engine import TextStream

    settings: dict[str, Any] = {
        name: getattr(args, name) for name in ("temperature", "top_k", "top_p", "min_p", "seed")
    }
    stream, text = TextStream(engine.tokenizer), ""
    ends = {engine.tokenizer.encode_special("<|assistant_end|>"), engine.tokenizer.get_bos_token_id()}
    for (token,), _ in engine.generate(tokens, max_tokens=args.max_tokens, **settings):
        piece = stream.push(token) if token is not None and token not in ends else stream.finish()
        text += piece
        print(piece, end="", flush=True)
    last = stream.finish()
    print(last, flush=True)
    return text + last


def _converse(args: argparse.Namespace, loaded: LoadedModel, engine: Engine) -> None:
    print(f"{args.source} model, step {loaded.meta.get('step', 'unknown')}, {loaded.era.name}.")
    print("Type a message. `clear` starts over, `quit` leaves.")
    messages: list[dict[str, str]] = []
    while True:
        try:
            line = input("\nYou: ").strip()
        except EOFError:
            print()
            return
        if line.lower() in ("quit", "exit"):
            return
        if line.lower() == "clear":
            messages = []
            print("A new conversation.")
            continue
        if not line:
            continue
        attempt = [*messages, {"role": "user", "content": line}]
        try:
            tokens = _prompt_tokens(args, engine, attempt)
            print("\nAssistant: ", end="", flush=True)
            answer = _reply(args, engine, tokens)
        except ValueError as error:
            print(f"{error} Type `clear` to start over.", file=sys.stderr)
            continue
        messages = [*attempt, {"role": "assistant", "content": answer}]


if __name__ == "__main__":
    sys.exit(main())
