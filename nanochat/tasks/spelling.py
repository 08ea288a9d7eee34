"""Spelling words, and counting letters in them with the calculator.

A model reads tokens, not letters: to it "cat" is one number. Spelling has to be learnt word by word, which is why a
small model knows the words it was taught and few others. Counting needs no spelling where the model knows a tool: it
has only to copy the word into `'cat'.count('a')` and to read the answer. The words of the val split appear in neither
task's train split. Idea: nanochat's spelling bee.
"""

from dataclasses import dataclass
from functools import cached_property

from nanochat.calculator import use_calculator
from nanochat.tasks import (
    Conversation,
    TaskError,
    check_index,
    check_split,
    dialogue,
    expected,
    generator,
    held_out,
    last_number,
    words_of,
)
from nanochat.tasks.words import WORDS

HELD_OUT = 5  # one word in five is kept for the val split
SPELL = (
    "How do you spell {word}?",
    "Spell {word}.",
    "Spell the word {word}.",
    "What are the letters of {word}?",
)
COUNT = (
    "How many {letter} are in {word}?",
    "How many times is {letter} in {word}?",
    "Count the {letter} in {word}.",
    "How often do you see {letter} in the word {word}?",
)


def split_words(words: tuple[str, ...], split: str) -> list[str]:
    """The words of one split; a word falls into the same split in every list. Raises TaskError if none does."""
    for word in words:
        if not (word.isalpha() and word == word.lower()):
            raise TaskError(f"the word {ascii(word)[:40]} has more than small letters; leave it out of the list")
    chosen = [word for word in words if held_out(word, HELD_OUT) == (split == "val")]
    if not chosen:
        raise TaskError(f"none of the {len(words):,} words falls into the {split} split; give a longer list of words")
    return chosen


@dataclass(frozen=True)
class Spelling:
    """Spell a word: "How do you spell cat?" - "It is c a t." """

    split: str = "train"
    size: int = 1000  # conversations; words repeat, in other wordings
    seed: int = 0
    words: tuple[str, ...] = WORDS  # small letters only
    name: str = "spelling"

    def __post_init__(self) -> None:
        check_split(self.split, self.size)
        _ = self._words  # a list without a word for this split is refused now, not at the first conversation

    @cached_property
    def _words(self) -> list[str]:
        return split_words(self.words, self.split)

    @property
    def identity(self) -> str:
        return repr(self)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Conversation:
        rng = generator(self.name, self.seed, self.split, check_index(index, self.size))
        word = rng.choice(self._words)
        # A blank before every letter makes each of them the same token wherever it stands.
        return dialogue(rng.choice(SPELL).format(word=word), f"It is {' '.join(word)}.")

    def judge(self, conversation: Conversation, reply: str) -> bool:
        """The same letters in the same order, and nothing else but the words around them."""
        return words_of(reply) == words_of(expected(conversation))


@dataclass(frozen=True)
class LetterCount:
    """Count a letter in a word with the calculator: 'cat'.count('a')."""

    split: str = "train"
    size: int = 1000
    seed: int = 0
    words: tuple[str, ...] = WORDS  # small letters only
    name: str = "counting"

    def __post_init__(self) -> None:
        check_split(self.split, self.size)
        _ = self._words  # a list without a word for this split is refused now, not at the first conversation

    @cached_property
    def _words(self) -> list[str]:
        return split_words(self.words, self.split)

    @property
    def identity(self) -> str:
        return repr(self)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Conversation:
        rng = generator(self.name, self.seed, self.split, check_index(index, self.size))
        word = rng.choice(self._words)
        # Mostly a letter that is there; a letter that is not teaches that the answer may be 0.
        letter = rng.choice(word) if rng.random() < 0.9 else rng.choice("abcdefghijklmnopqrstuvwxyz")
        expression = f"'{word}'.count('{letter}')"
        count = use_calculator(expression)
        assert count is not None
        verb = "is" if count == "1" else "are"
        parts = [
            {"type": "python", "text": expression},
            {"type": "python_output", "text": count},
            {"type": "text", "text": f"There {verb} {count}."},
        ]
        return dialogue(rng.choice(COUNT).format(word=word, letter=letter), parts)

    def judge(self, conversation: Conversation, reply: str) -> bool:
        """The last number of the reply is the count."""
        return last_number(reply) == last_number(expected(conversation))
