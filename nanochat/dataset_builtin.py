"""The corpora that need no file: small stories made when they are asked for, and the manual inside every Python.

The stories never end and their floor in bits a byte is known exactly (`nanochat.stories`). The manual is real English
of half a megabyte, the text of `help("for")` and its like.
"""

import functools
import hashlib
import importlib

from nanochat.dataset_split import DOCUMENTS_A_GROUP, DatasetError, LongDocuments, Texts

STORIES_A_SHARD = 1000
MANUAL_HELD_OUT = 10  # every tenth topic validates


class Stories:
    """A stream of generated stories. Training never ends; validation is one shard of a thousand."""

    def __init__(self, seed: int, split: str) -> None:
        self.seed, self.split = seed, split
        self.shards = None if split == "train" else 1
        self.long_documents: LongDocuments = "whole"  # a story whose end is missing has not been told
        self.remarks: tuple[str, ...] = ()

    @functools.cached_property
    def identity(self) -> str:
        """Changes with the seed and with the grammar, as far as ten stories show it."""
        digest = hashlib.sha256("\n".join(self.stories(0, 10)).encode()).hexdigest()
        return f"stories {self.split} {self.seed} {digest}"

    def stories(self, first: int, count: int) -> list[str]:
        """`count` stories of the stream from number `first` on."""
        from nanochat.stories import story  # only who reads stories loads the grammar

        return [story(self.seed, self.split, index) for index in range(first, first + count)]

    def groups(self, shard: int) -> int:
        return STORIES_A_SHARD // DOCUMENTS_A_GROUP

    def read(self, shard: int, group: int) -> list[str]:
        return self.stories(shard * STORIES_A_SHARD + group * DOCUMENTS_A_GROUP, DOCUMENTS_A_GROUP)


def manual() -> tuple[Texts, Texts]:
    """The topics of Python's manual, one document each, as (train, validation). Differs between Python versions.

    Raises:
        DatasetError: this Python came without it.
    """
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except (ImportError, AttributeError):
        raise DatasetError(
            "this Python came without its manual (the module pydoc_data.topics), as minimal installations do; install "
            "the full standard library, or train on stories or on a file of your own"
        ) from None
    texts = [topics[name].strip("\n") for name in sorted(topics)]
    texts = [text for text in texts if text.strip()]
    train = [text for number, text in enumerate(texts) if number % MANUAL_HELD_OUT != MANUAL_HELD_OUT - 1]
    return Texts(train), Texts(texts[MANUAL_HELD_OUT - 1 :: MANUAL_HELD_OUT])
