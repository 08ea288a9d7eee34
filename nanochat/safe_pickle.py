"""The inside of a .pt file: the pickle that says which tensors there are, read by a machine that builds nothing else.

A pickle is a program for a small stack machine, and Python's own machine can call any function a file names. This one
knows the few opcodes that torch.save writes for nested lists, dicts, numbers, text and tensors, and two calls:
`OrderedDict()` and "a tensor of this shape in that storage". A tensor is only described (TensorSpec); no memory is
taken for it and torch is not needed. So a file cannot run code, and every object costs it at least one byte of a
pickle of at most 4 MB: the few bytes that make torch.load allocate gigabytes have no opcode here.
"""

import math
import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Never

from nanochat.checkpoint_files import hostile, shown

MAX_PICKLE_BYTES = 4 << 20  # a model of 300 tensors takes 45 kB
MAX_OPERATIONS = 250_000  # a file of ours or nanochat's has about 40 a tensor
MAX_NODES = 250_000  # of the finished tree, where a list that holds another twice counts it twice
MAX_DEPTH = 32

# The storage classes torch may name, the dtype each means and its bytes an element.
STORAGES = {
    "FloatStorage": ("float32", 4),
    "BFloat16Storage": ("bfloat16", 2),
    "HalfStorage": ("float16", 2),
    "DoubleStorage": ("float64", 8),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
}


@dataclass(frozen=True)
class TensorSpec:
    """A tensor as the file describes it; its bytes are a part of the member `data/<storage>`."""

    dtype: str  # torch's name without "torch."
    shape: tuple[int, ...]
    stride: tuple[int, ...]  # in elements
    offset: int  # of the first element in the storage, in elements
    storage: str  # key of the storage
    storage_size: int  # elements
    item_size: int  # bytes an element


@dataclass(frozen=True)
class _Global:
    name: str  # "OrderedDict", "tensor" or a key of STORAGES


@dataclass(frozen=True)
class _Storage:
    kind: _Global
    key: str
    size: int  # elements


_GLOBALS = {
    ("collections", "OrderedDict"): _Global("OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"): _Global("tensor"),
    **{("torch", name): _Global(name) for name in STORAGES},
}
_MARK = object()

# opcode -> format of its fixed argument; the opcodes without one are handled where they are met.
_INTEGERS = {b"K": "<B", b"M": "<H", b"J": "<i"}


def read_pickle(content: bytes, path: str) -> Any:
    """The object a pickle describes: dicts (OrderedDict too), lists, tuples, numbers, text, None and TensorSpecs.

    Raises:
        CheckpointError: any opcode, global or value that torch.save does not write for such an object.
    """
    if len(content) > MAX_PICKLE_BYTES:
        raise hostile(path, f"a table of contents of {len(content):,} bytes, the limit is {MAX_PICKLE_BYTES:,}")
    try:
        value = _Machine(content, path).run()
    except (IndexError, struct.error, UnicodeDecodeError):
        # An empty stack, an argument beyond the end, text that is not UTF-8.
        raise hostile(path, "its table of contents makes no sense") from None
    _check_tree(value, path)
    return value


class _Machine:
    """One run over one pickle. The stack holds values and marks; the memo is what the pickle may fetch again."""

    def __init__(self, content: bytes, path: str) -> None:
        self.content = content
        self.path = path
        self.position = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def refuse(self, what: str) -> Never:
        raise hostile(self.path, f"{what} at byte {self.position:,} of its table of contents")

    def take(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self.content):
            self.refuse("an argument beyond the end")
        taken = self.content[self.position : end]
        self.position = end
        return taken

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        end = self.content.find(b"\n", self.position, self.position + 256)
        if end < 0:
            self.refuse("a name without an end")
        name = self.content[self.position : end].decode("utf-8")
        self.position = end + 1
        return name

    def to_mark(self) -> list[Any]:
        """Everything above the last mark, which goes too."""
        values = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def run(self) -> Any:
        constants = {b"N": None, b"\x88": True, b"\x89": False, b"(": _MARK}
        steps = {
            b"}": lambda: {},
            b"]": lambda: [],
            b")": lambda: (),
            b"G": lambda: self.number(">d"),
            b"X": lambda: self.take(self.number("<I")).decode("utf-8"),
            b"\x8a": self.long_integer,
            b"t": lambda: tuple(self.to_mark()),
            b"\x85": lambda: (self.stack.pop(),),
            b"\x86": lambda: tuple([self.stack.pop() for _ in range(2)][::-1]),
            b"\x87": lambda: tuple([self.stack.pop() for _ in range(3)][::-1]),
            b"h": lambda: self.fetch(self.number("<B")),
            b"j": lambda: self.fetch(self.number("<I")),
            b"c": self.find_global,
            b"Q": self.persistent,
            b"R": self.call,
        }
        changes = {
            b"q": lambda: self.remember(self.number("<B")),
            b"r": lambda: self.remember(self.number("<I")),
            b"s": lambda: self.set_items([self.stack.pop() for _ in range(2)][::-1]),
            b"u": lambda: self.set_items(self.to_mark()),
            b"a": lambda: self.append([self.stack.pop()]),
            b"e": lambda: self.append(self.to_mark()),
            b"b": self.build,
        }
        if self.take(2) != b"\x80\x02":
            self.refuse("a pickle that is not of protocol 2")
        for _ in range(MAX_OPERATIONS):
            code = self.take(1)
            if code in constants:
                self.stack.append(constants[code])
            elif code in _INTEGERS:
                self.stack.append(self.number(_INTEGERS[code]))
            elif code in steps:
                self.stack.append(steps[code]())
            elif code in changes:
                changes[code]()
            elif code == b".":
                if len(self.stack) != 1:
                    self.refuse("an end in the middle")
                return self.stack[0]
            else:
                self.refuse(f"opcode {code!r}, which is not on the list,")
        self.refuse(f"more than {MAX_OPERATIONS:,} operations")

    def long_integer(self) -> int:
        size = self.number("<B")
        if size > 8:
            self.refuse(f"an integer of {size} bytes")
        return int.from_bytes(self.take(size), "little", signed=True)

    def fetch(self, key: int) -> Any:
        if key not in self.memo:
            self.refuse("a reference to nothing")
        return self.memo[key]

    def remember(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            self.refuse("items for something that is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):
                self.refuse("a key that is neither text nor a whole number")
            target[key] = value

    def append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            self.refuse("items for something that is no list")
        self.stack[-1].extend(items)

    def build(self) -> None:
        """A module's state dict carries version numbers as an attribute `_metadata`; they are read and dropped."""
        state = self.stack.pop()
        if type(self.stack[-1]) is not OrderedDict or type(state) is not dict or set(state) != {"_metadata"}:
            self.refuse("an attribute that is not on the list")

    def find_global(self) -> _Global:
        module, name = self.line(), self.line()
        if (module, name) not in _GLOBALS:
            self.refuse(f"the name '{shown(module)}.{shown(name)}', which is not on the list,")
        return _GLOBALS[module, name]

    def persistent(self) -> _Storage:
        """`("storage", class, key, device it was saved from, elements)`; where it was saved from does not matter."""
        value = self.stack.pop()
        if type(value) is not tuple or [type(part) for part in value] != [str, _Global, str, str, int]:
            self.refuse("a storage of an unknown form")
        word, kind, key, _, size = value
        if word != "storage" or kind.name not in STORAGES or size < 0 or not key.isascii() or not key.isdecimal():
            self.refuse("a storage of an unknown form")
        return _Storage(kind, key, size)

    def call(self) -> Any:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(arguments) is not tuple or type(function) is not _Global:
            self.refuse("a call of something that is not on the list")
        if function.name == "OrderedDict" and arguments == ():
            return OrderedDict()
        if function.name == "tensor" and len(arguments) == 6:
            return self.tensor(*arguments)
        self.refuse("a call of an unknown form")

    def tensor(self, storage: Any, offset: Any, shape: Any, stride: Any, gradient: Any, hooks: Any) -> TensorSpec:
        """Describe a tensor, if its elements lie in its storage, each in a place of its own and without gaps."""
        numbers_only = all(type(p) is tuple and all(type(n) is int and n >= 0 for n in p) for p in (shape, stride))
        if type(storage) is not _Storage or type(offset) is not int or offset < 0 or type(gradient) is not bool:
            self.refuse("a tensor of an unknown form")
        if not numbers_only or len(shape) != len(stride) or len(shape) > 8 or type(hooks) is not OrderedDict or hooks:
            self.refuse("a tensor of an unknown form")
        # From the smallest stride up, each must be the number of elements below it. A stride of 0 or an overlap would
        # let a small file claim a huge tensor.
        elements = 1
        for step, extent in sorted((step, extent) for step, extent in zip(stride, shape, strict=True) if extent != 1):
            if step != elements and math.prod(shape):
                self.refuse(f"a tensor of shape {shown(shape)} whose elements overlap or lie apart")
            elements *= extent
        if offset + math.prod(shape) > storage.size:
            self.refuse(f"a tensor of shape {shown(shape)} in a storage of {storage.size:,} elements")
        dtype, item_size = STORAGES[storage.kind.name]
        return TensorSpec(dtype, shape, stride, offset, storage.key, storage.size, item_size)


def _check_tree(value: Any, path: str) -> None:
    """Refuse a finished object that is too deep, too wide, endless, or holds a bare storage or name."""
    level, nodes = [value], 0
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += item.values()
            elif isinstance(item, list | tuple):
                below += item
            elif not (item is None or type(item) in (bool, int, float, str, TensorSpec)):
                raise hostile(path, "a value that is neither a tensor nor plain data")
            if nodes + len(below) > MAX_NODES:
                raise hostile(path, f"more than {MAX_NODES:,} values")
        if not below:
            return
        nodes += len(below)
        level = below
    raise hostile(path, f"values nested more than {MAX_DEPTH} deep")
