"""Tokenizers on disk: saved and opened again, never overwritten by accident, told apart."""

import pickle
from pathlib import Path

import pytest

from nanochat import tokenizer_files as files
from nanochat.tokenizer import SPLIT_PATTERN, Tokenizer, TokenizerError, load_tokenizer, train_tokenizer
from tests.tokenizer_support import CORPUS

TOKENIZER = train_tokenizer(CORPUS, 320)


def test_saved_and_opened_again(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "new" / "folder")
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        "token_bytes.pt",
        "tokenizer.json",
        "tokenizer.pkl",
    ]
    for name in ("", "tokenizer.json", "tokenizer.pkl"):
        again = load_tokenizer(tmp_path / "new" / "folder" / name)
        assert again.vocabulary == TOKENIZER.vocabulary
        assert (again.fingerprint, again.encode("the cat"), again.notes) == (
            TOKENIZER.fingerprint,
            TOKENIZER.encode("the cat"),
            (),
        )
    assert Tokenizer.from_json(TOKENIZER.to_json()).fingerprint == TOKENIZER.fingerprint


def test_tiktoken_itself_reads_our_pickle(tmp_path: Path) -> None:
    """What nanochat does: `pickle.load`, on a file that we wrote a moment ago."""
    TOKENIZER.save(tmp_path)
    encoding = pickle.loads((tmp_path / "tokenizer.pkl").read_bytes())
    assert encoding.encode_ordinary("the cat sat") == TOKENIZER.encode("the cat sat")
    assert encoding.encode_single_token("<|bos|>") == TOKENIZER.get_bos_token_id()


def test_another_tokenizer_is_not_overwritten(tmp_path: Path) -> None:
    other = train_tokenizer(["quite another text"] * 3, 300)
    TOKENIZER.save(tmp_path)
    TOKENIZER.save(tmp_path)  # the same one is welcome
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TokenizerError, match="another tokenizer"):
        other.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    other.save(tmp_path, overwrite=True)
    assert load_tokenizer(tmp_path).fingerprint == other.fingerprint


def test_a_broken_tokenizer_is_not_overwritten_either(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.pkl").write_bytes(b"half of something precious")
    with pytest.raises(TokenizerError, match="another tokenizer"):
        TOKENIZER.save(tmp_path)


def test_nanochat_retrained_beside_ours(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    other = train_tokenizer(["quite another text"] * 3, 300)
    (tmp_path / "tokenizer.pkl").write_bytes(pickle.dumps(other._encoding))
    with pytest.raises(TokenizerError, match="two different tokenizers"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("crash_at", [1, 2, 3])
def test_a_crash_while_overwriting_leaves_one_tokenizer(
    crash_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = train_tokenizer(["quite another text"] * 3, 300)
    TOKENIZER.save(tmp_path)
    real, calls = files.write_atomically, []

    def write_or_crash(path: Path, data: bytes) -> None:
        calls.append(path)
        if len(calls) == crash_at:
            raise KeyboardInterrupt
        real(path, data)

    monkeypatch.setattr(files, "write_atomically", write_or_crash)
    with pytest.raises(KeyboardInterrupt):
        other.save(tmp_path, overwrite=True)
    assert load_tokenizer(tmp_path).fingerprint == (TOKENIZER if crash_at == 1 else other).fingerprint


def test_fingerprint_sees_every_part() -> None:
    tokens, specials = TOKENIZER.vocabulary.tokens, TOKENIZER.special_tokens
    swapped = (*tokens[:300], tokens[301], tokens[300], *tokens[302:])
    renamed = {
        name.replace("bos", "bOs") if "python" in name else name + "x" * (name != "<|bos|>"): number
        for name, number in specials.items()
    }
    variants = [
        files.Vocabulary(SPLIT_PATTERN, tokens, specials),
        files.Vocabulary(SPLIT_PATTERN.replace("1,2", "1,3"), tokens, specials),
        files.Vocabulary(SPLIT_PATTERN, swapped, specials),
        files.Vocabulary(SPLIT_PATTERN, tokens, renamed),
        files.Vocabulary(SPLIT_PATTERN, tokens[:-1], {name: number - 1 for name, number in specials.items()}),
    ]
    assert len({vocabulary.fingerprint for vocabulary in variants}) == len(variants)
    reordered = dict(reversed(specials.items()))
    assert files.Vocabulary(SPLIT_PATTERN, tokens, reordered).fingerprint == TOKENIZER.fingerprint
