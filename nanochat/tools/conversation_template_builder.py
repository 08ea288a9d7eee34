"""Write conversations for fine-tuning, check them, and see them as a model does.

    nanochat conversation_template_builder --simple "What is 2+2?" "It's 4." --output conversation.json
    nanochat conversation_template_builder --tool "What is 12*12?" "12*12" "144" "It is 144." --append chats.jsonl
    nanochat conversation_template_builder --validate conversation.json
    nanochat conversation_template_builder --batch-validate dataset.jsonl --output report.json
    nanochat conversation_template_builder --load chats.jsonl --line 3 --loss sft/demo   # a model's surprise
    nanochat conversation_template_builder --interactive

Making, checking and saving need no tokenizer. A tool call is: question, code, what the tool answered, reply.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.analysis import conversation_template_builder as builder
from nanochat.checkpoint_files import shown
from nanochat.conversation import PROFILES, check
from nanochat.errors import exit_status, is_message

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

WIDTH = 100
MAX_ISSUES = 20  # lines of a file that are printed; the report has more
COMMANDS = """\
  simple            two turns: a question and its answer
  multi             user and assistant in turns; an empty line ends it
  tool              a question that is answered with the Python tool
  load FILE [LINE]  take a conversation from a .json file or a line of a .jsonl file
  save FILE         write the conversation to a file of its own
  append FILE       add it to a dataset, one conversation a line
  validate FILE     check a file with one conversation
  show              the conversation again
  tokenize          the conversation as the model reads it
  quit"""


def parser() -> argparse.ArgumentParser:
    """Every flag, each with its help."""
    p = argparse.ArgumentParser(
        prog="nanochat conversation_template_builder",
        description="Write conversations for fine-tuning, check them, and see them as a model does.",
    )
    p.add_argument("-i", "--interactive", action="store_true", help="build conversations step by step")
    make = p.add_argument_group("which conversation").add_mutually_exclusive_group()
    make.add_argument("--simple", nargs=2, metavar=("USER", "ASSISTANT"), help="two turns")
    make.add_argument("--multi", nargs="+", metavar="TEXT", help="many turns, the user first")
    make.add_argument("--tool", nargs=4, metavar=("USER", "CODE", "OUTPUT", "ANSWER"), help="with the Python tool")
    make.add_argument("--load", type=Path, metavar="FILE", help="one from a .json file, or a line of a .jsonl file")
    make.add_argument("--validate", type=Path, metavar="FILE", help="check one conversation; exit status 1 on errors")
    make.add_argument("--batch-validate", type=Path, metavar="FILE", help="check every line of a dataset")
    p.add_argument("--system", metavar="TEXT", help="begin with this system message")
    p.add_argument("--line", type=int, help="which line of a .jsonl file (1)")
    p.add_argument("--profile", choices=PROFILES, default="chat", help="the rules: all we train on, or nanochat's own")
    p.add_argument("-o", "--output", type=Path, metavar="FILE", help="save the conversation, or the report, to a file")
    p.add_argument("--force", action="store_true", help="let --output replace a file")
    p.add_argument("--append", type=Path, metavar="FILE", help="add the conversation to a dataset")
    p.add_argument("--max-tokens", type=int, default=builder.MAX_TOKENS, help="cut here, as training does (2048)")
    p.add_argument("--shifted", action="store_true", help="list which token predicts which")
    p.add_argument("--loss", metavar="RUN", help="each token's loss under a run, such as sft/demo")
    p.add_argument("--step", type=int, help="step of that run (the last complete one)")
    p.add_argument("--device", default="cpu", help="where that model runs: cpu, cuda, mps or auto (cpu)")
    p.add_argument("--tokenizer", metavar="ID", help="see nanochat tokenizer_playground --list (the best that is here)")
    p.add_argument("--tokenizer-dir", type=Path, help="the folder of a tokenizer")
    p.add_argument("--base-dir", type=Path, help="look for runs and tokenizers in this folder only")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def main(argv: list[str] | None = None) -> int:
    """Do what was asked for."""
    args = parser().parse_args(argv)
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True, emoji=False, markup=False)
    if args.max_tokens < 1:
        raise builder.BuilderError(f"--max-tokens {args.max_tokens} would leave nothing; give 1 or more")
    if args.interactive:
        return _converse(args, console)
    if args.batch_validate is not None:
        return _batch(args, console)
    if args.validate is not None:
        return _validate(args, args.validate, console)
    conversation = _conversation(args)
    if conversation is None:
        parser().error("say which conversation: --simple, --multi, --tool, --load, --validate or --interactive")
    facts = _facts(args, conversation)
    if args.json:
        print(json.dumps(facts | {"conversation": conversation}))
    else:
        _show(console, args, conversation)
    if args.output is not None:
        dataset = args.load if args.line is not None or builder.has_lines(args.load) else None
        _said(args, f"Saved to {builder.save(args.output, conversation, args.force, dataset)}")
    if args.append is not None:
        _said(args, builder.append_and_tell(args.append, conversation, args.profile))
    return int(any(problem.severity == "error" for problem in check(conversation, args.profile)))


def _conversation(args: argparse.Namespace) -> Any:
    """What the flags make or load; None where no flag does."""
    if args.load is not None:
        return builder.load(args.load, args.line)
    if args.simple is not None:
        return builder.multi(args.simple, args.system)
    if args.tool is not None:
        question, code, output, answer = args.tool
        return builder.tool(question, code, output, answer, system=args.system)
    return builder.multi(args.multi, args.system) if args.multi is not None else None


def _facts(args: argparse.Namespace, conversation: Any) -> dict[str, Any]:
    """All about a conversation as plain data: problems, and tokens where it can be rendered."""
    problems = [vars(problem) for problem in check(conversation, args.profile)]
    facts: dict[str, Any] = {"valid": not any(p["severity"] == "error" for p in problems), "problems": problems}
    try:
        report, label, losses = _rendered(args, conversation)
    except ValueError as error:
        if type(error).__name__ != "ConversationError":
            raise
        return facts | {"tokenization": None}
    names = ("tokens", "supervised", "unsupervised", "ratio", "max_tokens", "cut", "cut_supervised", "alarm")
    tokenization = {name: getattr(report, name) for name in names} | {"tokenizer": label}
    tokenization["details"] = (losses.frame if losses else report.frame).to_dicts()
    if args.shifted:
        tokenization["shifted"] = builder.shifted(report).to_dicts()
    if losses is not None:
        tokenization |= {name: getattr(losses, name) for name in ("supervised_loss", "context_loss", "chance")}
    return facts | {"tokenization": tokenization}


def _rendered(
    args: argparse.Namespace, conversation: Any
) -> tuple[builder.Supervision, str, builder.TokenLosses | None]:
    """The tokens and the tokenizer's name; with --loss under the run's own tokenizer, and its losses."""
    if args.loss is None:
        tokenizer, label = builder.chat_tokenizer(args.tokenizer, args.base_dir, args.tokenizer_dir)
        return builder.supervision(tokenizer, conversation, args.max_tokens), label, None
    from nanochat.checkpoint_manager import load_model_from
    from nanochat.paths import STAGE_FOLDERS, roots

    stage, _, tag = args.loss.partition("/")
    if stage not in STAGE_FOLDERS or not tag:
        stages = ", ".join(f"{name}/TAG" for name in STAGE_FOLDERS)
        raise builder.BuilderError(f"'{shown(args.loss)}' names no run; write its stage and tag, one of {stages}")
    places = [args.base_dir] if args.base_dir else [root.path for root in roots()]
    loaded = load_model_from(places, stage, tag, args.step, args.device, args.tokenizer_dir)
    losses = builder.token_losses(loaded, conversation)
    return losses.rendered, f"that of {args.loss}", losses


def _show(console: Console, args: argparse.Namespace, conversation: Any) -> None:
    """A conversation with its verdict, its structure and its tokens."""
    _lines(console, "=" * WIDTH, "CONVERSATION TOKENIZATION", "=" * WIDTH, "")
    if _verdict(console, conversation, args.profile):
        _lines(console, "", *_structure(conversation))
        _tokens(console, args, conversation)


def _verdict(console: Console, conversation: Any, profile: str) -> bool:
    """Say whether it is valid and all that is wrong; returns whether it can be rendered."""
    from nanochat.conversation import RULES

    problems = check(conversation, profile)
    errors = sum(problem.severity == "error" for problem in problems)
    _lines(console, "✗ Conversation is NOT valid" if errors else "✓ Conversation is valid")
    for problem in problems:
        where = "" if problem.message_index is None else f"message {problem.message_index + 1}: "
        _lines(console, f"  {problem.severity}: {where}{problem.sentence} ({problem.kind}); {problem.remedy}")
    return not any(RULES[problem.kind].blocks for problem in check(conversation))


def _structure(conversation: Any) -> list[str]:
    lines = ["Conversation Structure:", "-" * WIDTH]
    for turn in builder.structure(conversation):
        part = f" {turn.part}" if turn.part else ""
        lines.append(f"  {turn.message + 1}. [{shown(turn.role).upper()}{part}]: {shown(turn.text, 2000)}")
    return lines


def _tokens(console: Console, args: argparse.Namespace, conversation: Any) -> None:
    from rich.text import Text

    report, label, losses = _rendered(args, conversation)
    statistics = [
        "",
        "Tokenization Statistics:",
        "-" * WIDTH,
        f"  Total tokens:       {report.tokens:,}",
        f"  Supervised tokens:  {report.supervised:,} (tokens the model learns from)",
        f"  Unsupervised:       {report.unsupervised:,} (prompt/context tokens)",
        f"  Supervision ratio:  {report.ratio:.1%}",
        f"  Tokenizer:          {label}",
    ]
    if report.cut:
        statistics.append(f"  Cut off:            {report.cut:,}, of them {report.cut_supervised:,} supervised")
    if report.alarm:
        statistics.append(f"  ALARM: {report.alarm}")
    _lines(console, *statistics, "", "Tokenized Format:", "-" * WIDTH)
    colours = console.is_terminal and not console.no_color
    how = "Blue and underlined = supervised, grey = context" if colours else "_so_ = supervised, so = context"
    row = Text()
    for token in report.frame.iter_rows(named=True):
        style = "bold underline #56B4E9" if token["supervised"] else "dim"
        text = f"_{token['text']}_" if token["supervised"] and not colours else token["text"]
        row.append("|" if row else "").append(text, f"{style} strike" if token["cut"] else style)
    _lines(console, f"({how})", "", row)
    if losses is not None:
        _losses(console, losses)
    if args.shifted:
        _lines(console, "", "What predicts what (* = the loss counts):", "-" * WIDTH)
        for pair in builder.shifted(report).iter_rows(named=True):
            _lines(
                console, f"{pair['position']:>6} {'*' if pair['counts'] else ' '} {pair['input']} -> {pair['target']}"
            )


def _losses(console: Console, losses: builder.TokenLosses) -> None:
    _lines(console, "", "Loss of each token (nats; 0 is certainty):", "-" * WIDTH)
    for token in losses.frame.iter_rows(named=True):
        if token["loss"] is not None:
            mark = "*" if token["supervised"] else " "
            guess = f"{token['likeliest']} ({token['likeliest_probability']:.0%})"
            _lines(console, f"{token['index']:>6} {mark} {token['loss']:>7.3f}  {token['text']}   likeliest: {guess}")
    mean = "none" if losses.supervised_loss is None else f"{losses.supervised_loss:.3f} nats a token"
    _lines(console, "", f"  Supervised (*): {mean}; a guess would cost {losses.chance:.3f}.")
    if losses.beyond:
        _lines(console, f"  {losses.beyond:,} tokens lie beyond the model's context of {losses.context:,}.")


def _validate(args: argparse.Namespace, path: Path, console: Console) -> int:
    conversation = builder.load(path, args.line)
    problems = check(conversation, args.profile)
    failed = any(problem.severity == "error" for problem in problems)
    if args.json:
        print(json.dumps({"valid": not failed, "problems": [vars(problem) for problem in problems]}))
    else:
        _verdict(console, conversation, args.profile)
        _lines(console, "", *_structure(conversation))
    return int(failed)


def _batch(args: argparse.Namespace, console: Console) -> int:
    report = builder.batch_validate(args.batch_validate, args.profile)
    if args.json:
        print(json.dumps(report.as_json()))
    else:
        _lines(console, "=" * WIDTH, "BATCH VALIDATION", "=" * WIDTH, "")
        _lines(console, f"  Total conversations:   {report.total:,}")
        _lines(console, f"  Valid conversations:   {report.valid:,}", f"  Invalid conversations: {report.invalid:,}")
        _lines(console, f"  With warnings only:    {report.warnings:,}", "")
        for issue in report.issues[:MAX_ISSUES]:
            _lines(console, f"  line {issue['line']:,}, {issue['severity']}: {issue['detail']}; {issue['remedy']}")
        if report.invalid + report.warnings > MAX_ISSUES:
            _lines(console, f"  ... and {report.invalid + report.warnings - MAX_ISSUES:,} more; --output lists them")
    if args.output is not None:
        _said(args, f"Report saved to {builder.save(args.output, report.as_json(), True, args.batch_validate)}")
    return int(report.invalid > 0)


def _converse(args: argparse.Namespace, console: Console) -> int:
    """Interactive mode."""
    _lines(console, "Build conversations step by step. Commands:", COMMANDS)
    last: Any = None
    while True:
        try:
            word, _, rest = input("\nbuilder> ").strip().partition(" ")
            if word in ("quit", "exit", "q"):
                return 0
            last = _command(args, console, word, rest.strip(), last)
        except EOFError:
            print()
            return 0
        except ValueError as error:
            if not is_message(error):
                raise
            print(error, file=sys.stderr)


def _command(args: argparse.Namespace, console: Console, word: str, rest: str, last: Any) -> Any:
    """One command; returns the conversation that is now the last one."""
    makers: dict[str, Callable[[], Any]] = {
        "simple": lambda: builder.simple(input("User: "), input("Assistant: "), args.system),
        "multi": lambda: builder.multi(list(_turns()), args.system),
        "tool": lambda: builder.tool(
            input("User: "), input("Code: "), input("Output: "), input("Answer: "), system=args.system
        ),
    }
    if word in makers:
        last = makers[word]()
        _verdict(console, last, args.profile)
        _lines(console, *_structure(last))
    elif word == "load" and rest:
        name, _, line = rest.rpartition(" ") if rest.rpartition(" ")[2].isdecimal() else (rest, "", "")
        last = builder.load(name or rest, int(line) if line else None)
        _lines(console, *_structure(last))
    elif word == "validate" and rest:
        _validate(args, Path(rest), console)
    elif word in ("save", "append", "show", "tokenize"):
        if last is None:
            raise builder.BuilderError("there is no conversation yet; make one with simple, multi, tool or load")
        if word in ("save", "append") and not rest:
            raise builder.BuilderError(f"{word} needs the name of a file; write {word} FILE")
        if word == "save":
            _said(args, f"Saved to {builder.save(rest, last, args.force)}")
        elif word == "append":
            _said(args, builder.append_and_tell(rest, last, args.profile))
        elif word == "show":
            _lines(console, *_structure(last))
        else:
            _show(console, args, last)
    elif word:
        _lines(console, "Commands:", COMMANDS)
    return last


def _turns() -> list[str]:
    """Texts until an empty line."""
    texts: list[str] = []
    while line := input(f"{('User', 'Assistant')[len(texts) % 2]}: "):
        texts.append(line)
    return texts


def _lines(console: Console, *lines: str | Text) -> None:
    for line in lines:
        console.print(line)


def _said(args: argparse.Namespace, sentence: str) -> None:
    print(shown(sentence, 500), file=sys.stderr if args.json else sys.stdout)


if __name__ == "__main__":
    sys.exit(exit_status("conversation_template_builder", main))
