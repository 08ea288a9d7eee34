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
    "training_dashboard": (["curves", "--plot", "--output", "a.png"], r"\ncurves: loss, nats a token, smoothed: "),
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


def test_a_run_on_which_nothing_happened_has_its_figures(tmp_path, monkeypatch, capsys):
    """Three records: no rule finds anything on them, and the text still says where each line begins and ends."""
    monkeypatch.chdir(tmp_path)
    for name, losses in {"one": (5.0, 3.0, 4.0), "two": (2.0, 2.5, 2.25)}.items():
        (tmp_path / name).mkdir()
        records = [{"step": 10 * n, "train_loss": loss, "learning_rate": 0.02} for n, loss in enumerate(losses)]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    main = importlib.import_module("nanochat.tools.training_dashboard").main
    arguments = ["one", "two", "--plot", "--output", "a.png", "--smoothing", "0"]
    assert exit_status("training_dashboard", lambda: main(arguments)) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "one: loss, nats a token: first 5 (step 0), last 4 (step 20), lowest 3 (step 10)",
        "one: learning rate, matrices: first 0.02 (step 0), last 0.02 (step 20), lowest 0.02 (step 0)",
        "two: loss, nats a token: first 2 (step 0), last 2.25 (step 20), lowest 2 (step 0)",
        "two: learning rate, matrices: first 0.02 (step 0), last 0.02 (step 20), lowest 0.02 (step 0)",
    ]
