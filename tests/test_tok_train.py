"""tok_train as a person runs it: what it reads, what it prints, and that it replaces nothing unasked."""

import os
from pathlib import Path
from typing import Any

import pytest

from nanochat.dataset import choose_data
from nanochat.errors import exit_status
from nanochat.scripts import tok_train
from nanochat.tokenizer import load_tokenizer
from nanochat.tokenizer_texts import ENDLESS_MAX_CHARS, TokenizerTextError, default_max_chars, training_texts


def run(*flags: str) -> int:
    return exit_status("tok_train", lambda: tok_train.main(list(flags)))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"The cat number {i} sat on the mat and saw a dog." for i in range(200)))
    return path


def test_it_trains_saves_and_prints_what_nanochat_prints(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--data", str(text), "--vocab-size", "300", "--max-chars", "5000", "--doc-cap", "400") == 0
    out = capsys.readouterr().out
    for line in ("max_chars: 5,000\n", "doc_cap: 400\n", "vocab_size: 300\n", "Training time: ", "token_bytes_mean: "):
        assert line in out
    assert "token_bytes_min: 1\n" in out
    assert "[ the]" in out
    folder = Path(os.environ["NANOCHAT_LAB_DIR"]) / "tokenizer"
    assert f"Saved tokenizer encoding to {folder / 'tokenizer.pkl'}\n" in out
    assert f"Saved token_bytes to {folder / 'token_bytes.pt'}\n" in out
    assert load_tokenizer(folder).get_vocab_size() == 300


def test_a_tokenizer_that_is_there_stays_unless_forced(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--data", str(text), "--vocab-size")
    assert run(*flags, "280") == 0
    folder = Path(os.environ["NANOCHAT_LAB_DIR"]) / "tokenizer"
    before = load_tokenizer(folder).fingerprint
    capsys.readouterr()
    assert run(*flags, "290") == 1
    out, err = capsys.readouterr()
    assert out == "", "it must be said before the text is read"
    assert "--force" in err
    assert load_tokenizer(folder).fingerprint == before
    assert run(*flags, "290", "--force") == 0
    assert load_tokenizer(folder).get_vocab_size() == 290


def test_base_dir_is_written_only_when_named(text: Path, tmp_path: Path) -> None:
    assert run("--data", str(text), "--vocab-size", "280", "--base-dir", str(tmp_path / "other")) == 0
    assert load_tokenizer(tmp_path / "other" / "tokenizer").get_vocab_size() == 280
    assert not Path(os.environ["NANOCHAT_LAB_DIR"]).exists()
    assert not Path(os.environ["NANOCHAT_BASE_DIR"]).exists()


def test_without_data_it_takes_shards_and_else_stories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_data(None, None)[0] == "stories"
    assert choose_data("python", None) == ("python", "as asked")
    theirs = tmp_path / "theirs"
    (theirs / "base_data").mkdir(parents=True)
    (theirs / "base_data" / "shard_00000.parquet").touch()
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(theirs))
    assert choose_data(None, None)[0] == str(theirs / "base_data")
    assert choose_data(None, tmp_path)[0] == "stories"


def test_stories_need_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--data", "stories", "--vocab-size", "600", "--max-chars", "30000") == 0
    assert "vocab size: 600 = 256 bytes + 335 learnt + 9 special" in capsys.readouterr().out


def test_a_short_text_gives_fewer_tokens_and_says_so(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--data", str(text), "--max-chars", "40", "--vocab-size", "4000") == 0
    assert "train on more text" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data", "/nonexistent/text.txt"], "/nonexistent/text.txt"),
        (["--data", "python", "--vocab-size", "200"], "vocab_size 200"),
        (["--data", "python", "--max-chars", "0"], "max_chars is 0"),
        (["--data", "python", "--doc-cap", "-1"], "doc_cap is -1"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*flags) == 1
    err = capsys.readouterr().err.strip()
    assert words in err
    assert err.splitlines()[-1].startswith("tok_train: ")
    assert not (Path(os.environ["NANOCHAT_LAB_DIR"]) / "tokenizer").exists()


class Groups:
    """A split of three shards with a group each, or of endless ones."""

    def __init__(self, shards: int | None) -> None:
        self.shards = shards
        self.read_groups: list[tuple[int, int]] = []

    def groups(self, shard: int) -> int:
        return 0 if shard == 1 else 2

    def read(self, shard: int, group: int) -> list[str]:
        self.read_groups.append((shard, group))
        return [f"{shard}{group}" + "x" * 8, "y" * 5]


def test_texts_come_in_order_cut_and_up_to_the_limit() -> None:
    split: Any = Groups(3)
    told: list[int] = []
    texts = list(training_texts(split, 10**9, doc_cap=6, progress=told.append))
    assert texts == ["00xxxx", "yyyyy", "01xxxx", "yyyyy", "20xxxx", "yyyyy", "21xxxx", "yyyyy"]
    assert told == [6, 11, 17, 22, 28, 33, 39, 44]
    endless: Any = Groups(None)
    assert len(list(training_texts(endless, 30, doc_cap=6))) == 6
    assert endless.read_groups == [(0, 0), (0, 1), (2, 0)], "nothing behind the limit is read"
    assert default_max_chars(endless)[0] == ENDLESS_MAX_CHARS
    assert default_max_chars(split)[0] == 2_000_000_000
    with pytest.raises(TokenizerTextError):
        list(training_texts(split, 0))
