"""What the same thing costs: several texts under one tokenizer, one text under several, one sentence in many languages.

A model pays for tokens: context, time and money. A language that the tokenizer has seen little of costs a multiple.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanochat.analysis.tokenizer_playground.text import PlaygroundError, whole_characters
from nanochat.checkpoint_files import shown

if TYPE_CHECKING:
    import polars as pl

    from nanochat.analysis.tokenizer_playground.sources import Known

# One sentence, said in each language; the first is what the others are compared with.
LANGUAGES: dict[str, str] = {
    "English": "The children drink water and read a book.",
    "German": "Die Kinder trinken Wasser und lesen ein Buch.",
    "French": "Les enfants boivent de l'eau et lisent un livre.",
    "Spanish": "Los niños beben agua y leen un libro.",
    "Turkish": "Çocuklar su içer ve kitap okur.",
    "Swahili": "Watoto wanakunywa maji na kusoma kitabu.",
    "Greek": "Τα παιδιά πίνουν νερό και διαβάζουν ένα βιβλίο.",
    "Russian": "Дети пьют воду и читают книгу.",
    "Arabic": "الأطفال يشربون الماء ويقرؤون كتابًا.",
    "Hindi": "बच्चे पानी पीते हैं और किताब पढ़ते हैं।",
    "Chinese": "孩子们喝水、看书。",
    "Japanese": "子どもたちは水を飲み、本を読みます。",
    "Korean": "아이들은 물을 마시고 책을 읽습니다.",
}


@dataclass(frozen=True)
class Comparison:
    """Texts and tokenizers, and what each pair costs."""

    # name, tokenizer, text, tokens, characters, bytes, characters_per_token, tokens_per_byte, cost (tokens divided by
    # the first row's of the same tokenizer, or by the first tokenizer's of the same text)
    frame: "pl.DataFrame"
    cheapest: str  # the row's name with the fewest tokens, the first of equals
    dearest: str  # and the most


def compare(known: "Known", texts: Mapping[str, str] | Sequence[str]) -> Comparison:
    """Texts under one tokenizer, named or each by its own beginning; `cost` is against the first.

    Raises PlaygroundError where there is none.
    """
    named = list(texts.items()) if isinstance(texts, Mapping) else [(shown(text, 40), text) for text in texts]
    return _comparison([(name, known, text) for name, text in named])


def compare_tokenizers(many: Sequence["Known"], text: str) -> Comparison:
    """One text under several tokenizers; `cost` is against the first. Raises PlaygroundError where there is none."""
    return _comparison([(known.label, known, text) for known in many])


def _comparison(rows: list[tuple[str, "Known", str]]) -> Comparison:
    import polars as pl

    if not rows:
        raise PlaygroundError("there is nothing to compare; give at least one text and one tokenizer")
    columns: dict[str, list[object]] = {
        name: []
        for name in (
            "name",
            "tokenizer",
            "text",
            "tokens",
            "characters",
            "bytes",
            "characters_per_token",
            "tokens_per_byte",
            "cost",
        )
    }
    base = 0
    for name, known, text in rows:
        text = whole_characters(text)
        tokens, size = len(known.encode(text)), len(text.encode())
        base = base or tokens
        values = (name, known.label, text, tokens, len(text), size)
        ratios = (len(text) / max(tokens, 1), tokens / max(size, 1), tokens / max(base, 1))
        for column, value in zip(columns.values(), (*values, *ratios), strict=True):
            column.append(value)
    frame = pl.DataFrame(columns, strict=False)
    ordered = frame.sort("tokens", maintain_order=True)
    dearest = frame.sort("tokens", descending=True, maintain_order=True)
    return Comparison(frame, ordered["name"][0], dearest["name"][0])
