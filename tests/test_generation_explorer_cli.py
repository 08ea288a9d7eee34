"""The generation explorer in a terminal: every command line of the wish runs, and its labels are there."""

import io
import json

import pytest

from nanochat import paths
from nanochat.analysis import generation_explorer as explorer
from nanochat.checkpoint_manager import load_model
from nanochat.engine import Engine
from nanochat.tools import generation_explorer as tool
from tests import cli_support
from tests.checkpoint_support import save_ours


@pytest.fixture(autouse=True)
def runs(monkeypatch):
    save_ours(paths.workspace() / "base_checkpoints" / "d20")
    save_ours(paths.workspace() / "chatsft_checkpoints" / "d20", seed=1)


def run(capsys: pytest.CaptureFixture[str], *flags: object) -> tuple[int, str, str]:
    return cli_support.run("generation_explorer", tool.main, capsys, flags)


WISH = [  # (flags, what is typed, words that must be in the output)
    (["--source", "base", "--interactive"], "ab\nquit\n", ["Type a prompt", "[A] Temperature: 0.9, Top-k: None"]),
    (
        ["--source", "base", "--prompt", "The capital of France is", "--show-probs"],
        "",
        [
            "=" * 100 + "\nGENERATION WITH PROBABILITIES\n" + "=" * 100,
            'Prompt: "The capital of France is"\nTemperature: 0.9, Top-k: None',
            "-" * 100 + "\n\nStep 1:\n  Sampled: [",
            "  Top 5 alternatives:\n    1. [",
            "\nStep 2:\n",
            " ←",
            "Full generation:\n",
        ],
    ),
    (
        ["--source", "base", "--prompt", "Once upon a time", "--compare-temp"],
        "",
        ["TEMPERATURE COMPARISON", *(f"Temperature {value}: " for value in (0.1, 0.5, 0.9, 1.2, 1.5))],
    ),
    (
        ["--source", "base", "--prompt", "In the beginning", "--compare-topk"],
        "",
        ["TOP-K COMPARISON", "Top-k 1: ", "Top-k 50: ", "first divergence at step"],
    ),
    (
        ["--source", "sft", "--model-tag", "d20", "--device", "cpu", "--prompt", "What is 2+2?", "--show-probs"],
        "",
        ["GENERATION WITH PROBABILITIES", 'Prompt: "What is 2+2?"', "Sampled: ["],
    ),
    (["--temperature", "0.5", "--top-k", "5", "--max-tokens", "3"], "", ["Temperature: 0.5, Top-k: 5", "Cut off at 3"]),
]


@pytest.mark.parametrize(("flags", "typed", "words"), WISH, ids=lambda value: " ".join(value) if value else None)
def test_every_command_line_of_the_wish(capsys, monkeypatch, flags, typed, words) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    status, out, err = run(capsys, *flags, *([] if "--max-tokens" in flags else ["--max-tokens", "6"]))
    assert status == 0, err
    for word in words:
        assert word in out


def test_json_says_what_the_engine_says(capsys) -> None:
    flags = ["--prompt", "ab", "--max-tokens", "6", "--top-k", "9", "--show-probs", "--top", "2", "--json"]
    status, out, _ = run(capsys, *flags)
    data = json.loads(out)
    loaded = load_model(paths.workspace() / "base_checkpoints" / "d20")
    engine = Engine(loaded.model, loaded.tokenizer)
    ids = loaded.tokenizer.encode("ab", prepend="<|bos|>")
    (row,), _ = engine.generate_batch(ids, 1, 6, temperature=0.9, top_k=9, seed=42)
    assert status == 0
    assert data["ids"][: len(row) - 3] == row[3:]
    assert (data["run"], data["step"], data["settings"]["top_k"]) == ("base/d20", 10, 9)
    first = data["steps"][0]
    assert first["candidates"][0]["rank"] == 1
    assert sum(one["taken"] for one in first["candidates"]) == 1
    assert first["kept"] == 9


def test_the_other_views_and_their_charts(capsys, tmp_path) -> None:
    short = ["--prompt", "ab", "--max-tokens", "5"]
    status, out, err = run(capsys, *short, "--force", "2", "x", "--force", "4", "yz", "--plot", str(tmp_path / "a.svg"))
    assert (status, (tmp_path / "a.svg").stat().st_size > 1000) == (0, True), err
    assert 'B: forced "x" at step 2' in out
    assert '    C: forced "yz" at step 4' in out
    status, out, _ = run(capsys, *short, "--lens", "2", "--json")
    assert [row["name"] for row in json.loads(out)["lens"]][::3] == ["embedding", "layer 1", "layer 2 (output)"]
    status, out, _ = run(capsys, *short, "--batch", "3", "--compare-temp", "0", "1", "--json")
    data = json.loads(out)
    assert (data["samples"], data["judged"], [row["value"] for row in data["statistics"]]) == (3, False, [0, 1])
    status, out, err = run(
        capsys, *short, "--compare-top-p", "0.5", "--compare-min-p", "--plot", str(tmp_path / "b.png")
    )
    assert "TOP-P COMPARISON" in out
    assert "MIN-P COMPARISON" in out
    assert (tmp_path / "b.png").read_bytes()[:4] == b"\x89PNG"


def test_a_conversation_with_the_explorer(capsys, monkeypatch) -> None:
    lines = ["ab", "temp 0", "step 2", "force 2 #3", "rewind 3", "branches", "branch a", "compare topk", "lens 1",
             "probs on", "max 3", "top_k off", "temp x", "temp nan", "step 99", "force 2", "branch Q", "help",
             "prompt temp 5", "force 99999999999 a"]  # fmt: skip
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join([*lines, ""])))
    status, out, err = run(capsys, "-i", "--max-tokens", "4")
    assert status == 0
    assert "B: forced " in out
    assert "    C: drawn again from step 3 ←" in out
    assert "TOP-K COMPARISON" in out
    assert "layer 2 (output)" in out
    assert out.count("Top 5 alternatives") >= 3
    assert err.splitlines()[0].startswith("'x' is no number; type")
    assert "temperature is nan" in err
    assert "the text has 3 steps" in err
    assert "there is nothing to force" not in err  # " " alone is a token
    assert "there is no branch 'Q'; take one of A, B, C" in err
    assert "'99999999999' is no number of a step" in err
    assert out.rstrip().splitlines()[-1].startswith(">")


BAD = [
    (["--prompt", "a" * 500], "the model's context holds 64; shorten it by"),
    (["--temperature", "nan"], "temperature is nan"),
    (["--top-p", "0"], "top_p is 0"),
    (["--top-k", "-2"], "top_k is -2"),
    (["--max-tokens", "100000"], "max_tokens is 100,000"),
    (["--lens", "99", "--max-tokens", "4"], "--lens 99: the text has 4 steps; give 1 to 4"),
    (["--force", "x", "a"], "the step is not a number"),
    (["--force", "99", "a"], "there is no step 99"),
    (["--batch", "0"], "give 1 to 1,000"),
    (["--model-tag", "nobody"], "nobody"),
    (["--step", "7"], "7"),
    (["--plot", "a.txt", "--max-tokens", "3"], "end it in .png or .svg"),
]


@pytest.mark.parametrize(("flags", "sentence"), BAD, ids=lambda value: str(value)[:24])
def test_bad_input_is_one_sentence(capsys, flags, sentence) -> None:
    status, _, err = run(capsys, *flags)
    assert status == 1
    assert sentence in err.splitlines()[-1]
    assert "Traceback" not in err


def test_hostile_text_is_shown_and_not_obeyed(capsys) -> None:
    status, out, err = run(capsys, "--prompt", "\x1b[31m\u202e<|bos|><script>\udcff", "--max-tokens", "3")
    assert status == 0, err
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "\\x1b[31m\\u202e<|bos|><script>" in out


def test_an_empty_prompt_begins_a_text(capsys) -> None:
    status, out, err = run(capsys, "--max-tokens", "3", "--json")
    assert (status, json.loads(out)["prompt"]) == (0, "")
    status, out, err = run(capsys, "--max-tokens", "3")
    assert "the prompt is empty, so the model begins a text of its own" in err
    assert "base/d20" in err
    assert explorer.Settings().seed == 42
