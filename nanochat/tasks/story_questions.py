"""Questions about a story: the model reads one and answers from it.

The answers are in the text, so nothing has to be known: the model has to find the right word and copy it. Stories of
the val split were shown neither in fine-tuning nor in pretraining on the train split.
"""

from dataclasses import dataclass
from functools import lru_cache

from nanochat import stories
from nanochat.tasks import Conversation, TaskError, check_index, check_split, dialogue, expected, generator, words_of


@dataclass(frozen=True)
class StoryQuestions:
    """A story, one question about it, and the answer."""

    split: str = "train"
    size: int = 1000
    seed: int = 0  # of the stories: the same seed and split name the same stories as in pretraining
    start: int = 0  # the first story
    each: int = 1  # conversations about the same story; with 3, a third of the stories have to be made and taken apart
    name: str = "stories"

    def __post_init__(self) -> None:
        check_split(self.split, self.size)
        if self.start < 0:
            raise TaskError(f"start is {self.start}; stories are counted from 0")
        if self.each < 1:
            raise TaskError(f"each is {self.each}; ask at least one question about a story")

    @property
    def identity(self) -> str:
        return repr(self)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Conversation:
        number, turn = divmod(check_index(index, self.size), self.each)
        text, pairs = _story(self.seed, self.split, self.start + number)
        order = generator(self.name, self.seed, self.split, number).sample(range(len(pairs)), len(pairs))
        question, answer = pairs[order[turn % len(pairs)]]  # a story with fewer questions is asked some again
        # In a story a name follows a blank, which is part of its token: with a blank before the answer, too, the name
        # that is asked for is the very token that was read.
        return dialogue(f"{text} {question}", f" {answer}")

    def judge(self, conversation: Conversation, reply: str) -> bool:
        """The same words as the answer, whatever their case and punctuation."""
        return words_of(reply) == words_of(expected(conversation))


@lru_cache(maxsize=8192)  # about 8 MB; taking a story apart costs a millisecond, and later epochs ask again
def _story(seed: int, split: str, index: int) -> tuple[str, tuple[tuple[str, str], ...]]:
    """A story and all questions about it, with their answers."""
    text = stories.story(seed, split, index)
    return text, tuple(stories.questions(text))
