"""Which texts a tokenizer is trained on: documents in order, none too long, until there are enough characters.

A tokenizer needs far less text than a model, and one endless document must not fill its statistics, so nanochat caps
both. `nanochat tok_train` and the demo read their texts here.
"""

from collections.abc import Callable, Iterator
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanochat.dataset_split import Split

MAX_CHARS = 2_000_000_000  # nanochat's
# Of a source without an end: the pairs of letters in small stories repeat so soon that more of them teach nothing new.
ENDLESS_MAX_CHARS = 5_000_000
DOC_CAP = 10_000  # nanochat's


class TokenizerTextError(ValueError):
    """The texts for a tokenizer cannot be chosen so: one sentence."""


def default_max_chars(split: "Split") -> tuple[int, str]:
    """How many characters to read where nobody says, and why."""
    if split.shards is None:
        return ENDLESS_MAX_CHARS, f"this text has no end, and {ENDLESS_MAX_CHARS:,} characters show what there is"
    return MAX_CHARS, "nanochat's default; a smaller text is read whole"


def training_texts(
    split: "Split", max_chars: int, doc_cap: int = DOC_CAP, progress: Callable[[int], None] = lambda characters: None
) -> Iterator[str]:
    """Documents of a split in order, each cut to `doc_cap` characters, up to the one that reaches `max_chars`.

    progress: told the number of characters after every document. Raises TokenizerTextError and the split's own errors.
    """
    if max_chars < 1 or doc_cap < 1:
        raise TokenizerTextError(
            f"max_chars is {max_chars:,} and doc_cap is {doc_cap:,}; both must be 1 or more, or nothing is left"
        )
    characters = 0
    for shard in count() if split.shards is None else range(split.shards):
        for group in range(split.groups(shard)):
            for text in split.read(shard, group):
                cut = text[:doc_cap]
                characters += len(cut)
                yield cut
                progress(characters)
                if characters >= max_chars:
                    return
