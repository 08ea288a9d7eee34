"""Conversations: parity with nanochat, every rule, the mask, and what truncation says."""

import copy
import doctest
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat import conversation
from nanochat.conversation import PROFILES, RULES, ConversationError, check, render, render_prompt, segments
from nanochat.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from tests.support import fixture_dirs, needs_fixtures

RECORDED = [folder for folder in fixture_dirs() if (folder / "expected" / "conversations.json").exists()]
TOKENIZER = train_tokenizer(["the cat sat on the mat, and the user asked the assistant to count\n\n"] * 3, 300)


def user(content: Any = "hi") -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any = "hello") -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def system(content: Any = "be kind") -> dict[str, Any]:
    return {"role": "system", "content": content}


def expected(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "expected" / "conversations.json").read_text())
    return content


@needs_fixtures
@pytest.mark.parametrize("folder", RECORDED, ids=lambda folder: folder.name)
def test_renders_as_nanochat(folder: Path) -> None:
    tokenizer = load_tokenizer(folder / "tokenizer")
    cases = expected(folder)["valid"]
    assert len(cases) == 12
    for case in cases:
        ids, mask, dropped = tokenizer.render_conversation({"messages": case["messages"]})
        assert (ids, mask, dropped) == (case["ids"], case["mask"], 0)
        cut = tokenizer.render_conversation(case["messages"], max_tokens=32)
        assert (cut.ids, cut.mask) == (case["ids_max32"], case["mask_max32"])
        assert cut.dropped == len(case["ids"]) - len(cut.ids)
        assert cut.dropped_supervised == sum(case["mask"][32:])
        assert tokenizer.render_for_completion({"messages": case["messages"]}) == case["for_completion"]


@needs_fixtures
@pytest.mark.parametrize("folder", RECORDED, ids=lambda folder: folder.name)
def test_refuses_what_nanochat_refuses(folder: Path) -> None:
    tokenizer = load_tokenizer(folder / "tokenizer")
    cases = expected(folder)["invalid"]
    found = []
    for case in cases:
        with pytest.raises(ConversationError) as caught:
            tokenizer.render_conversation({"messages": case["messages"]})
        found.append((caught.value.kind, caught.value.message_index))
        assert_one_line(caught.value)
    assert found == [
        ("starts_with_assistant", 0),
        ("alternation", 1),
        ("no_messages", 0),
        ("starts_with_assistant", 1),
        ("content_wrong_type", 0),
        ("bad_part_type", 1),
        ("no_messages", None),
    ]


def assert_one_line(error: ConversationError) -> None:
    text = str(error)
    assert isinstance(error, ValueError)
    assert text.isprintable(), ascii(text)
    assert error.remedy in text
    assert error.kind in text
    if error.message_index is not None:
        assert f"message {error.message_index + 1}" in text


# kind -> a conversation that breaks it, and the index of the message. Every kind of RULES stands here.
BROKEN: dict[str, tuple[Any, int | None]] = {
    "wrong_shape": ("not a list", None),
    "no_messages": ([], None),
    "missing_role": ([{"content": "x"}], 0),
    "role_wrong_type": ([user(), {"role": 3, "content": "x"}], 1),
    "bad_role": ([{"role": "tool\x1b[2J", "content": "x"}], 0),
    "missing_content": ([user(), {"role": "assistant"}], 1),
    "content_wrong_type": ([user(None), assistant()], 0),
    "bad_part_type": ([user(), assistant([{"type": "image", "text": "x"}])], 1),
    "system_not_first": ([user(), system(), assistant()], 1),
    "starts_with_assistant": ([assistant()], 0),
    "alternation": ([user(), assistant(), assistant()], 2),
    "empty_content": ([user(" \n"), assistant()], 0),
    "lone_surrogate": ([user(), assistant("half \ud83c")], 1),
    "ends_with_user": ([user(), assistant(), user()], 2),
}


def test_examples_in_the_docstrings() -> None:
    results = doctest.testmod(conversation)
    assert (results.failed, results.attempted > 0) == (0, True)


def test_every_rule_has_a_case() -> None:
    assert set(BROKEN) == set(RULES)


@pytest.mark.parametrize("kind", BROKEN)
def test_each_rule_is_found_where_it_is_broken(kind: str) -> None:
    messages, index = BROKEN[kind]
    problem = check(messages)[0]
    assert (problem.kind, problem.message_index, problem.severity) == (kind, index, RULES[kind].severity)
    assert problem.sentence.isprintable()
    assert problem.remedy
    if RULES[kind].blocks:
        with pytest.raises(ConversationError) as caught:
            render(TOKENIZER, messages)
        assert (caught.value.kind, caught.value.message_index) == (kind, index)
        assert_one_line(caught.value)
    else:
        assert render(TOKENIZER, messages).ids  # nanochat renders it, so do we


@pytest.mark.parametrize(
    "messages",
    [
        None,
        5,
        {},
        {"messages": None},
        {"messages": {}},
        [None],
        [[]],
        [{1: 2}],
        [{"role": None, "content": None}],
        [user(), "x"],
        [user(b"bytes")],
        [user(), assistant([None])],
        [user(), assistant([{"type": "text"}])],
        [user(), assistant([{"type": "text", "text": 1}])],
        [user(), assistant([{"type": ["text"], "text": "x"}])],
        [user(), assistant({"type": "text", "text": "x"})],
        [system(["x"]), user()],
        [system(), user(["x"])],
        [system(), system(), user()],
    ],
)
def test_odd_shapes_are_typed_errors(messages: Any) -> None:
    problems = check(messages)
    assert any(RULES[problem.kind].blocks for problem in problems)
    with pytest.raises(ConversationError) as caught:
        render(TOKENIZER, messages)
    assert_one_line(caught.value)


def test_one_slip_is_named_once() -> None:
    turns = [user(), user(), assistant(), user(), assistant()]
    assert [(problem.kind, problem.message_index) for problem in check(turns)] == [("alternation", 1)]


def test_several_problems_are_all_named() -> None:
    found = [(problem.kind, problem.message_index) for problem in check([user(""), {"role": "robot"}, user("x")])]
    assert found == [("empty_content", 0), ("bad_role", 1), ("missing_content", 1), ("ends_with_user", 2)]


@pytest.mark.parametrize(
    ("messages", "kinds"),
    [
        ([user(), assistant()], []),
        ({"messages": [user(), assistant()]}, ["wrong_shape"]),
        ([user()], ["no_messages", "ends_with_user"]),
        ([system(), user(), assistant()], ["bad_role"]),
        ([user(), assistant([{"type": "text", "text": "x"}])], ["content_wrong_type"]),
        ([assistant(), user()], ["starts_with_assistant", "ends_with_user"]),
    ],
)
def test_profile_of_nanochats_own_loader(messages: Any, kinds: list[str]) -> None:
    assert [problem.kind for problem in check(messages, "nanochat-custom")] == kinds


def test_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(ConversationError, match=" or ".join(PROFILES)):
        check([], "nonsense")


def test_the_callers_conversation_stays_as_it_was() -> None:
    messages = {"messages": [system("be brief"), user("count"), assistant([{"type": "python", "text": "1"}])]}
    before = copy.deepcopy(messages)
    TOKENIZER.render_conversation(messages)
    TOKENIZER.render_for_completion(messages)
    check(messages)
    assert messages == before


def test_mask_is_what_the_model_must_write() -> None:
    parts = [
        {"type": "text", "text": "see "},
        {"type": "python", "text": "1+1"},
        {"type": "python_output", "text": "2"},
        {"type": "text", "text": " two"},
    ]
    rendered = TOKENIZER.render_conversation([system("S"), user("U"), assistant(parts)])
    supervised = [token for token, bit in zip(rendered.ids, rendered.mask, strict=True) if bit]
    others = [token for token, bit in zip(rendered.ids, rendered.mask, strict=True) if not bit]
    assert TOKENIZER.decode(supervised) == "see <|python_start|>1+1<|python_end|> two<|assistant_end|>"
    assert TOKENIZER.decode(others) == (
        "<|bos|><|user_start|>S\n\nU<|user_end|><|assistant_start|><|output_start|>2<|output_end|>"
    )


def test_segments_point_at_their_messages() -> None:
    layout = segments([system("S"), user("U"), assistant("A")])
    assert [(segment.text, segment.message_index) for segment in layout if not segment.special] == [
        ("S\n\nU", 1),
        ("A", 2),
    ]


@pytest.mark.parametrize("name", TOKENIZER.special_tokens)
def test_content_never_becomes_a_special_token(name: str) -> None:
    parts = [{"type": kind, "text": name} for kind in conversation.PARTS]
    rendered = TOKENIZER.render_conversation([system(name), user(name), assistant(parts)])
    plain = TOKENIZER.render_conversation([system("x"), user("x"), assistant([part | {"text": "x"} for part in parts])])
    specials = set(TOKENIZER.special_tokens.values())
    assert [token for token in rendered.ids if token in specials] == [token for token in plain.ids if token in specials]


@given(st.text(max_size=200), st.text(max_size=200), st.integers(1, 400))
def test_cutting_loses_exactly_the_tail(question: str, answer: str, limit: int) -> None:
    messages = [user(question), assistant(answer)]
    whole = TOKENIZER.render_conversation(messages, max_tokens=None)
    cut = TOKENIZER.render_conversation(messages, max_tokens=limit)
    assert whole.dropped == whole.dropped_supervised == 0
    assert cut.ids == whole.ids[:limit]
    assert cut.mask == whole.mask[:limit]
    assert cut.dropped == len(whole.ids) - len(cut.ids)
    assert cut.dropped_supervised == sum(whole.mask) - sum(cut.mask)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_leaves_nothing_is_refused(limit: int) -> None:
    with pytest.raises(ConversationError, match="use 1 or more"):
        TOKENIZER.render_conversation([user(), assistant()], max_tokens=limit)


def test_prompt_ends_where_the_assistant_begins() -> None:
    rendered = render_prompt(TOKENIZER, [user("U"), assistant("A"), user("V"), assistant(None)])
    assert TOKENIZER.decode(rendered.ids).endswith("<|user_start|>V<|user_end|><|assistant_start|>")
    assert len(rendered.ids) == len(rendered.mask)
    assert rendered.mask[-1] == 0


def test_a_cut_prompt_says_how_much_was_cut() -> None:
    messages = [user("long " * 200), assistant()]
    rendered = render_prompt(TOKENIZER, messages, max_tokens=50)
    assert len(rendered.ids) == 51  # as nanochat: the start token comes after the cut
    assert rendered.ids[-1] == TOKENIZER.encode_special("<|assistant_start|>")
    assert rendered.dropped == len(render_prompt(TOKENIZER, messages, max_tokens=None).ids) - 51


@pytest.mark.parametrize(
    ("messages", "kind"),
    [
        ([user()], "ends_with_user"),
        ([], "no_messages"),
        ("x", "wrong_shape"),
        ([None], "ends_with_user"),
        ([assistant()], "no_messages"),
        ([system(), assistant()], "no_messages"),
    ],
)
def test_prompts_that_cannot_be_made(messages: Any, kind: str) -> None:
    with pytest.raises(ConversationError) as caught:
        TOKENIZER.render_for_completion(messages)
    assert caught.value.kind == kind
    assert_one_line(caught.value)


def test_error_survives_a_process_boundary() -> None:
    error = ConversationError("alternation", 3, "twice", "merge")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.kind, again.message_index, again.remedy) == (str(error), "alternation", 3, "merge")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["user", "assistant", "system"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "messages"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON_VALUES)
def test_anything_is_either_rendered_or_refused_with_words(value: Any) -> None:
    blocked = [problem for problem in check(value) if RULES[problem.kind].blocks]
    try:
        rendered = render(TOKENIZER, value)
    except ConversationError as error:
        assert blocked
        assert_one_line(error)
    else:
        assert not blocked
        assert len(rendered.ids) == len(rendered.mask)


TURNS = st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), min_size=1, max_size=4)


@given(TURNS, st.none() | st.text(max_size=20))
def test_length_is_one_and_two_a_message_and_the_text(turns: list[tuple[str, str]], first: str | None) -> None:
    messages = [message for question, answer in turns for message in (user(question), assistant(answer))]
    texts = [message["content"] for message in messages]
    if first is not None:
        messages.insert(0, system(first))
        texts[0] = f"{first}\n\n{texts[0]}"
    rendered = TOKENIZER.render_conversation(messages, max_tokens=None)
    assert len(rendered.ids) == 1 + 2 * len(texts) + sum(len(row) for row in TOKENIZER.encode(texts))
    assert isinstance(TOKENIZER, Tokenizer)
