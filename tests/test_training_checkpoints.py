"""A run's folder: who may write, what is refused before the first step, and what a full disk leaves behind."""

import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from nanochat.checkpoint_files import open_regular
from nanochat.checkpoint_manager import CheckpointError, amend_meta, list_steps, read_meta, remove_steps, verify
from nanochat.distributed import World
from nanochat.records import METRICS_NAME, read_lines
from nanochat.training import train
from nanochat.training_checkpoints import load_into, read_resumption
from nanochat.training_folder import begin, make_room, opened, require_unused
from tests.archive_support import assert_one_line, flip, same
from tests.checkpoint_support import FORK, names, save_like_nanochat, save_ours, tiny_config
from tests.support import FIXTURES, needs_fixtures
from tests.training_support import everything, held, setup_of

NEWEST = FIXTURES / "nanochat_2026_07_03"


def test_a_second_trainer_is_refused_at_once(tmp_path: Path) -> None:
    ready, leave = FORK.Event(), FORK.Event()

    def hold() -> None:
        with opened(tmp_path / "d2", 10):
            ready.set()
            leave.wait(60)

    holder = FORK.Process(target=hold)
    holder.start()
    assert ready.wait(30)
    with pytest.raises(CheckpointError, match=f"process {holder.pid} is writing here"), opened(tmp_path / "d2", 10):
        pass
    leave.set()
    holder.join()
    with opened(tmp_path / "d2", 10):
        pass


def test_asking_whether_a_folder_is_in_use_makes_none_and_keeps_none(tmp_path: Path) -> None:
    require_unused(tmp_path / "d2", World())
    assert not (tmp_path / "d2").exists()
    with opened(tmp_path / "d2", 10), pytest.raises(CheckpointError, match="already writing here"):
        require_unused(tmp_path / "d2", World())
    require_unused(tmp_path / "d2", World())
    with opened(tmp_path / "d2", 10):
        pass


def test_a_folder_that_cannot_be_written_is_known_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "d2", Path("/proc/nowhere/d2")):
        with pytest.raises(CheckpointError, match="cannot be written"), opened(folder, 10):
            pass


def test_a_read_only_folder_is_known_before_the_first_step() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "d2")
        folder.mkdir()
        os.chmod(place, 0o755)
        os.chmod(folder, 0o555)
        root = os.geteuid() == 0
        if root:  # who may write anywhere, so the test is somebody else for a moment
            os.seteuid(65534)
        try:
            with pytest.raises(CheckpointError, match="check the folder's permissions"), opened(folder, 10):
                pass
        finally:
            if root:
                os.seteuid(0)
        assert names(folder) == []


def test_too_little_disk_is_known_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10 << 20))
    with opened(tmp_path / "d2", 10**5):
        pass
    with pytest.raises(CheckpointError, match="the disk has 10,485,760 bytes free"), opened(tmp_path / "d2", 10**6):
        pass
    with pytest.raises(CheckpointError), opened(tmp_path / "d2", 10**6):  # the lock was given back
        pass


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("part", ["model", "optim", "loader"])
def test_a_disk_that_fills_up_during_a_save_ends_the_run_and_leaves_the_older_steps(
    tmp_path: Path, part: str, share: float
) -> None:
    """A limit on the size of files stands for the full disk, as in test_checkpoint_save.py."""
    with held(tmp_path / "d2") as folder:
        records = train(setup_of(folder, steps=9, save_every=3))
        for record in records:
            if record.step == 3:
                break
        before = names(folder)
        size = next(path.stat().st_size for path in folder.iterdir() if path.name.startswith(part))
        limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (max(int(size * share), 2048), limits[1]))
        try:
            with pytest.raises(CheckpointError, match="cannot be written") as caught:
                list(records)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        assert_one_line(caught.value, "_000006")
        assert names(folder) == before
        assert verify(folder, 3, full=True).ok
        list(train(setup_of(folder, steps=9, resume=-1)))
        assert [line["step"] for line in read_lines(folder / METRICS_NAME)] == list(range(10))


def test_a_new_run_does_not_mix_with_an_old_one(tmp_path: Path) -> None:
    with held(tmp_path / "d2") as folder:
        list(train(setup_of(folder, steps=6, save_every=2)))
        with pytest.raises(CheckpointError, match=r"a run is here already \(steps 2, 4, 6\).*--resume.*--force"):
            begin(folder, World(), resume=None)
        with pytest.raises(CheckpointError, match="steps 4, 6 come after step 2"):
            begin(folder, World(), resume=2)
        with pytest.raises(CheckpointError, match="no such step"):
            begin(folder, World(), resume=3)
        assert list_steps(folder)[0] == (2, 4, 6)
        assert begin(folder, World(), resume=-1) == 6
        assert begin(folder, World(), resume=2, force=True) == 2
        assert list_steps(folder)[0] == (2, 4, 6)  # it only chooses
        make_room(folder, 2, World())
        assert list_steps(folder)[0] == (2,)
        assert not [name for name in names(folder) if "000004" in name or "000006" in name]
        assert [line["step"] for line in read_lines(folder / METRICS_NAME)] == [0, 1]
        assert begin(folder, World(), resume=None, force=True) is None
        make_room(folder, None, World())
        assert names(folder) == [".lock", METRICS_NAME, "tokenizer.json"]


def test_a_damaged_loader_state_is_found(tmp_path: Path) -> None:
    with held(tmp_path / "d2") as folder:
        list(train(setup_of(folder, steps=2)))
        path = folder / "loader_000002_rank0.pt"
        flip(path, path.stat().st_size // 2)
        assert not verify(folder, 2, full=True).ok
        with pytest.raises(CheckpointError, match="SHA-256"):
            read_resumption(folder, 2)
        path.unlink()
        assert not verify(folder, 2).ok
        with pytest.raises(CheckpointError, match="loader_000002_rank0"):
            read_resumption(folder, 2)


def test_the_meta_of_a_saved_step_can_be_amended(tmp_path: Path) -> None:
    folder = save_ours(tmp_path / "d2", 10)
    amend_meta(folder, 10, {"val_bpb": 0.25})
    assert read_meta(folder / "meta_000010.json")["val_bpb"] == 0.25
    assert verify(folder, 10, full=True).ok
    theirs = save_like_nanochat(tmp_path / "base" / "d2")
    with pytest.raises(CheckpointError, match="was not saved by nanochat lab"):
        amend_meta(theirs, 10, {"val_bpb": 0.25})


def test_removed_steps_leave_no_file(tmp_path: Path) -> None:
    folder = save_ours(save_ours(tmp_path / "d2", 10), 20)
    remove_steps(folder, [10])
    assert list_steps(folder) == ((20,), ())
    assert not [name for name in names(folder) if "000010" in name]


def test_the_flags_of_another_model_are_refused(tmp_path: Path) -> None:
    with held(tmp_path / "d2") as folder:
        list(train(setup_of(folder, steps=2)))
        other = setup_of(config=tiny_config(n_layer=1))
        with pytest.raises(CheckpointError, match="another model than the one to be trained"):
            load_into(read_resumption(folder, 2), other.model, other.optimizer)


@needs_fixtures
def test_a_step_of_nanochats_own_is_gone_on_from(tmp_path: Path) -> None:
    """Its optimizer, its place in the text and its averages; documents it had read ahead are lost, and it says so."""
    shutil.copytree(NEWEST / "base_checkpoints" / "d4", tmp_path / "d4")
    resumption = read_resumption(tmp_path / "d4", 40)
    assert resumption.config.n_layer == 4
    assert resumption.loader is None
    assert "read ahead are lost" in resumption.notes[-1]
    from nanochat.optim import OptimConfig, build_optimizer
    from nanochat.training_setup import new_model
    from nanochat.training_state import TrainingState

    model = new_model(resumption.config, seed=0)
    optimizer = build_optimizer(model, OptimConfig(weight_decay=0.28))
    load_into(resumption, model, optimizer)
    assert same(model.state_dict(), resumption.weights)
    assert [group["initial_weight_decay"] for group in optimizer.param_groups][-1] == 0.28
    state = TrainingState.of_meta(40, resumption.meta, 1000)
    assert (state.step, state.tokens, state.flops) == (40, 40 * 1024, 40 * 1024 * 1000)
    assert state.smooth_loss == pytest.approx(4.8310430402493365)
    assert state.min_val_bpb == pytest.approx(2.549840228815377)
    assert state.elapsed == pytest.approx(7.914212703704834)


def test_a_resumed_run_keeps_the_rates_it_is_given(tmp_path: Path) -> None:
    with held(tmp_path / "d2") as folder:
        list(train(setup_of(folder, steps=4)))
        setup = setup_of(folder, steps=4, resume=-1)
        fresh = setup_of(steps=4)
        for ours, new in zip(setup.optimizer.param_groups, fresh.optimizer.param_groups, strict=True):
            assert (ours["initial_lr"], ours["initial_weight_decay"]) == (new["lr"], new["weight_decay"])
        assert same(setup.optimizer.state_dict()["state"], everything(folder, 4)[1]["state"])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkfifo, "this is a FIFO"),
        (os.mkdir, "this is a folder"),
        (lambda path: os.symlink("/dev/zero", path), "a device"),
    ],
)
def test_what_is_no_file_is_called_what_it_is(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    make(tmp_path / "meta_000002.json")
    with pytest.raises(CheckpointError, match=words) as caught:
        read_meta(tmp_path / "meta_000002.json")
    assert_one_line(caught.value, "meta_000002.json")
    with pytest.raises(CheckpointError, match="not a file name"):
        open_regular("a\0b")
