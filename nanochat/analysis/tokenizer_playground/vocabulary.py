"""What is in a vocabulary: how many tokens of which kind and length, the longest, the first merges, the specials."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanochat.analysis.tokenizer_playground.merges import parents
from nanochat.analysis.tokenizer_playground.spelling import TYPES, spell, spell_bytes, type_of
from nanochat.conversation import PARTS

if TYPE_CHECKING:
    import polars as pl

    from nanochat.analysis.tokenizer_playground.sources import Known

EXTREMES = 20  # longest tokens, first and last merges
# Special token -> what it is for and whether a model is trained to write it.
PURPOSES = {
    "<|bos|>": ("begins every document and conversation", False),
    "<|user_start|>": ("the user begins to speak", False),
    "<|user_end|>": ("the user has ended", False),
    "<|assistant_start|>": ("the assistant is to speak: the prompt ends here", False),
    "<|assistant_end|>": ("the assistant has ended: the model learns to write it, and generation stops", True),
    "<|python_start|>": ("code for the Python tool follows", PARTS["python"][2]),
    "<|python_end|>": ("the code has ended: the engine runs it now", PARTS["python"][2]),
    "<|output_start|>": ("what the tool answered follows, written by the engine", PARTS["python_output"][2]),
    "<|output_end|>": ("the tool's answer has ended", PARTS["python_output"][2]),
}


@dataclass(frozen=True)
class VocabularyReport:
    """A vocabulary in figures."""

    tokenizer: str  # its label
    size: int  # all tokens, specials included
    bytes: int  # single bytes: what every text falls back to
    merges: int  # tokens that were learnt
    specials: int
    mean_bytes: float  # of an ordinary token
    with_blank: int  # tokens that begin with a blank: a word behind another
    partial: int  # tokens that are no valid UTF-8 by themselves
    types: "pl.DataFrame"  # type, tokens, share
    lengths: "pl.DataFrame"  # bytes, tokens: how many tokens have that many bytes
    longest: "pl.DataFrame"  # id, text, bytes
    first_merges: "pl.DataFrame"  # rank, left, right, token: the most frequent pairs of the training text
    last_merges: "pl.DataFrame"  # the same, of the rarest


def special_tokens(known: "Known") -> "pl.DataFrame":
    """The special tokens: id, name, purpose, written_by_model (None where the token is none of nanochat's)."""
    import polars as pl

    rows = sorted(known.special_tokens.items(), key=lambda item: item[1])
    unknown = ("not one of nanochat's; see the tokenizer's own documents", None)
    purposes = [PURPOSES.get(name, unknown) for name, _ in rows]
    return pl.DataFrame(
        {
            "id": [number for _, number in rows],
            "name": [spell(name) for name, _ in rows],
            "purpose": [purpose for purpose, _ in purposes],
            "written_by_model": pl.Series([written for _, written in purposes], dtype=pl.Boolean),
        }
    )


def describe(known: "Known") -> VocabularyReport:
    """Count a vocabulary's tokens."""
    import polars as pl

    tokens = known.tokens
    types = Counter(map(type_of, tokens))
    types["Special"] = len(known.special_tokens)
    lengths = Counter(map(len, tokens))
    learnt = [rank for rank, token in enumerate(tokens) if len(token) > 1]
    longest = sorted(range(len(tokens)), key=lambda rank: (-len(tokens[rank]), rank))[:EXTREMES]
    used = [name for name in TYPES if types[name]]
    return VocabularyReport(
        tokenizer=known.label,
        size=known.size,
        bytes=len(tokens) - len(learnt),
        merges=len(learnt),
        specials=len(known.special_tokens),
        mean_bytes=sum(map(len, tokens)) / len(tokens),
        with_blank=sum(token.startswith(b" ") for token in tokens),
        partial=types["Part of a character"],
        types=pl.DataFrame(
            {
                "type": used,
                "tokens": [types[name] for name in used],
                "share": [types[name] / known.size for name in used],
            }
        ),
        lengths=pl.DataFrame({"bytes": sorted(lengths), "tokens": [lengths[size] for size in sorted(lengths)]}),
        longest=pl.DataFrame(
            {
                "id": longest,
                "text": [spell_bytes(tokens[rank], 200) for rank in longest],
                "bytes": [len(tokens[rank]) for rank in longest],
            }
        ),
        first_merges=parents(tokens, learnt[:EXTREMES]),
        last_merges=parents(tokens, learnt[-EXTREMES:]),
    )
