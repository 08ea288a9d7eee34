"""The calculator a model may call: arithmetic, and counting a letter in a word. Nothing else is ever evaluated.

nanochat teaches its models to write `<|python_start|>12/60<|python_end|>` and to read the answer back. What stands
between those tokens is model output, so it is hostile until shown harmless: the text is checked character by
character, parsed to a tree, and the tree is walked. There is no `eval` in it, and no clock or signal either, so it
answers the same from any thread.

>>> use_calculator("1,000 + 1")
'1001'
>>> use_calculator("'strawberry'.count('r')")
'3'
>>> use_calculator("2**10") is None
True
"""

import ast
import math
import operator
import re
from collections.abc import Callable

MAX_CHARACTERS = 256
MAX_NODES = 192  # as `ast.walk` counts them: operators are nodes too
MAX_NESTING = 32  # brackets and signs inside one another; Python's own parser runs out of stack on deep ones
MAX_BITS = 2048  # 617 digits, under the 640 that Python always agrees to print

ARITHMETIC = frozenset("0123456789*+-/.() ")
# One literal word, one literal to count in it. A backslash would start an escape, so a literal has none.
LITERAL = r"""('[^'\\\r\n]*'|"[^"\\\r\n]*")"""
COUNT = re.compile(rf"\s*{LITERAL}\s*\.\s*count\(\s*{LITERAL}\s*\)\s*")

Number = int | float
BINARY: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
UNARY: dict[type[ast.unaryop], Callable[[Number], Number]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


class NoAnswer(ValueError):
    """The text is not something the calculator computes. It never leaves this file: the caller gets None."""


def use_calculator(text: str) -> str | None:
    """The answer as text, or None where there is none. Never raises, from any thread.

    Answers what nanochat's calculator answers: numbers with + - * / // ( ), thousands separators dropped, and
    `'word'.count('letter')`. Three answers differ on purpose. It answers off the main thread, where nanochat's timer
    cannot be set. A comma inside a literal stays (nanochat drops it, so `'a, b'.count(',')` gives 4 there and 1 here).
    And a literal may spell any word: nanochat refuses "direct" because `dir` is in it.
    """
    if not isinstance(text, str) or len(text) > MAX_CHARACTERS:
        return None
    if found := COUNT.fullmatch(text):
        word, part = found[1][1:-1], found[2][1:-1]
        return str(word.count(part))
    expression = text.replace(",", "").strip(" ")
    if not ARITHMETIC.issuperset(expression) or "**" in expression or _nesting(expression) > MAX_NESTING:
        return None
    try:
        tree = ast.parse(expression, mode="eval")
        if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
            return None
        return str(_evaluate(tree.body))
    except (NoAnswer, SyntaxError, ArithmeticError, RecursionError, MemoryError):
        return None  # not arithmetic, a division by zero, too large: all the same to the model, no answer


def _nesting(expression: str) -> int:
    """How deep brackets and signs may stand inside one another: an upper bound, found without parsing."""
    depth = deepest = signs = 0
    before = "("
    for character in expression.replace(" ", ""):
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
        signs += character in "+-" and before in "(+-*/"  # after a number or a bracket it is a sum, not a sign
        before = character
    return deepest + signs


def _evaluate(node: ast.expr) -> Number:
    """Value of a tree of numbers and + - * / //, each step kept to a finite float or 2048 bits."""
    value: Number
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        value = node.value
    elif isinstance(node, ast.BinOp) and type(node.op) in BINARY:
        value = BINARY[type(node.op)](_evaluate(node.left), _evaluate(node.right))
    elif isinstance(node, ast.UnaryOp) and type(node.op) in UNARY:
        value = UNARY[type(node.op)](_evaluate(node.operand))
    else:
        raise NoAnswer(f"{type(node).__name__} is not arithmetic")
    if value.bit_length() > MAX_BITS if isinstance(value, int) else not math.isfinite(value):
        raise NoAnswer(f"a step of the calculation is larger than {MAX_BITS} bits or not finite")
    return value
