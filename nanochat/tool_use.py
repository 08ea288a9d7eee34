"""What happens between <|python_start|> and <|output_end|>: a small state machine that knows no model.

The model writes an expression between python_start and python_end. Whoever runs it must then put the answer into the
token stream, between output_start and output_end, as tokens the model did not choose. `ToolUse.push(token)` takes each
token as it appears and returns the tokens that are now forced, usually none. Expressions go to the calculator first;
Python code runs only where a caller passed a function for it.
"""

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from nanochat.calculator import use_calculator

if TYPE_CHECKING:
    from nanochat.tokenizer import Tokenizer

OUTPUT_CHARACTERS = 2000  # what of a program's output goes back to the model: a context holds about as many tokens


class Inside(Enum):
    """Where in a reply the stream is."""

    TEXT = "text"  # ordinary words
    CODE = "code"  # after python_start
    OUTPUT = "output"  # after output_start: forced tokens, or ones that the model made up


class ToolUse:
    """One row's tool calls. The last call stays readable in `expression` and `result`."""

    def __init__(self, tokenizer: "Tokenizer", python: Callable[[str], str | None] | None = None) -> None:
        """python: takes code, gives its output or None for no answer; without it only the calculator answers."""
        self._tokenizer, self._python = tokenizer, python
        special = tokenizer.encode_special
        self._code_begins, self._code_ends = special("<|python_start|>"), special("<|python_end|>")
        self._output_begins, self._output_ends = special("<|output_start|>"), special("<|output_end|>")
        self.inside = Inside.TEXT
        self.expression: str | None = None  # the last finished one
        self.result: str | None = None  # its answer; None where no tool had one
        self._code: list[int] = []

    def push(self, token: int) -> list[int]:
        """Take the next token of the stream; return the tokens that must follow it."""
        if token == self._code_begins:
            self.inside, self._code = Inside.CODE, []
        elif token == self._code_ends and self.inside is Inside.CODE:
            self.inside = Inside.TEXT
            return self._answer()
        elif self.inside is Inside.CODE:
            self._code.append(token)
        elif token == self._output_begins:
            self.inside = Inside.OUTPUT
        elif token == self._output_ends:
            self.inside = Inside.TEXT
        return []

    def _answer(self) -> list[int]:
        self.expression = self._tokenizer.decode(self._code)
        self.result = use_calculator(self.expression)
        if self.result is None and self._python is not None:
            self.result = self._python(self.expression)
        if self.result is None:
            return []
        answer = self._tokenizer.encode(self.result[:OUTPUT_CHARACTERS])
        return [self._output_begins, *answer, self._output_ends]


def run_python(code: str, trust_model: bool = False) -> str | None:
    """The Python tool for `ToolUse`: what the code printed, or the sentence that says why it failed."""
    from nanochat.execution import execute_code

    outcome = execute_code(code, trust_model=trust_model)
    return outcome.stdout.strip() if outcome.success else outcome.error
