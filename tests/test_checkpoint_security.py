"""The battery of bad checkpoints: each case one typed line in bounded time and memory, nothing run, nothing written.

The table in docs/security.md is the result of this file, of test_checkpoint_weights.py and test_checkpoint_meta.py.
Every case is opened in each way there is: load_model, load_checkpoint and verify; find_runs must list its neighbour all
the same.
"""

import builtins
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.checkpoint_manager import CheckpointError, load_checkpoint, load_model, verify
from tests.archive_support import assert_one_line, bounded, saved_bytes, tensor_pickle, write_archive
from tests.checkpoint_support import CANARY, refused_everywhere, save_like_nanochat, tiny_config, tiny_weights

MODEL = "model_000010.pt"


class Evil:
    """Pickles to a call of any function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A good run as nanochat leaves it, with a good neighbour."""
    save_like_nanochat(tmp_path / "base_checkpoints" / "d3")
    return save_like_nanochat(tmp_path / "base_checkpoints" / "d2")


# ---- the model file: content ----


def pickled(content: Any, protocol: int = 2) -> bytes:
    return pickle.dumps(content, protocol)


def payload(path: Path) -> Evil:
    return Evil(os.mkdir, str(path.with_name(CANARY)))


def evil_call(function: Callable[..., Any], *arguments: Any) -> Callable[[Path], None]:
    return lambda path: write_archive(path, pickled({"w": Evil(function, *arguments)}))


def evil_in_protocol(protocol: int) -> Callable[[Path], None]:
    return lambda path: write_archive(path, pickled({"w": payload(path)}, protocol))


def evil_opcodes(before: bytes, after: bytes) -> Callable[[Path], None]:
    """A call spelled with opcodes that Python's own pickler never writes."""
    return lambda path: write_archive(path, b"\x80\x02" + before + b"V" + str(path.with_name(CANARY)).encode() + after)


def bytearray_bomb(path: Path) -> None:
    """The 2 kB for which torch.load takes 4 GB."""
    call = b"cbuiltins\nbytearray\n\x8a\x05" + struct.pack("<Q", 1 << 32)[:5] + b"\x85R"
    write_archive(path, b"\x80\x02]" + call * 40 + b".")


def bytearray_opcode(path: Path) -> None:
    write_archive(path, b"\x80\x05\x96" + struct.pack("<Q", 1 << 32) + b".")


def frame_bomb(path: Path) -> None:
    write_archive(path, b"\x80\x02X\xff\xff\xff\xffa.")


def deflate_bomb(path: Path) -> None:
    storage = bytes(134_000_000)
    pickle_bytes = tensor_pickle((33_500_000,), (1,), 0, 33_500_000)
    write_archive(path, pickle_bytes, {"0": storage}, compression=zipfile.ZIP_DEFLATED)


def laughing_list(path: Path) -> None:
    """Each list holds the one before ten times: 30 lines, 10^30 values."""
    body = b"](h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00eq\x00"
    write_archive(path, b"\x80\x02]q\x00" + body * 30 + b"0" * 0 + b"h\x00(t.")


def endless_list(path: Path) -> None:
    write_archive(path, b"\x80\x02]q\x00h\x00a.")


def claims(
    shape: tuple[int, ...], stride: tuple[int, ...], offset: int, elements: int, size: int
) -> Callable[[Path], None]:
    return lambda path: write_archive(path, tensor_pickle(shape, stride, offset, elements), {"0": bytes(size)})


CONTENT: dict[str, Callable[[Path], None]] = {
    "empty": lambda path: path.write_bytes(b""),
    "one byte": lambda path: path.write_bytes(b"P"),
    "text": lambda path: path.write_text("not a checkpoint\n" * 100),
    "zeros": lambda path: path.write_bytes(bytes(100_000)),
    "zip without members": lambda path: zipfile.ZipFile(path, "w").close(),
    "zip without data.pkl": lambda path: zip_of(path, {"archive/data/0": b"1234"}),
    "raw pickle with a payload": lambda path: path.write_bytes(pickled(payload(path))),
    "legacy format": lambda path: torch.save(tiny_weights(tiny_config()), path, _use_new_zipfile_serialization=False),
    "legacy format with a payload": lambda path: torch.save(payload(path), path, _use_new_zipfile_serialization=False),
    **{f"payload in protocol {number}": evil_in_protocol(number) for number in range(6)},
    "payload behind real weights": lambda path: torch.save({**tiny_weights(tiny_config()), "x": payload(path)}, path),
    "payload through the opcode INST": evil_opcodes(b"(", b"\nios\nmkdir\n."),
    "payload through the opcode OBJ": evil_opcodes(b"(cos\nmkdir\n", b"\no."),
    "payload through an extension code": lambda path: write_archive(path, b"\x80\x02\x82\x01."),
    "payload eval": evil_call(builtins.eval, "1"),
    "payload getattr": evil_call(getattr, "x", "upper"),
    "call of torch.load": lambda path: write_archive(path, b"\x80\x02ctorch.serialization\nload\n)R."),
    "bytearray bomb": bytearray_bomb,
    "bytearray opcode": bytearray_opcode,
    "text of 4 GB claimed": frame_bomb,
    "integer of 2 GB claimed": lambda path: write_archive(path, b"\x80\x02\x8b\xff\xff\xff\x7f1."),
    "deflate bomb": deflate_bomb,
    "pickle of 5 MB": lambda path: write_archive(path, b"\x80\x02" + b"]0" * 2_500_000 + b"."),
    "million of operations": lambda path: write_archive(path, b"\x80\x02" + b"}" * 4_000_000 + b"."),
    "million of memo entries": lambda path: write_archive(
        path, b"\x80\x02]" + b"".join(b"r" + struct.pack("<I", i) for i in range(800_000)) + b"."
    ),
    "lists that multiply": laughing_list,
    "list inside itself": endless_list,
    "nested 100,000 deep": lambda path: write_archive(path, b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."),
    "stride 0": claims((10**6, 10**6), (0, 0), 0, 4, 16),
    "stride 0 in one dimension": claims((1000, 4), (0, 1), 0, 4, 16),
    "overlapping stride": claims((3, 3), (1, 1), 0, 9, 36),
    "gaps in the stride": claims((2, 2), (8, 1), 0, 100, 400),
    "shape beyond the storage": claims((10,), (1,), 0, 9, 36),
    "offset beyond the storage": claims((4,), (1,), 3, 4, 16),
    "negative offset": claims((4,), (1,), -1, 4, 16),
    "negative shape": claims((-4, -1), (1, 1), 0, 4, 16),
    "negative stride": claims((4,), (-1,), 0, 4, 16),
    "storage larger than its bytes": claims((10**9,), (1,), 0, 10**9, 16),
    "storage smaller than its bytes": claims((4,), (1,), 0, 4, 64),
    "storage missing": lambda path: write_archive(path, tensor_pickle((4,), (1,), 0, 4)),
    "shape and stride of two lengths": claims((4, 1), (1,), 0, 4, 16),
    "64 dimensions": claims((1,) * 64, (1,) * 64, 0, 4, 16),
    "list in place of the state dict": lambda path: torch.save([torch.zeros(2)], path),
    "tensor in place of the state dict": lambda path: torch.save(torch.zeros(2), path),
    "empty state dict": lambda path: torch.save({}, path),
    "number among the weights": lambda path: torch.save({**tiny_weights(tiny_config()), "x": 1}, path),
    "weights one level down": lambda path: torch.save({"model": tiny_weights(tiny_config())}, path),
    "numbers as names": lambda path: torch.save({1: torch.zeros(2)}, path),
}


def zip_of(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("case", [case for case in CONTENT if case.startswith(("payload in", "payload through the"))])
def test_the_payloads_are_real(tmp_path: Path, case: str) -> None:
    """Python's own unpickler runs them, so the canary of the other tests can die."""
    CONTENT[case](tmp_path / MODEL)
    with zipfile.ZipFile(tmp_path / MODEL) as archive:
        pickle.loads(archive.read("archive/data.pkl"))
    assert (tmp_path / CANARY).is_dir()


@pytest.mark.parametrize("case", CONTENT)
def test_model_file_content(run: Path, case: str) -> None:
    CONTENT[case](run / MODEL)
    refused_everywhere(run, MODEL)


def test_legacy_file_names_the_remedy(run: Path) -> None:
    CONTENT["legacy format"](run / MODEL)
    assert "save it again with torch.save" in refused_everywhere(run, MODEL)


# ---- the model file: the zip around it ----


def deflated_by_name_only(content: bytes) -> bytes:
    """Method 8 in both headers of the first member, its bytes as they are."""
    content = content.replace(b"PK\x03\x04" + content[4:8] + b"\0\0", b"PK\x03\x04" + content[4:8] + b"\x08\0", 1)
    at = content.index(b"PK\x01\x02")
    return content[: at + 10] + b"\x08\0" + content[at + 12 :]


def in_directory(offset: int, value: bytes) -> Callable[[bytes], bytes]:
    """Overwrite a field of the directory's second entry."""

    def change(content: bytes) -> bytes:
        first = content.index(b"PK\x01\x02")
        at = content.index(b"PK\x01\x02", first + 4) + offset
        return content[:at] + value + content[at + len(value) :]

    return change


def at_the_end(offset: int, value: bytes) -> Callable[[bytes], bytes]:
    """Overwrite a field of the last record."""

    def change(content: bytes) -> bytes:
        at = len(content) - 22 + offset
        return content[:at] + value + content[at + len(value) :]

    return change


def second_on_first(content: bytes) -> bytes:
    """Both members of the directory point at the first one's bytes."""
    first = content.index(b"PK\x01\x02")
    second = content.index(b"PK\x01\x02", first + 4)
    return content[: second + 42] + content[first + 42 : first + 46] + content[second + 46 :]


ZIP: dict[str, Callable[[bytes], bytes]] = {
    "two members of one name": lambda content: content.replace(b"archive/data/1", b"archive/data/0"),
    "two members over the same bytes": second_on_first,
    "said to be deflated": deflated_by_name_only,
    "said to be encrypted": in_directory(8, b"\1"),
    "size beyond the file": in_directory(20, b"\xf0\xff\xff\x7f" * 2),
    "two sizes": in_directory(24, b"\xf0\xff\xff\x7f"),
    "64-bit size that is not there": in_directory(20, b"\xff" * 8),
    "offset beyond the file": in_directory(42, b"\xf0\xff\xff\x7f"),
    "name that climbs out": lambda content: content.replace(b"archive/data/0", b"../..../data/0"),
    "name of its own in the local header": lambda content: content.replace(b"archive/data/0", b"archive/data/9", 1),
    "name that is no text": lambda content: content.replace(b"archive/data/0", b"archive/data/\xff"),
    "directory of 4 GB": at_the_end(12, b"\xf0\xff\xff\xff"),
    "65,000 entries": at_the_end(8, b"\xe8\xfd\xe8\xfd"),
    "no entries": at_the_end(8, bytes(4)),
    "several disks": at_the_end(4, b"\1\0\1\0"),
    "comment": lambda content: content[:-2] + b"\4\0fine",
    "something in front": lambda content: b"MZ" + content,
    "another byte order": lambda content: content.replace(b"little", b"bigend"),
}


@pytest.mark.parametrize("case", ZIP)
def test_archive(run: Path, case: str) -> None:
    content = saved_bytes(tiny_weights(tiny_config()))
    changed = ZIP[case](content)
    assert changed != content
    (run / MODEL).write_bytes(changed)
    refused_everywhere(run, MODEL)


@pytest.mark.parametrize("part", [0.0001, 0.01, 0.5, 0.9, 0.99, 0.9999])
def test_truncated(run: Path, part: float) -> None:
    content = (run / MODEL).read_bytes()
    (run / MODEL).write_bytes(content[: int(len(content) * part)])
    refused_everywhere(run, MODEL)


def test_flipped(run: Path) -> None:
    content = bytearray((run / MODEL).read_bytes())
    content[len(content) // 2] ^= 4
    (run / MODEL).write_bytes(content)
    with pytest.raises(ValueError, match="CRC-32") as caught:
        load_model(run, 10)
    assert_one_line(caught.value, MODEL)
    assert not verify(run, 10, full=True).ok
    assert verify(run, 10).ok  # quick looks at structure only, and says so
    assert verify(run, 10).level == "structure, names and sizes"


@pytest.mark.parametrize(
    "case", ["payload in protocol 2", "bytearray bomb", "legacy format", "text", "stride 0", "empty"]
)
def test_optimizer_file(run: Path, case: str) -> None:
    CONTENT[case](run / "optim_000010_rank0.pt")
    with bounded(), pytest.raises(CheckpointError) as caught:
        load_checkpoint(run, 10, "cpu", load_optimizer=True)
    assert_one_line(caught.value, "optim_000010_rank0.pt")
    assert not verify(run, 10).ok
    assert not (run / CANARY).exists()
    assert load_model(run, 10)  # a model can speak without its optimizer
