"""A tokenizer on disk: what it consists of, how it is checked, read and written.

Three files. The first is ours, the others are nanochat's, so that either project opens what the other wrote:

- `tokenizer.json`   pattern, tokens in base64, special tokens and a fingerprint. Read first.
- `tokenizer.pkl`    a pickled `tiktoken.core.Encoding`. Read without unpickling, see `tokenizer_pickle.py`.
- `token_bytes.pt`   bytes per token id, which nanochat needs for bits per byte. Written, never read.

A file may come from anyone. Nothing in it is believed before it is checked, and all that is wrong with it comes out as
one `TokenizerError` of one line.
"""

import base64
import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from nanochat import durable
from nanochat.checkpoint_files import CheckpointError, location, read_small
from nanochat.tokenizer_pickle import PickleRefusedError, read_encoding_state

JSON_NAME, PICKLE_NAME, TOKEN_BYTES_NAME = "tokenizer.json", "tokenizer.pkl", "token_bytes.pt"
JSON_FORMAT = "nanochat-lab tokenizer 1"

# Where text is cut before merging: contractions, words, numbers of up to two digits, punctuation, whitespace. This has
# been nanochat's since its first day; GPT-4's takes three digits, which small vocabularies can't afford.
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
# The patterns that we run without being told to: nanochat's, with any number of digits. A pattern is a program too, and
# some take hours on a page of text, so a file can't bring its own.
_KNOWN_PATTERN = re.compile(
    re.escape(SPLIT_PATTERN).replace(re.escape(r"\p{N}{1,2}|"), re.escape(r"\p{N}") + r"(?:\+|\{1,[1-9]\}\+?)?\|")
)
BOS = "<|bos|>"  # begins every document; without it a vocabulary can't feed a model

MAX_FILE_BYTES = 32 * 2**20  # 65,536 tokens take 1.5 MB
MAX_TOKENS = 300_000
MAX_SPECIAL_TOKENS = 1_000
MAX_TOKEN_BYTES = 65_536
MAX_PATTERN_LENGTH = 2_000


class TokenizerError(ValueError):
    """A tokenizer, or what was asked of it, is not usable. One line, with the cause and what to do."""


class ForeignFileError(TokenizerError):
    """A tokenizer.json that is not ours, such as Hugging Face's of the same name."""


@dataclass(frozen=True)
class Vocabulary:
    """All that makes a tokenizer what it is. Checked when made: an instance is always usable."""

    pattern: str  # the regular expression that splits text before merging
    tokens: tuple[bytes, ...]  # every ordinary token; its place is its id and its rank, a lower rank merges first
    special_tokens: dict[str, int]  # name -> id; the ids come right after the ordinary ones
    trust_pattern: bool = field(default=False, compare=False)  # take a pattern that is not nanochat's

    def __post_init__(self) -> None:
        _check_pattern(self.pattern, self.trust_pattern)
        _check_tokens(self.tokens)
        _check_special_tokens(self.special_tokens, len(self.tokens))

    @property
    def size(self) -> int:
        """Number of ids, specials included."""
        return len(self.tokens) + len(self.special_tokens)

    @property
    def ranks(self) -> dict[bytes, int]:
        """token -> rank, as tiktoken wants it."""
        return {token: rank for rank, token in enumerate(self.tokens)}

    @cached_property
    def fingerprint(self) -> str:
        """sha256 in hex over pattern, tokens and special tokens: the same for the same tokenizer, whatever the file."""
        specials = sorted(self.special_tokens.items(), key=lambda item: item[1])
        parts = [self.pattern.encode(), *self.tokens, *(name.encode() for name, _ in specials)]
        head = f"{len(self.tokens)} {[number for _, number in specials]}\n".encode()
        # Lengths stand before the parts, or ("ab", "c") and ("a", "bc") would look the same.
        return hashlib.sha256(head + b"".join(len(part).to_bytes(4, "little") + part for part in parts)).hexdigest()


def is_known_pattern(pattern: str) -> bool:
    """Whether it is nanochat's split pattern, for any number of digits."""
    return _KNOWN_PATTERN.fullmatch(pattern) is not None


def _check_pattern(pattern: Any, trusted: bool) -> None:
    if not isinstance(pattern, str) or not _is_text(pattern) or not 0 < len(pattern) <= MAX_PATTERN_LENGTH:
        raise TokenizerError(f"the split pattern must be text of 1 to {MAX_PATTERN_LENGTH:,} characters; file damaged?")
    if not trusted and not is_known_pattern(pattern):
        raise TokenizerError(
            "the split pattern is not nanochat's, and a hostile pattern can run for hours; "
            "if you know where the tokenizer comes from, open it with trust_pattern=True"
        )


def _check_tokens(tokens: Any) -> None:
    if not 256 <= len(tokens) <= MAX_TOKENS:
        raise TokenizerError(f"a vocabulary has 256 to {MAX_TOKENS:,} ordinary tokens, this one {len(tokens):,}")
    if not all(isinstance(token, bytes) and 0 < len(token) <= MAX_TOKEN_BYTES for token in tokens):
        raise TokenizerError(
            f"every token must be 1 to {MAX_TOKEN_BYTES:,} bytes; this vocabulary is damaged, or learnt from one "
            "letter again and again"
        )
    distinct = set(tokens)
    if len(distinct) != len(tokens):
        raise TokenizerError("the same token stands twice in the vocabulary; it is damaged, take another copy")
    if not all(bytes([byte]) in distinct for byte in range(256)):
        raise TokenizerError(
            "not all 256 single bytes are in the vocabulary, so some text can't be encoded; it is damaged"
        )


def _check_special_tokens(special_tokens: Any, first_id: int) -> None:
    if not isinstance(special_tokens, dict) or len(special_tokens) > MAX_SPECIAL_TOKENS:
        raise TokenizerError(f"special tokens must be a dict of at most {MAX_SPECIAL_TOKENS:,} names and ids")
    for name, number in special_tokens.items():
        if not isinstance(name, str) or not 0 < len(name) <= 200 or not _is_text(name) or type(number) is not int:
            raise TokenizerError("a special token needs a name of 1 to 200 characters and an integer id")
    if sorted(special_tokens.values()) != list(range(first_id, first_id + len(special_tokens))):
        raise TokenizerError(f"the ids of the special tokens must go on from {first_id:,} without gap or repetition")
    if BOS not in special_tokens:
        raise TokenizerError(f"there is no {BOS} among the special tokens, so this is not a nanochat tokenizer")


def _is_text(value: str) -> bool:
    """No lone surrogates: JSON can spell them, UTF-8 and the regex engine can't."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


# ---- tokenizer.json ----


def to_json(vocabulary: Vocabulary) -> str:
    """The text of a tokenizer.json."""
    content = {
        "format": JSON_FORMAT,
        "fingerprint": vocabulary.fingerprint,
        "pattern": vocabulary.pattern,
        "special_tokens": vocabulary.special_tokens,
        "tokens": [base64.b64encode(token).decode() for token in vocabulary.tokens],
    }
    return json.dumps(content, indent=0) + "\n"


def from_json(text: str | bytes, where: str, trust_pattern: bool = False) -> Vocabulary:
    """Check and read what `to_json` wrote. `where` names the source in errors. Raises TokenizerError."""
    raw = text.encode(errors="replace") if isinstance(text, str) else text
    if JSON_FORMAT.encode() not in raw[:100]:
        raise ForeignFileError(
            f"{where} is not a tokenizer of this project (Hugging Face uses the same name); look for {PICKLE_NAME}"
        )
    # Counting is cheap and bounds what parsing may build: elements by commas, nesting by brackets.
    if raw.count(b",") > MAX_TOKENS + 2 * MAX_SPECIAL_TOKENS or raw.count(b"[") + raw.count(b"{") > 500:
        raise TokenizerError(f"{where} has more than {MAX_TOKENS:,} entries or nests too deep; it is no tokenizer")
    try:
        content = json.loads(raw.decode(), object_pairs_hook=_without_repeats)
        tokens = tuple(base64.b64decode(token, validate=True) for token in content["tokens"])
        vocabulary = Vocabulary(content["pattern"], tokens, content["special_tokens"], trust_pattern)
        recorded = content["fingerprint"]
    except TokenizerError as error:
        raise TokenizerError(f"{where}: {error}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TokenizerError(
            f"{where} is damaged or half written ({type(error).__name__}); take another copy"
        ) from None
    if recorded != vocabulary.fingerprint:
        raise TokenizerError(f"{where} is damaged: its content does not match its fingerprint; take another copy")
    return vocabulary


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise TokenizerError("the same key stands twice; it is damaged, take another copy")
    return result


# ---- tokenizer.pkl ----


def from_pickle(data: bytes, where: str, trust_pattern: bool = False) -> Vocabulary:
    """Check and read nanochat's tokenizer.pkl. `where` names the source in errors. Raises TokenizerError."""
    try:
        state = read_encoding_state(data)
    except PickleRefusedError as error:
        raise TokenizerError(f"{where} {error}; take it from the run that made it, or train a new one") from None
    ranks = state.get("mergeable_ranks")
    if set(state) != {"name", "pat_str", "mergeable_ranks", "special_tokens"} or not isinstance(ranks, dict):
        raise TokenizerError(f"{where} does not hold the four parts of a tiktoken encoding; it is not nanochat's")
    if not all(type(token) is bytes and type(rank) is int for token, rank in ranks.items()):
        raise TokenizerError(f"{where} has ranks that are not integers by bytes; it is damaged, take another copy")
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise TokenizerError(f"{where} has ranks that repeat or leave gaps; it is damaged, take another copy")
    try:
        return Vocabulary(
            state["pat_str"], tuple(sorted(ranks, key=ranks.__getitem__)), state["special_tokens"], trust_pattern
        )
    except TokenizerError as error:
        raise TokenizerError(f"{where}: {error}") from None


# ---- folders and bytes ----


def read_vocabulary(path: Path, trust_pattern: bool = False) -> tuple[Vocabulary, tuple[str, ...]]:
    """The vocabulary in a folder or a file, and notes: what a user should know about how it was found.

    In a folder, tokenizer.json is read first. If tokenizer.pkl beside it is another tokenizer (nanochat overwrites its
    own when it trains again), nobody can tell which one the checkpoints mean, so that is an error.
    """
    if not os.path.isdir(path):
        if not os.path.lexists(path):
            raise TokenizerError(f"there is no tokenizer at {location(path)}; train one or name its folder")
        data = read_regular_file(path, MAX_FILE_BYTES)
        read = from_pickle if data[:1] == b"\x80" else from_json
        return read(data, location(path), trust_pattern), ()
    json_path, pickle_path = path / JSON_NAME, path / PICKLE_NAME
    if not os.path.lexists(json_path) and not os.path.lexists(pickle_path):
        raise TokenizerError(
            f"neither {JSON_NAME} nor {PICKLE_NAME} is in {location(path)}; name the folder that holds one"
        )
    if not os.path.lexists(json_path):
        return from_pickle(read_regular_file(pickle_path, MAX_FILE_BYTES), location(pickle_path), trust_pattern), ()
    try:
        vocabulary = from_json(read_regular_file(json_path, MAX_FILE_BYTES), location(json_path), trust_pattern)
    except ForeignFileError:
        if not os.path.lexists(pickle_path):
            raise
        other = from_pickle(read_regular_file(pickle_path, MAX_FILE_BYTES), location(pickle_path), trust_pattern)
        return other, (f"{JSON_NAME} is not this project's; {PICKLE_NAME} was read",)
    if not os.path.lexists(pickle_path):
        return vocabulary, ()
    try:
        other = from_pickle(read_regular_file(pickle_path, MAX_FILE_BYTES), location(pickle_path), trust_pattern)
    except TokenizerError as error:
        return vocabulary, (f"{JSON_NAME} was read; beside it, {error}",)
    if other.fingerprint != vocabulary.fingerprint:
        raise TokenizerError(
            f"{JSON_NAME} and {PICKLE_NAME} in {location(path)} are two different tokenizers: one was "
            "retrained; move away the one that your checkpoints were not trained with"
        )
    return vocabulary, ()


def read_regular_file(path: Path, limit: int) -> bytes:
    """All bytes of a regular file of at most `limit` bytes. A pipe or device in its place is an error, never a wait."""
    try:
        data = read_small(path, limit)
    except CheckpointError as error:
        raise TokenizerError(str(error)) from None
    if len(data) > limit:
        raise TokenizerError(f"{location(path)} is no file of at most {limit / 2**20:.0f} MB, as a tokenizer's is")
    return data


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file so that a reader, or a crash, meets the old content or the new and nothing between."""
    try:
        durable.publish(durable.stage_bytes(path, data))
        durable.sync_folder(path.parent)
    except CheckpointError as error:
        raise TokenizerError(str(error)) from None
