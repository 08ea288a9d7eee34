"""Every source of text opens, says what it did, and refuses what it cannot read in one sentence."""

import os
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat import dataset as dataset_module
from nanochat import dataset_parquet
from nanochat.dataset import Texts, open_dataset, shard_folder
from tests.dataset_support import all_texts, refusal, write_shards
from tests.support import FIXTURES, fixture_dirs, needs_fixtures

# -- parquet --


def test_shards_are_read_by_row_group_and_the_last_validates(tmp_path):
    write_shards(tmp_path, [[f"a{n}" for n in range(25)], [f"b{n}" for n in range(5)], ["val"]])
    (tmp_path / "README.md").write_text("notes")
    (tmp_path / ".shard_00009.parquet.part").write_text("a download")
    dataset = open_dataset(tmp_path)
    assert (dataset.train.shards, dataset.val.shards) == (2, 1)
    assert [dataset.train.groups(shard) for shard in (0, 1)] == [3, 1]
    assert dataset.train.read(0, 2) == [f"a{n}" for n in range(20, 25)]
    assert all_texts(dataset.train) == [f"a{n}" for n in range(25)] + [f"b{n}" for n in range(5)]
    assert all_texts(dataset.val) == ["val"]
    assert dataset.train.long_documents == "crop"
    assert any("README.md" in note for note in dataset.notes)
    assert any("shard_00002.parquet, validates" in note for note in dataset.notes)


def test_one_shard_is_read_by_both_and_said(tmp_path):
    write_shards(tmp_path, [["one", "two"]])
    for spec in (tmp_path, tmp_path / "shard_00000.parquet"):
        dataset = open_dataset(spec)
        assert all_texts(dataset.train) == all_texts(dataset.val) == ["one", "two"]
        assert "both" in dataset.notes[-1]


@needs_fixtures
def test_real_shards_open():
    for base in fixture_dirs():
        for folder in base.glob("base_data*"):
            dataset = open_dataset(folder)
            assert dataset.train.groups(0) == 10
            assert len(all_texts(dataset.val)) == 80
            assert shard_folder(base) == folder
    assert shard_folder(FIXTURES / "nothing").name == "base_data_climbmix"


def test_other_ways_to_store_strings_are_read(tmp_path):
    for number, kind in enumerate([pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()]):
        column = pa.array(["x", "y"]).cast(kind) if number != 1 else pa.array(["x", "y"]).dictionary_encode()
        pq.write_table(pa.table({"text": column}), tmp_path / f"{number}.parquet")
    assert all_texts(open_dataset(tmp_path).train) == ["x", "y"] * 2


def test_more_shards_than_are_kept_open(tmp_path):
    write_shards(tmp_path, [[str(n)] for n in range(10)])
    train = open_dataset(tmp_path).train
    assert all_texts(train) == all_texts(train) == [str(n) for n in range(9)]
    assert len(train._open) <= 4


def test_bad_shards_are_refused(tmp_path, monkeypatch):
    refusal(tmp_path, "empty", "nanochat fetch")
    refusal(tmp_path / "nowhere", "no folder or file", "stories")
    write_shards(tmp_path, [["a"], ["b"]])
    good = (tmp_path / "shard_00000.parquet").read_bytes()
    bad = tmp_path / "shard_00000.parquet"
    bad.write_bytes(good[:-20])
    refusal(tmp_path, "shard_00000.parquet", "cut short")
    bad.write_bytes(b"hello, I am no parquet file")
    refusal(tmp_path, "not a parquet file")
    bad.write_bytes(b"")
    refusal(tmp_path, "not a parquet file")
    bad.write_bytes(good[:4] + bytes(len(good) - 8) + good[-4:])
    refusal(tmp_path, "cannot be read as parquet")
    bad.write_bytes(good[:4] + bytes(byte ^ 0x55 for byte in good[4:40]) + good[40:])
    refusal(tmp_path, "shard_00000.parquet")
    pq.write_table(pa.table({"body": ["a"], "url": ["b"]}), bad)
    refusal(tmp_path, "no column 'text'", "body, url")
    pq.write_table(pa.table({"text": [1, 2]}), bad)
    refusal(tmp_path, "int64")
    pq.write_table(pa.table({"text": ["a", None]}), bad)
    refusal(tmp_path, "row 1 of row group 0", "null")
    invalid = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    pq.write_table(pa.table({"text": invalid}), bad)
    refusal(tmp_path, "shard_00000.parquet", "damaged")
    bad.write_bytes(good)
    monkeypatch.setattr(dataset_parquet, "_MAX_GROUP_BYTES", 10)
    refusal(tmp_path, "row group 0 takes", "limit is 10")


def test_a_validation_shard_without_a_row_is_refused(tmp_path):
    write_shards(tmp_path, [["a"], ["b"]])
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "shard_00001.parquet")
    refusal(tmp_path, "shard_00001.parquet", "no row")


def test_the_identity_follows_the_content_and_not_the_place(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_shards(tmp_path / name, [["one"], ["two"], ["three"]])
    first, moved = open_dataset(tmp_path / "a"), open_dataset(tmp_path / "b")
    assert first.train.identity == moved.train.identity != first.val.identity
    write_shards(tmp_path / "b", [["One"]])
    assert open_dataset(tmp_path / "b").train.identity != first.train.identity
    write_shards(tmp_path / "a", [["one"]], name="shard_00009.parquet")
    assert open_dataset(tmp_path / "a").train.identity != first.train.identity


# -- what is no text --


def test_a_fifo_a_device_and_a_broken_link_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    refusal(tmp_path / "pipe.txt", "not a regular file")
    refusal(tmp_path, "none of its 1 entries")
    refusal("/dev/zero", "not a regular file")
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    refusal(tmp_path / "loop.txt", "not a regular file")
    refusal(tmp_path / "a\0b.txt", "no folder or file")
    refusal("x" * 5000, "no folder or file")


def test_other_endings_are_refused(tmp_path):
    for name, word in (("a.txt.gz", "compressed"), ("a.csv", ".csv"), ("a", "nothing")):
        (tmp_path / name).write_text("a")
        refusal(tmp_path / name, word)


# -- in memory and built in --


def test_texts_are_read_in_groups_and_have_an_identity():
    texts = [str(n) for n in range(250)]
    split = Texts(texts)
    assert [len(split.read(0, group)) for group in range(split.groups(0))] == [100, 100, 50]
    assert all_texts(split) == texts
    assert split.identity == Texts(list(texts)).identity
    assert Texts(["ab", "c"]).identity != Texts(["a", "bc"]).identity
    assert Texts(["\ud800"]).identity  # half a character, which JSON can spell


def test_the_python_manual(monkeypatch):
    dataset = open_dataset("python")
    train, val = all_texts(dataset.train), all_texts(dataset.val)
    assert len(val) >= 5
    assert not set(train) & set(val)
    assert sum(map(len, train)) > 300_000
    assert any("for_stmt" in text for text in train + val)
    again = open_dataset("python")
    assert (again.train.identity, all_texts(again.val)) == (dataset.train.identity, val)
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    refusal("python", "pydoc_data.topics", "stories")


def test_stories_never_end_and_are_the_same_each_time(monkeypatch):
    def story(seed, split, index):
        return f"{split} story {index} of seed {seed}"

    fake = types.ModuleType("nanochat.stories")
    fake.story = story
    monkeypatch.setitem(sys.modules, "nanochat.stories", fake)
    dataset = open_dataset("stories", seed=7)
    assert dataset.train.shards is None
    assert all_texts(dataset.train, 2) == [f"train story {index} of seed 7" for index in range(2000)]
    assert all_texts(dataset.val) == [f"val story {index} of seed 7" for index in range(1000)]
    assert dataset.train.read(10**6, 3)[0] == "train story 1000000300 of seed 7"
    identities = {open_dataset("stories", seed=seed).train.identity for seed in (7, 8)}
    assert len(identities | {dataset.train.identity, dataset.val.identity}) == 3


def test_a_folder_named_like_a_corpus_is_a_path_away(tmp_path, monkeypatch):
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "a.txt").write_text("mine\n\nyours\n\n" * 30)
    monkeypatch.chdir(tmp_path)
    assert open_dataset("python").val.texts[0] != "mine"
    assert all_texts(open_dataset("./python").train)[0] == "mine"


def test_large_text_is_not_read_on_opening(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_module, "CHECKED_BYTES", 10)
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' * 100)
    assert "too large" in open_dataset(tmp_path / "a.jsonl").notes[-1]


def test_a_lone_shard_is_read_by_two_threads_at_once(tmp_path):
    write_shards(tmp_path, [[f"document {number} " * 50 for number in range(200)]])
    dataset = open_dataset(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        read = [pool.submit(split.read, 0, i % 20) for i in range(400) for split in (dataset.train, dataset.val)]
        assert all(len(future.result(timeout=60)) == 10 for future in read)
