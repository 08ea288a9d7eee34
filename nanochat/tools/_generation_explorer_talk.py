"""The generation explorer typed line by line: prompts, settings, branches; `generation_explorer --interactive`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

from nanochat.analysis import generation_explorer as explorer
from nanochat.checkpoint_files import shown
from nanochat.errors import is_message
from nanochat.tools import generation_explorer as tool

HELP = """\
Type a prompt, or one of these:
  temp 0.5   top_k 20   top_p 0.9   min_p 0.05   seed 7   max 80    change a setting and write again (off: none)
  probs on, probs off   the candidates of every step
  step 3                the candidates of one step             lens 3   what each layer would have said there
  force 3 dog           say " dog" at step 3: a new branch     force 3 #2   ... the candidate of rank 2
  rewind 3              draw again from step 3: a new branch
  branches              the tree                               branch A   go to a branch
  compare temp          several values: temp, top_k, top_p, min_p
  prompt WORDS          a prompt that begins like a command    help, quit"""
SETTINGS = {"temp": "temperature", "temperature": "temperature", "top_k": "top_k", "topk": "top_k",
            "top_p": "top_p", "min_p": "min_p", "seed": "seed"}  # fmt: skip


class Talk:
    """What is typed line by line changes this: prompt, settings, tree and the branch that is looked at."""

    def __init__(self, opened: tool.Opened, settings: explorer.Settings, max_tokens: int, top: int) -> None:
        self.opened, self.settings, self.max_tokens, self.top = opened, settings, max_tokens, top
        self.probabilities = False
        self._begin()

    def _begin(self) -> None:
        self.tree, self.name = explorer.Tree(), explorer.ROOT

    def text(self) -> explorer.TextReport:
        """The branch's text under the settings as they are."""
        return explorer.read_text(self.opened.session, self.mine, self.tokens())

    @property
    def mine(self) -> explorer.Settings:
        """The settings with the branch's own dice."""
        return self.tree.find(self.name).settings(self.settings)

    def tokens(self) -> list[explorer.Token]:
        """The branch's tokens."""
        return tool.write(self.opened.session, self.settings, self.tree.find(self.name), self.max_tokens)

    def answer(self, line: str) -> list[str]:
        """What a line gives. Raises the error types of this project, and nothing is changed then."""
        word, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if word in SETTINGS or word == "max":
            return self._set(word, rest)
        if word in self.COMMANDS and not (word in ("branches", "help") and rest):
            return self.COMMANDS[word](self, rest)
        return self._prompt(line.strip() if word != "prompt" else rest)

    def _prompt(self, text: str) -> list[str]:
        self.opened.ask(text)
        self._begin()
        return self.written()

    def _set(self, word: str, rest: str) -> list[str]:
        before = self.settings, self.max_tokens
        whole = word == "max" or SETTINGS[word] in ("top_k", "seed")
        try:
            off = rest in ("off", "none", "") and word not in ("max", "seed", "temp", "temperature")
            value = None if off else int(rest) if whole else float(rest)
        except ValueError:
            raise explorer.ExplorerError(
                f"{shown(rest, 20)!r} is no {'whole ' if whole else ''}number; type, for example, {word} 1"
            ) from None
        try:
            if word == "max":
                self.max_tokens = int(value or 0)
            else:
                changed: dict[str, Any] = {SETTINGS[word]: value}
                self.settings = replace(self.settings, **changed)
            return self.written()
        except ValueError:
            self.settings, self.max_tokens = before
            raise

    def written(self) -> list[str]:
        """The text as it now is."""
        report = self.text()
        lines = [f"[{self.name}] {report.settings}", *tool.quoted(report.text)]
        for number, row in enumerate(report.steps.to_dicts() if self.probabilities else []):
            step = explorer.read_step(self.opened.session, self.mine, report.ids[:number], row["id"], self.top)
            lines += tool.step_lines(row, step.candidates.to_dicts())
        return lines

    def _probs(self, rest: str) -> list[str]:
        self.probabilities = rest != "off"
        return self.written()

    def _step(self, rest: str) -> list[str]:
        report, place = self.text(), _number(rest) - 1
        if not 0 <= place < len(report.ids):
            raise explorer.ExplorerError(f"the text has {len(report.ids):,} steps; type step 1 to {len(report.ids):,}")
        row = report.steps.row(place, named=True)
        step = explorer.read_step(self.opened.session, self.mine, report.ids[:place], row["id"], max(self.top, 10))
        return tool.step_lines(row, step.candidates.to_dicts())

    def _lens(self, rest: str) -> list[str]:
        ids, place = self.text().ids, _number(rest) - 1
        if not 0 <= place < len(ids):
            raise explorer.ExplorerError(f"the text has {len(ids):,} steps; type lens 1 to {len(ids):,}")
        return tool.lens_lines(explorer.lens(self.opened.session, ids[:place], ids[place]))

    def _force(self, rest: str) -> list[str]:
        number, _, words = rest.partition(" ")
        place, tokens = _number(number) - 1, self.tokens()
        if words.startswith("#") and 0 <= place <= len(tokens):
            rank, path = _number(words[1:]), tuple(token.id for token in tokens[:place])
            step = explorer.read_step(self.opened.session, self.mine, path, None, max(rank, 1))
            if not 1 <= rank <= step.candidates.height:
                raise explorer.ExplorerError(f"there is no rank {rank:,}; give 1 to the size of the vocabulary")
            ids = [step.candidates["id"][rank - 1]]
        else:  # behind another word a text has a blank, which the line has lost
            ids = self.opened.engine.tokenizer.encode(f" {words}" if place > 0 else words)
        if not ids:
            raise explorer.ExplorerError("there is nothing to force; type force, a step and a word")
        text = shown(self.opened.engine.tokenizer.decode(ids), 40)
        self.tree, branch = self.tree.force(self.name, tokens, place, ids, text)
        return self._go(branch.name)

    def _rewind(self, rest: str) -> list[str]:
        self.tree, branch = self.tree.rewind(self.name, self.tokens(), _number(rest) - 1)
        return self._go(branch.name)

    def _go(self, name: str) -> list[str]:
        self.name = self.tree.find(name.upper()).name
        return self.written()

    def _branches(self, rest: str) -> list[str]:
        return [
            f"{'  ' * depth}{branch.name}: {branch.what}{' ←' if branch.name == self.name else ''}"
            for depth, branch in self.tree.outline()
        ]

    def _compare(self, rest: str) -> list[str]:
        name = SETTINGS.get(rest or "temp", rest)
        branch = self.tree.find(self.name)
        result = explorer.compare(self.opened.session, self.mine, name, (), self.max_tokens, branch.fixed)
        return tool.comparison_lines(result, self.opened.prompt.text)

    COMMANDS: ClassVar[dict[str, Callable[[Talk, str], list[str]]]] = {
        "probs": _probs, "step": _step, "lens": _lens, "force": _force, "rewind": _rewind, "branch": _go,
        "branches": _branches, "compare": _compare, "help": lambda self, rest: [HELP],
        "prompt": lambda self, rest: self._prompt(rest),
    }  # fmt: skip


def converse(opened: tool.Opened, settings: explorer.Settings, max_tokens: int, top: int) -> int:
    """Read lines until `quit` or the end of the input; a line that cannot be done is one sentence."""
    talk = Talk(opened, settings, max_tokens, top)
    print(f"{opened.run}, step {opened.step}. {settings}\n{HELP}")
    asked = opened.prompt.text
    while True:
        try:
            line = asked or input("> ")
            asked = ""
            if line.strip() in ("quit", "exit"):
                return 0
            if line.strip():
                print("\n".join(talk.answer(line)), flush=True)
        except EOFError:
            print()
            return 0
        except ValueError as error:
            if not is_message(error):
                raise
            print(f"{error}", file=sys.stderr)


def _number(word: str) -> int:
    if not word.isascii() or not word.isdigit() or len(word) > 9:
        raise explorer.ExplorerError(f"{shown(word, 20)!r} is no number of a step; type, for example, step 1")
    return int(word)
