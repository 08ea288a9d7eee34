"""What can be wrong with a line of a data set: 25 kinds and a byte order mark, each a bit, so a line can have many.

Thirteen kinds of error and one warning are conversation.py's rules about messages. The others are about the line that
should hold them: its bytes, its JSON, its neighbours. An error keeps a conversation from training or spoils it; a
warning is something to know.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from nanochat.conversation import RULES


@dataclass(frozen=True)
class Kind:
    """One thing that can be wrong with a line."""

    name: str  # stable, the same in every tool and file
    severity: str  # "error" or "warning"
    sentence: str  # what is wrong
    remedy: str  # what to do about it
    bit: int  # its place in a line's mask

    @property
    def mask(self) -> int:
        """The mask of a line that has this kind alone."""
        return 1 << self.bit


_LINE_KINDS = {  # name -> severity, sentence, remedy
    "invalid_json": ("error", "it is not JSON", "write one conversation a line, as a JSON writer does it"),
    "truncated": ("error", "the JSON breaks off", "get the file again, or drop the line"),
    "invalid_utf8": ("error", "it is not UTF-8", "save the file as UTF-8"),
    "nul": ("error", "it holds a NUL byte", "remove the byte; a crash or a full disk may have left it"),
    "overlong_line": ("error", "the line is too long to be a conversation", "end every conversation with a line break"),
    "nan": ("error", "it holds NaN or an infinite number, which JSON does not have", "write null or leave it out"),
    "dup_key": ("error", "a key stands twice in one object", "keep one: readers disagree on which of them counts"),
    "duplicate": ("warning", "it is the same line as an earlier one", "drop it, unless it shall count twice"),
    "too_long": ("warning", "it has more tokens than nanochat trains on", "shorten it, or its end is cut off"),
    "crlf": ("warning", "the line ends as on Windows", "end lines with \\n alone; an export does"),
    "blank_line": ("warning", "the line is blank", "remove it; an export does"),
    "bom": ("warning", "the file begins with a byte order mark", "save it without; an export does"),
}
_ORDER = (
    "invalid_json",
    "truncated",
    "invalid_utf8",
    "nul",
    "overlong_line",
    "nan",
    "lone_surrogate",
    "wrong_shape",
    "no_messages",
    "missing_role",
    "missing_content",
    "role_wrong_type",
    "content_wrong_type",
    "bad_role",
    "bad_part_type",
    "alternation",
    "system_not_first",
    "starts_with_assistant",
    "empty_content",
    "dup_key",
    "ends_with_user",
    "duplicate",
    "too_long",
    "crlf",
    "blank_line",
    "bom",
)


def _kind(bit: int, name: str) -> Kind:
    if name in _LINE_KINDS:
        return Kind(name, *_LINE_KINDS[name], bit)
    rule = RULES[name]
    return Kind(name, rule.severity, rule.sentence, rule.remedy, bit)


KINDS: dict[str, Kind] = {name: _kind(bit, name) for bit, name in enumerate(_ORDER)}
ERRORS = sum(kind.mask for kind in KINDS.values() if kind.severity == "error")  # the bits of all errors
# What nanochat's training refuses: a clean file has none of these.
REFUSED = ERRORS | KINDS["ends_with_user"].mask | KINDS["blank_line"].mask


def mask_of(*names: str) -> int:
    """The mask of a line that has these kinds.

    >>> mask_of("invalid_json", "invalid_utf8")
    5
    """
    return sum({KINDS[name].mask for name in names})


def names_of(mask: int) -> list[str]:
    """The kinds in a mask, errors first.

    >>> names_of(5)
    ['invalid_json', 'invalid_utf8']
    """
    return [kind.name for kind in kinds_of(mask)]


def kinds_of(mask: int) -> Iterator[Kind]:
    """The kinds in a mask, errors first."""
    return (kind for kind in KINDS.values() if mask & kind.mask)


def severity_of(mask: int) -> str:
    """ "error" if any kind in the mask is one, else "warning"."""
    return "error" if mask & ERRORS else "warning"
