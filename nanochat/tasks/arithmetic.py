"""Arithmetic with the calculator: the model writes the expression, the tool computes, the model reads the answer.

A small model does not learn to add from examples (in half a minute of fine-tuning: 0 of 60 new sums). It can learn to
copy two numbers into a tool call, and then every sum is right. The val split holds pairs of numbers that the train
split never shows, in neither order and in no operation.
"""

from dataclasses import dataclass

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
)

HELD_OUT = 5  # one pair of numbers in five is kept for the val split
LEAST_LARGEST = 9  # with numbers up to 9 there are 55 pairs, of which the val split has a few
# operation -> how it is asked; a and b are the numbers, and the expression is what the calculator takes
QUESTIONS = {
    "+": ("What is {a} plus {b}?", "Add {a} and {b}.", "How much is {a} + {b}?"),
    "-": ("What is {a} minus {b}?", "Take {b} from {a}.", "How much is {a} - {b}?"),
    "*": ("What is {a} times {b}?", "Multiply {a} by {b}.", "How much is {a} * {b}?"),
    "//": ("What is {a} divided by {b}?", "Divide {a} by {b}.", "How much is {a} / {b}?"),
}


@dataclass(frozen=True)
class Arithmetic:
    """Sums, differences, products and divisions that come out even, with numbers from 0 to `largest`."""

    split: str = "train"
    size: int = 1000
    seed: int = 0
    largest: int = 99  # of the two numbers that are drawn; a product or a dividend may be larger
    operations: tuple[str, ...] = ("+", "-", "*", "//")
    name: str = "arithmetic"

    def __post_init__(self) -> None:
        check_split(self.split, self.size)
        if self.largest < LEAST_LARGEST:
            raise TaskError(
                f"largest is {self.largest}; give {LEAST_LARGEST} or more, so that both splits have numbers"
            )
        unknown = [operation for operation in self.operations if operation not in QUESTIONS]
        if unknown or not self.operations:
            raise TaskError(f"operations are {self.operations!r}; name some of {', '.join(QUESTIONS)}")

    @property
    def identity(self) -> str:
        return repr(self)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Conversation:
        rng = generator(self.name, self.seed, self.split, check_index(index, self.size))
        while True:
            first, second = rng.randint(0, self.largest), rng.randint(0, self.largest)
            if held_out(f"{min(first, second)} {max(first, second)}", HELD_OUT) == (self.split == "val"):
                break
        operation = rng.choice(self.operations)
        if operation == "-":
            first, second = max(first, second), min(first, second)  # no negative numbers
        elif operation == "//":
            second = second or 1  # nobody divides by zero
            first *= second  # so it comes out even
        expression = f"{first}{operation}{second}"
        answer = use_calculator(expression)
        assert answer is not None
        parts = [
            {"type": "python", "text": expression},
            {"type": "python_output", "text": answer},
            {"type": "text", "text": f"It is {answer}."},
        ]
        return dialogue(rng.choice(QUESTIONS[operation]).format(a=first, b=second), parts)

    def judge(self, conversation: Conversation, reply: str) -> bool:
        """The last number of the reply is the answer."""
        return last_number(reply) == last_number(expected(conversation))
