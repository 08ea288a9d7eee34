"""The tokenizer playground's analysis: tokens with exact bytes, merges that replay the tokenizer, costs, vocabulary."""

import hashlib
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import paths, tokenizer_eval
from nanochat.analysis import tokenizer_playground as playground
from nanochat.analysis.tokenizer_playground import PlaygroundError
from nanochat.analysis.tokenizer_playground.merges import MAX_REPLAY
from nanochat.bpe import train
from nanochat.tokenizer import SPLIT_PATTERN, train_tokenizer
from tests.tokenizer_support import CORPUS

EXAMPLE_DIGEST = (
    "a21694ce66e2bfe629d724d859dc47a006bd96788c28a98fbf7848d45f116edc"  # changes with the grammar of the stories
)
KNOWN = playground.known_from(train_tokenizer(CORPUS, 330), "test")
TEXT = "the user's 你好 café 🌍\n  12345 \t!"


def test_every_byte_of_the_text_belongs_to_one_token():
    report = playground.tokenize(KNOWN, TEXT)
    data = TEXT.encode()
    rows = report.frame.to_dicts()
    assert [row["start"] for row in rows] == [0, *(row["end"] for row in rows[:-1])]
    assert b"".join(data[row["start"] : row["end"]] for row in rows) == data
    assert all(bytes.fromhex(row["hex"]) == data[row["start"] : row["end"]] for row in rows)
    assert (report.tokens, report.characters, report.bytes) == (len(rows), len(TEXT), len(data))
    assert report.ids == KNOWN.encode(TEXT)


def test_a_token_that_is_no_character_says_which_bytes_of_which():
    known = playground.known_from(train_tokenizer(["abc"], 265), "bytes only")
    rows = playground.tokenize(known, "a🌍é").frame.to_dicts()
    assert [row["note"] for row in rows] == [
        "",
        *(f"byte {i} of the 4 of 🌍 (U+1F30D)" for i in range(1, 5)),
        "byte 1 of the 2 of é (U+00E9)",
        "byte 2 of the 2 of é (U+00E9)",
    ]
    assert [row["whole"] for row in rows] == [True] + [False] * 6
    assert [(row["first_character"], row["last_character"]) for row in rows] == [(0, 0)] + [(1, 1)] * 4 + [(2, 2)] * 2
    assert rows[1]["text"] == "<f0>"


def test_a_token_across_two_characters_names_both():
    tokens = (*(bytes([byte]) for byte in range(256)), b"\xa9\xc3")
    known = playground.Known("odd", lambda text: [97, 0xC3, 256, 0xA9], tokens, {}, SPLIT_PATTERN)
    note = playground.tokenize(known, "aéé").frame["note"][2]
    assert note == "from byte 2 of the 2 of é (U+00E9) to byte 1 of the 2 of é (U+00E9)"


@pytest.mark.parametrize(
    ("token", "kind"),
    [
        (b"Hello", "Alphabetic"),
        ("日本".encode(), "Alphabetic"),
        (b" world", "Mixed/Other"),
        (b"12", "Numeric"),
        (b" \n", "Whitespace"),
        (b"...", "Punctuation"),
        (b"!", "Single byte"),
        (b"\xe4", "Part of a character"),
        (b"a1", "Mixed/Other"),
    ],
)
def test_types(token, kind):
    assert playground.type_of(token) == kind
    assert kind in playground.TYPES


def test_an_empty_text_has_no_tokens_and_divides_nothing():
    report = playground.tokenize(KNOWN, "")
    assert (report.tokens, report.tokens_per_byte, report.characters_per_token) == (0, 0.0, 0.0)


def test_half_characters_and_endless_texts():
    assert playground.tokenize(KNOWN, "a\ud800b").text == "a\ufffdb"
    with pytest.raises(PlaygroundError, match="2,000,001 characters"):
        playground.tokenize(KNOWN, "a" * 2_000_001)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_the_replay_ends_with_the_tokenizers_own_tokens(text):
    report = playground.replay(KNOWN, text)
    assert report.agrees
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    for step in {0, report.steps // 2, report.steps}:
        assert b"".join(part for part, _ in report.state(step)) == whole.encode()
    assert len(report.state(report.steps)) == len(KNOWN.encode(whole))


def test_each_step_of_a_replay_makes_what_it_says():
    report = playground.replay(KNOWN, TEXT * 3)
    assert report.start == len(TEXT.encode()) * 3
    assert report.frame["rank"].is_sorted()
    for row in report.frame.iter_rows(named=True):
        before, after = report.state(row["step"] - 1), report.state(row["step"])
        assert len(before) - len(after) == row["times"] == sum(new for _, new in after)
        assert len(after) == row["tokens"]
        assert playground.spell_bytes(report.merged(row["step"])) == row["token"]
        assert "<" in row["left"] + row["right"] or row["token"] == row["left"] + row["right"]
    with pytest.raises(PlaygroundError, match="there is no step -1"):
        report.state(-1)


def test_a_replay_has_its_limits():
    with pytest.raises(PlaygroundError, match="choose a shorter passage"):
        playground.replay(KNOWN, "a" * (MAX_REPLAY + 1))


def test_a_vocabulary_that_no_merging_made_is_said_to_be_one():
    tokens = (*(bytes([byte]) for byte in range(256)), b"abc")
    odd = playground.Known("odd", lambda text: [256], tokens, {}, SPLIT_PATTERN)
    report = playground.replay(odd, "abc")
    assert not report.agrees
    assert playground.parents(tokens, [256]).row(0) == (256, "", "", "abc")


def test_learning_gives_the_definitions_merges_with_their_counts():
    text = "hug hug pug"
    learned = playground.learn(text, 265 + 3)
    assert learned.merges.rows() == [
        (256, "u", "g", "ug", 3),
        (257, "h", "ug", "hug", 2),
        (258, "·", "p", "·p", 1),  # of equals the smaller ids
    ]
    assert list(learned.known.tokens) == train([text], 259, SPLIT_PATTERN)
    assert learned.trainer
    with pytest.raises(PlaygroundError, match="nothing to learn"):
        playground.learn(" \n", 300)
    with pytest.raises(PlaygroundError, match="tok_train"):
        playground.learn("a" * 1_000_001, 300)


def test_vocabulary_adds_up():
    report = playground.describe(KNOWN)
    assert report.size == report.bytes + report.merges + report.specials == KNOWN.size
    assert report.types["tokens"].sum() == report.size
    assert report.lengths["tokens"].sum() == len(KNOWN.tokens)
    assert report.longest["bytes"].is_sorted(descending=True)
    assert report.first_merges["rank"][0] == 256
    assert all(left for left in report.first_merges["left"])


def test_specials_say_who_writes_them():
    table = {row["name"]: row for row in playground.special_tokens(KNOWN).to_dicts()}
    assert len(table) == 9
    written = {name for name, row in table.items() if row["written_by_model"]}
    assert written == {"<|assistant_end|>", "<|python_start|>", "<|python_end|>"}


def test_comparing_counts_against_the_first():
    result = playground.compare(KNOWN, ["the", "the the", ""])
    assert result.frame["cost"].to_list() == [n / result.frame["tokens"][0] for n in result.frame["tokens"]]
    assert (result.cheapest, result.dearest) == ("", "the the")
    languages = playground.compare(KNOWN, playground.LANGUAGES)
    assert languages.frame["name"].to_list() == list(playground.LANGUAGES)
    assert languages.frame["bytes"].to_list() == [len(text.encode()) for text in playground.LANGUAGES.values()]
    many = playground.compare_tokenizers([KNOWN, playground.known_from(train_tokenizer(["x"], 265), "bytes")], "the")
    assert many.frame["name"].to_list() == ["test", "bytes"]
    assert many.frame["tokens"][1] == 3
    with pytest.raises(PlaygroundError, match="nothing to compare"):
        playground.compare(KNOWN, [])


def test_a_machine_without_any_tokenizer_has_the_example(monkeypatch, tmp_path):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    found = playground.places()
    assert [place.id for place in found] == ["gpt2", "cl100k_base", playground.EXAMPLE]
    assert "cannot be used: it is not in tiktoken's cache" in found[0].missing
    known = playground.open_place(playground.find_place(None))
    assert known.size == 1024
    assert known.tokenizer is not None
    with pytest.raises(PlaygroundError, match="not in tiktoken's cache"):
        playground.open_place(playground.find_place("gpt2"))
    with pytest.raises(PlaygroundError, match=r"those here are gpt2, cl100k_base, stories"):
        playground.find_place("<b>")
    assert not paths.workspace().exists()


def test_tokenizers_of_both_roots_and_of_runs_are_found():
    for folder in (
        paths.workspace() / "chatsft_checkpoints" / "demo",
        paths.nanochat_base_dir() / "tokenizer",
        paths.nanochat_base_dir() / "base_checkpoints" / "d4",
    ):
        KNOWN.tokenizer.save(folder)
    ids = [place.id for place in playground.places()]
    assert ids[:3] == ["sft/demo", "nanochat", "nanochat:base/d4"]
    assert playground.open_place(playground.find_place("nanochat")).tokens == KNOWN.tokens
    only = playground.find_place("base/d4", base_dir=paths.nanochat_base_dir())
    assert only.path == paths.nanochat_base_dir() / "base_checkpoints" / "d4"


def test_a_cached_tokenizer_of_tiktoken_is_played_with_as_it_is(monkeypatch):
    from nanochat.tokenizer_backends import make_encoding

    encoding = make_encoding(KNOWN.tokenizer.vocabulary, SPLIT_PATTERN)
    fake = tokenizer_eval.Reference("gpt2", "GPT-2", encoding, "cached")
    monkeypatch.setattr("nanochat.analysis.tokenizer_playground.sources.reference", lambda name: fake)
    known = playground.open_place(playground.find_place("gpt2"))
    assert (known.label, known.tokenizer, known.size) == ("GPT-2", None, KNOWN.size)
    assert known.encode(TEXT) == KNOWN.encode(TEXT)
    assert playground.replay(known, TEXT).agrees


def test_ids_outside_the_vocabulary_are_refused():
    assert KNOWN.bytes_of(KNOWN.special_tokens["<|bos|>"]) == b"<|bos|>"
    for wrong in (-1, KNOWN.size):
        with pytest.raises(PlaygroundError, match="is not in test"):
            KNOWN.bytes_of(wrong)


def test_text_files(tmp_path):
    (tmp_path / "good.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert playground.read_text(tmp_path / "good.txt") == "hello"
    (tmp_path / "bad.txt").write_bytes(b"abc\xff")
    with pytest.raises(PlaygroundError, match="byte 4 is not UTF-8"):
        playground.read_text(tmp_path / "bad.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(ValueError, match="FIFO"):
        playground.read_text(tmp_path / "pipe.txt")


def test_the_example_is_the_same_on_every_machine():
    known = playground.open_place(playground.find_place(playground.EXAMPLE))
    digest = hashlib.sha256(b"".join(len(token).to_bytes(2, "little") + token for token in known.tokens)).hexdigest()
    assert digest == EXAMPLE_DIGEST
