"""tokenizer.pkl from a stranger: no code runs, memory stays bounded, every fault is one typed line."""

import io
import os
import pickle
import pickletools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat import tokenizer_files as files
from nanochat.tokenizer import SPLIT_PATTERN, TokenizerError, load_tokenizer
from nanochat.tokenizer_pickle import PickleRefusedError, read_encoding_state
from tests.tokenizer_support import FIRST_SPECIAL, PICKLE, SPECIALS, TOKENIZER, refused


def state(**changes: Any) -> dict[str, Any]:
    """The state of a good encoding with some parts changed."""
    vocabulary = TOKENIZER.vocabulary
    good = {
        "name": "rustbpe",
        "pat_str": SPLIT_PATTERN,
        "mergeable_ranks": vocabulary.ranks,
        "special_tokens": vocabulary.special_tokens,
    }
    return {name: value for name, value in (good | changes).items() if value is not ...}


def pickled(state: Any) -> bytes:
    """The pickle that an Encoding with this state would make, whatever the state is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiktoken.Encoding, "__getstate__", lambda _: state)
        return pickle.dumps(tiktoken.Encoding.__new__(tiktoken.Encoding), protocol=4)


# ---- no code ----


class Evil:
    """Unpickling this runs a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", range(6))
def test_evil_pickle_runs_nothing(protocol: int, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    refused(pickle.dumps(Evil(marker), protocol=protocol), tmp_path)
    assert not marker.exists()


@pytest.mark.parametrize("part", ["name", "pat_str", "mergeable_ranks", "special_tokens"])
def test_evil_inside_a_good_state_runs_nothing(part: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    refused(pickled(state(**{part: Evil(marker)})), tmp_path)
    assert not marker.exists()


def test_nothing_that_unpickles_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.pkl").write_bytes(PICKLE)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a file was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, never)
    assert load_tokenizer(tmp_path).fingerprint == TOKENIZER.fingerprint


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("builtins", "eval"), ("tiktoken.core", "Encoding.__init__"), ("tiktoken.load", "read_file")],
)
def test_other_globals_are_refused(module: str, name: str, tmp_path: Path) -> None:
    names = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() + b"\x94" for word in (module, name))
    other = PICKLE.replace(b"\x8c\x0dtiktoken.core\x94\x8c\x08Encoding\x94", names)
    assert other != PICKLE
    assert "another class" in refused(other, tmp_path)


def test_name_of_a_registered_encoding_downloads_nothing(tmp_path: Path) -> None:
    assert "download" in refused(pickled("cl100k_base"), tmp_path)


def test_the_machine_knows_few_opcodes() -> None:
    """Whatever can call, import by other ways, or reach outside must be unknown to the reader."""
    harmless = {"PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINGET", "LONG_BINGET", "EMPTY_DICT", "EMPTY_TUPLE"}
    harmless |= {"SETITEM", "SETITEMS", "STACK_GLOBAL", "NEWOBJ", "BUILD", "SHORT_BINUNICODE", "BINUNICODE"}
    harmless |= {"SHORT_BINBYTES", "BINBYTES", "BININT1", "BININT2", "BININT"}
    refused_opcodes = [opcode for opcode in pickletools.opcodes if opcode.name not in harmless]
    assert len(refused_opcodes) > 40
    for opcode in refused_opcodes:
        with pytest.raises(PickleRefusedError, match="no saved tokenizer needs"):
            read_encoding_state(b"\x80\x04" + opcode.code.encode("latin-1") + b"\x00" * 64)


# ---- bombs and damage ----

BOMBS: dict[str, bytes] = {
    "nine bytes for four gigabytes": b"\x80\x04B\xff\xff\xff\xff..",
    "eight-byte length": b"\x80\x04\x8e" + b"\xff" * 8 + b".",
    "bytearray of a terabyte": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
    "far memo slot": b"\x80\x04}r\xff\xff\xff\x7f.",
    "memo slot that is not there": b"\x80\x04j\xff\xff\xff\x7f.",
    "endless tuples": b"\x80\x04" + b")" * 3_000_000,
    "endless marks": b"\x80\x04" + b"(" * 3_000_000,
    "endless dicts": b"\x80\x04" + b"}" * 3_000_000,
    "endless memoize": b"\x80\x04)" + b"\x94" * 3_000_000,
    "endless empty dict fillings": b"\x80\x04}" + b"(u" * 1_500_000,
    "endless frames": b"\x80\x04" + (b"\x95" + b"\x00" * 8) * 3_000_000,
    "nested dicts": b"\x80\x04" + b"}\x8c\x01a" * 100_000 + b"s" * 100_000 + b".",
    "marks into nothing": b"\x80\x04u.",
    "fills an empty stack": b"\x80\x04s.",
    "memoize on an empty stack": b"\x80\x04\x94.",
    "builds from nothing": b"\x80\x04b.",
    "only a class": b"\x80\x04\x8c\rtiktoken.core\x8c\x08Encoding\x93.",
    "an instance without state": b"\x80\x04\x8c\rtiktoken.core\x8c\x08Encoding\x93)\x81.",
    "only zeros": bytes(100_000),
    "protocol 3": b"\x80\x03}.",
    "protocol byte missing": b"\x80",
    "bad UTF-8": b"\x80\x04\x8c\x02\xff\xfe.",
    "more after the end": PICKLE + b"\x00",
    "larger than any tokenizer": bytes([0x80, 4]) + bytes(files.MAX_FILE_BYTES),
}


@pytest.mark.parametrize("name", BOMBS)
def test_pickle_bombs(name: str, tmp_path: Path) -> None:
    refused(BOMBS[name], tmp_path)


RANKS = TOKENIZER.vocabulary.ranks
WRONG_STATES: dict[str, Any] = {
    "no dict": 5,
    "empty": {},
    "part missing": state(special_tokens=...),
    "part too many": state(surprise="x"),
    "ranks are a string": state(mergeable_ranks="x"),
    "duplicate ranks": state(mergeable_ranks=RANKS | {b"hug": 3}),
    "gap in ranks": state(mergeable_ranks={token: rank + (rank > 260) for token, rank in RANKS.items()}),
    "negative rank": state(mergeable_ranks=RANKS | {b"hug": -1}),
    "text for a token": state(mergeable_ranks=RANKS | {"hug": FIRST_SPECIAL}),
    "text for a rank": state(mergeable_ranks=RANKS | {b"hug": "x"}),
    "empty token": state(mergeable_ranks={b"" if token == b"ug" else token: rank for token, rank in RANKS.items()}),
    "a byte missing": state(mergeable_ranks={b"zz" if token == b"z" else token: rank for token, rank in RANKS.items()}),
    "too few tokens": state(mergeable_ranks={bytes([byte]): byte for byte in range(255)}),
    "pattern is bytes": state(pat_str=b"x"),
    "pattern is empty": state(pat_str=""),
    "pattern is too long": state(pat_str="x" * 2_001),
    "pattern is hostile": state(pat_str=r"(?:a|aa)+$|."),
    "pattern hides behind nanochat's": state(pat_str=SPLIT_PATTERN + r"|(?:a|aa)+$"),
    "no bos": state(special_tokens={"<|eos|>": FIRST_SPECIAL}),
    "no specials": state(special_tokens={}),
    "special id is a token's": state(special_tokens=SPECIALS | {"<|bos|>": 5}),
    "two specials with one id": state(special_tokens=SPECIALS | {"<|bos|>": FIRST_SPECIAL + 1}),
    "gap before a special": state(special_tokens=SPECIALS | {"<|extra|>": FIRST_SPECIAL + 20}),
    "special without a name": state(special_tokens=SPECIALS | {"": FIRST_SPECIAL + 9}),
    "special name is bytes": state(special_tokens=SPECIALS | {b"x": FIRST_SPECIAL + 9}),
    "special id is text": state(special_tokens=SPECIALS | {"x": "y"}),
    "specials are bytes": state(special_tokens="x"),
    "a thousand and one specials": state(special_tokens={f"<|{i}|>": FIRST_SPECIAL + i for i in range(1_001)}),
    "huge token": state(mergeable_ranks=RANKS | {b"x" * 70_000: FIRST_SPECIAL}),
}


@pytest.mark.parametrize("name", WRONG_STATES)
def test_wrong_states_in_a_pickle(name: str, tmp_path: Path) -> None:
    refused(pickled(WRONG_STATES[name]), tmp_path)


def test_the_pickles_above_are_wrong_in_one_thing_only(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.pkl").write_bytes(pickled(state()))
    assert load_tokenizer(tmp_path).fingerprint == TOKENIZER.fingerprint


@pytest.mark.parametrize("writer", [pickle._Pickler, pickle.Pickler])  # type: ignore[attr-defined]
@pytest.mark.parametrize("protocol", [4, 5])
def test_pickles_of_every_python_open(writer: Callable[..., Any], protocol: int, tmp_path: Path) -> None:
    """With several frames and batches (the last one empty, as 70,000 is a multiple of 1,000) and four-byte integers."""
    tokens = {bytes([byte]): byte for byte in range(256)} | {b"x%d" % i: i for i in range(256, 70_000)}
    specials = {name: 70_000 + i for i, name in enumerate(SPECIALS)}
    encoding = tiktoken.Encoding("rustbpe", pat_str=SPLIT_PATTERN, mergeable_ranks=tokens, special_tokens=specials)
    buffer = io.BytesIO()
    writer(buffer, protocol=protocol).dump(encoding)
    (tmp_path / "tokenizer.pkl").write_bytes(buffer.getvalue())
    assert load_tokenizer(tmp_path).vocabulary.ranks == tokens


def test_a_pickle_that_says_a_key_twice(tmp_path: Path) -> None:
    twice = PICKLE.replace(b"C\x01\x01", b"C\x01\x00", 1)
    assert twice != PICKLE
    assert "twice" in refused(twice, tmp_path)


def test_trusted_pattern_opens(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.pkl").write_bytes(pickled(state(pat_str=r"\s|\S+")))
    with pytest.raises(TokenizerError, match="trust_pattern"):
        load_tokenizer(tmp_path)
    assert load_tokenizer(tmp_path, trust_pattern=True).decode([72]) == "H"


@pytest.mark.parametrize("digits", ["{1,2}", "{1,3}", "{1,1}", "{1,9}", "", "+", "{1,3}+"])
def test_nanochats_pattern_with_other_digits_needs_no_trust(digits: str, tmp_path: Path) -> None:
    pattern = SPLIT_PATTERN.replace("{1,2}", digits)
    (tmp_path / "tokenizer.pkl").write_bytes(pickled(state(pat_str=pattern)))
    assert load_tokenizer(tmp_path).vocabulary.pattern == pattern


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_pickles(data: st.DataObject, tmp_path: Path) -> None:
    """Any damage gives a typed line or a tokenizer that works (a changed letter of a token can't be told)."""
    raw = bytearray(PICKLE)
    for position in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=3)):
        raw[position] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)) | st.just(len(raw)))]
    path = tmp_path / "tokenizer.pkl"
    path.write_bytes(raw)
    message = ""
    try:
        tokenizer = load_tokenizer(path)
        assert tokenizer.decode(tokenizer.encode("hug\n 12")) == "hug\n 12"
    except TokenizerError as error:
        message = str(error)
    assert message.isprintable()


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    for size in [*range(0, 300), *range(300, len(PICKLE), 97), len(PICKLE) - 1]:
        refused(PICKLE[:size], tmp_path)
