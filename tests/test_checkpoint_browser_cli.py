"""The checkpoint browser in a terminal: every command line of the wish runs, and its labels are there."""

from pathlib import Path

import pytest

from nanochat import paths
from nanochat.tools import checkpoint_browser as tool
from tests import cli_support
from tests.checkpoint_support import names, save_like_nanochat, save_ours
from tests.test_checkpoint_browser import a_long_run, bare_step

LIST = ["CHECKPOINTS (sorted by ", "Total checkpoints: 4", "Total disk usage: "]
COLUMNS = ("Model", "Type", "Step", "Val BPB", "Layers", "Dim", "Size (MB)", "Optim", "Modified")
WISH = [
    (["--list"], LIST),
    (["--list", "--sort", "val_bpb"], ["CHECKPOINTS (sorted by val_bpb)"]),
    (["--inspect", "d20"], ["CHECKPOINT base/d20@6000", "Architecture:", "Integrity: sound"]),
    (["--inspect", "d20", "--step", "5000"], ["CHECKPOINT base/d20@5000", "Val BPB:"]),
    (["--compare", "d20", "d26"], ["COMPARISON", "A: base/d20@6000", "B: base/d26@7200", "TENSORS, B AGAINST A"]),
]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Runs as the wish names them."""
    save_like_nanochat(tmp_path / "base_checkpoints" / "d20", 5000)
    save_like_nanochat(tmp_path / "base_checkpoints" / "d20", 6000)
    save_ours(tmp_path / "base_checkpoints" / "d26", 7200)
    save_like_nanochat(tmp_path / "chatsft_checkpoints" / "d20_sft", 2000)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *flags: object) -> tuple[int, str, str]:
    return cli_support.run("checkpoint_browser", tool.main, capsys, flags)


def as_json(capsys: pytest.CaptureFixture[str], *flags: object) -> dict:
    return cli_support.as_json("checkpoint_browser", tool.main, capsys, flags)


@pytest.mark.parametrize(("flags", "labels"), WISH, ids=lambda value: " ".join(value)[:40])
def test_every_command_of_the_wish(base: Path, capsys, flags: list[str], labels: list[str]) -> None:
    status, out, err = run(capsys, *flags, "--base-dir", base)
    assert (status, err) == (0, "")
    assert all(label in out for label in labels)
    if "--list" in flags:
        header = next(line for line in out.splitlines() if line.startswith("Model"))
        assert [cell.strip() for cell in header.split("|") if cell.strip() != "Integrity"] == list(COLUMNS)
        assert "5,000" in out


def test_the_list_in_every_order_and_filtered(base: Path, capsys) -> None:
    for sort in tool.SORTS:
        listed = as_json(capsys, "--list", "--sort", sort, "--base-dir", base)["checkpoints"]
        assert {row["id"] for row in listed} == {"base/d20@5000", "base/d20@6000", "base/d26@7200", "sft/d20_sft@2000"}
    steps = [row["step"] for row in as_json(capsys, "--sort", "step", "--base-dir", base)["checkpoints"]]
    assert steps == [7200, 6000, 5000, 2000]
    (only,) = as_json(capsys, "--list", "-i", "sft", "--base-dir", base)["checkpoints"]
    assert only["tag"] == "d20_sft"


def test_verifying_a_list_finds_what_sizes_do_not_tell(base: Path, capsys) -> None:
    assert run(capsys, "--list", "--full", "--base-dir", base)[0] == 0
    path = base / "base_checkpoints" / "d26" / "model_007200.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    status, out, _ = run(capsys, "--list", "--full", "--base-dir", base)
    assert status == 1
    assert "base/d26@7200 is broken" in out


def test_a_folder_is_enough(base: Path, capsys) -> None:
    seen = as_json(capsys, base / "base_checkpoints" / "d20", "-s", "5000")
    assert (seen["step"], seen["integrity"]["ok"]) == (5000, True)
    assert sum(row["parameters"] for row in seen["tensors"]) == seen["parameters"]["total"]


def test_comparing_answers_and_draws(base: Path, capsys, tmp_path: Path) -> None:
    chart = tmp_path / "changes.svg"
    status, out, _ = run(
        capsys,
        "--compare",
        "d20@5000",
        "d26",
        "--base-dir",
        base,
        "--prompt",
        "Hi",
        "--max-tokens",
        "3",
        "--plot",
        chart,
    )
    assert status == 0
    assert "Prompt: Hi" in out
    assert chart.read_text().startswith("<svg")


def test_a_dry_run_then_the_deletion(tmp_path: Path, capsys) -> None:
    folder = a_long_run(tmp_path)
    before = names(folder)
    status, out, _ = run(capsys, "--delete", "d2", "--base-dir", tmp_path)
    assert status == 0
    assert "DRY RUN" in out
    assert "8 checkpoints (24 files) would go" in out
    assert names(folder) == before
    told = as_json(capsys, "--delete", "d2", "--base-dir", tmp_path, "--yes")
    assert told["deleted"]
    assert sorted(folder.glob("model_*.pt")) == [folder / f"model_{step:06d}.pt" for step in (400, 1000, 2000)]


def test_nanochats_own_folder_is_only_read(capsys) -> None:
    folder = paths.nanochat_base_dir() / "base_checkpoints" / "d2"
    bare_step(folder, 10)
    bare_step(folder, 20)
    status, _, err = run(capsys, "--delete", "d2", "--yes")
    assert status == 1
    assert "--base-dir" in err
    assert len(names(folder)) == 4


def test_an_export(base: Path, capsys, tmp_path: Path) -> None:
    done = as_json(capsys, "--export", "d26", "--base-dir", base, "--output", tmp_path / "out")
    assert {entry["name"] for entry in done["files"]} == {
        "model.safetensors",
        "config.json",
        "README.md",
        "tokenizer.json",
    }
    status, _, err = run(capsys, "--export", "d26", "--base-dir", base, "--output", tmp_path / "out")
    assert (status, "already there" in err) == (1, True)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--inspect", "d9"], "there is no run 'd9'"),
        (["--inspect", "d20", "--step", "6"], "complete steps: 5000, 6000"),
        (["--compare", "d20", "d9"], "there is no run"),
        (["--list", "--plot", "x.pdf"], "end it in .png or .svg"),
        (["--inspect", "<script>\x1b[31m"], "there is no run"),
    ],
)
def test_what_cannot_be_is_one_line(base: Path, capsys, flags: list[str], sentence: str) -> None:
    status, _, err = run(capsys, *flags, "--base-dir", base)
    assert status == 1
    assert sentence in err
    assert err.count("\n") == 1
    assert "\x1b" not in err


def test_hostile_names_come_out_harmless(tmp_path: Path, capsys) -> None:
    bare_step(tmp_path / "base_checkpoints" / "d2\u202e\x1b[31m", 10)
    status, out, _ = run(capsys, "--list", "--base-dir", tmp_path)
    assert status == 0
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert run(capsys, "--list", "--base-dir", tmp_path / "nowhere")[0] == 1
