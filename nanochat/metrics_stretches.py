"""Many patterns as one, and long stretches of lines that say nothing, passed over at once.

A log may be mostly somebody else's words, or nothing but newlines. Asking a hundred patterns about each such line costs
20 microseconds and more; one expression that holds them all costs one or two, and looks at thousands of lines in one
call. What it finds is exactly what the patterns say one by one: the tests compare the two.

    one = combined([r"(\\d+) apples", "pears"])
    one.match("pears").lastindex    # 2: the number of the first pattern that matches, from 1
"""

import re
from collections.abc import Iterable

LONGEST = 2_000  # characters of a line that is passed over; longer ones are rare and looked at one by one

# Blanks as re.ASCII has them: \s of a single line.
_BLANKS = re.compile(r"(?:[ \t\r\f\v]*+\n)++")
# A line of a step, or one that control codes must be taken from first, or with the number of a rank before it.
_NEEDS_CARE = r"\[|[^\n]*?(?:tep |[\r\x1b\x00\x07\x08])"


def combined(patterns: Iterable[str]) -> re.Pattern[str]:
    """One expression for all, in their order; `lastindex` of its match is the number of the one that matched."""
    # The empty group stands behind each, so that an alternative still begins with what rules it out fastest.
    return re.compile("|".join(f"(?:{_plain(pattern)})()" for pattern in patterns), re.ASCII)


def telling(patterns: Iterable[str]) -> re.Pattern[str]:
    """One expression for a run of whole lines which none of the patterns fits, for `dull_end`."""
    known = "|".join(f"(?:{_plain(pattern, one_line=True)})" for pattern in patterns)
    line = rf"(?=[^\n]{{0,{LONGEST}}}\n)(?!{_NEEDS_CARE}|{known})[^\n]*+\n"
    return re.compile(f"(?:{line})++", re.ASCII | re.MULTILINE)


def dull_end(run: re.Pattern[str], text: str, start: int) -> int:
    """Where the run of lines ends that `telling` describes; `start` if there is none. Lines are whole."""
    found = run.match(text, start)
    return found.end() if found else start


def blank_end(text: str, start: int) -> int:
    """Where the run of blank lines ends that begins at `start`."""
    found = _BLANKS.match(text, start)
    return found.end() if found else start


def _plain(pattern: str, one_line: bool = False) -> str:
    """The pattern without groups that keep what they match; with `one_line` it cannot reach beyond its line."""
    out = []
    for token in re.findall(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?P<\w+>|\(\?|.", pattern, re.DOTALL):
        if token == "(" or token.startswith("(?P<"):
            out.append("(?:")
        elif one_line and token == r"\s":
            out.append(r"[ \t\r\f\v]")
        elif one_line and token.startswith("[^"):
            out.append(rf"[^\n{token[2:]}")
        elif one_line and token.startswith("["):
            out.append(token.replace(r"\s", r" \t\r\f\v"))
        else:
            out.append(token)
    return "".join(out)
