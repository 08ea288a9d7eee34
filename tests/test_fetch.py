"""Many files into one folder, and the command around it."""

import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat import durable, fetch
from nanochat.dataset import open_dataset
from nanochat.fetch import SOURCES, FetchError, Patience, fetch_all, file_name, shard_urls
from nanochat.scripts import fetch as script
from tests.fetch_support import chunked, loopback, serve, status

QUICK = Patience(attempts=3, first_wait=0.001, longest_wait=0.01, timeout=5)


def shard(seed: int) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"text": [f"document {seed}", "and another"]}), file)
    return file.getvalue()


def shards(*numbers: int) -> dict[str, bytes]:
    return {f"shard_{number:05d}__parquet": shard(number) for number in numbers}


def test_the_addresses_are_nanochats():
    urls = shard_urls(SOURCES["climbmix"], 2)
    base = "https://huggingface.co/datasets/karpathy/climbmix-400b-shuffle/resolve/main/"
    assert urls == [base + name for name in ("shard_00000.parquet", "shard_00001.parquet", "shard_06542.parquet")]
    assert [file_name(url) for url in shard_urls(SOURCES["fineweb"], 0)] == ["shard_01822.parquet"]
    assert len(shard_urls(SOURCES["fineweb"], -1)) == len(set(shard_urls(SOURCES["fineweb"], 5000))) == 1823
    assert shard_urls(SOURCES["fineweb"], 0, "http://mirror/x/") == ["http://mirror/x/shard_01822.parquet"]
    with pytest.raises(FetchError, match="-2"):
        shard_urls(SOURCES["fineweb"], -2)


@pytest.mark.parametrize(
    "url",
    [
        "http://x/", "http://x", "http://x/.hidden", "http://x/a%2Fb", "http://x/..", "http://x/a%5Cb", "http://x/%00a",
        "http://x/" + "a" * 300, "http://x/a%0Ab", "http://x/C%3Aa", "http://[/a",
    ],
)  # fmt: skip
def test_a_name_that_could_leave_the_folder_is_refused(url):
    with pytest.raises(FetchError, match="plain file name"):
        file_name(url)


def test_files_come_in_parallel_and_present_ones_are_left_alone(tmp_path):
    files = shards(*range(9))
    (tmp_path / "shard_00003.parquet").write_bytes(shard(100))
    at_once, most = 0, 0
    guard = threading.Lock()

    def slowly(request):
        nonlocal at_once, most
        with guard:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.05)
        with guard:
            at_once -= 1
        serve()(request)

    with loopback(**files) as server:
        server.usual = slowly
        seen = {}
        urls = [f"{server.url}/shard_{number:05d}.parquet" for number in range(9)]
        report = fetch_all(urls, tmp_path, 4, QUICK, lambda name, here, total: seen.update({name: (here, total)}))
    assert report.present == ["shard_00003.parquet"]
    assert len(report.fetched) == len(seen) == 8
    assert not report.failed
    assert 2 <= most <= 4
    assert report.received == sum(here for here, _ in seen.values())
    assert all(here == total for here, total in seen.values())
    assert (tmp_path / "shard_00003.parquet").read_bytes() == shard(100)
    assert (tmp_path / "shard_00005.parquet").read_bytes() == shard(5)
    assert all_names(tmp_path) == [f"shard_{number:05d}.parquet" for number in range(9)]


def all_names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != durable.LOCK_NAME)


def test_one_file_that_fails_does_not_stop_the_others(tmp_path):
    with loopback(**shards(0, 2)) as server:
        urls = [f"{server.url}/shard_{number:05d}.parquet" for number in range(3)]
        report = fetch_all(urls, tmp_path, 1, QUICK)
    assert report.fetched == ["shard_00000.parquet", "shard_00002.parquet"]
    assert list(report.failed) == ["shard_00001.parquet"]
    assert "no such file" in report.failed["shard_00001.parquet"]


def test_an_unexpected_error_of_a_worker_is_not_swallowed(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch.FileFetch, "run", lambda self: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        fetch_all(["http://x/a.bin"], tmp_path, 1, QUICK)


def test_what_cannot_begin_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("x")
    for words, urls, folder, workers in (
        ("same file name", ["http://x/a", "http://y/a"], tmp_path, 1),
        ("workers is 0", ["http://x/a"], tmp_path, 0),
        ("cannot be written", ["http://x/a"], file / "below", 1),
    ):
        with pytest.raises(FetchError, match=words):
            fetch_all(urls, folder, workers, QUICK)
    with durable.directory_lock(tmp_path), pytest.raises(FetchError, match="already writing"):
        fetch_all(["http://x/a"], tmp_path, 1, QUICK)


def test_an_address_or_a_name_that_cannot_be_used_stops_no_other(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 half")
    (tmp_path / "b.bin").mkdir()
    os.mkfifo(tmp_path / "c.bin")
    (tmp_path / "d.bin").symlink_to("d.bin")
    long = "http://x/" + "%F0%9F%A6%8A" * 150  # 150 characters, 600 bytes: no file system takes that
    odd = ["http://x/", "http://[/x", "http://x/%ED%A0%80%0A", long]
    with loopback(good__bin=b"good") as server:
        urls = [*odd, *(f"{server.url}/{name}" for name in ("a.parquet", "b.bin", "c.bin", "d.bin", "good.bin"))]
        report = fetch_all(urls, tmp_path, 2, QUICK)
    assert report.fetched == ["good.bin"]
    assert set(report.failed) == {*odd, "a.parquet", "b.bin", "c.bin", "d.bin"}
    assert all(why.isprintable() and why.count(": ") <= 2 for why in report.failed.values())
    assert "cut short" in report.failed["a.parquet"]
    assert "not a file" in report.failed["b.bin"]


def test_a_bug_in_one_file_is_raised_when_the_others_are_there(tmp_path, monkeypatch):
    real = fetch.FileFetch.run
    monkeypatch.setattr(fetch.FileFetch, "run", lambda self: real(self) if "good" in self.url else 1 // 0)
    with loopback(bad__bin=b"bad", good__bin=b"good") as server, pytest.raises(ZeroDivisionError):
        fetch_all([f"{server.url}/bad.bin", f"{server.url}/good.bin"], tmp_path, 1, QUICK)
    assert (tmp_path / "good.bin").read_bytes() == b"good"


def test_too_little_space_is_said_before_anything_comes(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=500 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with loopback(**shards(0, 1)) as server:
        urls = [f"{server.url}/shard_{number:05d}.parquet" for number in range(2)]
        with pytest.raises(FetchError, match=r"524.3 MB free and 2 files of about 300.0 MB each need 600.0 MB"):
            fetch_all(urls, tmp_path, 1, QUICK, expected_bytes=300_000_000)
        assert not server.asked
        server.usual = serve(length=450 << 20, upto=1000)  # the size is known when the first answer comes
        report = fetch_all(urls, tmp_path, 1, QUICK)
        assert all("the disk has 524.3 MB free" in why for why in report.failed.values())
        assert len(report.failed) == len(server.asked) == 2
    assert not [name for name in all_names(tmp_path) if not name.startswith(".")]


def test_a_full_disk_is_said_and_leaves_no_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, os.strerror(28))

    with loopback(**shards(0)) as server:
        monkeypatch.setattr(os, "fsync", full)
        report = fetch_all([f"{server.url}/shard_00000.parquet"], tmp_path, 1, QUICK)
        assert "No space left" in report.failed["shard_00000.parquet"]
        assert not (tmp_path / "shard_00000.parquet").exists()
        monkeypatch.undo()
        assert fetch_all([f"{server.url}/shard_00000.parquet"], tmp_path, 1, QUICK).fetched


# -- the command --


def test_the_command_fetches_shards_into_the_workspace(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NANOCHAT_LAB_DIR", str(tmp_path))
    with loopback(**shards(0, 1, 6542)) as server:
        assert script.main(["-n", "2", "-w", "2", "--base-url", server.url]) == 0
        out = capsys.readouterr().out
        assert re.match(r"3 files fetched \([\d.]+ kB\), 0 files were there before\.\n", out)
        assert out.endswith(f"All of them are in {tmp_path / 'base_data_climbmix'}\n")
        folder = tmp_path / "base_data_climbmix"
        assert str(folder) in out
        assert script.main(["-n", "2", "--base-url", server.url, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["fetched"], len(told["present"]), told["failed"]) == ([], 3, {})
    dataset = open_dataset(folder)
    assert dataset.train.read(1, 0) == ["document 1", "and another"]
    assert dataset.val.read(0, 0) == ["document 6542", "and another"]


def test_the_command_takes_other_addresses_and_another_base_dir(tmp_path, capsys):
    with loopback(book__txt=b"once") as server:
        base = ["--base-dir", str(tmp_path / "base")]
        assert script.main(["--url", f"{server.url}/book.txt", "--url", f"{server.url}/gone.txt", *base]) == 1
        said = capsys.readouterr()
        assert said.out == "1 file fetched (4 bytes), 0 files were there before.\n"
        assert "1 file could not be fetched" in said.err
        assert "gone.txt: the server has no such file" in said.err
        assert f"2 files into {tmp_path / 'base' / 'downloads'}\n" in said.err
        assert script.main(["--url", f"{server.url}/book.txt", *base]) == 0
        said = capsys.readouterr()
        assert said.out == (f"0 files fetched, 1 file was there before.\nIt is in {tmp_path / 'base' / 'downloads'}\n")
        assert said.err.startswith("1 file into ")
    assert (tmp_path / "base" / "downloads" / "book.txt").read_bytes() == b"once"


def test_the_command_limits_a_file_of_unstated_size(tmp_path, capsys):
    with loopback(endless__bin=bytes(300_000), b__bin=b"b") as server:
        server.usual = chunked()
        urls = ["--url", f"{server.url}/endless.bin", "--url", f"{server.url}/b.bin"]
        assert script.main([*urls, "--base-dir", str(tmp_path), "--max-unstated", "0.0001"]) == 1
        said = capsys.readouterr()
        assert said.out == "1 file fetched (1 byte), 0 files were there before.\n"
        assert "endless.bin: the server does not state its size and sent more than 100.0 kB" in said.err
        assert script.main([*urls, "--base-dir", str(tmp_path)]) == 0
    for size in ("0", "-1", "nan", "inf"):
        with pytest.raises(FetchError, match="--max-unstated"):
            script.main([*urls, "--max-unstated", size])


def test_the_command_does_not_ask_for_hundreds_of_gigabytes_unasked():
    assert script.parser().parse_args([]).num_files == 8


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_ends_soon_and_the_next_run_goes_on(tmp_path):
    content = random.Random(1).randbytes(1_000_000)
    with loopback(big__bin=content, slow__bin=content) as server:
        begun, go = threading.Event(), threading.Event()

        def stall(request):
            """Half of the file, then silence until the test ends."""
            request.head(200, Content_Length=len(content), ETag='"1"')
            request.body(content[:500_000])
            begun.set()
            go.wait(60)

        server.usual = stall
        command = [sys.executable, "-m", "nanochat.scripts.fetch", "--base-dir", str(tmp_path)]
        command += ["--url", f"{server.url}/big.bin", "--url", f"{server.url}/slow.bin"]
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert begun.wait(30)
        time.sleep(0.2)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=25)  # a connection that stalls would hold it for 30 s
        go.set()
        assert running.returncode == 130, err
        assert "Interrupted" in err
        assert "the same command goes on" in err
        folder = tmp_path / "downloads"
        assert not (folder / "big.bin").exists()
        assert (folder / ".big.bin.part").stat().st_size > 0
        server.usual = serve(etag='"1"')
        assert script.main(command[3:]) == 0
        assert (folder / "big.bin").read_bytes() == (folder / "slow.bin").read_bytes() == content
        assert any(asked[1] for asked in server.asked)


def test_a_busy_server_only_delays(tmp_path):
    with loopback(**shards(0)) as server:
        server.answers += [status(429, Retry_After=0), status(503)]
        assert fetch_all([f"{server.url}/shard_00000.parquet"], tmp_path, 1, QUICK).fetched
