"""What the README shows works as it stands there."""

import re
from pathlib import Path

import pytest

from tests.checkpoint_support import save_ours

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    save_ours(tmp_path / ".cache" / "nanochat" / "chatsft_checkpoints" / "d20")
    exec(compile(example, "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert "sft d20 (10,) ()" in out
    assert "verified: every byte" in out
    assert "Verification(ok=True" in out
    assert out.count("The sky is") == 3


def test_every_command_of_the_project_in_it_exists() -> None:
    """`nanochat x` names a script, `.ci/run` and friends a file."""
    root = Path(__file__).parents[1]
    for name in set(re.findall(r"^nanochat ([a-z_]+)", README, re.MULTILINE)):
        assert (root / "nanochat" / "scripts" / f"{name}.py").is_file(), name
    assert (root / "Home.py").is_file()
    assert (root / ".ci" / "run").is_file()
