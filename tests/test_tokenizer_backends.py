"""What surrounds the two Rust libraries: long text, panics, and training with either trainer."""

import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import tokenizer_backends as backends
from nanochat import tokenizer_files as files
from nanochat.tokenizer import SPLIT_PATTERN, Tokenizer, TokenizerError, train_tokenizer
from tests.tokenizer_support import CORPUS

TOKENIZER = train_tokenizer(CORPUS, 320)


# ---- long text ----


@given(st.lists(st.sampled_from([" ", "   ", "\t\t", "      ", "\n", "\r\n", "a", "é", "!", "12"]), max_size=40))
@settings(max_examples=300)
def test_taking_out_long_blanks_changes_nothing(stretches: list[str]) -> None:
    text = "".join(stretches)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "LONG_BLANK", 4)  # so that short texts have long runs
        shortened = TOKENIZER.encode(text)
        assert "".join(stretch for stretch, _ in backends.cut_long_blanks(text)) == text
    assert shortened == TOKENIZER._encoding.encode_ordinary(text)


@pytest.mark.parametrize(
    "text",
    [
        " " * 1_200_000,
        "a" + " " * 1_200_000 + "b",
        "\n" + "\u3000" * 1_200_000 + "\n",
        "x\n" * 3 + "\t" * 1_200_000 + "!",
    ],
    ids=["alone", "between words", "between line breaks", "before a mark"],
)
def test_a_million_blanks_are_no_panic(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


UNITS = ["a", "\n", "🌍", "\x00", "word ", "!", "7", " \n", "\t a", "ab" * 50 + " " * 99_999]


@pytest.mark.parametrize("unit", UNITS)
def test_long_text(unit: str) -> None:
    text = unit * (1_500_000 // len(unit.encode()))
    assert TOKENIZER.decode_bytes(TOKENIZER.encode(text)) == text.encode()


@pytest.mark.prove
@pytest.mark.parametrize("unit", [*UNITS, " "])
def test_ten_megabytes(unit: str) -> None:
    text = unit * (10_000_000 // len(unit.encode()))
    assert TOKENIZER.decode_bytes(TOKENIZER.encode(text)) == text.encode()


def test_a_pattern_that_gives_up_is_an_error_and_no_panic() -> None:
    tokens, specials = TOKENIZER.vocabulary.tokens, TOKENIZER.special_tokens
    tokenizer = Tokenizer(files.Vocabulary(SPLIT_PATTERN + "|never", tokens, specials, trust_pattern=True))
    with pytest.raises(TokenizerError, match="can't cope"):
        tokenizer.encode(" " * 1_500_000 + "a")


# ---- training ----


@pytest.mark.parametrize("trainer", ["rustbpe", "python"])
def test_trained_tokenizer_has_the_asked_size(trainer: str) -> None:
    tokenizer = train_tokenizer(CORPUS, 300, trainer=trainer)
    assert tokenizer.get_vocab_size() == 300
    assert list(tokenizer.special_tokens.values()) == list(range(291, 300))
    assert tokenizer.training == backends.Training(trainer, "it was asked for", 300)
    assert tokenizer.notes == ()


def test_both_trainers_give_the_same_tokenizer() -> None:
    hostile = [*CORPUS, "half \ud83c", " " * 250_000 + "end", "\x00\ufeff"]
    fingerprints = {train_tokenizer(hostile, 320, trainer=trainer).fingerprint for trainer in ("rustbpe", "python")}
    assert len(fingerprints) == 1


def test_without_rustbpe_python_trains_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rustbpe", None)
    tokenizer = train_tokenizer(CORPUS, 320)
    assert tokenizer.fingerprint == TOKENIZER.fingerprint
    assert tokenizer.training is not None
    assert (tokenizer.training.trainer, "not installed" in tokenizer.training.reason) == ("python", True)
    with pytest.raises(TokenizerError, match="pip install rustbpe"):
        train_tokenizer(CORPUS, 320, trainer="rustbpe")


def test_a_short_text_gives_fewer_tokens_and_a_note() -> None:
    tokenizer = train_tokenizer(["hug hug"], 400)
    assert tokenizer.get_vocab_size() < 300
    assert "instead of 400" in tokenizer.notes[0]


@pytest.mark.parametrize("size", [264, 0, -5, 300_001])
def test_vocabulary_size_has_limits(size: int) -> None:
    with pytest.raises(TokenizerError, match="265"):
        train_tokenizer(CORPUS, size)
    assert train_tokenizer(CORPUS, 265).get_vocab_size() == 265


@pytest.mark.parametrize("texts", ["one string", [b"bytes"], [None], ["fine", 3]])
@pytest.mark.parametrize("trainer", ["rustbpe", "python"])
def test_only_texts_are_trained_on(texts: Any, trainer: str) -> None:
    with pytest.raises(TokenizerError, match="string"):
        train_tokenizer(texts, 300, trainer=trainer)


@pytest.mark.parametrize("trainer", ["rustbpe", "python", "nonsense"])
@pytest.mark.parametrize("pattern", ["(", "", "x" * 5000])
def test_a_broken_pattern_is_refused(pattern: str, trainer: str) -> None:
    with pytest.raises(TokenizerError):
        train_tokenizer(CORPUS, 300, trainer=trainer, pattern=pattern)


def test_a_pattern_that_skips_text_is_refused() -> None:
    with pytest.raises(TokenizerError, match="skips"):
        train_tokenizer(CORPUS, 300, pattern=r"\w+")
