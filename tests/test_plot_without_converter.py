"""Every command with --plot where vl-convert cannot be imported: the figure as text, what to install, no failure."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

from nanochat import paths
from nanochat.charts import INSTALL
from nanochat.errors import exit_status
from tests.attention_support import save_run
from tests.dataset_inspector_support import TOKENIZER, lines_file, talk

TOOLS = Path(__file__).parents[1] / "nanochat" / "tools"
COMMANDS = {  # tool -> its arguments, words of the figure
    "attention_visualizer": (["--text", "so it goes", "--plot", "a.png"], r"Token 1: 's'"),
    "checkpoint_browser": (["--list", "--plot", "a.svg"], r"d20"),
    "dataset_inspector": (["chats.jsonl", "--plot", "a.png"], r"\d+-\d+ +: +\d+ #+"),
    "generation_explorer": (["--source", "base", "--prompt", "a", "--max-tokens", "3", "--plot", "a.svg"], r"a"),
    "model_calculator": (["--preset", "gpt2-small", "--plot", "a.png"], r"[Ee]mbedding"),
    "tokenizer_playground": (["--languages", "--plot", "a.png"], r"English"),
    "training_dashboard": (["curves", "--plot", "--output", "a.png"], r"\d\.\d"),
}
LONG = {"lr_finder", "training_resume_helper"}  # their charts come after a training; both save through charts.save


def test_the_table_has_every_tool_with_a_chart():
    drawing = {path.stem for path in TOOLS.glob("[a-z]*.py") if '"--plot"' in path.read_text()}
    assert drawing - LONG == set(COMMANDS)
    for stem in drawing & LONG:
        assert re.search(r"from nanochat\.charts import save$", (TOOLS / f"{stem}.py").read_text(), re.MULTILINE), stem


@pytest.mark.parametrize("tool", COMMANDS)
def test_the_figure_comes_as_text(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_run(paths.workspace() / "base_checkpoints" / "d20", layers=2)
    TOKENIZER.save(paths.workspace() / "tokenizer")
    lines_file(tmp_path / "chats.jsonl", *[talk(f"question {n}", "answer " * n) for n in range(1, 30)])
    (tmp_path / "curves").mkdir()
    records = [
        {"step": n, "time": n * 1.0, "tokens": n * 64, "train_loss": 5 / (1 + n), "val_bpb": 2 / n}
        for n in range(1, 30)
    ]
    (tmp_path / "curves" / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    arguments, figure = COMMANDS[tool]
    monkeypatch.setitem(sys.modules, "vl_convert", None)  # an import of it fails, and it is not found either
    main = importlib.import_module(f"nanochat.tools.{tool}").main
    status = exit_status(tool, lambda: main(arguments))
    out, err = capsys.readouterr()
    assert status == 0, err
    said = out + err
    assert f"was not drawn, for that needs vl-convert: {INSTALL}" in said
    assert re.search(figure, said[said.index(INSTALL) + len(INSTALL) :] or said), "the figure stands behind it"
    assert not list(tmp_path.glob("a.*"))
