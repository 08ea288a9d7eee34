"""Reads the one kind of pickle that nanochat writes, `tokenizer.pkl`, without unpickling anything.

A pickle is a small program: each opcode pushes a value on a stack or combines what lies there. `pickle.load` runs that
program, imports what it names and calls it. So opening a stranger's file means running a stranger's code, and nine
bytes are enough to make it take four gigabytes. Here is a machine that knows only the opcodes of a saved
`tiktoken.core.Encoding`. It makes strings, bytes, integers and dicts, and nothing else; every count is bounded before
anything grows. `python -m pickletools tokenizer.pkl` shows such a program in words.
"""

import struct
from typing import Any

MAX_STACK = 4_096  # Python's pickler flushes a dict every 1,000 entries, so some 2,010 values are the most there are
MAX_STEPS = 1_000_000  # opcodes; a token takes three, and no vocabulary here has more than 300,000 tokens
MAX_FRAMES = 1_000  # one for every 64 KB
MAX_STRING = 65_536  # bytes in one token, name or pattern

# The opcodes, by the names that pickletools gives them.
PROTO, FRAME, STOP, MARK = b"\x80", b"\x95", b".", b"("
MEMOIZE, BINGET, LONG_BINGET = b"\x94", b"h", b"j"
EMPTY_DICT, EMPTY_TUPLE, SETITEM, SETITEMS = b"}", b")", b"s", b"u"
STACK_GLOBAL, NEWOBJ, BUILD = b"\x93", b"\x81", b"b"
TEXT_SIZES = {b"\x8c": "<B", b"X": "<I"}  # SHORT_BINUNICODE, BINUNICODE: how their length is written
BYTES_SIZES = {b"C": "<B", b"B": "<I"}  # SHORT_BINBYTES, BINBYTES
INTEGERS = {b"K": "<B", b"M": "<H", b"J": "<i"}  # BININT1, BININT2, BININT


class PickleRefusedError(ValueError):
    """The bytes are not a nanochat tokenizer's pickle. The message is a clause that fits behind a file name."""


class _Encoding:
    """Stands for the class `tiktoken.core.Encoding` and its instance; it has no behaviour to misuse."""

    state: Any = None


def read_encoding_state(data: bytes) -> dict[str, Any]:
    """The state dict inside the pickle of a `tiktoken.core.Encoding`: str keys, values of str or dict.

    What the dict holds is for the caller to validate. Raises PickleRefusedError for anything else.
    """
    return _Machine(data).run()


class _Machine:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.frames = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []  # stack heights at which runs of dict entries begin
        self.memo: list[Any] = []  # every value that the file may refer to again

    def run(self) -> dict[str, Any]:
        if self.take(1) != PROTO or self.take(1) not in (b"\x04", b"\x05"):
            raise PickleRefusedError("is not a pickle of protocol 4 or 5, the ones nanochat writes")
        for _ in range(MAX_STEPS):
            opcode = self.take(1)
            if opcode == STOP:
                return self.finish()
            self.step(opcode)
            if len(self.stack) > MAX_STACK or len(self.marks) > MAX_STACK:
                raise PickleRefusedError("piles up more values at once than any tokenizer")
        raise PickleRefusedError(f"takes more than {MAX_STEPS:,} instructions; no tokenizer does")

    def finish(self) -> dict[str, Any]:
        if len(self.stack) != 1 or not isinstance(self.stack[0], _Encoding) or self.stack[0].state is None:
            raise PickleRefusedError("is a pickle of something else than a tokenizer")
        if self.position != len(self.data):
            raise PickleRefusedError("goes on after the end of the pickle")
        state: dict[str, Any] = self.stack[0].state
        return state

    def step(self, opcode: bytes) -> None:
        """Carry out one opcode, the most frequent ones first: a vocabulary is bytes, memoize, integer, repeated."""
        stack = self.stack
        if opcode in BYTES_SIZES:
            stack.append(self.take(self.number(BYTES_SIZES[opcode])))
        elif opcode == MEMOIZE:
            self.memo.append(self.top())
        elif opcode in INTEGERS:
            stack.append(self.number(INTEGERS[opcode]))
        elif opcode in TEXT_SIZES:
            stack.append(self.text(self.number(TEXT_SIZES[opcode])))
        elif opcode in (BINGET, LONG_BINGET):
            stack.append(self.recall(self.number("<B" if opcode == BINGET else "<I")))
        elif opcode == SETITEMS:
            self.set_items(self.marks.pop() if self.marks else 0)
        elif opcode == SETITEM:
            self.set_items(len(stack) - 2)
        elif opcode == FRAME:
            self.number("<Q")  # a hint for readers of streams; our bytes are all here already
            self.frames += 1
            if self.frames > MAX_FRAMES:
                raise PickleRefusedError("has more frames than any pickle of its size")
        elif opcode == MARK:
            self.marks.append(len(stack))
        elif opcode == EMPTY_DICT:
            stack.append({})
        elif opcode == EMPTY_TUPLE:
            stack.append(())
        elif opcode in (STACK_GLOBAL, NEWOBJ, BUILD):
            self.build_encoding(opcode)
        else:
            raise PickleRefusedError("has an instruction that no saved tokenizer needs, so it may be hostile")

    def build_encoding(self, opcode: bytes) -> None:
        """The three steps that make an object, each allowed for one class only and never carried out."""
        stack = self.stack
        if opcode == STACK_GLOBAL:
            if stack[-2:] != ["tiktoken.core", "Encoding"]:
                raise PickleRefusedError("names another class than tiktoken.core.Encoding, so it may be hostile")
            stack[-2:] = [_Encoding]
        elif opcode == NEWOBJ:
            if len(stack) != 2 or stack[0] is not _Encoding or stack[1] != ():
                raise PickleRefusedError("makes an object in a way that no saved tokenizer does")
            stack[:] = [_Encoding()]
        else:
            if len(stack) != 2 or not isinstance(stack[0], _Encoding):
                raise PickleRefusedError("makes an object in a way that no saved tokenizer does")
            state = stack.pop()
            if isinstance(state, str):
                raise PickleRefusedError("only names an encoding that tiktoken would download; it has no vocabulary")
            if not isinstance(state, dict):
                raise PickleRefusedError("has a state that is not a dict")
            stack[0].state = state

    def set_items(self, start: int) -> None:
        """Put the stack from `start` on (key, value, key, value, ...) into the dict below it.

        There may be none: Python's pickler ends a dict of 70,000 entries with an empty batch.
        """
        target = self.stack[start - 1] if 1 <= start <= len(self.stack) else None
        entries = self.stack[start:]
        if not isinstance(target, dict) or len(entries) % 2:
            raise PickleRefusedError("fills a dict that is not there")
        for key, value in zip(entries[::2], entries[1::2], strict=True):
            if not isinstance(key, str | bytes) or not isinstance(value, str | int | dict):
                raise PickleRefusedError("has a dict entry of a kind that no tokenizer has")
            if key in target:
                raise PickleRefusedError("has the same dict key twice")
            target[key] = value
        del self.stack[start:]

    def take(self, size: int) -> bytes:
        """The next `size` bytes; checked against what is there before anything is allocated."""
        end = self.position + size
        if size > MAX_STRING or end > len(self.data):
            raise PickleRefusedError("is cut short or damaged")
        chunk = self.data[self.position : end]
        self.position = end
        return chunk

    def number(self, layout: str) -> int:
        value: int = struct.unpack(layout, self.take(struct.calcsize(layout)))[0]
        return value

    def text(self, size: int) -> str:
        try:
            return self.take(size).decode()
        except UnicodeDecodeError:
            raise PickleRefusedError("has text that is not UTF-8") from None

    def top(self) -> Any:
        if not self.stack:
            raise PickleRefusedError("is cut short or damaged")
        return self.stack[-1]

    def recall(self, index: int) -> Any:
        """A string met before. A dict may not come back: aliased dicts could nest without end."""
        if index >= len(self.memo) or not isinstance(self.memo[index], str | bytes):
            raise PickleRefusedError("refers to a value that is not there")
        return self.memo[index]
