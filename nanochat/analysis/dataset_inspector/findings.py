"""What should not be in training data: secrets, which are always looked for, and on request what looks personal.

Six literals begin nearly every leaked key; a block that holds none of them costs a scan at memory speed. Patterns for
personal data find much that is none (version numbers, sample addresses), so they are looked for only when asked, and
their figures are called what they are: candidates.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Secret:
    """Something that looks like a key or like personal data."""

    line: int
    kind: str
    excerpt: str  # its beginning; the rest is hidden


SECRETS: dict[str, tuple[bytes, re.Pattern[bytes]]] = {  # kind -> what it begins with, what the whole looks like
    "aws_access_key": (b"AKIA", re.compile(rb"\bAKIA[0-9A-Z]{16}\b")),
    "github_token": (b"ghp_", re.compile(rb"\bghp_[0-9A-Za-z]{36}")),
    "google_api_key": (b"AIza", re.compile(rb"\bAIza[0-9A-Za-z_-]{35}")),
    "openai_key": (b"sk-", re.compile(rb"\bsk-(?:proj-|ant-)?[0-9A-Za-z_-]{32,}")),
    "private_key": (b"-----BEGIN ", re.compile(rb"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----")),
    "slack_token": (b"xox", re.compile(rb"\bxox[baprs]-[0-9A-Za-z-]{10,}")),
}
PERSONAL: dict[str, re.Pattern[bytes]] = {
    "email": re.compile(rb"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{2,63}){1,4}"),
    "ip_address": re.compile(rb"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\d.])"),
    "card_number": re.compile(rb"(?<![\d-])(?:\d[ -]?){13,18}\d(?![\d-])"),
    "phone": re.compile(rb"(?<![\w+])\+\d[\d ().-]{6,18}\d(?!\w)"),
}


def secrets_in(data: bytes, first_line: int) -> list[Secret]:
    """The secrets in the lines of a block."""
    found = []
    for kind, (literal, pattern) in SECRETS.items():
        place = data.find(literal)
        while place >= 0:
            match = pattern.match(data, place)
            if match is not None:
                found.append(Secret(first_line + data.count(b"\n", 0, place), kind, _hidden(match[0])))
            place = data.find(literal, place + 1)
    return found


def personal_in(line: bytes, number: int) -> Iterator[Secret]:
    """What looks like personal data in one line; many of these are none."""
    for kind, pattern in PERSONAL.items():
        for match in pattern.finditer(line):
            if kind != "card_number" or _is_card(match[0]):
                yield Secret(number, kind, _hidden(match[0]))


def _hidden(found: bytes) -> str:
    return found[:6].decode("ascii", errors="replace") + "…"


def _is_card(digits: bytes) -> bool:
    """Luhn's sum, which nine random numbers in ten fail."""
    numbers = [byte - 48 for byte in reversed(digits) if 48 <= byte <= 57]
    if len(set(numbers)) < 2:
        return False
    doubled = (sum(divmod(2 * number, 10)) for number in numbers[1::2])
    return (sum(numbers[::2]) + sum(doubled)) % 10 == 0
