"""One line looked at slowly: all that is wrong with it, each with a sentence. The last word on every line.

The fast path (check.py) only finds out which lines are surely good; the others come here, one by one. Also whoever
shows a bad line calls this again for its sentences, so no list of millions of sentences is ever kept.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nanochat.analysis.dataset_inspector.kinds import KINDS, mask_of
from nanochat.analysis.dataset_inspector.other_shapes import TAKE, in_our_shape
from nanochat.conversation import check
from nanochat.json_document import BOM
from nanochat.tasks.conversation_file import MAX_LINE_BYTES


@dataclass(frozen=True)
class Finding:
    """One problem of a line."""

    kind: str
    message: int | None  # index of the message, None: the line as a whole
    sentence: str
    remedy: str


@dataclass(frozen=True)
class Diagnosis:
    """All that is wrong with a line by itself; what only its neighbours or a tokenizer know is not here."""

    findings: tuple[Finding, ...]
    value: Any = None  # the JSON value, as far as it can be read; invalid bytes as U+FFFD
    readable: bool = False  # whether there is a value

    @property
    def mask(self) -> int:
        """The kinds as bits."""
        return mask_of(*(finding.kind for finding in self.findings))


@dataclass
class _Notes:
    """What the JSON parser comes across."""

    twice: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)

    def pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            self.twice += [key for key, _ in pairs if key in seen or seen.add(key)]  # type: ignore[func-returns-value]
        return found

    def constant(self, word: str) -> None:
        self.numbers.append(word)

    def number(self, word: str) -> float:
        value = float(word)
        if value in (float("inf"), float("-inf")):
            self.numbers.append(word[:12])
        return value


def diagnose(line: bytes, profile: str = "chat", *, first: bool = False, overlong: int = 0) -> Diagnosis:
    """Look at one line, with or without its line end.

    first: it is the first of its file, where a byte order mark may stand. overlong: it has this many bytes, and `line`
    is only its head. Never raises over what is in the line.
    """
    found: list[Finding] = []

    def note(kind: str, sentence: str = "", message: int | None = None, remedy: str = "") -> None:
        found.append(Finding(kind, message, sentence or KINDS[kind].sentence, remedy or KINDS[kind].remedy))

    if first and line.startswith(BOM):
        note("bom")
        line = line[len(BOM) :]
    size = overlong or len(line)
    if size > MAX_LINE_BYTES:
        note("overlong_line", f"the line has {size:,} bytes, the limit is {MAX_LINE_BYTES:,}")
        return Diagnosis(tuple(found))
    line = line.removesuffix(b"\n")
    if line.endswith(b"\r"):
        note("crlf")
        line = line[:-1]
    if not line.strip():
        note("blank_line")
        return Diagnosis(tuple(found))
    if b"\0" in line:
        note("nul", f"byte {line.index(0) + 1:,} is NUL")
        line = line.replace(b"\0", b"")
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        note("invalid_utf8", f"byte {error.start + 1:,} (0x{line[error.start]:02x}) is not UTF-8")
        text = line.decode(errors="replace")
    notes = _Notes()
    try:
        value = json.loads(text, object_pairs_hook=notes.pairs, parse_constant=notes.constant, parse_float=notes.number)
    except json.JSONDecodeError as error:
        if _is_cut(text, error):
            note("truncated", f"the JSON breaks off after {len(text):,} characters")
        else:
            note("invalid_json", f"it is not JSON ({error.msg.lower()} at column {error.colno:,})")
        return Diagnosis(tuple(found))
    except RecursionError:
        note("invalid_json", "its brackets are nested too deeply")
        return Diagnosis(tuple(found))
    except ValueError:  # an integer of thousands of digits
        note("invalid_json", "it holds a number of thousands of digits")
        return Diagnosis(tuple(found))
    if notes.numbers:
        note("nan", f"it holds {notes.numbers[0]}, which is no JSON number")
    if notes.twice:
        note("dup_key", f"the key {notes.twice[0][:30]!a} stands twice in one object")
    other = in_our_shape(value)
    meant = value if other is None else other[1]["messages"]
    problems = check(meant, profile)
    if other is not None:
        errors = any(problem.severity == "error" for problem in problems)
        remedy = "write it as messages" if errors else TAKE
        note("wrong_shape", f"it is {other[0]}, not a list of messages", remedy=remedy)
    for problem in problems:
        note(problem.kind, problem.sentence, problem.message_index, problem.remedy)
    return Diagnosis(tuple(found), value, True)


def _is_cut(text: str, error: json.JSONDecodeError) -> bool:
    """Whether the text is the beginning of JSON, so that nothing but its end is missing."""
    rest = text[error.pos :].rstrip()
    if error.msg.startswith("Unterminated string") or not rest:
        return True
    if error.msg.startswith("Invalid \\uXXXX"):
        return len(text) - error.pos < 6
    return error.msg == "Expecting value" and any(
        word.startswith(rest) for word in ("true", "false", "null", "-Infinity", "NaN")
    )


def sentences(findings: Sequence[Finding]) -> str:
    """Several findings as one line of text."""
    where = ("" if one.message is None else f"message {one.message + 1}: " for one in findings)
    return "; ".join(f"{place}{one.sentence}" for place, one in zip(where, findings, strict=True))
