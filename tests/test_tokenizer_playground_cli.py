"""The tokenizer playground in a terminal: every command line of the wish runs, and its labels are there."""

import io
import json

import pytest

from nanochat import paths
from nanochat.analysis import tokenizer_playground as playground
from nanochat.tokenizer import Tokenizer
from nanochat.tokenizer_files import SPLIT_PATTERN, Vocabulary
from nanochat.tools import tokenizer_playground as tool
from tests import cli_support


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "nothing"))
    monkeypatch.setenv("COLUMNS", "200")


def run(capsys: pytest.CaptureFixture[str], *flags: object) -> tuple[int, str, str]:
    return cli_support.run("tokenizer_playground", tool.main, capsys, flags)


def wish_tokenizer() -> Tokenizer:
    """One in which "Hello world!" is three tokens, as in the wish's example."""
    tokens = [bytes([byte]) for byte in range(256)]
    for word in (b"Hello", b" world"):
        tokens += [word[: end + 1] for end in range(1, len(word))]
    names = ("<|bos|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>")
    names += ("<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>")
    specials = {name: len(tokens) + i for i, name in enumerate(names)}
    return Tokenizer(Vocabulary(SPLIT_PATTERN, tuple(tokens), specials))


WISH = [  # (flags, what is typed, words that must be in the output)
    (
        ["Hello world!"],
        "",
        [
            "TOKENIZATION VISUALIZATION",
            'Original Text:\n  "Hello world!"\n',
            "Quick Stats:\n  Total tokens:      3\n  Total characters:  12\n  Total bytes:       12\n",
            "  Compression ratio: 0.250 tokens/byte\n  Efficiency:        4.00 chars/token\n",
            "Colored Token Breakdown:",
            "(Each color represents a different token",
            "Hello|·world|!",
            "Detailed Token Information:",
            "Index  Token ID   Text                                Bytes    Type\n" + "-" * 80,
            "0      259        Hello                               5        Alphabetic\n",
            "1      264        ·world                              6        Mixed/Other\n",
            "2      33         !                                   1        Single byte\n",
        ],
    ),
    (["--interactive"], "Hello world!\nquit\n", ["Total tokens:      3"]),
    (["-i"], "merges Hello\nspecial\nvocab\ncompare a | b\nlist\nlanguages\n", ["MERGE REPLAY", "SPECIAL TOKENS"]),
    (["--special"], "", ["SPECIAL TOKENS", "<|bos|>", "<|output_end|>", "begins every document"]),
    (["--vocab"], "", ["VOCABULARY INFORMATION", "Total vocabulary size: 274", "Learned merges:        9"]),
    (
        ["--compare", "Hello", "Hi", "Hey there"],
        "",
        ["TOKENIZATION COMPARISON", "Hello      1", "Hi         2", "Hey there  8", "Most efficient: Hello."],
    ),
]


@pytest.mark.parametrize(("flags", "typed", "expected"), WISH, ids=lambda value: str(value)[:30])
def test_the_wishes_command_lines(capsys, monkeypatch, flags, typed, expected):
    wish_tokenizer().save(paths.workspace() / "tokenizer")
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    status, out, err = run(capsys, *flags)
    assert (status, err) == (0, "")
    for words in expected:
        assert words in out


def test_json_is_the_analysis(capsys):
    status, out, _ = run(capsys, "café 🌍", "--json")
    assert status == 0
    found = json.loads(out)
    known = playground.open_place(playground.find_place(None))
    report = playground.tokenize(known, "café 🌍")
    assert found["tokenizer"] == known.label
    assert found["text"]["details"] == report.frame.to_dicts()
    assert (found["text"]["tokens"], found["text"]["bytes"]) == (report.tokens, 10)


def test_several_views_at_once_and_their_data(capsys):
    flags = ["little", "--special", "--vocab", "--languages", "--merges", "--chat", "Hi", "Hello", "--json"]
    status, out, _ = run(capsys, *flags)
    assert status == 0
    found = json.loads(out)
    assert set(found) == {"tokenizer", "special", "vocab", "languages", "merges", "chat"}
    assert found["merges"]["agrees"]
    assert [row["name"] for row in found["languages"]] == list(playground.LANGUAGES)
    assert found["chat"][0]["text"] == "<|bos|>"
    assert found["vocab"]["size"] == 1024


def test_training_on_a_file(capsys, tmp_path):
    (tmp_path / "text.txt").write_text("hug hug pug")
    status, out, _ = run(capsys, "--train", str(tmp_path / "text.txt"), "--vocab-size", "268")
    assert status == 0
    assert "TOKENIZER TRAINED ON THIS TEXT" in out
    assert "256   u     g      ug     3\n" in out


def test_under_another_tokenizer(capsys):
    wish_tokenizer().save(paths.workspace() / "tokenizer")
    status, out, _ = run(capsys, "Hello world!", "--against", "stories", "--json")
    assert status == 0
    assert json.loads(out)["against"][0]["tokens"] == 3


@pytest.mark.parametrize("flags", [["--languages"], ["--vocab"], ["--merges", "little dogs"], ["--compare", "a", "b"]])
def test_plots(capsys, tmp_path, flags):
    status, _, err = run(capsys, *flags, "--plot", str(tmp_path / "chart.svg"))
    assert status == 0
    assert "Saved to" in err
    assert (tmp_path / "chart.svg").read_text().startswith("<svg")


def test_without_the_converter_the_figure_comes_as_text(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    status, _, err = run(capsys, "--languages", "--plot", str(tmp_path / "chart.png"))
    assert status == 0
    assert "pip install vl-convert-python" in err
    assert "Korean" in err
    assert not (tmp_path / "chart.png").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["x", "--tokenizer", "gpt2"], "it is not in tiktoken's cache. With a network"),
        (["x", "--tokenizer", "\x1b[31m"], r"there is no tokenizer '\x1b[31m'; those here are"),
        (["x", "--tokenizer-dir", "/nonexistent"], "there is no tokenizer at /nonexistent"),
        (["--file", "/nonexistent/a.txt"], "there is no such file"),
        (["--special", "--plot", "a.png"], "there is no chart of that"),
        (["--train", "/dev/null"], "not a regular file"),
        (["a" * 20_001, "--merges"], "choose a shorter passage"),
    ],
)
def test_bad_input_is_one_sentence(capsys, flags, words):
    status, out, err = run(capsys, *flags)
    assert status == 1
    assert words in err
    assert err.count("\n") == 1
    assert "\x1b" not in out + err


def test_hostile_text_does_nothing_to_the_terminal(capsys):
    status, out, _ = run(capsys, "\x1b[2J\u202eevil [bold]x[/bold] :smile:")
    assert status == 0
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert r'"\x1b[2J\u202eevil [bold]x[/bold] :smile:"' in out


def test_a_mistake_in_interactive_mode_ends_nothing(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("tokenizer nothing\n" + "tokenizer stories\nhi\n"))
    status, out, err = run(capsys, "-i")
    assert status == 0
    assert "there is no tokenizer 'nothing'" in err
    assert out.count("TOKENIZATION VISUALIZATION") == 1


def test_a_long_text_is_cut_on_the_screen_and_whole_in_json(capsys, tmp_path):
    (tmp_path / "long.txt").write_text("ab " * 40_000)
    flags = ["--file", str(tmp_path / "long.txt")]
    _, out, _ = run(capsys, *flags)
    assert "more; --json lists all" in out
    assert len(out) < 100_000
    _, out, _ = run(capsys, *flags, "--json")
    found = json.loads(out)["text"]
    assert len(found["details"]) == found["tokens"]
