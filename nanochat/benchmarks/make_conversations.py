"""Make a file of conversations with every kind of error planted in it, and the file that says where.

    python -m nanochat.benchmarks.make_conversations chats.jsonl --truth truth.jsonl
    python -m nanochat.benchmarks.make_conversations clean.jsonl --count 1000000 --rate 0

The truth is known because whoever plants an error knows it: nothing here looks at what the inspector thinks. The same
seed gives the same bytes. `VirtualFile` is a file of any size that exists only while it is read.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nanochat.errors import exit_status

WORDS = (
    "the",
    "a",
    "model",
    "text",
    "token",
    "learns",
    "reads",
    "word",
    "letter",
    "house",
    "river",
    "stone",
    "bread",
    "light",
    "morning",
    "question",
    "answer",
    "number",
    "small",
    "large",
    "green",
    "quiet",
    "quickly",
    "perhaps",
    "because",
    "window",
    "garden",
    "simple",
    "train",
    "data",
    "café",
    "naïve",
    "東京",
    "привет",
    "😀",
)
LONG_WORDS = 3_000  # of a conversation that is too long for 2,048 tokens with any tokenizer
OVERLONG = 17 << 20  # bytes of a line beyond every limit
RARE = {"overlong_line": 1}  # kinds that are planted this often at most, because each takes megabytes
Message = dict[str, Any]
Planter = Callable[["Maker"], bytes]


class Maker:
    """Makes lines. Every text holds a running number, so no two are the same by chance."""

    def __init__(self, seed: int = 0, uniform: bool = False) -> None:
        self.random = random.Random(seed)
        self.uniform = uniform
        self.number = 0

    def text(self, least: int, most: int) -> str:
        """Some words and a number of their own."""
        self.number += 1
        words = self.random.choices(WORDS, k=self.random.randint(least, most))
        return " ".join(words) + f' "{self.number}"\n'

    def messages(self, turns: int | None = None) -> list[Message]:
        """A conversation that is fit for training: at most 1,900 bytes of text."""
        random = self.random
        found: list[Message] = []
        if random.random() < 0.2:
            found.append({"role": "system", "content": self.text(3, 8)})
        for _ in range(turns or random.choice((1, 1, 2, 2, 3))):
            found.append({"role": "user", "content": self.text(4, 30)})
            answer: Any = self.text(10, 60)
            if random.random() < 0.1 and not self.uniform:
                parts = (("text", "sum: "), ("python", "2+2"), ("python_output", "4"), ("text", self.text(1, 4)))
                answer = [{"type": kind, "text": text} for kind, text in parts]
            found.append({"role": "assistant", "content": answer})
        return found

    def dump(self, messages: Any, **fields: Any) -> bytes:
        """A line in one of nanochat's shapes, without its line end."""
        if self.uniform and not fields:
            return json.dumps({"messages": messages}, ensure_ascii=False).encode()
        if not fields and self.random.random() < 0.3:
            return json.dumps(messages, ensure_ascii=False).encode()
        if self.random.random() < 0.3:
            fields = {"source": self.random.choice(("web", "books", "forum"))} | fields
        return json.dumps({"messages": messages} | fields, ensure_ascii=False).encode()

    def plain(self) -> bytes:
        """A good line."""
        return self.dump(self.messages())

    def changed(self, change: Callable[[list[Message], int], None], role: str) -> bytes:
        """A conversation in which something is done to a message of this role."""
        messages = self.messages()
        places = [index for index, message in enumerate(messages) if message["role"] == role]
        change(messages, self.random.choice(places))
        return self.dump(messages)


def _insert(line: bytes, what: bytes) -> bytes:
    """Bytes put into the first text of a line."""
    place = line.index(b'"content": "') + len(b'"content": "')
    return line[:place] + what + line[place:]


def _user_content(make: Maker, value: Any) -> bytes:
    return make.changed(lambda messages, index: messages[index].update(content=value), "user")


def _truncated(make: Maker) -> bytes:
    line = make.plain().decode()
    return line[: make.random.randrange(len(line) // 4, len(line) - 1)].rstrip().encode()


def _nan(make: Maker) -> bytes:
    line = make.dump(make.messages(), score="@")
    return line.replace(b'"@"', make.random.choice((b"NaN", b"Infinity", b"-Infinity", b"1e999", b"[0, NaN]")))


def _wrong_shape(make: Maker) -> bytes:
    messages = make.messages()
    messages[0] = make.text(1, 2)  # type: ignore[call-overload]
    choices = (b'"text"', b"42", b"null", b'{"chat": []}', b'{"messages": "hello"}', make.dump(messages))
    return make.random.choice(choices)


def _no_messages(make: Maker) -> bytes:
    only = json.dumps([{"role": "system", "content": make.text(1, 2)}]).encode()
    return make.random.choice((b"[]", b'{"messages": []}', only))


def _dup_key(make: Maker) -> bytes:
    line = make.dump(make.messages(), id=make.number)
    choice = make.random.randrange(4)
    if choice == 0:
        return line.replace(b'"role": "user"', b'"role": "user", "role": "user"', 1)
    if choice == 1:
        return line.replace(b'"role": "user"', b'"role": "user", "r\\u006fle": "user"', 1)
    if choice == 2:
        return line[:-1] + b', "id": 0}'
    return line[:-1] + b', "messages": ' + json.dumps(make.messages()).encode() + b"}"


def _neighbours(make: Maker) -> bytes:
    role = make.random.choice(("user", "assistant"))
    return make.changed(
        lambda messages, index: messages.insert(index, {"role": role, "content": make.text(2, 9)}), role
    )


def _system_later(make: Maker) -> bytes:
    return make.changed(
        lambda messages, index: messages.insert(index, {"role": "system", "content": make.text(2, 9)}), "assistant"
    )


def _assistant_first(make: Maker) -> bytes:
    messages = make.messages()
    place = 1 if messages[0]["role"] == "system" else 0
    return make.dump([*messages[:place], {"role": "assistant", "content": make.text(2, 9)}, *messages[place:]])


def _empty(make: Maker) -> bytes:
    role = make.random.choice(("user", "assistant"))
    value: Any = make.random.choice(("", "  ", "\n\t"))
    if role == "assistant" and make.random.random() < 0.3:
        value = [{"type": "text", "text": " "}]
    return make.changed(lambda messages, index: messages[index].update(content=value), role)


def _bad_part(make: Maker) -> bytes:
    value = [{"type": make.random.choice(("image", "Text", 3, None)), "text": "x"}]
    return make.changed(lambda messages, index: messages[index].update(content=value), "assistant")


def _unanswered(make: Maker) -> bytes:
    return make.dump([*make.messages(), {"role": "user", "content": make.text(2, 9)}])


def _long(make: Maker) -> bytes:
    messages = make.messages(1)
    messages[-1]["content"] = make.text(LONG_WORDS, LONG_WORDS)
    return make.dump(messages)


PLANTERS: dict[str, Planter] = {
    "invalid_json": lambda make: make.plain().replace(b'"role": ', b'"role" ', 1),
    "truncated": _truncated,
    "invalid_utf8": lambda make: _insert(make.plain(), b"caf\xe9 "),
    "nul": lambda make: _insert(make.plain(), b"a\0b"),
    "overlong_line": lambda make: _insert(make.plain(), b"x" * OVERLONG),
    "nan": _nan,
    "lone_surrogate": lambda make: _insert(make.plain(), b"\\ud83d "),
    "wrong_shape": _wrong_shape,
    "no_messages": _no_messages,
    "missing_role": lambda make: make.changed(lambda messages, index: messages[index].pop("role"), "user"),
    "missing_content": lambda make: make.changed(lambda messages, index: messages[index].pop("content"), "assistant"),
    "role_wrong_type": lambda make: make.changed(
        lambda messages, index: messages[index].update(role=make.random.choice((1, None, ["user"]))), "user"
    ),
    "content_wrong_type": lambda make: _user_content(
        make, make.random.choice((7, None, {"a": "b"}, [{"type": "text", "text": "x"}]))
    ),
    "bad_role": lambda make: make.changed(
        lambda messages, index: messages[index].update(role=make.random.choice(("User", "bot", "", "tool"))), "user"
    ),
    "bad_part_type": _bad_part,
    "alternation": _neighbours,
    "system_not_first": _system_later,
    "starts_with_assistant": _assistant_first,
    "empty_content": _empty,
    "dup_key": _dup_key,
    "ends_with_user": _unanswered,
    "too_long": _long,
    "blank_line": lambda make: make.random.choice((b"", b"   ", b"\t")),
}
# Kinds of the line itself, planted alone and beside others; "duplicate" needs an earlier line.
_ON_TOP = ("crlf", "nul", "dup_key")
_TAKES_MORE = ("missing_role", "bad_role", "alternation", "empty_content", "ends_with_user", "lone_surrogate", "nan")
KINDS = (*PLANTERS, "crlf", "duplicate")


def planted(
    count: int, seed: int = 0, rate: float = 0.005, uniform: bool = False
) -> Iterator[tuple[bytes, frozenset[str]]]:
    """`count` lines with their line ends, and the kinds in each. `rate` is the share of lines for each of the 25 kinds.

    uniform: every line is {"messages": ...} with string contents, which any reader of tables takes.

    With a rate above 0 every kind stands in it at least once, and the first line has a byte order mark.
    """
    make = Maker(seed, uniform)
    wanted: dict[int, str] = {}
    places = iter(make.random.sample(range(1, count), min(count - 1, sum(_times(kind, count, rate) for kind in KINDS))))
    for kind in KINDS:
        for _, place in zip(range(_times(kind, count, rate)), places, strict=False):
            wanted[place] = kind
    earlier: list[bytes] = []
    for number in range(count):
        kind = wanted.get(number, "")
        kinds = {kind} if kind else set()
        if kind == "duplicate" and earlier:
            line = make.random.choice(earlier)
        elif kind in ("", "crlf", "duplicate"):
            line = make.plain()
            kinds -= {"duplicate"}
            if len(earlier) < 1000:
                earlier.append(line)
        else:
            line = PLANTERS[kind](make)
            if kind in _TAKES_MORE and make.random.random() < 0.4:
                line = _with_more(make, line, kinds)
        end = b"\n"
        if "crlf" in kinds:
            end = b"\r\n"
        if number == 0 and rate:
            line, kinds = b"\xef\xbb\xbf" + line, kinds | {"bom"}
        yield line + end, frozenset(kinds)


def _times(kind: str, count: int, rate: float) -> int:
    return min(max(round(count * rate), 1), RARE.get(kind, count)) if rate else 0


def _with_more(make: Maker, line: bytes, kinds: set[str]) -> bytes:
    """A second kind, sometimes a third, on a line that can still be read as JSON."""
    for kind in make.random.sample(_ON_TOP, make.random.choice((1, 1, 2))):
        kinds.add(kind)
        if kind == "nul":
            line += b"\0"
        elif kind == "dup_key":
            line = line.replace(b'"role": ', b'"role": "x", "role": ', 1)
    return line


class VirtualFile:
    """A seekable file of good conversations, of any size, made while it is read: for sizes that no disk should hold."""

    def __init__(self, size: int, seed: int = 0, pool: int = 4_000) -> None:
        make = Maker(seed, uniform=True)
        make.number = 10**11  # so that every number has twelve digits
        parts = [make.plain().partition(b'\\"1') for _ in range(pool)]
        self.parts = [(head + b'\\"2', rest[11:] + b"\n") for head, _, rest in parts]
        self.cycle = sum(len(head) + len(rest) + 11 for head, rest in self.parts)
        self.cycles = max(size // self.cycle, 1)
        self.size = self.cycle * self.cycles
        self.lines = pool * self.cycles
        self.place = 0
        self._made: tuple[int, bytes] = (-1, b"")

    def _content(self, cycle: int) -> bytes:
        if self._made[0] != cycle:
            first = cycle * len(self.parts)
            lines = (b"%b%011d%b" % (head, first + n, rest) for n, (head, rest) in enumerate(self.parts))
            self._made = cycle, b"".join(lines)
        return self._made[1]

    def read(self, size: int = -1) -> bytes:
        """The next bytes; fewer than asked for where a cycle ends."""
        if self.place >= self.size:
            return b""
        cycle, start = divmod(self.place, self.cycle)
        data = self._content(cycle)[start : start + size] if size >= 0 else self._content(cycle)[start:]
        self.place += len(data)
        return data

    def seek(self, place: int, whence: int = 0) -> int:
        """Go to a place, as in any file."""
        self.place = place + (self.size if whence == 2 else self.place if whence == 1 else 0)
        return self.place

    def tell(self) -> int:
        """The place."""
        return self.place


def write(
    path: Path, truth: Path | None, count: int, seed: int = 0, rate: float = 0.005, uniform: bool = False
) -> None:
    """Write the lines, and for each line with kinds `{"line": ..., "kinds": [...]}` to the truth file."""
    found = []
    with path.open("wb") as file:
        for number, (line, kinds) in enumerate(planted(count, seed, rate, uniform), 1):
            file.write(line)
            if kinds:
                found.append({"line": number, "kinds": sorted(kinds)})
    if truth is not None:
        truth.write_text("".join(json.dumps(one) + "\n" for one in found))


def main(argv: list[str] | None = None) -> int:
    """Make the files."""
    p = argparse.ArgumentParser(prog="make_conversations", description="Conversations with every kind of error.")
    p.add_argument("file", type=Path, help="the JSONL file to write")
    p.add_argument("--truth", type=Path, help="where to write the planted kinds, a line each")
    p.add_argument("--count", type=int, default=100_000, help="lines (100000)")
    p.add_argument("--rate", type=float, default=0.005, help="share of lines for each kind; 0 plants none (0.005)")
    p.add_argument("--seed", type=int, default=0, help="the same seed makes the same bytes (0)")
    args = p.parse_args(argv)
    if args.count < 100 or not 0 <= args.rate <= 0.03:
        p.error("--count is at least 100 and --rate from 0 to 0.03, so that good lines remain")
    write(args.file, args.truth, args.count, args.seed, args.rate)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status("make_conversations", main))
