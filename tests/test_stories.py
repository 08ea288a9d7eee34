"""The built-in stories: what is promised of the corpus, each promise a test. The exactness is in test_stories_exact."""

import math
import re
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.ngram import NGram
from nanochat.stories import StoryError, floor_bpb, generate, judge, questions, story
from nanochat.stories.grammar import stories_grammar, weigh
from nanochat.stories.judging import LONGEST
from nanochat.stories.plots import ENDINGS, GRAMMAR, QUESTIONS
from nanochat.stories.words import WORD_LISTS
from nanochat.tokenizer import train_tokenizer
from tests.story_support import sentences

# The first story of the default stream. It changes with the grammar, and then every figure measured on it is void.
FIRST_STORY = (
    "One snowy morning, a shy girl named Lily went to the lake. At the lake she met her neighbor Albert. A "
    "baker asked them to find many shells. Lily found three shells, but Albert found six. So Albert won by "
    "three, and Lily clapped gently. The prize was a round white map. Then they played tennis. That night, "
    "Albert kept the map and dreamed of fairies."
)

PLOTS = [variant.split("<")[2].rstrip("> ") for variant in GRAMMAR["story"]]


@pytest.fixture(scope="module")
def many() -> list[str]:
    return list(islice(generate(0), 10_000))


# -- the stream --


def test_a_story_depends_on_seed_split_and_number_alone():
    stream = list(islice(generate(3, "val", start=5), 10))
    assert stream == [story(3, "val", index) for index in range(5, 15)]
    assert (
        len({story(seed, split, index) for seed in (0, 1, 2**70, -1) for split in ("", "train") for index in (0, 7)})
        == 16
    )


def test_the_corpus_is_the_same_everywhere():
    """Fixed before any tuning: whoever changes the grammar changes every figure that was measured on it."""
    assert story(0, "train", 0) == FIRST_STORY


def test_a_story_before_the_first_is_refused():
    with pytest.raises(StoryError, match="starts at 0"):
        story(0, "train", -1)


# -- rich --


def test_over_1500_kinds_of_word_occur_and_no_story_repeats():
    """In a hundred thousand stories."""
    words: set[str] = set()
    texts = set()
    for text in islice(generate(0), 100_000):
        texts.add(hash(text))
        words.update(re.findall(r"[A-Za-z]+", text))
    assert len({word.lower() for word in words}) >= 1500
    assert len(texts) == 100_000


def test_no_story_repeats_within_millions():
    """Two stories are the same with probability 2^-collision, so ten million hold a repeat in one corpus of 100."""
    collision = -math.log2(weigh(stories_grammar().nodes).collision)
    assert 10_000_000**2 / 2 * 2**-collision < 1 / 100


@pytest.mark.prove
def test_no_story_of_two_million_repeats():
    assert len({hash(text) for text in islice(generate(11), 2_000_000)}) == 2_000_000


def test_every_story_has_over_30_bits(many):
    verdicts = [judge(text) for text in many[:1000]]
    assert all(verdict.accepted for verdict in verdicts)
    assert min(verdict.bits for verdict in verdicts) > 30
    assert weigh(stories_grammar().nodes).entropy > 50


def test_several_plots_of_their_own():
    """At least five, equally frequent, each with four or more sentences that no other has."""
    assert len(PLOTS) >= 5
    rules = [set(re.findall(r"<(\w+)>", " ".join(GRAMMAR[plot]))) for plot in PLOTS]
    for i, own in enumerate(rules):
        assert len(own.difference(*rules[:i], *rules[i + 1 :])) >= 4


def test_names_objects_and_places_are_carried_over_five_sentences(many):
    """Of every kind there are stories that name one again at least five sentences later."""
    far = dict.fromkeys(("GIRLS", "BOYS", "PLACES", "THINGS"), 0)
    for text in many[:2000]:
        parts = sentences(text)
        for name in far:
            words = set(WORD_LISTS[name].words)
            at = {
                word: [i for i, part in enumerate(parts) if re.search(rf"\b{word}\b", part)]
                for word in words & set(re.findall(r"\w+", text))
            }
            far[name] += any(places[-1] - places[0] >= 5 for places in at.values())
    assert min(far.values()) > 200, far


def test_the_hero_comes_back_in_every_story(many):
    for text in many[:2000]:
        parts = sentences(text)
        hero = re.search(r"(?:girl|boy) named (\w+)", parts[0])[1]
        assert any(hero in re.findall(r"\w+", part) for part in parts[2:]), text


# -- readable --


def test_six_to_nine_sentences_of_plain_text(many):
    for text in many:
        assert text.isascii()
        assert "\n" not in text
        assert "  " not in text
        assert text[0].isupper()
        assert text.endswith(".")
        assert 6 <= len(sentences(text)) <= 9
        assert 270 <= len(text) <= 450


def test_lengths_over_all_stories():
    """Exact, over everything the grammar can say: 55 to 100 words, and LONGEST is never reached."""
    weight = weigh(stories_grammar().nodes)
    assert weight.fewest + 1 >= 55
    assert weight.most + 1 <= 100
    longest_word = max(len(word) for words in WORD_LISTS.values() for word in words.words)
    assert (weight.most + 1) * (longest_word + len('".') + 1) < LONGEST


def test_a_and_an(many):
    vowels = re.compile(r"\b[Aa] (?=[aeiou])(?!useful|unicorn)\w+|\b[Aa]n\b")
    assert [found[0] for text in many if (found := vowels.search(text))] == []


def test_a_story_is_never_the_beginning_of_another(many):
    """The last sentence, and no other, begins with one of ENDINGS."""
    for text in many[:3000]:
        parts = sentences(text)
        assert parts[-1].startswith(ENDINGS)
        assert not any(part.startswith(ENDINGS) for part in parts[:-1])
    for plot in PLOTS:
        assert all(variant.endswith(f"<{plot}_end>") for variant in GRAMMAR[plot])
        assert all(variant.startswith(ENDINGS) and variant.endswith(".") for variant in GRAMMAR[f"{plot}_end"])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.data())
def test_no_cut_story_is_accepted(index, data):
    text = story(4, "train", index)
    cut = data.draw(st.integers(0, len(text) - 1))
    verdict = judge(text[:cut])
    assert not verdict.accepted
    assert not verdict.shape
    assert not judge(text + text[cut:]).accepted


# -- the floor --


def test_the_floor_is_bits_over_bytes(many):
    texts = many[:100]
    bits = sum(judge(text).bits for text in texts)
    assert math.isclose(floor_bpb(texts), bits / sum(len(text.encode()) for text in texts))


def test_the_mean_story_costs_the_entropy(many):
    """Sampled bits agree with the exact entropy of the grammar, within four standard errors."""
    bits = np.array([judge(text).bits for text in many[:1500]])
    assert abs(bits.mean() - weigh(stories_grammar().nodes).entropy) < 4 * bits.std() / math.sqrt(len(bits))


@pytest.mark.parametrize(("texts", "words"), [([], "no stories"), (["Once."], "no floor is known for 'Once.'")])
def test_no_floor_without_stories(texts, words):
    with pytest.raises(StoryError, match=words):
        floor_bpb(texts)


# -- against counting --


def _measure(train: int, val: int) -> tuple[float, int]:
    """5-gram bits per byte over the floor, and how many of 100 samples are accepted."""
    texts, held_out = list(islice(generate(0), train)), list(islice(generate(0, "val"), val))
    tokenizer = train_tokenizer(texts, 2048)
    bos = tokenizer.get_bos_token_id()
    model = NGram([[bos, *ids, bos] for ids in tokenizer.encode(texts)], 5, tokenizer.get_vocab_size())
    nats = sum(model.nats(ids) for ids in tokenizer.encode(held_out, prepend=bos))
    bpb = nats / math.log(2) / sum(len(text.encode()) for text in held_out)
    rng = np.random.default_rng(0)
    samples = [tokenizer.decode(model.sample(rng, bos, 127)) for _ in range(100)]
    return bpb / floor_bpb(held_out), sum(judge(text).accepted for text in samples)


@pytest.mark.parametrize(
    ("train", "val"),
    [(2000, 50), pytest.param(7500, 300, marks=pytest.mark.prove), pytest.param(100_000, 300, marks=pytest.mark.prove)],
)
def test_a_five_gram_model_does_not_get_there(train, val):
    ratio, accepted = _measure(train, val)
    assert ratio >= 1.25
    assert accepted < 10


@pytest.mark.parametrize(("vocab_size", "context"), [(2048, 128)])
def test_stories_fit_into_the_context(many, vocab_size, context):
    """With bos, whole and alone, under a tokenizer that was trained on them."""
    tokenizer = train_tokenizer(many[:5000], vocab_size)
    assert max(map(len, tokenizer.encode(many[5000:], prepend=tokenizer.get_bos_token_id()))) <= context


# -- questions --


def test_every_story_has_questions_and_every_question_a_story(many):
    asked = set()
    for text in many[:800]:
        pairs = questions(text)
        assert len(pairs) >= 4, text
        assert len({question for question, _ in pairs}) == len(pairs)
        asked |= {len(re.findall(r"\w+", answer)) for _, answer in pairs}
        for question, answer in pairs:
            assert question[0].isupper()
            assert question.endswith("?")
            assert answer[0].isupper()
            assert answer.endswith(".")
    assert max(asked) <= 8  # words of an answer


def test_each_question_belongs_to_a_story(many):
    starts = {question.partition("{")[0] for question, _ in QUESTIONS}
    texts = [question for text in many[:1000] for question, _ in questions(text)]
    assert [start for start in starts if not any(text.startswith(start) for text in texts)] == []


def test_no_questions_about_other_texts():
    with pytest.raises(StoryError, match="no questions are known"):
        questions("One day, a dog ate my homework.")
