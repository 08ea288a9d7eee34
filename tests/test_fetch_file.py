"""One file from a server that breaks, lies and refuses: it ends right or in a sentence, never wrong under its name."""

import email.utils
import hashlib
import io
import json
import os
import random
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import fetch_file
from nanochat.fetch_file import FetchError, FileFetch, Patience, StoppedError
from tests.fetch_support import chunked, etag_of, loopback, redirect, serve, status

CONTENT = random.Random(1).randbytes(300_000)
OTHER = random.Random(2).randbytes(300_000)
QUICK = Patience(attempts=4, first_wait=0.001, longest_wait=0.01, timeout=5)


def shard(rows=2000) -> bytes:
    """A real parquet file."""
    file = io.BytesIO()
    pq.write_table(pa.table({"text": [str(number) for number in range(rows)]}), file)
    return file.getvalue()


@pytest.fixture
def server():
    with loopback(a__bin=CONTENT, store=CONTENT) as running:
        yield running


def fetch(server, folder, name="a.bin", patience=QUICK, **options):
    with requests.Session() as session:
        return FileFetch(f"{server.url}/{name}", folder / name, session, patience, **options).run()


def arrived(folder, name="a.bin", content=CONTENT):
    """Exactly the file is there, and nothing beside it."""
    return (folder / name).read_bytes() == content and [path.name for path in folder.iterdir()] == [name]


def refused(server, folder, *words, name="a.bin", **options):
    """It ends in one sentence with the words, and nothing under the file's name."""
    with pytest.raises(FetchError) as caught:
        fetch(server, folder, name, **options)
    message = str(caught.value)
    for word in words:
        assert word in message, message
    assert message.isprintable()
    assert server.url in message
    assert not (folder / name).exists()
    return message


def test_a_good_server(server, tmp_path):
    seen = []
    assert fetch(server, tmp_path, on_progress=lambda here, total: seen.append((here, total))) == len(CONTENT)
    assert arrived(tmp_path)
    assert (seen[0], seen[-1]) == ((0, len(CONTENT)), (len(CONTENT), len(CONTENT)))
    assert server.asked == [("/a.bin", None, None)]


def test_a_broken_download_goes_on_where_it_broke(server, tmp_path):
    server.answers += [serve(upto=100_000), serve(upto=50_000), serve(upto=0)]
    fetch(server, tmp_path)
    assert arrived(tmp_path)
    tag = etag_of(CONTENT)
    assert [asked[1:] for asked in server.asked] == [
        (None, None),
        ("bytes=100000-", tag),
        ("bytes=150000-", tag),
        ("bytes=150000-", tag),
    ]


def test_it_goes_on_in_another_process_life(server, tmp_path):
    server.answers += [serve(upto=100_000), *[status(503)] * 3]
    refused(server, tmp_path, "503", "4 times in a row", "kept")
    assert (tmp_path / ".a.bin.part").stat().st_size == 100_000
    fetch(server, tmp_path)
    assert arrived(tmp_path)
    assert server.asked[-1][1] == "bytes=100000-"


ELSEWHERE = json.dumps({"url": "http://elsewhere/a.bin", "claim": {"size": len(CONTENT), "etag": etag_of(CONTENT)}})


@pytest.mark.parametrize("facts", ["", "{", "[]", "null", '{"url": "x"}', '{"url": 1, "claim": {"a": 2}}', ELSEWHERE])
def test_a_part_of_unknown_origin_is_not_continued(server, tmp_path, facts):
    (tmp_path / ".a.bin.part").write_bytes(OTHER[:1000])
    (tmp_path / ".a.bin.part.json").write_text(facts)
    fetch(server, tmp_path)
    assert arrived(tmp_path)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(["drop", "early", "503", "ignore range", "changed", "wrong range"]), max_size=7), st.data()
)
def test_any_run_of_troubles_ends_in_the_right_file(tmp_path_factory, troubles, data):
    folder = tmp_path_factory.mktemp("fetch")
    kinds = {
        "drop": lambda: serve(upto=data.draw(st.integers(0, len(CONTENT)))),
        "early": lambda: serve(length=data.draw(st.integers(1, 1000))),
        "503": lambda: status(503, Retry_After=0),
        "ignore range": lambda: serve(ranges=False, upto=data.draw(st.integers(0, len(CONTENT)))),
        "changed": lambda: serve(content=OTHER, upto=data.draw(st.integers(0, len(CONTENT) - 1))),
        "wrong range": lambda: (
            lambda request: request.head(206, Content_Range="bytes 5-9/300000", Content_Length=5, ETag=etag_of(CONTENT))
        ),
    }
    with loopback(a__bin=CONTENT, store=CONTENT) as server:
        # The last word is the digest's, given with the redirect; each trouble happens behind it.
        answers = [kinds[trouble]() for trouble in troubles]
        for answer in answers:
            server.answers += [redirect("store", CONTENT), answer]
        server.answers += [redirect("store", CONTENT), serve()] * 6
        try:
            fetch(server, folder, patience=Patience(20, 0.0001, 0.001, timeout=5))
        except FetchError:
            assert not (folder / "a.bin").exists()
            assert {"changed", "wrong range"} & set(troubles)
        else:
            assert arrived(folder)


def test_a_server_that_ignores_ranges(server, tmp_path):
    server.answers += [serve(upto=100_000), serve(ranges=False)]
    fetch(server, tmp_path)
    assert arrived(tmp_path)


def test_a_file_that_changes_between_two_attempts_begins_anew(server, tmp_path):
    server.answers += [serve(content=OTHER, upto=100_000)]
    fetch(server, tmp_path)
    assert arrived(tmp_path)
    assert server.asked[1][1:] == ("bytes=100000-", etag_of(OTHER))


def test_a_file_that_changes_behind_the_back_of_if_range_begins_anew(server, tmp_path):
    server.answers += [serve(content=OTHER, upto=100_000), serve(if_range=False)]
    fetch(server, tmp_path)
    assert arrived(tmp_path)
    assert [asked[1] for asked in server.asked] == [None, "bytes=100000-", None]


def test_a_file_that_never_stays_the_same_ends_in_a_sentence(server, tmp_path):
    contents = [random.Random(seed).randbytes(1000) for seed in range(40)]
    server.answers += [serve(content=content, upto=500) for content in contents]
    refused(server, tmp_path, "times in a row")


def test_without_a_strong_etag_nothing_is_continued(server, tmp_path):
    server.answers += [serve(etag=None, upto=100_000), serve(etag='W/"1"', upto=200_000)]
    fetch(server, tmp_path)
    assert arrived(tmp_path)
    assert [asked[1] for asked in server.asked] == [None] * 3


def test_a_range_that_begins_elsewhere_is_not_taken(server, tmp_path):
    def elsewhere(request):
        """As many bytes as are missing, but others."""
        request.head(206, Content_Range="bytes 50000-249999/300000", Content_Length=200_000, ETag=etag_of(CONTENT))
        request.body(CONTENT[50_000:250_000])

    server.answers += [serve(upto=100_000), elsewhere]
    fetch(server, tmp_path)
    assert arrived(tmp_path)
    server.usual = lambda request: request.head(206, Content_Range="nonsense", Content_Length=0)
    (tmp_path / "a.bin").unlink()
    refused(server, tmp_path, "answers 206")


def test_wrong_bytes_behind_the_right_range_are_found_by_the_digest(server, tmp_path):
    server.answers += [redirect("store", CONTENT), serve(upto=100_000), redirect("store", CONTENT), serve(offset=9)]
    server.answers += [redirect("store", CONTENT), serve()]
    fetch(server, tmp_path)
    assert arrived(tmp_path)
    assert server.asked[-1][1] is None  # from the beginning


# -- lengths --


def test_a_length_stated_too_long(server, tmp_path):
    server.usual = serve(length=1000)
    refused(server, tmp_path, "size")
    server.answers += [redirect("store", CONTENT), serve(length=1000), redirect("store", CONTENT)]
    fetch(server, tmp_path)
    assert arrived(tmp_path)  # the redirect had stated size and digest: the lie did not matter


def test_a_length_stated_too_short(server, tmp_path):
    server.answers += [redirect("store", CONTENT), serve(length=-1000), redirect("store", CONTENT)]
    fetch(server, tmp_path)
    assert arrived(tmp_path)
    assert server.asked[-1][1] == "bytes=299000-"  # the redirect knew better, so only the rest was missing
    content = shard()
    server.files["/s.parquet"] = content
    server.usual = serve(length=-10)
    refused(server, tmp_path, "not a whole parquet file", "3 times", name="s.parquet")
    server.answers += [serve(length=-10)]
    server.usual = serve()
    fetch(server, tmp_path, "s.parquet")
    assert (tmp_path / "s.parquet").read_bytes() == content


def test_a_digest_that_belongs_to_a_shorter_size_is_refused(server, tmp_path):
    for _ in range(20):
        server.answers += [redirect("store", CONTENT, size=1000), serve()]
    refused(server, tmp_path, "more bytes came")


def test_no_length_at_all(server, tmp_path):
    server.usual = serve(length=None)
    refused(server, tmp_path, "does not say how long")
    server.answers += [chunked(upto=1000), chunked(upto=1)]
    server.usual = chunked()
    fetch(server, tmp_path)
    assert arrived(tmp_path)


def test_a_packed_answer_is_refused(server, tmp_path):
    server.usual = serve(Content_Encoding="gzip")
    refused(server, tmp_path, "packed")


# -- digests --


def test_wrong_bytes_are_thrown_away_and_asked_for_again(server, tmp_path):
    server.answers += [redirect("store", CONTENT), serve(content=OTHER)] * 2
    server.answers += [redirect("store", CONTENT), serve()]
    fetch(server, tmp_path)
    assert arrived(tmp_path)


def test_bytes_that_stay_wrong_are_refused(server, tmp_path):
    server.answers += [redirect("store", CONTENT), serve(content=OTHER)] * 10
    refused(server, tmp_path, "SHA-256", "3 times")
    assert not list(tmp_path.iterdir())


def test_the_standard_digest_header_counts_too(server, tmp_path):
    import base64

    wrong = base64.b64encode(hashlib.sha256(OTHER).digest()).decode()
    server.usual = serve(Repr_Digest=f"md5=:AAAA:, sha-256=:{wrong}:")
    refused(server, tmp_path, "SHA-256")
    right = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()
    server.usual = serve(Repr_Digest=f"sha-256=:{right}:")
    fetch(server, tmp_path)
    assert arrived(tmp_path)


# -- refusals and waiting --


@pytest.mark.parametrize(
    ("code", "words"),
    [(404, "no such file"), (410, "no such file"), (401, "login"), (403, "refuses"), (418, "418"), (204, "204")],
)
def test_a_refusal_is_final(server, tmp_path, code, words):
    server.usual = status(code)
    refused(server, tmp_path, words)
    assert len(server.asked) == 1


def test_a_busy_server_is_asked_again_when_it_says(server, tmp_path, monkeypatch):
    waits = []
    soon = email.utils.formatdate(time.time() + 30, usegmt=True)

    class Quiet(threading.Event):
        def wait(self, timeout=None):
            waits.append(timeout)
            return False

    server.answers += [status(429, Retry_After=7), status(503, Retry_After=soon), status(500), status(502)]
    fetch(server, tmp_path, patience=Patience(attempts=8, first_wait=1.0), stop=Quiet())
    assert arrived(tmp_path)
    assert 7 <= waits[0] <= 8
    assert 25 <= waits[1] <= 31
    assert 2 <= waits[2] <= 4  # 1 s doubled twice, less a random part
    assert 4 <= waits[3] <= 8


def test_a_server_that_asks_for_hours_is_not_waited_for(server, tmp_path):
    server.usual = status(429, Retry_After=7200)
    refused(server, tmp_path, "7,200 seconds")
    assert len(server.asked) == 1


def test_progress_renews_patience(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_file, "_PROGRESS", 1000)
    server.answers += [serve(upto=10_000)] * 12  # thrice as many breaks as a patience of four allows in a row
    fetch(server, tmp_path)
    assert arrived(tmp_path)


def test_no_server_at_all(tmp_path):
    with loopback(a__bin=b"") as server:
        pass
    refused(server, tmp_path, "no answer", "4 times in a row")


def test_an_address_that_is_none(server, tmp_path):
    for url in ("ftp://x/a.bin", "a.bin", "http://", "https://[/a.bin"):
        with requests.Session() as session, pytest.raises(FetchError, match="address"):
            FileFetch(url, tmp_path / "a.bin", session, QUICK).run()


def test_a_stop_is_heard_and_what_arrived_is_kept(server, tmp_path):
    stop = threading.Event()

    def progress(here, total):
        if here >= 100_000:
            stop.set()

    with pytest.raises(StoppedError, match="kept"):
        fetch(server, tmp_path, stop=stop, on_progress=progress)
    assert 100_000 <= (tmp_path / ".a.bin.part").stat().st_size < len(CONTENT)
    fetch(server, tmp_path)
    assert arrived(tmp_path)
    assert server.asked[1][1] is not None


def test_a_folder_that_cannot_be_written(server, tmp_path):
    refused(server, tmp_path / "gone", "cannot be written")
    (tmp_path / ".a.bin.part").mkdir()
    refused(server, tmp_path, "is in the way and is not a file")
    (tmp_path / ".a.bin.part").rmdir()
    os.mkfifo(tmp_path / ".a.bin.part")  # opened for writing it would wait for a reader for ever
    refused(server, tmp_path, "is in the way and is not a file")


def test_what_opens_the_door_is_neither_told_nor_written(server, tmp_path):
    server.answers += [redirect("store", CONTENT), serve(upto=1000), *[status(500)] * 9]
    address = server.url.replace("//", "//me:secret@") + "/a.bin?key=hidden"
    with requests.Session() as session, pytest.raises(FetchError) as caught:
        FileFetch(address, tmp_path / "a.bin", session, QUICK).run()
    told = str(caught.value) + (tmp_path / ".a.bin.part.json").read_text()
    assert f"{server.url}/a.bin" in told
    assert "secret" not in told
    assert "hidden" not in told


def test_a_whole_part_is_not_taken_for_the_file_of_another_query(server, tmp_path):
    """The query is not written down, so `?version=1` that was stopped before its end looks like `?version=2`."""
    facts = {"url": f"{server.url}/a.bin", "claim": {"size": len(CONTENT), "sha256": None, "etag": etag_of(CONTENT)}}
    (tmp_path / ".a.bin.part").write_bytes(bytes(len(CONTENT)))
    (tmp_path / ".a.bin.part.json").write_text(json.dumps(facts))
    with requests.Session() as session:
        FileFetch(f"{server.url}/a.bin?version=2", tmp_path / "a.bin", session, QUICK).run()
    assert arrived(tmp_path)


def test_the_facts_beside_a_part_say_what_the_server_said(server, tmp_path):
    server.answers += [redirect("store", CONTENT), serve(upto=1000), *[status(500)] * 9]
    refused(server, tmp_path, "500")
    assert json.loads((tmp_path / ".a.bin.part.json").read_text()) == {
        "url": f"{server.url}/a.bin",
        "claim": {
            "size": len(CONTENT),
            "sha256": hashlib.sha256(CONTENT).hexdigest(),
            "etag": etag_of(CONTENT),
        },
    }
