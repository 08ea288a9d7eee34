"""The tokenizer: text to ids and back, nine special tokens, conversations to ids and mask.

Training is rustbpe's work (or `bpe.py`'s, where there is no wheel), encoding is tiktoken's, and the files are such that
nanochat opens ours as we open nanochat's. Text is always encoded as ordinary text: whatever a file, a data set or a
user writes, only `prepend`, `append` and `encode_special` make special tokens.

    tokenizer = load_tokenizer("~/.cache/nanochat/tokenizer")
    tokenizer.decode(tokenizer.encode("Hello"))        # "Hello"
    tokenizer = train_tokenizer(texts, vocab_size=32768)
    tokenizer.save(folder)
"""

import io
import os
import pickle  # for writing only: nanochat's file is a pickle; nothing is ever unpickled here
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from nanochat import conversation, paths
from nanochat import tokenizer_backends as backends
from nanochat import tokenizer_files as files
from nanochat.tokenizer_backends import Training
from nanochat.tokenizer_files import MAX_TOKENS, SPLIT_PATTERN, TokenizerError, Vocabulary

__all__ = [
    "SPECIAL_TOKENS",
    "SPLIT_PATTERN",
    "Tokenizer",
    "TokenizerError",
    "Training",
    "load_tokenizer",
    "train_tokenizer",
]

# In nanochat's order: they take the last nine ids of a vocabulary.
SPECIAL_TOKENS = (
    "<|bos|>",  # begins every document
    "<|user_start|>",  # what the user says
    "<|user_end|>",
    "<|assistant_start|>",  # what the assistant says
    "<|assistant_end|>",
    "<|python_start|>",  # code that the assistant asks the Python tool to run
    "<|python_end|>",
    "<|output_start|>",  # what the tool answered
    "<|output_end|>",
)
MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)  # every byte, then the specials
Special = str | int | None  # a special token by name, an id, or none


class Tokenizer:
    """A byte pair encoding with special tokens. Does not change; safe to share between threads and processes."""

    def __init__(self, vocabulary: Vocabulary, training: Training | None = None, notes: Sequence[str] = ()) -> None:
        self.vocabulary = vocabulary
        self.training = training  # None: it was read from a file
        self.notes = tuple(notes)  # what a user should know about the files it came from
        self._encoding = backends.make_encoding(vocabulary, vocabulary.pattern)
        probe = "Round trip: 12345 \U0001f30d\n\n  caf\u00e9"
        if self.decode(self.encode(probe)) != probe:
            raise TokenizerError("text does not survive encoding and decoding, so the split pattern skips some of it")

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.get_vocab_size()}, fingerprint={self.fingerprint[:12]})"

    # -- encode and decode --

    @overload
    def encode(self, text: str, prepend: Special = None, append: Special = None, num_threads: int = 1) -> list[int]: ...

    @overload
    def encode(
        self, text: list[str], prepend: Special = None, append: Special = None, num_threads: int = 1
    ) -> list[list[int]]: ...

    def encode(
        self, text: str | list[str], prepend: Special = None, append: Special = None, num_threads: int = 1
    ) -> list[int] | list[list[int]]:
        """Ids of a text, or a list of ids for a list of texts, encoded as ordinary text only.

        `prepend` and `append` add one special token, by name or id. Half characters (lone surrogates, which JSON can
        spell) become U+FFFD, as in nanochat. Raises TokenizerError.
        """
        before = [] if prepend is None else [self._special_id(prepend)]
        after = [] if append is None else [self._special_id(append)]
        if isinstance(text, str):
            return [*before, *self._encode_ordinary(text), *after]
        if not isinstance(text, list):
            raise TokenizerError(
                f"text must be a string or a list of strings, not {type(text).__name__}; decode bytes first"
            )
        if num_threads > 1:  # tiktoken lets go of Python's lock while it works
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(num_threads) as pool:
                rows = list(pool.map(self._encode_ordinary, text))
        else:
            rows = [self._encode_ordinary(row) for row in text]
        return [[*before, *row, *after] for row in rows]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids. Bytes that are no UTF-8 (half a character, say) become U+FFFD; special tokens their name."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes of ids, exactly. Raises TokenizerError for an id outside the vocabulary."""
        try:
            return self._encoding.decode_bytes(ids if isinstance(ids, list) else list(ids))  # arrays are welcome
        except (KeyError, OverflowError, TypeError):
            raise TokenizerError(
                f"not a list of ids from 0 to {self.get_vocab_size() - 1}; "
                "the ids may come from a model with another tokenizer or a padded vocabulary"
            ) from None

    def encode_special(self, name: str) -> int:
        """The id of a special token. Raises TokenizerError for a name that is not one."""
        token_id = self.vocabulary.special_tokens.get(name) if isinstance(name, str) else None
        if token_id is None:
            known = ", ".join(ascii(known)[1:-1] for known in list(self.vocabulary.special_tokens)[:20])
            raise TokenizerError(f"{ascii(name)[:60]} is not a special token; this tokenizer has {known}")
        return token_id

    def _special_id(self, token: str | int) -> int:
        if isinstance(token, str):
            return self.encode_special(token)
        if not 0 <= token < self.get_vocab_size():
            raise TokenizerError(f"token id {token} is outside the vocabulary, 0 to {self.get_vocab_size() - 1}")
        return int(token)

    def _encode_ordinary(self, text: str) -> list[int]:
        if not isinstance(text, str):
            raise TokenizerError(f"text must be a string, not {type(text).__name__}; decode bytes first")
        encode = self._encoding.encode_ordinary
        if len(text) <= backends.LONG_BLANK or not files.is_known_pattern(self.vocabulary.pattern):
            return backends.without_panic(encode, text)
        ids: list[int] = []
        for stretch, is_blank in backends.cut_long_blanks(text):
            ids += backends.without_panic(self._whole.encode_ordinary if is_blank else encode, stretch)
        return ids

    @cached_property
    def _whole(self) -> Any:
        """The same merges without a split pattern, for runs of blanks so long that the pattern panics."""
        return backends.make_encoding(self.vocabulary, backends.WHOLE_TEXT)

    # -- what it is --

    def get_vocab_size(self) -> int:
        """Number of ids, specials included. A model may pad its own vocabulary beyond this."""
        return self.vocabulary.size

    def get_bos_token_id(self) -> int:
        """The id of <|bos|>, which begins every document."""
        return self.encode_special(files.BOS)

    @property
    def special_tokens(self) -> dict[str, int]:
        """name -> id, a copy."""
        return dict(self.vocabulary.special_tokens)

    @property
    def fingerprint(self) -> str:
        """sha256 in hex that two tokenizers share only if they are the same; a checkpoint records it."""
        return self.vocabulary.fingerprint

    def token_bytes(self, convention: str = "exact") -> list[int]:
        """Bytes of text that each id stands for, 0 for specials: what bits per byte divides by.

        "exact" is nanochat's rule since 2026-07-03. "replacement" is the one before: a byte that is no valid UTF-8 by
        itself counts three, as the U+FFFD it decodes to, which makes bits per byte look smaller.
        """
        tokens = self.vocabulary.tokens
        if convention == "exact":
            sizes = [len(token) for token in tokens]
        elif convention == "replacement":
            sizes = [len(token.decode("utf-8", errors="replace").encode()) for token in tokens]
        else:
            raise TokenizerError(
                f"convention {convention!r} is not known; use exact, or replacement for runs before 2026-07-03"
            )
        return sizes + [0] * len(self.vocabulary.special_tokens)

    # -- conversations --

    def render_conversation(self, messages: Any, max_tokens: int | None = 2048) -> conversation.Rendered:
        """`{"messages": [...]}` or a list of messages -> Rendered (ids, mask, dropped). Raises ConversationError."""
        return conversation.render(self, messages, max_tokens)

    def render_for_completion(self, messages: Any, max_tokens: int | None = None) -> list[int]:
        """Ids that make a model write the last reply anew. nanochat cuts them to 2048; here nothing is cut unasked.

        `conversation.render_prompt` also tells how much a limit cut off.
        """
        return conversation.render_prompt(self, messages, max_tokens).ids

    # -- files --

    def to_json(self) -> str:
        """The text of a tokenizer.json, to lie beside a checkpoint. `Tokenizer.from_json` reads it."""
        return files.to_json(self.vocabulary)

    @classmethod
    def from_json(cls, text: str | bytes, where: str = files.JSON_NAME, trust_pattern: bool = False) -> "Tokenizer":
        """Read what `to_json` wrote; `where` names the source in errors. Raises TokenizerError."""
        return cls(files.from_json(text, where, trust_pattern))

    def save(self, folder: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write tokenizer.json, tokenizer.pkl and token_bytes.pt (nanochat reads the last two).

        A different tokenizer that is already there stays, unless `overwrite`: without it, the checkpoints that were
        trained with it are worth nothing. Raises TokenizerError.
        """
        folder = paths.expand(folder)
        occupied = [name for name in (files.JSON_NAME, files.PICKLE_NAME) if os.path.lexists(folder / name)]
        if occupied and not overwrite and not self._is_in(folder):
            raise TokenizerError(
                f"{files.location(folder)} holds another tokenizer, and checkpoints may need it; "
                "choose another folder, or overwrite it on purpose"
            )
        import torch

        buffer = io.BytesIO()
        torch.save(torch.tensor(self.token_bytes(), dtype=torch.int32), buffer)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Our file is read first, so a stale one must be gone before the pickle changes, and the new one comes last:
            # a crash between leaves one readable tokenizer, never two.
            (folder / files.JSON_NAME).unlink(missing_ok=True)
        except OSError as error:
            raise TokenizerError(
                f"{files.location(folder)} can't be written: {error.strerror}; check its rights"
            ) from None
        files.write_atomically(folder / files.PICKLE_NAME, pickle.dumps(self._encoding, protocol=4))
        files.write_atomically(folder / files.TOKEN_BYTES_NAME, buffer.getvalue())
        files.write_atomically(folder / files.JSON_NAME, self.to_json().encode())

    def _is_in(self, folder: Path) -> bool:
        try:
            return files.read_vocabulary(folder, trust_pattern=True)[0].fingerprint == self.fingerprint
        except TokenizerError:
            return False  # unreadable is not ours: keep it too


def load_tokenizer(folder: str | os.PathLike[str], trust_pattern: bool = False) -> Tokenizer:
    """Open a tokenizer of ours or of nanochat's, from a folder or a file. Nothing in it is run. Raises TokenizerError.

    A split pattern other than nanochat's is refused unless `trust_pattern`: it would be run over every text.
    """
    vocabulary, notes = files.read_vocabulary(paths.expand(folder), trust_pattern)
    return Tokenizer(vocabulary, notes=notes)


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, trainer: str | None = None, pattern: str = SPLIT_PATTERN
) -> Tokenizer:
    """Learn a tokenizer from texts. `vocab_size` counts everything, the nine special tokens too.

    `trainer` is "rustbpe" or "python"; None takes rustbpe where it is installed. `.training` of the result says which
    one it was and why. Raises TokenizerError.
    """
    if not MIN_VOCAB_SIZE <= vocab_size <= MAX_TOKENS:
        raise TokenizerError(
            f"vocab_size {vocab_size} is not from {MIN_VOCAB_SIZE} (256 bytes, 9 specials) to {MAX_TOKENS}"
        )
    if isinstance(texts, str):
        raise TokenizerError("texts must be many strings, not one, which would be taken letter by letter; pass [text]")
    tokens, chosen, reason = backends.learn(texts, vocab_size - len(SPECIAL_TOKENS), pattern, trainer)
    specials = {name: len(tokens) + index for index, name in enumerate(SPECIAL_TOKENS)}
    vocabulary = Vocabulary(pattern, tuple(tokens), specials, trust_pattern=True)
    notes = []
    if len(tokens) + len(specials) < vocab_size:
        notes.append(f"the text gave {len(tokens) + len(specials)} tokens instead of {vocab_size}; train on more text")
    return Tokenizer(vocabulary, Training(chosen, reason, vocab_size), notes)
