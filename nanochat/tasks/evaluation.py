"""Ask a model questions of both splits and count the right answers: what it knows by heart, and what it has learnt.

    scores = evaluate_tasks(model, tokenizer, [Persona("train"), Persona("val")], n=40)
    for row in compare(scores):
        print(row.name, row.seen, row.unseen, row.meaning)

Seen and unseen stand side by side because either alone deceives: 40 of 40 seen questions is what a table of answers
scores, too. Decoding is greedy, so a score is a property of the model and the questions, not of a seed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanochat.tasks import Task, TaskError, expected, visible

if TYPE_CHECKING:
    from nanochat.gpt import GPT
    from nanochat.tokenizer import Tokenizer

EXAMPLES = 5  # answers of each task that a score keeps to be looked at
FEW = 10  # questions of a split below which nothing is concluded
Z = 1.96  # standard deviations that hold 95 % of a normal distribution


@dataclass(frozen=True)
class Answer:
    """One question and what the model said."""

    question: str
    expected: str
    reply: str  # its visible text
    right: bool


@dataclass(frozen=True)
class TaskScore:
    """How many questions of one split of a task were answered rightly."""

    name: str
    split: str  # "train": seen in training, "val": not
    right: int
    asked: int
    too_long: int = 0  # questions left out because they do not fit into the model's context
    examples: tuple[Answer, ...] = ()

    @property
    def share(self) -> float | None:
        """Right of asked, 0 to 1; None where nothing was asked."""
        return self.right / self.asked if self.asked else None

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the share (Wilson 1927): with few questions it is wide, and says so."""
        if not self.asked:
            return 0.0, 1.0
        n, p = self.asked, self.right / self.asked
        centre, spread = p + Z * Z / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
        scale = 1 + Z * Z / n
        return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)

    def __str__(self) -> str:
        return f"{self.right}/{self.asked}" if self.asked else "none"


@dataclass(frozen=True)
class Comparison:
    """One task, seen and unseen, and in a sentence what the two together mean."""

    name: str
    seen: TaskScore | None
    unseen: TaskScore | None
    meaning: str


def evaluate_tasks(
    model: "GPT",
    tokenizer: "Tokenizer",
    tasks: Sequence[Task],
    n: int = 50,
    *,
    max_tokens: int = 64,
    batch_size: int = 16,
    stop: Callable[[], bool] = lambda: False,
) -> list[TaskScore]:
    """Ask at most `n` questions of each task, spread evenly over it, and judge the answers.

    max_tokens: longest reply. batch_size: questions that are answered side by side. stop: asked before every batch;
    once it says True, the scores so far are returned. Tool calls are answered by the calculator. The model is left in
    the mode that it was in. Raises TaskError and EngineError.
    """
    from nanochat.engine import Engine

    if n < 1 or batch_size < 1:
        raise TaskError(f"n is {n} and batch_size is {batch_size}; give 1 or more of both")
    engine, scores = Engine(model, tokenizer), []
    training = model.training
    model.eval()
    try:
        for task in tasks:
            answers: list[Answer] = []
            asked, too_long = _questions(task, tokenizer, n, model.config.sequence_len)
            asked.sort(key=lambda question: len(question[1]))  # rows of one batch end at about the same time
            for first in range(0, len(asked), batch_size):
                if stop():
                    break
                group = asked[first : first + batch_size]
                rows, _ = engine.generate_batch([prompt for _, prompt in group], max_tokens=max_tokens, temperature=0.0)
                for (index, prompt), row in zip(group, rows, strict=True):
                    conversation = task[index]
                    reply = spoken(tokenizer, row[len(prompt) :])
                    question = visible(conversation["messages"][-2]["content"])
                    right = task.judge(conversation, reply)
                    answers.append(Answer(question, expected(conversation), reply, right))
            count = sum(answer.right for answer in answers)
            shown = tuple(answers[len(answers) * i // EXAMPLES] for i in range(min(EXAMPLES, len(answers))))
            scores.append(TaskScore(task.name, task.split, count, len(answers), too_long, shown))
    finally:
        model.train(training)
    return scores


def _questions(task: Task, tokenizer: "Tokenizer", n: int, context: int) -> tuple[list[tuple[int, list[int]]], int]:
    """(index, prompt) of at most n conversations, spread over the task, and how many are too long for the context."""
    indices = [len(task) * i // min(n, len(task)) for i in range(min(n, len(task)))]
    asked = [(index, tokenizer.render_for_completion(task[index])) for index in indices]
    fitting = [(index, prompt) for index, prompt in asked if len(prompt) < context]
    return fitting, len(asked) - len(fitting)


def spoken(tokenizer: "Tokenizer", ids: Sequence[int]) -> str:
    """The visible text of a reply: without special tokens, without the code of tool calls, without their output."""
    special = {token: name for name, token in tokenizer.special_tokens.items()}
    text: list[int] = []
    inside = False
    for token in ids:
        name = special.get(token)
        if name in ("<|python_start|>", "<|output_start|>"):
            inside = True
        elif name in ("<|python_end|>", "<|output_end|>"):
            inside = False
        elif name is None and not inside:
            text.append(token)
    return tokenizer.decode(text).strip()


def compare(scores: Sequence[TaskScore]) -> list[Comparison]:
    """Seen and unseen of each task beside each other, in the order in which the tasks first appear."""
    rows = []
    for name in dict.fromkeys(score.name for score in scores):
        of_task = {score.split: score for score in scores if score.name == name}
        seen, unseen = of_task.get("train"), of_task.get("val")
        rows.append(Comparison(name, seen, unseen, meaning(seen, unseen)))
    return rows


def meaning(seen: TaskScore | None, unseen: TaskScore | None) -> str:
    """What the two scores say together, in a sentence for a learner."""
    if seen is not None and seen.asked and (unseen is None or not unseen.asked):
        return "Nothing unseen was asked: whether it learnt more than these by heart, nobody can say."
    if seen is None or unseen is None or not seen.asked or not unseen.asked:
        return "Only one side was asked, so nothing can be said about learning by heart."
    known, new = seen.right / seen.asked, unseen.right / unseen.asked
    if min(seen.asked, unseen.asked) < FEW:
        return f"{min(seen.asked, unseen.asked)} questions are too few to say more; ask at least {FEW}."
    if known < 0.3:
        return "Not learnt: it fails even where it has seen the answer; train longer, or a larger model."
    # With few questions a gap can be chance: it counts where equal shares would give it in 5 cases of 100 or fewer.
    pooled = (seen.right + unseen.right) / (seen.asked + unseen.asked)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / seen.asked + 1 / unseen.asked))
    apart = known - new > Z * spread
    if not apart:
        return "Learnt: it does as well on what it has never seen" + (
            "." if known >= 0.8 else ", though not well yet; train longer."
        )
    if new < 0.2:
        return "Learnt by heart: it knows what it was shown, and almost nothing beyond."
    return "Learnt in part: some of it carries over to what it has never seen; more and more varied examples help."
