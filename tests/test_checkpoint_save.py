"""Writing checkpoints: one writer at a time, nothing half done, whatever fails."""

import json
import resource
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat import durable, gpt
from nanochat.checkpoint_files import optimizer_name
from nanochat.checkpoint_manager import (
    CheckpointError,
    directory_lock,
    find_last_step,
    find_runs,
    load_checkpoint,
    load_model,
    save_checkpoint,
    verify,
)
from nanochat.gpt_config import GPTConfig
from nanochat.tokenizer import load_tokenizer
from tests.archive_support import assert_one_line, same
from tests.checkpoint_support import (
    FORK,
    make_tokenizer,
    meta_of,
    names,
    save_like_nanochat,
    save_ours,
    tiny_config,
    tiny_weights,
)


def test_a_second_writer_is_refused_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "base_checkpoints" / "d2"
    ready, leave = FORK.Event(), FORK.Event()

    def hold() -> None:
        with directory_lock(folder):
            ready.set()
            leave.wait(60)

    holder = FORK.Process(target=hold)
    holder.start()
    assert ready.wait(30)
    for attempt in (lambda: save_ours(folder), lambda: directory_lock(folder).__enter__()):
        with pytest.raises(CheckpointError, match=f"process {holder.pid} is writing here") as caught:
            attempt()
        assert_one_line(caught.value, "d2")
    assert names(folder) == [".lock"]
    holder.kill()  # a lock ends with its process, however that ends
    holder.join()
    assert save_ours(folder)


def test_two_trainers_in_one_process_are_two(tmp_path: Path) -> None:
    with directory_lock(tmp_path / "d2"):
        assert durable.holds_lock(tmp_path / "d2")
        with pytest.raises(CheckpointError, match="this process is already writing"), directory_lock(tmp_path / "d2"):
            pass
        save_ours(tmp_path / "d2")  # the holder itself may save
        assert durable.holds_lock(tmp_path / "d2")
    assert not durable.holds_lock(tmp_path / "d2")
    with directory_lock(tmp_path / "d2"):
        pass


def test_leftovers_of_a_killed_writer_are_swept(tmp_path: Path) -> None:
    folder = save_ours(tmp_path / "d2", 1)
    (folder / ".model_000002.pt.4711.tmp").write_bytes(b"half")
    (folder / "model_000002.pt.tmp").write_bytes(b"somebody's own")
    save_ours(folder, 3)
    assert ".model_000002.pt.4711.tmp" not in names(folder)
    assert "model_000002.pt.tmp" in names(folder)


def test_too_little_space_is_known_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_ours(tmp_path / "d2", 1)
    before = names(folder)
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    with pytest.raises(CheckpointError, match="the disk has 1,048,576 bytes free") as caught:
        save_ours(folder, 2)
    assert_one_line(caught.value, "d2")
    assert names(folder) == before


@pytest.mark.parametrize("part", [0.01, 0.5, 0.95])
def test_a_disk_that_fills_up_leaves_no_stump(tmp_path: Path, part: float) -> None:
    """A limit on the size of files stands for the full disk: the write fails in the middle in the same way."""
    folder = save_ours(tmp_path / "d2", 1)
    before = names(folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int((folder / "model_000001.pt").stat().st_size * part), limits[1]))
    try:
        for step in (1, 2):  # replacing a step must not lose it either
            with pytest.raises(CheckpointError, match="cannot be written") as caught:
                save_ours(folder, step, seed=9)
            assert_one_line(caught.value, f"_{step:06d}")
            assert names(folder) == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert verify(folder, 1, full=True).ok
    assert save_ours(folder, 2)


def test_an_interrupt_in_the_middle_leaves_no_stump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_ours(tmp_path / "d2", 1)
    before = names(folder)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_ours(folder, 2)
    assert names(folder) == before
    assert not durable.holds_lock(folder)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "d2", Path("/proc/nowhere/d2")):
        with pytest.raises(CheckpointError, match="permissions") as caught:
            save_ours(folder)
        assert_one_line(caught.value, folder.name)


def test_replacing_a_step(tmp_path: Path) -> None:
    folder = save_ours(tmp_path / "d2", 1, seed=1)
    save_ours(folder, 1, seed=2)
    assert same(load_checkpoint(folder, 1, "cpu")[0], tiny_weights(tiny_config(), 2))
    assert verify(folder, 1, full=True).ok


def test_readers_never_see_half_a_checkpoint(tmp_path: Path) -> None:
    """100 saves while another thread finds, opens and verifies the newest."""
    folder = save_ours(tmp_path / "base_checkpoints" / "d2", 0)
    done = threading.Event()
    seen: list[int] = []
    errors: list[BaseException] = []

    def read() -> None:
        try:
            while not done.is_set():
                (run,) = find_runs(tmp_path)
                weights, _, meta = load_checkpoint(folder, run.steps[-1], "cpu")
                assert same(weights, tiny_weights(tiny_config(), meta["step"]))
                assert verify(folder, run.steps[-1], full=True).ok
                seen.append(meta["step"])
        except BaseException as error:  # noqa: BLE001 - it is raised again below, in the test's own thread
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(1, 101):
        save_ours(folder, step, seed=step)
    done.set()
    reader.join()
    if errors:
        raise errors[0]
    assert len(set(seen)) > 3
    assert seen == sorted(seen)


@pytest.mark.parametrize("value", [{"a": object()}, {"a": {1, 2}}, {"model_config": None}])
def test_a_meta_that_cannot_be_written_fails_first(tmp_path: Path, value: dict[str, Any]) -> None:
    config = tiny_config()
    with pytest.raises(CheckpointError):
        save_checkpoint(tmp_path / "d2", 1, tiny_weights(config), None, {**meta_of(config, 1), **value})
    assert not (tmp_path / "d2").exists()


@pytest.mark.parametrize("step", [-1, 1.5, True, None, 10**12])
def test_a_step_that_is_none(tmp_path: Path, step: Any) -> None:
    with pytest.raises(CheckpointError, match="step"):
        save_checkpoint(tmp_path / "d2", step, {}, None, meta_of(tiny_config()))


def test_replacing_a_step_without_an_optimizer_drops_the_old_one(tmp_path: Path) -> None:
    """The old state belongs to other weights; resuming with both would be wrong in silence."""
    folder = save_ours(tmp_path / "d2", 1)
    config = tiny_config()
    save_checkpoint(folder, 1, tiny_weights(config), None, meta_of(config, 1), tokenizer=make_tokenizer())
    assert names(folder) == [".lock", "meta_000001.json", "model_000001.pt", "tokenizer.json"]
    assert verify(folder, 1, full=True).ok


@pytest.mark.parametrize("state", [{"a": {1, 2}}, [object], {"a": 2**70}, {(1, 2): 3}, {"a": torch.Size([2])}])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_state_that_could_not_be_opened_again_is_not_saved(tmp_path: Path, rank: int, state: Any) -> None:
    folder = save_ours(tmp_path / "d2", 1)
    before = names(folder)
    config = tiny_config()
    with pytest.raises(CheckpointError, match="could not be opened again") as caught:
        save_checkpoint(folder, 2, tiny_weights(config), state, meta_of(config, 2), rank)
    assert_one_line(caught.value, optimizer_name(2, rank))
    assert names(folder) == before


def test_what_is_saved_reopens_as_what_it_was(tmp_path: Path) -> None:
    """A design that no nanochat had, from a model laid out for inference, whose weights are views."""
    config = tiny_config(softcap=20.0, qk_gain=1.0, bigram=True, n_kv_head=1, window_pattern="SL", short_window=5)
    model = gpt.build(config, tiny_weights(config))
    folder = tmp_path / "base_checkpoints" / "d2"
    meta = meta_of(config, 5, lab=False)
    save_checkpoint(folder, 5, model.state_dict(), None, meta, tokenizer=make_tokenizer(), config=config)
    loaded = load_model(folder)
    assert loaded.era.config == config
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(loaded.model(ids), model(ids))


@pytest.mark.parametrize(
    ("weights", "meta", "words"),
    [
        ({}, {}, "no state dict"),
        ({"a": torch.ones(2)}, {}, "can't be a model of 2 layers"),
        ({f"a{i}": torch.ones(2) for i in range(9)}, {}, "weights are missing"),
        ({"a": 1}, {}, "model_data must be a state dict"),
        ([], {}, "model_data must be a state dict"),
        ({"a": torch.eye(2).to_sparse()}, {}, "dense"),
        (None, {"lab": None}, "must be dicts"),
        (None, {"history": [0.5] * 300_000}, "may take"),
        (None, {"lab": {"architecture": {"smear": False}}}, "architecture"),
    ],
)
def test_what_could_not_be_opened_is_not_committed(tmp_path: Path, weights: Any, meta: dict, words: str) -> None:
    folder = save_ours(tmp_path / "base_checkpoints" / "d2", step=10)
    config = tiny_config()
    given = tiny_weights(config) if weights is None else weights
    with pytest.raises(CheckpointError, match=words):
        save_checkpoint(folder, 20, given, None, {**meta_of(config, 20, lab=False), **meta})
    assert find_last_step(folder) == 10
    assert not [name for name in names(folder) if "20" in name]


def test_a_step_that_would_open_as_another_model_is_not_committed(tmp_path: Path) -> None:
    folder = save_ours(tmp_path / "base_checkpoints" / "d2", step=10)
    wide = tiny_config(vocab_size=300)
    heads = tiny_config(n_head=4, n_kv_head=4, value_embeds=False)
    other = tiny_config(value_embeds=False)
    cases: list[tuple[GPTConfig, dict[str, Any], dict[str, Any], str]] = [
        (wide, meta_of(wide, 20, lab=False), {"tokenizer": make_tokenizer()}, "the tokenizer has 265"),
        (wide, meta_of(wide, 20, lab=False), {}, "the tokenizer has 265"),  # the one that lies there
        (heads, meta_of(other, 20, lab=False), {"config": heads}, "not that of `config`"),
    ]
    for config, meta, options, words in cases:
        with pytest.raises(CheckpointError, match=words):
            save_checkpoint(folder, 20, tiny_weights(config), None, meta, **options)
        assert find_last_step(folder) == 10
    (folder / "tokenizer.json").write_text(make_tokenizer(1).to_json())
    assert not verify(folder, 10).ok


def test_a_loaded_step_saved_elsewhere_promises_only_what_is_there(tmp_path: Path) -> None:
    folder = save_ours(tmp_path / "base_checkpoints" / "d2")
    weights, optimizer, meta = load_checkpoint(folder, 10, "cpu", True)
    elsewhere = tmp_path / "elsewhere"
    save_checkpoint(elsewhere, 10, weights, optimizer, meta)
    assert verify(elsewhere, 10, full=True).ok


def test_a_damaged_or_missing_tokenizer_is_found_by_verify(tmp_path: Path) -> None:
    folder = save_ours(tmp_path / "base_checkpoints" / "d2")
    path = folder / "tokenizer.json"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], make_tokenizer(1).to_json().encode(), None):
        path.unlink() if content is None else path.write_bytes(content)
        assert not verify(folder, 10).ok
    path.write_bytes(whole)
    assert verify(folder, 10, full=True).ok


def test_a_run_that_its_owner_called_lab_is_still_nanochats(tmp_path: Path) -> None:
    folder = save_like_nanochat(tmp_path / "base_checkpoints" / "d2")
    path = folder / "meta_000010.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps({**meta, "user_config": {"run": "lab", "lab": 1}}))
    assert load_model(folder).meta["user_config"]["run"] == "lab"


def test_step_and_meta_must_agree(tmp_path: Path) -> None:
    config = tiny_config()
    with pytest.raises(CheckpointError, match="meta_data says step 6 and the step is 5"):
        save_checkpoint(tmp_path / "d2", 5, tiny_weights(config), None, meta_of(config, 6))


def test_threads_may_save_one_tokenizer(tmp_path: Path) -> None:
    """Temporary names are a thread's own."""
    tokenizer = make_tokenizer()
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(tokenizer.save, tmp_path / "tokenizer", True) for _ in range(16)]:
            done.result()
    assert load_tokenizer(tmp_path / "tokenizer").fingerprint == tokenizer.fingerprint
    assert len(names(tmp_path / "tokenizer")) == 3
