"""What the tests of hostile tokenizer files share: good ones to spoil, and the proof that a bad one is refused well."""

import pickle
import time
import tracemalloc
from pathlib import Path

import pytest

from nanochat.tokenizer import TokenizerError, load_tokenizer, train_tokenizer

CORPUS = [  # letters, blanks, digits, bytes beyond ASCII
    "the cat sat on the mat\n\nthe user asked: 12345?\n",
    "    deep    blanks\tand\ttabs  ",
    "café 你好 🌍 it's",
] * 5
TOKENIZER = train_tokenizer(["hug pug hugs a bug, and 12 more"] * 2, 275)
PICKLE = pickle.dumps(TOKENIZER._encoding, protocol=4)
JSON = TOKENIZER.to_json()
SPECIALS = TOKENIZER.special_tokens
FIRST_SPECIAL = len(TOKENIZER.vocabulary.tokens)
HANG_LIMIT = 25.0  # seconds; the promise is 5, measured by hand


def refused(data: bytes, folder: Path, name: str = "tokenizer.pkl") -> str:
    """Open a file that must be refused, within bounded time and memory; returns the one-line message."""
    path = folder / name
    path.write_bytes(data)
    started = time.monotonic()
    with pytest.raises(TokenizerError) as caught:
        load_tokenizer(path)
    assert time.monotonic() - started < HANG_LIMIT
    tracemalloc.start()
    with pytest.raises(TokenizerError):
        load_tokenizer(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * len(data) + 10 * 2**20
    message = str(caught.value)
    assert message.isprintable(), ascii(message)
    assert len(message) < 600
    assert name in message
    return message
