"""What every source of text is to whoever reads it: shards of groups of documents, each read by its number.

Parquet has files with row groups, a text file has stretches of a megabyte, the stories have batches that are made when
they are asked for. Behind one small interface they look the same, so the loader that packs documents into batches
knows none of them, and its place in the data is three whole numbers: shard, group, document.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NoReturn, Protocol

from nanochat.checkpoint_files import location, shown

DOCUMENTS_A_GROUP = 100  # where we cut groups ourselves: small, so that several lanes find one each
_ENDS = 32 * 1024  # bytes of a file's beginning and of its end that stand for its content

LongDocuments = Literal["crop", "cut", "whole"]


class DatasetError(ValueError):
    """Text cannot be read: one line with the file, what is wrong with it and what to do."""


class Split(Protocol):
    """The documents of training, or those of validation. Reading the same group twice gives the same documents.

    One thread at a time may read; asking for the other facts is safe from any.
    """

    @property
    def shards(self) -> int | None:
        """Number of shards; None for a source without an end."""

    @property
    def identity(self) -> str:
        """A digest of what the documents are. Work that goes on after a restart compares it."""

    @property
    def long_documents(self) -> LongDocuments:
        """What becomes of a document that what is left of a row cannot hold. "crop": its beginning is used and the rest
        lost, as nanochat does, which web text has plenty for. "cut": a document longer than a row becomes several, so
        that a small text is used whole. "whole": the rest of the row stays empty, for documents far shorter than a row
        that are worth most at their end; cropped, the short ones would hardly ever be seen to theirs.
        """

    @property
    def remarks(self) -> Sequence[str]:
        """What reading has left out so far, with counts; empty if nothing."""

    def groups(self, shard: int) -> int:
        """Number of groups in a shard; 0 if it is empty. Raises DatasetError."""

    def read(self, shard: int, group: int) -> list[str]:
        """The documents of one group, in order. Raises DatasetError."""


class Texts:
    """A split over documents that are in memory: one shard, in groups of a hundred."""

    def __init__(self, texts: Sequence[str], long_documents: LongDocuments = "cut") -> None:
        self.texts = list(texts)
        self.shards = 1
        self.long_documents: LongDocuments = long_documents
        self.remarks: tuple[str, ...] = ()
        digest = hashlib.sha256()
        for text in self.texts:
            encoded = text.encode("utf-8", "surrogatepass")
            digest.update(b"%d:" % len(encoded) + encoded)
        self.identity = f"texts {len(self.texts)} {digest.hexdigest()}"

    def groups(self, shard: int) -> int:
        return -(-len(self.texts) // DOCUMENTS_A_GROUP)

    def read(self, shard: int, group: int) -> list[str]:
        return self.texts[group * DOCUMENTS_A_GROUP : (group + 1) * DOCUMENTS_A_GROUP]


def fail(path: Path, what: str, remedy: str) -> NoReturn:
    """Raise the error for a file: where, what, what to do."""
    raise DatasetError(f"{location(path)}: {what}; {remedy}")


def unreadable(path: Path, error: OSError) -> NoReturn:
    """Raise the error for what the operating system says of a file."""
    fail(path, f"it cannot be read ({shown(error.strerror or error)})", "check that it is there and its permissions")


def identity_of(paths: Sequence[Path], *facts: object) -> str:
    """A digest of files by name, size, beginning and end: a folder may move, another file of its name is noticed.

    The middle of a large file is not read, so a change there that keeps the size passes; reading hundreds of shards
    whole would take minutes before the first step. Raises DatasetError.
    """
    digest = hashlib.sha256(repr(facts).encode())
    for path in paths:
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                head = file.read(_ENDS)
                file.seek(max(size - _ENDS, 0))
                tail = file.read(_ENDS)
        except OSError as error:
            unreadable(path, error)
        digest.update(f"{path.name}:{size}:".encode("utf-8", "surrogateescape") + head + tail)
    return f"files {len(paths)} {digest.hexdigest()}"
