"""Several tasks as one: every conversation as often as wanted, in one shuffled order for each epoch.

    mixture = Mixture([Part(Persona(), epochs=4), Part(Spelling(size=2000))])

The order is a pure function of the parts, the seed and the epoch. It is the same on every rank and after every resume,
so nothing of it has to be saved.
"""

import hashlib
import math
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.tasks import Conversation, Task, TaskError, check_index


@dataclass(frozen=True)
class Part:
    """A task and how often an epoch of the mixture shows each of its conversations."""

    task: Task
    epochs: float = 1.0  # 2.5 shows all of them twice and half of them once more


class Mixture:
    """A sequence of conversations without end: epoch after epoch, each in an order of its own."""

    def __init__(self, parts: Sequence[Part], seed: int = 0) -> None:
        for part in parts:
            if not (math.isfinite(part.epochs) and part.epochs >= 0):
                raise TaskError(f"{part.task.name} is to be shown {part.epochs} times; give a number from 0 up")
        self.parts, self.seed = tuple(parts), seed
        self.counts = [round(part.epochs * len(part.task)) for part in self.parts]
        if not sum(self.counts):
            raise TaskError("the mixture holds no conversation; name a task that has some, with epochs above 0")
        self._starts = [sum(len(part.task) for part in self.parts[:i]) for i in range(len(self.parts))]
        self._order: tuple[int, array[int]] | None = None  # the last epoch asked for: they are asked for in turn

    def __len__(self) -> int:
        """Conversations in one epoch."""
        return sum(self.counts)

    @property
    def identity(self) -> str:
        """sha256 in hex that two mixtures share only if they give the same conversations in the same order."""
        facts = [(part.task.identity, part.epochs) for part in self.parts]
        return hashlib.sha256(repr((facts, self.seed)).encode("utf-8", "surrogatepass")).hexdigest()

    def conversation(self, epoch: int, position: int) -> Conversation:
        """Conversation `position` of an epoch, both from 0. IndexError beyond the epoch's end."""
        place = self.order(epoch)[check_index(position, len(self))]
        part = max(i for i, start in enumerate(self._starts) if start <= place and len(self.parts[i].task))
        return self.parts[part].task[place - self._starts[part]]

    def order(self, epoch: int) -> "array[int]":
        """The order of an epoch: places in the tasks laid end to end."""
        if self._order is None or self._order[0] != epoch:
            rng = random.Random(f"mixture/{self.seed}/{epoch}")
            places = array("q")
            for part, start, count in zip(self.parts, self._starts, self.counts, strict=True):
                size = len(part.task)
                for _ in range(count // size if size else 0):
                    places.extend(range(start, start + size))
                if size and count % size:  # the rest of a broken number of epochs: others in every epoch
                    places.extend(start + index for index in rng.sample(range(size), count % size))
            rng.shuffle(places)
            self._order = (epoch, places)
        return self._order[1]

    def summary(self) -> list[tuple[str, int, float]]:
        """(task, its conversations, how often each is shown in an epoch)."""
        return [(part.task.name, len(part.task), part.epochs) for part in self.parts]
