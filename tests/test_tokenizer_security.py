"""tokenizer.json from a stranger, and what may lie in a file's place: one typed line, in bounded time and memory."""

import base64
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import tokenizer_files as files
from nanochat.tokenizer import SPLIT_PATTERN, Tokenizer, TokenizerError, load_tokenizer
from tests.tokenizer_support import FIRST_SPECIAL, HANG_LIMIT, JSON, PICKLE, SPECIALS, TOKENIZER, refused

# ---- tokenizer.json ----


def changed(**changes: Any) -> str:
    content = json.loads(JSON) | changes
    return json.dumps({name: value for name, value in content.items() if value is not ...})


TOKENS = json.loads(JSON)["tokens"]
HEAD = f'{{"format": "{files.JSON_FORMAT}", '
WRONG_JSON: dict[str, str | bytes] = {
    "empty": "",
    "not JSON": "hello",
    "half written": JSON[: len(JSON) // 2],
    "of Hugging Face": '{"version": "1.0", "model": {"type": "BPE"}}',
    "a newer format": JSON.replace(files.JSON_FORMAT, "nanochat-lab tokenizer 2"),
    "a list": f'["{files.JSON_FORMAT}"]',
    "other tokens": changed(tokens=[*TOKENS[:-1], base64.b64encode(b"evil").decode()]),
    "other pattern": changed(pattern=SPLIT_PATTERN.replace("1,2", "1,3")),
    "other fingerprint": changed(fingerprint="0" * 64),
    "fingerprint missing": changed(fingerprint=...),
    "tokens missing": changed(tokens=...),
    "pattern missing": changed(pattern=...),
    "specials missing": changed(special_tokens=...),
    "tokens are a number": changed(tokens=7),
    "token is a number": changed(tokens=[*TOKENS, 7]),
    "token is not base64": changed(tokens=[*TOKENS, "???"]),
    "token twice": changed(tokens=[*TOKENS, TOKENS[0]]),
    "pattern is null": changed(pattern=None),
    "pattern is half a character": changed(pattern="\ud800"),
    "special is half a character": changed(special_tokens=SPECIALS | {"\ud800": FIRST_SPECIAL + 9}),
    "special id is true": changed(special_tokens={"<|bos|>": True}),
    "special id is a fraction": changed(special_tokens=SPECIALS | {"x": FIRST_SPECIAL + 9.0}),
    "special id is NaN": changed(special_tokens=SPECIALS | {"x": float("nan")}),
    "special id is Infinity": changed(special_tokens=SPECIALS | {"x": float("inf")}),
    "special id has a million digits": HEAD + '"special_tokens": {"x": ' + "9" * 1_000_000 + "}}",
    "deeply nested": HEAD + '"tokens": ' + "[" * 1_000_000,
    "nested a little less": HEAD + '"tokens": ' + "[" * 400 + "]" * 400 + "}",
    "many elements": HEAD + '"tokens": [' + "1," * 5_000_000 + "1]}",
    "the same key twice": JSON.replace('"pattern"', '"fingerprint": "x",\n"pattern"', 1),
    "not UTF-8": JSON.encode().replace(b"special_tokens", b"special_\xff\xfe", 1),
    "UTF-16": JSON.encode("utf-16"),
    "larger than any tokenizer": HEAD.ljust(files.MAX_FILE_BYTES + 1),
    "one giant token": HEAD
    + '"fingerprint": "", "pattern": "", "special_tokens": {}, "tokens": ["'
    + "A" * 8_000_000
    + '"]}',
}


@pytest.mark.parametrize("name", WRONG_JSON)
def test_wrong_json(name: str, tmp_path: Path) -> None:
    text = WRONG_JSON[name]
    data = text if isinstance(text, bytes) else text.encode()
    refused(data, tmp_path, "tokenizer.json")
    with pytest.raises(TokenizerError, match="the lab's copy"):
        Tokenizer.from_json(text, "the lab's copy")


@given(st.integers(0, len(JSON) - 1), st.integers(0, 7))
@settings(max_examples=300, deadline=None)
def test_no_flipped_bit_in_our_file_goes_unseen(position: int, bit: int) -> None:
    raw = bytearray(JSON.encode())
    raw[position] ^= 1 << bit
    message = ""
    try:
        vocabulary = files.from_json(bytes(raw), "tokenizer.json")
        assert vocabulary.fingerprint == TOKENIZER.fingerprint  # a blank between two entries, nothing else
    except TokenizerError as error:
        message = str(error)
    assert message.isprintable()


def test_a_stranger_json_beside_the_pickle_is_passed_over_and_named(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.fingerprint == TOKENIZER.fingerprint
    assert "tokenizer.pkl was read" in tokenizer.notes[0]


def test_a_broken_pickle_beside_our_json_is_named(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    (tmp_path / "tokenizer.pkl").write_bytes(PICKLE[:-10])
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.fingerprint == TOKENIZER.fingerprint
    assert "tokenizer.pkl is cut short" in tokenizer.notes[0]


# ---- what lies in a file's place ----


def no_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)


def link_to_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def link_to_memory(path: Path) -> None:
    """A regular file that says it is empty, opens, and then can't be read."""
    path.symlink_to("/proc/self/mem")


PLACES: dict[str, Callable[[Path], Any]] = {
    "nothing": no_file,
    "pipe": os.mkfifo if hasattr(os, "mkfifo") else no_file,
    "folder": Path.mkdir,
    "zeros": link_to_zeros,
    "circle": link_to_itself,
    "dangling": lambda path: path.symlink_to(path.parent / "gone"),
    "unreadable": link_to_memory,
}


@pytest.mark.skipif(os.name != "posix", reason="these kinds of files are POSIX's")
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.pkl"])
@pytest.mark.parametrize("place", PLACES)
def test_no_regular_file(place: str, name: str, tmp_path: Path) -> None:
    PLACES[place](tmp_path / name)
    for target in (tmp_path, tmp_path / name):
        started = time.monotonic()
        with pytest.raises(TokenizerError) as caught:
            load_tokenizer(target)
        assert time.monotonic() - started < HANG_LIMIT
        assert str(caught.value).isprintable()


def test_no_right_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """root may read everything, so the refusal is played by a double."""
    TOKENIZER.save(tmp_path)

    def denied(path: Any, *_: Any) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: you may not read this file"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("path", ["", "nowhere", "/nonexistent/x", "a\x00b", "x" * 5_000, "new\nline\x1b[2J", "\udcff"])
def test_odd_paths(path: str) -> None:
    with pytest.raises(TokenizerError) as caught:
        load_tokenizer(path)
    assert str(caught.value).isprintable()


def test_no_room_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TokenizerError, match="No space left"):
        TOKENIZER.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_folder_to_write_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TokenizerError, match="can't be written"):
        TOKENIZER.save(tmp_path / "file" / "folder")
