"""The calculator: nanochat's answers, from any thread, and no answer but never an error for anything else."""

import ast
import json
import sys
import threading
import tracemalloc
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import calculator
from nanochat.calculator import ARITHMETIC, MAX_BITS, MAX_CHARACTERS, use_calculator
from tests.support import FIXTURES, fixture_dirs, needs_fixtures


def recorded_cases() -> list[tuple[str, str, str]]:
    """(folder, expression, nanochat's answer or "None") of every recorded calculator."""
    files = [folder / "expected" / "calculator.json" for folder in fixture_dirs()]
    recorded = {file.parts[-3]: json.loads(file.read_text())["main_thread"] for file in files if file.is_file()}
    return [(name, text, answer) for name, cases in recorded.items() for text, answer in cases.items()]


@needs_fixtures
@pytest.mark.parametrize(("folder", "text", "expected"), recorded_cases())
def test_answers_as_nanochat_does(folder: str, text: str, expected: str) -> None:
    assert str(use_calculator(text)) == expected


@needs_fixtures
@pytest.mark.parametrize("folder", sorted({case[0] for case in recorded_cases()}))
def test_answers_off_the_main_thread_where_nanochat_cannot(folder: str) -> None:
    """nanochat sets a SIGALRM timer, which only the main thread may: its recorded answers elsewhere are all None."""
    recorded = json.loads((FIXTURES / folder / "expected" / "calculator.json").read_text())
    assert set(recorded["worker_thread"].values()) == {"None"}
    answers: dict[str, str | None] = {}

    def ask() -> None:
        answers.update({text: use_calculator(text) for text in recorded["worker_thread"]})

    worker = threading.Thread(target=ask)
    worker.start()
    worker.join()
    assert answers == {text: recorded["main_thread"][text] for text in recorded["worker_thread"]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1+1", "2"),
        ("12/60", "0.2"),
        ("1,000+1", "1001"),
        ("(1+2)*3", "9"),
        ("7//2", "3"),
        (" 3 - -2 ", "5"),
        (".5+5.", "5.5"),
        ("--5", "5"),
        ("-7//2", "-4"),
        ("1e5", None),
        ("5%3", None),
        ("2**10", None),
        ("2* *10", None),
        ("10/0", None),
        ("10//0.0", None),
        ("1+", None),
        ("", None),
        ("   ", None),
        ("()", None),
        ("(1)(2)", None),
        ("1 2", None),
        ("007", None),
        ("*1", None),
        ("1.real", None),
        ("0x10", None),
        ("1_000", None),
        ("1j", None),
        ("True", None),
        ("９+１", None),  # digits, but not the ones of the alphabet above
        ("1\n+1", None),
        ("1\0", None),
        ("\ud800", None),
        ("abs(3)", None),
        ("'strawberry'.count('r')", "3"),
        ('"hello".count("l")', "2"),
        (" 'a b'.count( ' ' ) ", "1"),
        ("'abc'.count('')", "4"),
        ("'a'.upper()", None),
        ("'aaa'.count('a')+1", None),
        ("'x'.count('x').__class__", None),
        ("'x'.count('x', 1)", None),
        ("f'{1}'.count('1')", None),
        ("b'a'.count(b'a')", None),
        ("'a'.__class__.count('a')", None),
        ("'\\x41'.count('A')", None),
        ("'a'.count('b'.count('b'))", None),
        ("__import__('os').system('true')", None),
        ("(lambda: 1)()", None),
    ],
)
def test_answers(text: str, expected: str | None) -> None:
    assert use_calculator(text) == expected


def test_a_comma_inside_a_literal_is_counted() -> None:
    """nanochat drops every comma first and so counts the empty string: its answer is 12."""
    assert use_calculator("'hello, world'.count(',')") == "1"


def test_a_literal_may_spell_any_word() -> None:
    """nanochat refuses it: `dir` stands in "director"."""
    assert use_calculator("'director'.count('r')") == "2"


@pytest.mark.parametrize("text", [None, 7, b"1+1", ["1+1"]])
def test_what_is_not_text_has_no_answer(text: object) -> None:
    assert use_calculator(text) is None  # type: ignore[arg-type]


def test_length_is_limited() -> None:
    assert use_calculator("1" + " " * (MAX_CHARACTERS - 1)) == "1"
    assert use_calculator("1" + " " * MAX_CHARACTERS) is None


def test_nodes_are_limited() -> None:
    """64 numbers and 63 sums are Expression + 64 + 2 * 63 = 191 nodes; one more number makes 194."""
    assert use_calculator("+".join(["1"] * 64)) == "64"
    assert use_calculator("+".join(["1"] * 65)) is None


@pytest.mark.parametrize(
    "text", ["9" * 250, "*".join(["9" * 40] * 5), "*".join(["999999999"] * 22), "9" * 200 + ".*" + "9" * 40]
)
def test_large_numbers_answer(text: str) -> None:
    assert use_calculator(text) == str(eval(text))


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        (f"{2 ** (MAX_BITS - 2)}*2", True),
        (f"{2 ** (MAX_BITS - 1)}*2", False),
        (f"{2**MAX_BITS}-1", False),
        ("1e308*10", False),
        ("1e308*10-1e308*10", False),
        ("1e308*1", True),
    ],
)
def test_every_step_is_limited(text: str, answers: bool) -> None:
    """256 characters cannot spell numbers this large, so the walk itself is asked."""
    body = ast.parse(text, mode="eval").body
    if answers:
        assert calculator._evaluate(body) == eval(text)
    else:
        with pytest.raises(calculator.NoAnswer, match="2048 bits or not finite"):
            calculator._evaluate(body)


def test_the_largest_integer_can_be_printed() -> None:
    """Python refuses to print integers over a limit that a program can set, but never under 640 digits."""
    assert len(str(2**MAX_BITS)) < sys.int_info.str_digits_check_threshold


@pytest.mark.parametrize(
    "text",
    [
        "(" * 256,
        "(" * 128 + ")" * 128,
        "(" * 127 + "1" + ")" * 127,
        "-" * 255 + "1",
        "- " * 127 + "1",
        "-(" * 80 + "1" + ")" * 80,
        "+-" * 127 + "1",
        "1" + "-" * 254 + "1",
        "(-" * 40 + "1",
        ")" * 200,
        "1." * 128,
        "1/" * 127 + "0",
    ],
)
def test_deep_nesting_is_contained(text: str) -> None:
    assert use_calculator(text) is None


def test_reasonable_nesting_answers() -> None:
    assert use_calculator("(" * 30 + "1" + ")" * 30) == "1"
    assert use_calculator("-" * 30 + "1") == "1"
    assert use_calculator("1" + "-1" * 60) == "-59"


def test_nothing_is_printed_or_warned_about() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for text in ("1(2)", "(1)(2)", "1 (1)", "1.(1)", "'\\d'.count('d')", "0_0", "1if 1else 1", "1or 2"):
            assert use_calculator(text) is None


@given(st.text(max_size=300))
@settings(max_examples=300, deadline=None)
def test_never_raises_on_any_text(text: str) -> None:
    answer = use_calculator(text)
    assert answer is None or isinstance(answer, str)


@given(st.text(alphabet="".join(sorted(ARITHMETIC)) + ",", max_size=256))
@settings(max_examples=500, deadline=None)
def test_never_raises_on_arithmetic_soup(text: str) -> None:
    answer = use_calculator(text)
    assert answer is None or float(answer) == float(answer)


@given(st.text(alphabet="'\"abc.count(), \\\n", max_size=60))
@settings(max_examples=300, deadline=None)
def test_never_raises_on_almost_counts(text: str) -> None:
    answer = use_calculator(text)
    assert answer is None or answer.isdigit()


numbers = st.integers(0, 10**6).map(str) | st.decimals(0, 10**4, places=3).map(str)
expressions = st.recursive(
    numbers,
    lambda inner: (
        st.builds("{}{}{}".format, inner, st.sampled_from([" + ", "-", "*", "/", "//"]), inner)
        | st.builds("({})".format, inner)
        | st.builds("-{}".format, inner)
    ),
    max_leaves=12,
)


@given(expressions)
@settings(max_examples=300, deadline=None)
def test_agrees_with_python(text: str) -> None:
    """Whatever the calculator answers is what Python answers; and it answers unless a limit or an error forbids."""
    try:
        value = eval(text)
    except ArithmeticError:
        assert use_calculator(text) is None
        return
    except SyntaxError:  # a number with leading zeros
        assert use_calculator(text) is None
        return
    answer = use_calculator(text)
    if answer is None:
        assert len(text) > MAX_CHARACTERS or text.count("-") > 20 or text.count("(") > 20
    else:
        assert answer == str(value)


@given(st.text(max_size=40).filter(lambda text: not set("'\\\r\n") & set(text)), st.text(max_size=3))
@settings(max_examples=200, deadline=None)
def test_counts_as_python_counts(word: str, part: str) -> None:
    if set("'\\\r\n") & set(part):
        return
    assert use_calculator(f"'{word}'.count('{part}')") == str(word.count(part))


def test_memory_stays_small() -> None:
    texts = ["9*" * 127 + "9", "(" * 32 + "9" * 100 + ")" * 32, "'" + "a" * 200 + "'.count('a')", "9" * 256]
    tracemalloc.start()
    try:
        for text in texts:
            use_calculator(text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 << 20


def test_eight_threads_agree() -> None:
    texts = ["1,234*5", "'banana'.count('an')", "1/0", "((2))/7"]
    expected = [use_calculator(text) for text in texts]
    wrong: list[object] = []

    def ask() -> None:
        for _ in range(50):
            answers = [use_calculator(text) for text in texts]
            if answers != expected:
                wrong.append(answers)

    workers = [threading.Thread(target=ask) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert expected == ["6170", "2", None, str(2 / 7)]
    assert not wrong
