"""tok_eval as a person runs it, and that nothing it does ever reaches for the network."""

import hashlib
import json
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from nanochat import tokenizer_eval
from nanochat.errors import exit_status
from nanochat.scripts import tok_eval
from nanochat.tokenizer import SPLIT_PATTERN
from nanochat.tokenizer_eval import SAMPLES, compare, reference, show_token, token_statistics
from tests.checkpoint_support import make_tokenizer
from tests.tokenizer_support import TOKENIZER


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something reached for the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def lab() -> Path:
    lab = Path(os.environ["NANOCHAT_LAB_DIR"])
    TOKENIZER.save(lab / "tokenizer")
    return lab


def run(*flags: str) -> int:
    return exit_status("tok_eval", lambda: tok_eval.main(list(flags)))


def cache_files(name: str) -> list[Path]:
    folder = tokenizer_eval.cache_folder()
    return [folder / hashlib.sha1(address.encode()).hexdigest() for address in tokenizer_eval.REFERENCES[name][1]]


def test_bytes_a_token_are_counted_exactly() -> None:
    rows = compare(make_tokenizer(), {"a": "h\u00e9llo", "empty": ""})
    assert [(row.text, row.bytes, row.tokens, row.ratio) for row in rows] == [("a", 6, 6, 1.0), ("empty", 0, 0, 0.0)]
    assert [row.ratio > 1 for row in compare(TOKENIZER, {"b": "hug pug"})] == [True]


def test_the_samples_are_of_many_kinds_and_survive_a_round_trip() -> None:
    assert len(SAMPLES) >= 5
    assert not SAMPLES["many scripts"].isascii()
    for text in SAMPLES.values():
        assert 400 < len(text.encode()) < 2000
        assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_the_table_names_what_is_not_here_and_how_to_get_it(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    out = capsys.readouterr().out
    for words in (
        "news",
        "many scripts",
        "GPT-2's tokenizer is not compared",
        "GPT-4's",
        "tiktoken.get_encoding('gpt2')",
    ):
        assert words in out
    assert str(lab) in out.replace("\n", "")


def test_a_long_path_is_not_broken_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a long name " / ("x" * 120) / "tokenizer"
    TOKENIZER.save(folder)
    assert run("--tokenizer-dir", str(folder)) == 0
    assert capsys.readouterr().out.startswith(f"{TOKENIZER.get_vocab_size():,} tokens, from {folder}\n")


def test_json_holds_the_same(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("hug " * 100)
    assert run("--json", "--text", str(tmp_path / "mine.txt"), "--data", "python") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["vocab_size"] == TOKENIZER.get_vocab_size()
    texts = {row["text"]: row for row in report["compression"]}
    assert texts["mine.txt"] == {
        "text": "mine.txt", "tokenizer": "ours", "bytes": 400, "tokens": len(TOKENIZER.encode("hug " * 100)),
        "ratio": round(400 / len(TOKENIZER.encode("hug " * 100)), 4),
    }  # fmt: skip
    assert {"python, training", "python, validation"} <= set(texts)
    assert report["token_bytes"]["most"] == max(len(token) for token in TOKENIZER.vocabulary.tokens)


def test_a_damaged_file_in_the_cache_is_not_used_and_not_removed() -> None:
    for path in cache_files("gpt2"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not what was published")
    found = reference("gpt2")
    assert found.encoding is None
    assert "damaged" in found.reason
    assert all(path.exists() for path in cache_files("gpt2")), "tiktoken would have removed it and fetched another"


def test_half_of_a_tokenizer_in_the_cache_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    first = cache_files("gpt2")[0]
    first.parent.mkdir(exist_ok=True)
    first.write_bytes(b"x")
    address = next(iter(tokenizer_eval.REFERENCES["gpt2"][1]))
    digests = {**tokenizer_eval.REFERENCES["gpt2"][1], address: hashlib.sha256(b"x").hexdigest()}
    monkeypatch.setitem(tokenizer_eval.REFERENCES, "gpt2", ("GPT-2", digests))
    assert "not in tiktoken's cache" in reference("gpt2").reason


def test_what_is_cached_is_compared(
    lab: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import tiktoken

    digests = {}
    for address, path in zip(tokenizer_eval.REFERENCES["cl100k_base"][1], cache_files("cl100k_base"), strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"a stand-in")
        digests[address] = hashlib.sha256(b"a stand-in").hexdigest()
    monkeypatch.setitem(tokenizer_eval.REFERENCES, "cl100k_base", ("GPT-4", digests))
    bytes_only = tiktoken.Encoding("bytes", pat_str=SPLIT_PATTERN, mergeable_ranks=_bytes(), special_tokens={})
    monkeypatch.setattr(tiktoken, "get_encoding", {"cl100k_base": bytes_only}.__getitem__)
    assert run("--json") == 0
    rows = json.loads(capsys.readouterr().out)["compression"]
    assert {row["ratio"] for row in rows if row["tokenizer"] == "GPT-4"} == {1.0}
    assert run() == 0
    assert re.search(r"tokens .*saved, .*GPT-4", capsys.readouterr().out, re.DOTALL)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_it_fits_a_terminal_of_80_columns(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import tiktoken

    for variable, value in (
        ("COLUMNS", "80"),
        ("TERM", "xterm"),
        ("NO_COLOR", "1"),
        ("FORCE_COLOR", "1"[:is_terminal]),
    ):
        monkeypatch.setenv(variable, value)
    known = tiktoken.Encoding("bytes", pat_str=SPLIT_PATTERN, mergeable_ranks=_bytes(), special_tokens={})
    both = tuple(tokenizer_eval.Reference(name, name, known, f"{name} is there") for name in ("GPT-2", "GPT-4"))
    texts = {"a file with a long name that is read.txt": "hug " * 750_000, "many scripts": "a"}
    for here in (both, (*both[:1], reference("cl100k_base"))):
        tok_eval.show(Path("/tokenizer"), TOKENIZER, tokenizer_eval.compare(TOKENIZER, texts, here), here)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
        lines = plain.splitlines()
        assert "3,000,000" in plain
        assert "…" not in plain
        sentences = [line for line in lines if line[0] not in "┏┃┡│└ "]
        if is_terminal:
            assert max(map(len, lines)) <= 80
            assert len(sentences) > 4
        else:
            assert len(sentences) == 4
    if is_terminal:
        command = next(line for line in lines if "python -c" in line)
        assert command == "  python -c \"import tiktoken; tiktoken.get_encoding('cl100k_base')\""


def _bytes() -> dict[bytes, int]:
    return {bytes([byte]): byte for byte in range(256)}


@pytest.mark.parametrize("variable", ["TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"])
def test_the_cache_is_where_tiktoken_has_it(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
    monkeypatch.delenv("DATA_GYM_CACHE_DIR", raising=False)
    assert tokenizer_eval.cache_folder().name == "data-gym-cache"
    monkeypatch.setenv(variable, "/nonexistent/cache")
    assert tokenizer_eval.cache_folder() == Path("/nonexistent/cache")
    monkeypatch.setenv(variable, "")  # tiktoken then keeps nothing
    assert reference("gpt2").encoding is None


def test_no_tokenizer_or_no_text_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 1
    assert "nanochat tok_train" in capsys.readouterr().err
    TOKENIZER.save(tmp_path / "tokenizer")
    assert run("--base-dir", str(tmp_path), "--text", str(tmp_path / "none.txt")) == 1
    assert "none.txt" in capsys.readouterr().err
    assert run("--tokenizer-dir", str(tmp_path / "tokenizer"), "--data", str(tmp_path / "none")) == 1
    assert "none" in capsys.readouterr().err


def test_statistics_leave_special_tokens_out() -> None:
    facts = token_statistics(make_tokenizer())
    assert (facts.count, facts.least, facts.most, facts.mean, facts.deviation) == (256, 1, 1, 1.0, 0.0)


def test_tokens_are_shown_so_that_blanks_and_halves_are_visible() -> None:
    assert [show_token(token) for token in (b" a", "\u00e9".encode(), b"\xe4\xbd", b"\n\t")] == [
        "[ a]", "[\u00e9]", "<e4 bd>", r"[\n\t]",
    ]  # fmt: skip
