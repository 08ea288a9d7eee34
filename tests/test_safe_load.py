"""The safe reader of .pt files against torch.load as its oracle, and against noise."""

import pickle
import subprocess
import sys
import zlib
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat import safe_load
from nanochat.checkpoint_files import CheckpointError
from nanochat.safe_pickle import STORAGES, TensorSpec, read_pickle
from tests.archive_support import assert_one_line, same, saved_bytes, tensor_pickle
from tests.support import FIXTURES, needs_fixtures

DTYPES = [getattr(torch, dtype) for dtype, _ in STORAGES.values()]
REUSE = [HealthCheck.function_scoped_fixture]


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Any dtype, zero to four dimensions, empty ones too; transposed at times, which stays dense."""
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    tensor = (torch.rand(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))) * 100 - 50).to(
        draw(st.sampled_from(DTYPES))
    )
    return tensor.transpose(0, -1) if len(shape) > 1 and draw(st.booleans()) else tensor


numbers = st.integers(-(2**63), 2**63 - 1) | st.floats() | st.booleans() | st.none() | st.text(max_size=20)
keys = st.text(st.characters(codec="utf-8"), max_size=10) | st.integers(-(2**40), 2**40)
trees = st.recursive(
    tensors() | numbers,
    lambda below: (
        st.lists(below, max_size=4)
        | st.dictionaries(keys, below, max_size=4)
        | st.lists(below, max_size=4).map(tuple)
        | st.dictionaries(keys, below, max_size=3).map(OrderedDict)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=REUSE)
@given(trees)
def test_reads_what_torch_saves(tmp_path: Path, tree: object) -> None:
    path = tmp_path / "any.pt"
    torch.save(tree, path)
    expected = torch.load(path, weights_only=True)
    with safe_load.open_tensors(path) as file:
        file.check()
    assert same(plain(safe_load.load(path)), plain(expected))


def plain(tree: object) -> object:
    """OrderedDict as dict: the safe reader returns dicts, which keep their order too."""
    return safe_load.map_tensors(tree, lambda tensor: tensor)


def test_views_of_one_storage_stay_views(tmp_path: Path) -> None:
    """Two halves of one tensor are saved once and come back in one storage."""
    whole = torch.arange(10.0)
    torch.save([whole[:4], whole[4:]], tmp_path / "views.pt")
    first, second = safe_load.load(tmp_path / "views.pt")
    assert torch.equal(first, whole[:4])
    assert torch.equal(second, whole[4:])
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()


def test_a_file_is_checked_without_torch(tmp_path: Path) -> None:
    """Looking into a file, and checking all of it, must not cost a terminal tool the import of torch."""
    torch.save({"w": torch.zeros(3, 5)}, tmp_path / "w.pt")
    code = (
        "import sys; from nanochat import checkpoint_manager, safe_load\n"
        "with safe_load.open_tensors(sys.argv[1]) as file: file.check(); print(file.tree['w'].shape)\n"
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "w.pt")]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout == "(3, 5)\n"


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=400))
def test_noise_is_refused_as_a_pickle(noise: bytes) -> None:
    """The machine ends on any bytes, with plain data or with its one error."""
    try:
        value = read_pickle(b"\x80\x02" + noise, "noise.pt")
    except CheckpointError as error:
        assert_one_line(error, "noise.pt")
    else:
        assert value is None or isinstance(value, bool | int | float | str | dict | list | tuple)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_changed_pickle_gives_the_one_error_or_plain_data(data: st.DataObject) -> None:
    """Real programs with bytes changed reach deeper than noise does."""
    whole = bytearray(tensor_pickle((2, 3), (3, 1), 0, 6))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(2, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        tree = read_pickle(bytes(whole), "changed.pt")
    except CheckpointError as error:
        assert_one_line(error, "changed.pt")
    else:
        for spec in safe_load.tensor_specs(tree):
            assert isinstance(spec, TensorSpec)
            # Whatever the change, the tensor lies inside its storage.
            last = spec.offset + sum((n - 1) * s for n, s in zip(spec.shape, spec.stride, strict=True))
            assert 0 in spec.shape or 0 <= last < spec.storage_size


@settings(max_examples=150, deadline=None, suppress_health_check=REUSE)
@given(st.data())
def test_a_flipped_byte_changes_no_weight_in_silence(tmp_path: Path, data: st.DataObject) -> None:
    """Without a digest the CRC-32 sums find every change inside a member; elsewhere a change can do no harm."""
    weights = {"a": torch.arange(300.0), "b": torch.full((7, 3), 0.25)}
    content = bytearray(saved_bytes(weights))
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "flipped.pt"
    path.write_bytes(content)
    try:
        assert same(safe_load.load(path), weights)
    except CheckpointError as error:
        assert_one_line(error, "flipped.pt")


@settings(max_examples=100, deadline=None, suppress_health_check=REUSE)
@given(st.data())
def test_any_truncation_is_found(tmp_path: Path, data: st.DataObject) -> None:
    content = saved_bytes({"a": torch.arange(300.0)})
    path = tmp_path / "short.pt"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(CheckpointError) as caught:
        safe_load.load(path)
    assert_one_line(caught.value, "short.pt")


def test_every_truncation_of_the_directory_is_found(tmp_path: Path) -> None:
    """All of them where cutting is most delicate: the last 200 bytes, and with bytes added."""
    content = saved_bytes({"a": torch.arange(3.0)})
    path = tmp_path / "short.pt"
    for end in range(len(content) - 200, len(content)):
        path.write_bytes(content[:end])
        with pytest.raises(CheckpointError):
            safe_load.load(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(CheckpointError, match="directory"):
        safe_load.load(path)


def test_a_digest_finds_what_a_crc_cannot(tmp_path: Path) -> None:
    """Somebody who changes a weight and mends its CRC-32 passes without a digest and fails with one."""
    content = bytearray(saved_bytes({"a": torch.zeros(64)}))
    path = tmp_path / "forged.pt"
    path.write_bytes(content)
    with safe_load.open_tensors(path) as file:
        member = file.members["data/0"]
        digest = safe_load.hashlib.sha256(content).hexdigest()
        assert torch.equal(file.read(digest)["a"], torch.zeros(64))
    content[member.start] = 1
    crc = zlib.crc32(content[member.start : member.start + member.size])
    path.write_bytes(content.replace(member.crc.to_bytes(4, "little"), crc.to_bytes(4, "little")))
    assert safe_load.load(path)["a"][0] != 0
    with pytest.raises(CheckpointError, match="SHA-256"):
        safe_load.load(path, digest)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    """With mmap this ends the process (SIGBUS)."""
    path = tmp_path / "shrinks.pt"
    torch.save({"a": torch.zeros(1 << 20)}, path)
    with safe_load.open_tensors(path) as file:
        with path.open("r+b") as other:
            other.truncate(1 << 20)
        with pytest.raises(CheckpointError, match="while it is being read"):
            file.read()


def test_more_than_the_free_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "big.pt")
    monkeypatch.setattr(safe_load, "available_memory", lambda: 3999)
    with pytest.raises(CheckpointError, match=r"4,000 bytes and 3,999 bytes of memory are free"):
        safe_load.load(tmp_path / "big.pt")
    monkeypatch.setattr(safe_load, "available_memory", lambda: 4000)
    assert safe_load.load(tmp_path / "big.pt")["a"].shape == (1000,)


def test_protocols_other_than_torchs_are_refused() -> None:
    for protocol in (0, 1, 3, 4, 5):
        with pytest.raises(CheckpointError):
            read_pickle(pickle.dumps({"a": 1}, protocol), "x.pt")
    assert read_pickle(pickle.dumps({"a": [1, (2.5, None, True)]}, 2), "x.pt") == {"a": [1, (2.5, None, True)]}


def test_large_files_use_64_bit_records(tmp_path: Path) -> None:
    """What torch writes beyond 4 GB, made small: sizes and offset moved into the 64-bit records."""
    import zipfile

    path = tmp_path / "wide.pt"
    limit, zipfile.ZIP64_LIMIT = zipfile.ZIP64_LIMIT, 0
    try:
        with zipfile.ZipFile(path, "w") as archive, zipfile.ZipFile(tmp_path / "plain.pt", "w"):
            for name, content in {"data.pkl": tensor_pickle((3,), (1,), 0, 3), "data/0": bytes(12)}.items():
                with archive.open(f"top/{name}", "w", force_zip64=True) as member:
                    member.write(content)
    finally:
        zipfile.ZIP64_LIMIT = limit
    assert b"PK\x06\x06" in path.read_bytes()
    assert torch.equal(safe_load.load(path)["w"], torch.zeros(3))


@needs_fixtures
def test_every_real_file_is_read_as_torch_reads_it() -> None:
    files = sorted(FIXTURES.glob("nanochat_*/*_checkpoints/*/*.pt")) + sorted(
        FIXTURES.glob("nanochat_*/*/token_bytes.pt")
    )
    assert len(files) >= 39
    for path in files:
        expected = torch.load(path, weights_only=True, map_location="cpu")
        assert same(plain(safe_load.load(path)), plain(expected)), path
