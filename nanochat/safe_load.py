"""Open a .pt file without running anything in it.

`torch.load(weights_only=True)` blocks code, but 2 kB of pickle make it allocate 4 GB, a bit flipped in a tensor goes
unseen, and a stride of 0 lets 1.5 kB claim 10^12 elements. So torch.load is not used. safe_zip.py checks the archive,
safe_pickle.py reads which tensors there are, and only then are their bytes read, into memory that the file's own size
bounds. The bytes are read once, in order; the digest is taken (or the zip's CRC-32 checked) from the same bytes that
become the tensors, so nothing can change between the check and the use. Shapes are known before the first weight is
read, and without torch.

    with open_tensors(path) as file:
        file.tree                      # nested dicts and lists, a TensorSpec where a tensor is
        tensors = file.read(sha256)    # the same with tensors
"""

import hashlib
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from nanochat.checkpoint_files import CheckpointError, damaged, hostile, location, open_regular, shown
from nanochat.safe_pickle import MAX_PICKLE_BYTES, TensorSpec, read_pickle
from nanochat.safe_zip import Member, read_exactly, read_members

if TYPE_CHECKING:
    import torch

CHUNK = 1 << 20  # bytes hashed at a time, small enough to be in the cache still when they are hashed


@dataclass(frozen=True)
class TensorFile:
    """An open .pt file whose structure has been checked and whose tensors have not been read."""

    path: str
    size: int  # bytes
    tree: Any  # what was saved, with a TensorSpec in each tensor's place
    members: dict[str, Member]
    file: BinaryIO

    def read(self, sha256: str | None = None) -> Any:
        """The saved object with its tensors, on the CPU, in the dtypes of the file.

        With `sha256` every byte of the file is checked against it; without, every member against its own CRC-32,
        which finds damage but not intent.

        Raises:
            CheckpointError: the check fails, or the tensors need more memory than there is.
        """
        import torch

        storages = {spec.storage: spec for spec in tensor_specs(self.tree)}
        need = sum(spec.storage_size * spec.item_size for spec in storages.values())
        free = available_memory()
        if free is not None and need > free:
            raise CheckpointError(
                f"{location(self.path)}: its tensors take {need:,} bytes and {free:,} bytes of memory are free; close "
                "other programs or take a smaller model"
            )
        buffers = {key: torch.empty(s.storage_size * s.item_size, dtype=torch.uint8) for key, s in storages.items()}
        self._pass({f"data/{key}": buffer.numpy().data for key, buffer in buffers.items()}, sha256)

        def tensor(spec: TensorSpec) -> "torch.Tensor":
            # A view in the shape the file gives; safe_pickle has checked that it stays inside the storage.
            storage = buffers[spec.storage].view(getattr(torch, spec.dtype))
            return storage.as_strided(spec.shape, spec.stride, spec.offset)

        return map_tensors(self.tree, tensor)

    def check(self, sha256: str | None = None) -> None:
        """Read every byte and compare as `read` does, but keep nothing and load no torch."""
        self._pass({}, sha256)

    def _pass(self, buffers: dict[str, memoryview], sha256: str | None) -> None:
        """Read the file once from end to end; the bytes of a member named in `buffers` are left there."""
        digest = hashlib.sha256() if sha256 else None
        spare = memoryview(bytearray(CHUNK))
        self.file.seek(0)
        position = 0
        for member in [*self.members.values(), Member("the end", self.size, 0, 0)]:
            if digest:  # the headers between members count for the digest, not for a CRC
                for chunk in self._chunks(spare, position, member.start - position, reuse=True):
                    digest.update(chunk)
            else:
                self.file.seek(member.start)
            target, crc = buffers.get(member.name), 0
            into = spare if target is None else target
            for chunk in self._chunks(into, member.start, member.size, reuse=target is None):
                if digest:
                    digest.update(chunk)
                else:
                    crc = zlib.crc32(chunk, crc)
            if not digest and crc != member.crc:
                raise damaged(self.path, f"the bytes of '{shown(member.name)}' are not those that were saved (CRC-32)")
            position = member.start + member.size
        if digest and digest.hexdigest() != sha256:
            raise damaged(self.path, "its bytes are not those that were saved (SHA-256)")

    def _chunks(self, buffer: memoryview, start: int, size: int, *, reuse: bool) -> Iterator[memoryview]:
        """Read `size` bytes into the buffer, a chunk at a time, always to its front if it may be reused."""
        done = 0
        while done < size:
            at = 0 if reuse else done
            chunk = buffer[at : at + min(CHUNK, size - done)]
            count = self.file.readinto(chunk)  # type: ignore[attr-defined]  # a raw file has it
            if not count:
                raise damaged(self.path, f"it ends at byte {start + done:,} while it is being read")
            yield chunk[:count]
            done += count


@contextmanager
def open_tensors(path: str | Path) -> Iterator[TensorFile]:
    """Open a .pt file and check everything about it but the bytes of its tensors.

    Raises:
        CheckpointError: not a regular file, not a .pt file, damaged, or of a kind that nanochat does not write.
    """
    name = str(path)
    with open_regular(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            members = read_members(file, name, size)
            tree = read_pickle(_table_of_contents(file, name, members), name)
            for spec in tensor_specs(tree):
                member = members.get(f"data/{spec.storage}")
                if member is None or member.size != spec.storage_size * spec.item_size:
                    there = "is missing" if member is None else f"has {member.size:,} bytes"
                    raise hostile(name, f"storage '{shown(spec.storage)}' of {spec.storage_size:,} elements {there}")
            yield TensorFile(name, size, tree, members, file)
        except OSError as error:
            raise CheckpointError(
                f"{location(name)}: reading failed ({shown(error.strerror)}); check the disk"
            ) from None


def load(path: str | Path, sha256: str | None = None) -> Any:
    """Everything in a .pt file, as torch.load would give it, on the CPU."""
    with open_tensors(path) as file:
        return file.read(sha256)


def tensor_specs(tree: Any) -> list[TensorSpec]:
    """Every tensor description in a tree."""
    found: list[TensorSpec] = []
    map_tensors(tree, found.append)
    return found


def map_tensors(tree: Any, change: Callable[[Any], Any]) -> Any:
    """A copy of nested dicts, lists and tuples with `change` applied to each tensor or TensorSpec in it."""
    if isinstance(tree, dict):
        return {key: map_tensors(value, change) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        changed = [map_tensors(value, change) for value in tree]
        return changed if isinstance(tree, list) else tuple(changed)
    if isinstance(tree, TensorSpec) or hasattr(tree, "untyped_storage"):
        return change(tree)
    return tree


def available_memory() -> int | None:
    """Bytes that can be taken without swapping, None where the system does not say (macOS, Windows)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)


def _table_of_contents(file: BinaryIO, path: str, members: dict[str, Member]) -> bytes:
    """The pickle inside, after the checks that need no look into it."""
    if "data.pkl" not in members:
        raise hostile(path, "an archive without data.pkl")
    order = members.get("byteorder")
    if order and (order.size > 6 or read_exactly(file, path, order.start, order.size) != sys.byteorder.encode()):
        raise CheckpointError(
            f"{location(path)}: saved on a machine with the other byte order; load it there and save it again"
        )
    member = members["data.pkl"]
    if member.size > MAX_PICKLE_BYTES:
        raise hostile(path, f"a table of contents of {member.size:,} bytes, the limit is {MAX_PICKLE_BYTES:,}")
    content = read_exactly(file, path, member.start, member.size)
    if zlib.crc32(content) != member.crc:
        raise damaged(path, "its table of contents is not what was saved (CRC-32)")
    return content
