"""What the tests of .pt files share: hostile archives, exact comparison, and bounds on time and memory."""

import contextlib
import io
import resource
import signal
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from nanochat.checkpoint_files import CheckpointError

HANG_SECONDS = 25  # five times what is promised
MEMORY_BYTES = 300 << 20  # beyond what the process has when the bad file is opened


def write_archive(path: Path, pickled: bytes, storages: dict[str, bytes] | None = None, **options: Any) -> None:
    """A zip as torch lays it out, around any pickle."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", sys.byteorder)
        for key, content in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr("archive/version", "3\n")


def tensor_pickle(shape: tuple[int, ...], stride: tuple[int, ...], offset: int, elements: int) -> bytes:
    """The pickle of `{"w": tensor}` with any claims about the tensor."""

    def number(value: int) -> bytes:
        return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(elements) + b"tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + numbers(shape) + numbers(stride)
    return b"\x80\x02}" + text("w") + call + b"\x89" + hooks + b"tRs."


def saved_bytes(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def same(left: Any, right: Any) -> bool:
    """Equal in structure, types, dtypes and bits."""
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        # Byte by byte, because NaN is not equal to itself.
        bits = [t.contiguous().reshape(-1).view(torch.uint8) for t in (left, right)]
        return left.dtype == right.dtype and left.shape == right.shape and torch.equal(*bits)
    if isinstance(left, dict) and isinstance(right, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and type(left) is type(right):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and (left == right or left != left)


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Fail where the body takes too long or more memory than a bad file may cost."""

    def hang(*_: object) -> None:
        raise TimeoutError(f"no answer after {HANG_SECONDS} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(HANG_SECONDS)
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def assert_one_line(error: ValueError, name: str) -> None:
    """The promise for every message: a CheckpointError, one printable line, the file's name in it, not endless."""
    message = str(error)
    assert isinstance(error, CheckpointError), f"{type(error).__name__}: {message}"
    assert message.isprintable(), message
    assert name in message, message
    assert len(message) < 900, message


def flip(path: Path, position: int, bits: int = 1) -> None:
    """Change bits of one byte of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= bits
    path.write_bytes(content)
