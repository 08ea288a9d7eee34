"""What a tokenizer does to a text, and why: tokens with their bytes, the merges behind them, what other texts cost.

Pure: texts and tokenizers in, frozen reports with Polars frames out. The terminal and the page show the same reports.

    nanochat tokenizer_playground "Hello world!"
"""

from nanochat.analysis.tokenizer_playground.comparing import LANGUAGES, Comparison, compare, compare_tokenizers
from nanochat.analysis.tokenizer_playground.merges import Learned, Replay, learn, merge_piece, parents, replay
from nanochat.analysis.tokenizer_playground.sources import (
    EXAMPLE,
    Known,
    Place,
    find_place,
    known_from,
    local_places,
    open_place,
    places,
)
from nanochat.analysis.tokenizer_playground.spelling import TYPES, spell, spell_bytes, type_of
from nanochat.analysis.tokenizer_playground.text import PlaygroundError, TextReport, read_text, tokenize
from nanochat.analysis.tokenizer_playground.vocabulary import VocabularyReport, describe, special_tokens

__all__ = [
    "EXAMPLE",
    "LANGUAGES",
    "TYPES",
    "Comparison",
    "Known",
    "Learned",
    "Place",
    "PlaygroundError",
    "Replay",
    "TextReport",
    "VocabularyReport",
    "compare",
    "compare_tokenizers",
    "describe",
    "find_place",
    "known_from",
    "learn",
    "local_places",
    "merge_piece",
    "open_place",
    "parents",
    "places",
    "read_text",
    "replay",
    "special_tokens",
    "spell",
    "spell_bytes",
    "tokenize",
    "type_of",
]
