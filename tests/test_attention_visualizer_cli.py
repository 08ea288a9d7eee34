"""The attention visualizer in a terminal: every command line of the wish, its labels, and sentences for errors."""

import json
import sys

import pytest

from nanochat import paths
from nanochat.errors import exit_status
from nanochat.tools import attention_visualizer as tool
from tests.attention_support import save_run


@pytest.fixture(autouse=True)
def a_run():
    save_run(paths.workspace() / "base_checkpoints" / "d20", layers=11)


def said(capsys, *flags: str) -> str:
    assert exit_status("attention_visualizer", lambda: tool.main(list(flags))) == 0, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "labels"),
    [
        (("--text", "Hello world", "--layer", "0"),
         ('Input text: "Hello world"', "Layer: 0", "Head: Average across all 6 heads", "Token 1: 'H'", "Token 6: ' '",
          "Showing top-5 attended tokens for each position:")),
        (("--text", "The capital of France is", "--layer", "5", "--head", "3"), ("Layer: 5", "Head: 3")),
        (("--text", "Once upon a time", "--layer", "10", "--heatmap", "--output", "attention.png"), ("Layer: 10",)),
        (("--source", "base", "--model-tag", "d20", "--text", "Hello", "--layer", "0"), ("Token 1: 'H'",)),
        (("--text", "The quick brown fox", "--layer", "0", "--top-k", "10"), ("Showing top-10 attended tokens",)),
    ],
)  # fmt: skip
def test_every_command_line_of_the_wish_runs(capsys, monkeypatch, tmp_path, flags, labels) -> None:
    monkeypatch.chdir(tmp_path)
    out = said(capsys, *flags)
    for label in ("ATTENTION VISUALIZATION (Text-based)", "Token 0: '<|bos|>'", "  Attends to:", *labels):
        assert label in out
    assert f"    1. Token 0: '<|bos|>'          [100.0%] {'█' * 40}\n" in out
    assert (tmp_path / "attention.png").is_file() == ("--heatmap" in flags)


def test_the_bars_are_as_long_as_the_weights(capsys) -> None:
    data = json.loads(said(capsys, "--text", "abc", "--layer", "1", "--head", "2", "--json"))
    lines = said(capsys, "--text", "abc", "--layer", "1", "--head", "2").splitlines()
    rows = [row for query in data["attention"] for row in query]
    printed = [line for line in lines if "%]" in line]
    assert len(printed) == len(rows) == 1 + 2 + 3 + 4
    for line, row in zip(printed, rows, strict=True):
        assert f"{row['rank']}. Token {row['key']}: " in line
        assert f"{row['weight']:.1%}]" in line
        assert line.count("█") == int(40 * row["weight"] + 1e-6)
    assert sum(row["weight"] for row in data["attention"][-1]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("flags", "key", "label"),
    [
        (("--heads",), "heads", "WHAT EACH HEAD DOES"),
        (("--off", "1.0", "2.3"), "next_token", "WITHOUT 1.0, 2.3"),
        (("--parts", "--head", "1"), "shares", "POSITION AGAINST CONTENT, HEAD 0.1"),
        (("--query", "3", "--without", "0.0"), "attention", "Token 3: "),
        (("--chat", "--carried"), "attention", "Token 1: '<|user_start|>'"),
    ],
)
def test_the_other_views_for_people_and_for_programs(capsys, tmp_path, flags, key: str, label: str) -> None:
    assert label in said(capsys, "--text", "so it goes", *flags)
    plot = () if "--heads" in flags else ("--plot", str(tmp_path / "chart.svg"))
    data = json.loads(said(capsys, "--text", "so it goes", *flags, "--json", *plot))
    assert key in data
    assert data["run"] == "base/d20"
    assert not plot or (tmp_path / "chart.svg").read_text().startswith("<svg")


def test_without_the_converter_the_heatmap_is_words(capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    target = tmp_path / "a.png"
    assert exit_status("x", lambda: tool.main(["--text", "ab", "--heatmap", "--output", str(target)])) == 0
    err = capsys.readouterr().err
    assert "pip install vl-convert-python" in err
    assert "Layer 0, mean of all heads\n1.00\n" in err
    assert not target.exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--text", "abc", "--layer", "11"), "layers 0 to 10"),
        (("--text", "abc", "--layer", "-1"), "layers 0 to 10"),
        (("--text", "abc", "--head", "6"), "heads 0 to 5"),
        (("--text", ""), "the text is empty"),
        (("--text", "a" * 70), "71 tokens and this model takes 64"),
        (("--text", "abc", "--top-k", "0"), "at least 1"),
        (("--text", "abc", "--query", "4"), "tokens 0 to 3"),
        (("--text", "abc", "--off", "x"), "write layer and head as 1.0"),
        (("--text", "abc", "--off", "99.0"), "layers 0 to 10"),
        (("--text", "abc", "--parts"), "name it with --head"),
        (("--text", "abc", "--heatmap", "--output", "a.txt"), "end it in .png or .svg"),
        (("--text", "abc", "--heads", "--plot", "a.png"), "no chart"),
        (("--model-tag", "nowhere", "--text", "abc"), "nowhere"),
    ],
)
def test_what_cannot_be_is_one_sentence(capsys, monkeypatch, tmp_path, flags, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_status("attention_visualizer", lambda: tool.main(list(flags))) == 1
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_hostile_text_reaches_the_terminal_as_codes(capsys) -> None:
    out = said(capsys, "--text", "\x1b[31m\u202e<b>")
    assert "\x1b" not in out
    assert "\u202e" not in out
