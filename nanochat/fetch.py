"""Download many files into one folder, several at a time: nanochat's public shards, or any addresses.

    report = fetch_all(shard_urls(SOURCES["climbmix"], 8), folder, workers=4)

What is there already is left alone, what broke goes on where it broke, and one file that cannot be had does not stop
the others: the report says which. Each file is `fetch_file.py`'s work; `nanochat fetch` is the command. The requests
library is loaded when the first file is asked for, and nothing here prints: progress goes to a callback.
"""

import os
import queue
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from nanochat import durable
from nanochat.checkpoint_files import CheckpointError, location, shown
from nanochat.dataset_parquet import require_whole
from nanochat.dataset_split import DatasetError
from nanochat.fetch_claims import public
from nanochat.fetch_file import FetchError, FileFetch, Patience
from nanochat.paths import readable_size

__all__ = ["SOURCES", "FetchError", "Patience", "Report", "Source", "fetch_all", "file_name", "files", "shard_urls"]

_SPARE_BYTES = 100_000_000  # left free on the disk, for everybody else
_NAME_BYTES = 200  # of a file's name in UTF-8; file systems take 255, and ours get a longer one while they come
_GRACE = 3.0  # seconds that the connections get to end after Ctrl-C; then the process leaves without them

Progress = Callable[[str, int, int | None], None]  # (file name, bytes here, bytes in all or None)


@dataclass(frozen=True)
class Source:
    """A public set of shards. The facts are nanochat's own (`nanochat/dataset.py`)."""

    name: str
    base_url: str
    last: int  # number of the last shard; it validates, so it always comes too
    folder: str  # below a base dir
    shard_bytes: int  # about, for a first look at the disk


SOURCES = {
    source.name: source
    for source in (
        Source(
            "climbmix",  # nanochat's data since 2026-03-04
            "https://huggingface.co/datasets/karpathy/climbmix-400b-shuffle/resolve/main",
            6542,
            "base_data_climbmix",
            90_000_000,
        ),
        Source(
            "fineweb",  # before that
            "https://huggingface.co/datasets/karpathy/fineweb-edu-100b-shuffle/resolve/main",
            1822,
            "base_data",
            90_000_000,
        ),
    )
}


@dataclass(frozen=True)
class Report:
    """What became of each file."""

    folder: Path
    fetched: list[str] = field(default_factory=list)  # names
    present: list[str] = field(default_factory=list)  # were there before
    failed: dict[str, str] = field(default_factory=dict)  # name, or address where it has none -> why, one sentence
    received: int = 0  # bytes of the fetched files


def shard_urls(source: Source, num_files: int, base_url: str | None = None) -> list[str]:
    """The addresses of the first `num_files` training shards (-1: all) and of the validation shard, which is the last.

    Raises:
        FetchError: a number below -1.
    """
    if num_files < -1:
        raise FetchError(f"the number of files is {num_files}; give how many training shards to fetch, or -1 for all")
    train = source.last if num_files == -1 else min(num_files, source.last)
    base = (base_url or source.base_url).rstrip("/")
    return [f"{base}/shard_{index:05d}.parquet" for index in (*range(train), source.last)]


def files(count: int) -> str:
    """A number of files in words.

    >>> files(1), files(1823)
    ('1 file', '1,823 files')
    """
    return f"{count:,} file{'' if count == 1 else 's'}"


def file_name(url: str) -> str:
    """The name under which an address is kept: its last part, if that is a plain file name.

    >>> file_name("https://example.org/data/book.txt?download=true")
    'book.txt'

    Raises:
        FetchError: it is not.
    """
    try:
        name = unquote(urlsplit(url).path.rpartition("/")[2])
    except ValueError:  # brackets that do not match
        name = ""
    if (
        not name
        or name.startswith(".")
        or len(name) > 200
        or len(name.encode()) > _NAME_BYTES
        or not name.isprintable()
        or set(name) & set('/\\:*?"<>|')
    ):
        raise FetchError(f"{shown(public(url), 200)} does not end in a plain file name to keep it under")
    return name


def fetch_all(
    urls: Sequence[str],
    folder: Path,
    workers: int = 4,
    patience: Patience | None = None,
    on_progress: Progress = lambda name, here, total: None,
    expected_bytes: int = 0,
) -> Report:
    """Download every address into `folder`, which is made if needed, and held against a second download meanwhile.

    on_progress is called from the workers' threads. expected_bytes: about how large a file is, to refuse at once what
    cannot fit. On Ctrl-C the connections end, what arrived is kept, and KeyboardInterrupt goes on.

    Raises:
        FetchError: two addresses with one name, another download in the same folder, or too little space.
    """
    jobs: dict[str, str] = {}
    nameless: dict[str, str] = {}  # address -> why it cannot be kept
    for url in dict.fromkeys(urls):
        try:
            name = file_name(url)
        except FetchError as error:
            nameless[url] = str(error)
            continue
        if name in jobs:
            raise FetchError("two of the addresses end in the same file name; fetch them into different folders")
        jobs[name] = url
    if workers < 1:
        raise FetchError(f"the number of workers is {workers}; give 1 or more")
    try:
        with durable.directory_lock(folder):
            report = _fetch_locked(jobs, folder, workers, patience or Patience(), on_progress, expected_bytes)
            return replace(report, failed={**nameless, **report.failed})
    except CheckpointError as error:
        raise FetchError(f"no download into this folder now: {error}") from None


def _fetch_locked(
    jobs: dict[str, str], folder: Path, workers: int, patience: Patience, on_progress: Progress, expected_bytes: int
) -> Report:
    report = Report(folder)
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in jobs:
        try:
            if os.path.lexists(folder / name):
                _require_usable(folder / name)
                report.present.append(name)
            else:
                waiting.put(name)
        except FetchError as error:
            report.failed[name] = str(error)
    missing = waiting.qsize()
    space = _Space(folder)
    space.require(missing * expected_bytes, f"{files(missing)} of about {readable_size(expected_bytes)} each")
    stop = threading.Event()
    done: queue.SimpleQueue[tuple[str, int | Exception]] = queue.SimpleQueue()

    def work() -> None:
        import requests

        with requests.Session() as session:
            while not stop.is_set():
                try:
                    name = waiting.get_nowait()
                except queue.Empty:
                    return
                progress = space.watched(name, on_progress)
                try:
                    done.put((name, FileFetch(jobs[name], folder / name, session, patience, stop, progress).run()))
                except Exception as error:  # noqa: BLE001 - it goes to the thread that asked, whatever it is
                    done.put((name, error))
                finally:
                    space.release(name)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(workers, missing))]
    for thread in threads:
        thread.start()
    received = 0
    bug: Exception | None = None  # the first; it is raised when the other files are there
    try:
        for _ in range(missing):
            name, outcome = _wait_for(done)
            if isinstance(outcome, int):
                report.fetched.append(name)
                received += outcome
            elif isinstance(outcome, FetchError):
                report.failed[name] = str(outcome)
            else:
                bug = bug or outcome
    finally:
        stop.set()
        for thread in threads:
            thread.join(_GRACE / len(threads))
    if bug is not None:
        raise bug
    return Report(folder, sorted(report.fetched), sorted(report.present), report.failed, received)


def _wait_for(done: "queue.SimpleQueue[tuple[str, int | Exception]]") -> tuple[str, int | Exception]:
    while True:
        try:
            return done.get(timeout=1)  # not for ever: on Windows Ctrl-C would not get through
        except queue.Empty:
            continue


def _require_usable(path: Path) -> None:
    """A file that is there must be one, and a whole one as far as that can be seen."""
    if not path.is_file():
        raise FetchError(f"{location(path)} is there and is not a file; move it away, or choose another folder")
    if path.suffix == ".parquet":
        try:
            require_whole(path)
        except DatasetError as error:
            raise FetchError(str(error)) from None


class _Space:
    """Watches that all that is still to come fits on the disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.coming: dict[str, int] = {}  # file -> bytes it still needs
        self.guard = threading.Lock()

    def require(self, size: int, what: str) -> None:
        """Raises FetchError where `size` bytes do not fit."""
        free = shutil.disk_usage(self.folder).free
        if size and free < size + _SPARE_BYTES:
            raise FetchError(
                f"{location(self.folder)}: the disk has {readable_size(free)} free and {what} need "
                f"{readable_size(size)}, with {readable_size(_SPARE_BYTES)} to spare; "
                "fetch fewer files, free some space or choose another folder"
            )

    def watched(self, name: str, on_progress: Progress) -> Callable[[int, int | None], None]:
        """A callback that notes what a file still needs, and checks it when its size is first known."""

        def progress(here: int, total: int | None) -> None:
            if total is not None:
                with self.guard:
                    new = name not in self.coming
                    self.coming[name] = total - here
                    if new:
                        self.require(sum(self.coming.values()), "the files that are now coming")
            on_progress(name, here, total)

        return progress

    def release(self, name: str) -> None:
        with self.guard:
            self.coming.pop(name, None)
