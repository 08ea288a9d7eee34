"""Tensors of a model file a piece at a time, their bytes checked on the way: two 10 GB checkpoints fit in a laptop.

numpy does it, so neither torch nor a whole tensor is in memory. Every storage's CRC-32 is compared when its last byte
has passed.
"""

import math
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from nanochat.checkpoint_files import damaged, shown
from nanochat.safe_load import TensorFile, TensorSpec

PIECE = 1 << 20  # elements that are in memory at once


def raw_pieces(file: TensorFile, spec: TensorSpec, elements: int = PIECE) -> Iterator[bytes]:
    """A tensor's bytes in the order of its elements, `elements` of them at a time.

    Raises:
        CheckpointError: the bytes are not those that were saved.
    """
    if _is_plain(spec):
        yield from _storage(file, spec, elements * spec.item_size)
        return
    # A view into a storage with gaps or another order: nanochat writes none, but torch.save can.
    whole = np.frombuffer(b"".join(_storage(file, spec, PIECE)), _words(spec))
    strides = [step * spec.item_size for step in spec.stride]
    flat = np.lib.stride_tricks.as_strided(whole[spec.offset :], spec.shape, strides).reshape(-1)
    for start in range(0, flat.size, elements):
        yield flat[start : start + elements].tobytes()


def pieces(file: TensorFile, spec: TensorSpec, elements: int = PIECE) -> Iterator["np.ndarray[Any, Any]"]:
    """The same as numbers: one-dimensional float64 arrays of at most `elements`."""
    for raw in raw_pieces(file, spec, elements):
        yield numbers(raw, spec.dtype)


def numbers(raw: bytes, dtype: str) -> "np.ndarray[Any, Any]":
    """Float64 of the bytes of a float32, bfloat16, float16 or float64 tensor."""
    if dtype == "bfloat16":  # the upper half of a float32
        return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return np.frombuffer(raw, dtype).astype(np.float64)


def count(spec: TensorSpec) -> int:
    """Elements of a tensor."""
    return math.prod(spec.shape)


def _is_plain(spec: TensorSpec) -> bool:
    """Whether the storage is the tensor: all of it, in order."""
    expected = [math.prod(spec.shape[i + 1 :]) for i in range(len(spec.shape))]
    in_order = all(
        size == 1 or step == want for size, step, want in zip(spec.shape, spec.stride, expected, strict=True)
    )
    return in_order and spec.offset == 0 and count(spec) == spec.storage_size


def _words(spec: TensorSpec) -> str:
    return f"u{spec.item_size}"


def _storage(file: TensorFile, spec: TensorSpec, size: int) -> Iterator[bytes]:
    """The bytes of a storage, `size` at a time."""
    member = file.members[f"data/{spec.storage}"]
    done, crc = 0, 0
    while done < member.size:
        # Another tensor may have been read in between, so the place is set every time.
        file.file.seek(member.start + done)
        piece = _exactly(file, min(size, member.size - done))
        crc = zlib.crc32(piece, crc)
        done += len(piece)
        yield piece
    if crc != member.crc:
        raise damaged(file.path, f"the bytes of '{shown(member.name)}' are not those that were saved (CRC-32)")


def _exactly(file: TensorFile, size: int) -> bytes:
    buffer = bytearray()
    while len(buffer) < size:
        more = file.file.read(size - len(buffer))
        if not more:
            raise damaged(file.path, "it ends while it is being read")
        buffer += more
    return bytes(buffer)
