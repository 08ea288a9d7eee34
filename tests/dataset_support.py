"""What the tests of data share: all that a split holds, a refusal in one line, and shards to read."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.dataset import DatasetError, open_dataset
from nanochat.dataset_split import Split

BOS = 0


class Words:
    """A tokenizer for which a text is its ids: "7 8 9" -> 7, 8, 9."""

    fingerprint = "words"

    def get_bos_token_id(self):
        return BOS

    def encode(self, text, prepend=None):
        if isinstance(text, list):
            return [self.encode(one, prepend) for one in text]
        return ([] if prepend is None else [prepend]) + [int(word) for word in text.split()]


def all_texts(split: Split, shards: int | None = None) -> list[str]:
    """Every document of a split, in order."""
    return [
        text
        for shard in range(split.shards if shards is None else shards)
        for group in range(split.groups(shard))
        for text in split.read(shard, group)
    ]


def refusal(spec: object, *words: str) -> str:
    """The one line with which something is refused; it must hold the words."""
    with pytest.raises(DatasetError) as caught:
        all_texts(open_dataset(spec).train)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 700
    for word in words:
        assert word in message, message
    return message


def write_shards(
    folder: Path, shards: list[list[str]], name: str = "shard_{:05d}.parquet", row_group_size: int = 10
) -> None:
    """Parquet shards of the given texts."""
    for number, texts in enumerate(shards):
        pq.write_table(pa.table({"text": texts}), folder / name.format(number), row_group_size=row_group_size)
