"""Model files whose weights are not those of the model, and things that are no model files at all."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nanochat.checkpoint_files import CheckpointError, open_regular
from nanochat.checkpoint_manager import load_model, verify
from nanochat.gpt import GPTConfig
from tests.archive_support import assert_one_line, bounded
from tests.checkpoint_support import (
    make_tokenizer,
    meta_of,
    refused_everywhere,
    save_like_nanochat,
    tiny_config,
    tiny_weights,
)

MODEL, META = "model_000010.pt", "meta_000010.json"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A good run as nanochat leaves it, with a good neighbour."""
    save_like_nanochat(tmp_path / "base_checkpoints" / "d3")
    return save_like_nanochat(tmp_path / "base_checkpoints" / "d2")


# ---- the model file: the weights in it ----


def change_weights(run: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = tiny_weights(tiny_config())
    change(weights)
    torch.save(weights, run / MODEL)


def opening_fails(run: Path, *words: str) -> None:
    with bounded(), pytest.raises(CheckpointError) as caught:
        load_model(run, 10)
    assert_one_line(caught.value, MODEL)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not verify(run, 10).ok


def test_missing_weight(run: Path) -> None:
    change_weights(run, lambda weights: weights.pop("lm_head.weight"))
    opening_fails(run, "1 weights are missing", "lm_head.weight")


def test_extra_weight(run: Path) -> None:
    change_weights(run, lambda weights: weights.update({"evil\x1b[31m\nkey": torch.zeros(2)}))
    opening_fails(run, "1 are unknown", r"evil\x1b[31m\nkey")


def test_misshaped_weight(run: Path) -> None:
    change_weights(run, lambda weights: weights.update({"lm_head.weight": torch.zeros(320, 16)}))
    opening_fails(run, "another shape", "(320, 16)", "(320, 32)")


def test_transposed_shape(run: Path) -> None:
    change_weights(run, lambda weights: weights.update({"lm_head.weight": weights["lm_head.weight"].T}))
    opening_fails(run, "another shape")


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_weights_that_are_no_floats(run: Path, dtype: torch.dtype) -> None:
    change_weights(run, lambda weights: weights.update({"lm_head.weight": weights["lm_head.weight"].to(dtype)}))
    opening_fails(run, "not a floating-point tensor")


def test_two_weights_in_one_storage(run: Path) -> None:
    change_weights(run, lambda weights: weights.update({"lm_head.weight": weights["transformer.wte.weight"]}))
    opening_fails(run, "share one storage")


def test_a_weight_with_and_without_the_prefix(run: Path) -> None:
    change_weights(run, lambda weights: weights.update({"_orig_mod.lm_head.weight": torch.zeros(320, 32)}))
    opening_fails(run, "with and without")


@pytest.mark.parametrize(
    "other",
    [
        tiny_config(n_layer=3),
        tiny_config(n_embd=64),
        tiny_config(n_head=4, n_kv_head=2),
        tiny_config(vocab_size=400),
    ],
)
def test_meta_and_weights_of_two_models(run: Path, other: GPTConfig) -> None:
    torch.save(tiny_weights(other), run / MODEL)
    opening_fails(run)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_load_with_a_note(run: Path, value: float) -> None:
    """A diverged run is a real run: it opens, and the note says what is in it."""
    change_weights(run, lambda weights: weights["lm_head.weight"][3].fill_(value))
    assert any("NaN or infinity, such as lm_head.weight" in note for note in load_model(run, 10).notes)


def test_weights_whose_sum_overflows_are_not_called_broken(run: Path) -> None:
    change_weights(run, lambda weights: weights["lm_head.weight"].fill_(3e38))
    assert not any("NaN" in note for note in load_model(run, 10).notes)


# ---- something else in the file's place ----


def socket_at(path: Path) -> None:
    path.unlink()
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket may have 108 bytes only
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def replaced_by(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def place(path: Path) -> None:
        path.unlink()
        make(path)

    return place


PLACES: dict[str, Callable[[Path], None]] = {
    "missing": lambda path: path.unlink(),
    "FIFO": replaced_by(lambda path: os.mkfifo(path)),
    "folder": replaced_by(lambda path: path.mkdir()),
    "socket": socket_at,
    "link to /dev/zero": replaced_by(lambda path: path.symlink_to("/dev/zero")),
    "link to /dev/full": replaced_by(lambda path: path.symlink_to("/dev/full")),
    "link to /proc/self/mem": replaced_by(lambda path: path.symlink_to("/proc/self/mem")),
    "link to the kernel's log": replaced_by(lambda path: path.symlink_to("/proc/kmsg")),
    "link to itself": replaced_by(lambda path: path.symlink_to(path)),
    "link to nothing": replaced_by(lambda path: path.symlink_to(path.with_name("gone"))),
    "link to a folder": replaced_by(lambda path: path.symlink_to(path.parent)),
}


@pytest.mark.parametrize("name", [MODEL, META])
@pytest.mark.parametrize("case", PLACES)
def test_place(run: Path, case: str, name: str) -> None:
    PLACES[case](run / name)
    refused_everywhere(run, name)


@pytest.mark.parametrize("name", [MODEL, META])
def test_unreadable(run: Path, name: str) -> None:
    """Root may read every file, so root gives that right up for the attempt."""
    (run / name).chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(ValueError, match="change its permissions") as caught:
            open_regular(run / name)
    finally:
        os.seteuid(user)
    assert_one_line(caught.value, name)


def test_a_link_to_a_good_file_opens(run: Path) -> None:
    (run / MODEL).rename(run / "elsewhere")
    (run / MODEL).symlink_to(run / "elsewhere")
    assert load_model(run, 10).meta["step"] == 10


@pytest.mark.parametrize("seconds", [-(2**40), -1, 0, 2**40, 2**33])
def test_a_file_from_the_year_36812(run: Path, seconds: int) -> None:
    """The date of a file helps to tell two eras apart; a date that is none must not stop it."""
    os.utime(run / MODEL, (seconds, seconds))
    assert load_model(run, 10)


def test_names_that_are_no_names(tmp_path: Path) -> None:
    for folder in ("\0", "x" * 5000, "a\nb\x1b[2J"):
        with bounded(), pytest.raises(CheckpointError) as caught:
            load_model(folder, 10)
        assert str(caught.value).isprintable()


# ---- the tokenizer ----


def test_tokenizer_of_another_size(run: Path) -> None:
    tokenizer = run.parent.parent / "tokenizer"
    torch.save(tiny_weights(tiny_config(vocab_size=300)), run / MODEL)
    meta = meta_of(tiny_config(vocab_size=300), lab=False)
    (run / META).write_text(json.dumps(meta))
    with pytest.raises(ValueError, match=r"this tokenizer has 265 tokens and the model 300") as caught:
        load_model(run, 10)
    assert_one_line(caught.value, str(tokenizer))


def test_no_tokenizer_at_all(tmp_path: Path) -> None:
    folder = save_like_nanochat(tmp_path / "base_checkpoints" / "d2")
    (tmp_path / "tokenizer").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="tokenizer_dir") as caught:
        load_model(folder)
    assert_one_line(caught.value, "tokenizer")
    assert load_model(folder, tokenizer_dir=tmp_path / "elsewhere").tokenizer.to_json() == make_tokenizer().to_json()
