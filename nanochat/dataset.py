"""Where the text comes from: a name, a folder or a file -> documents to train on and documents to validate on.

    open_dataset("stories")                            generated stories without an end
    open_dataset("python")                             the manual inside this Python
    open_dataset("~/.cache/nanochat/base_data")        parquet shards, as nanochat has them
    open_dataset("book.txt"), open_dataset("chats.jsonl"), or a folder of either

What validates: the last parquet shard, as in nanochat; of text files the ones named so ("valid", "dev", "test" beside a
"train"), else the last of a folder, else the end of the only file. `notes` says which it was, how documents were told
apart, and what was left out. Up to 64 MB is read once on opening, so that a broken line shows before training begins
and not an hour into it. `nanochat fetch` downloads nanochat's own shards; `dataloader.py` makes batches.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanochat import paths
from nanochat.checkpoint_files import shown
from nanochat.dataset_builtin import Stories, manual
from nanochat.dataset_parquet import ParquetSplit
from nanochat.dataset_split import DatasetError, Split, Texts, fail, unreadable
from nanochat.dataset_text import DESCRIPTIONS, Form, Piece, TextSplit, form_of, size_of, stretches

__all__ = [
    "BUILT_IN", "SHARD_FOLDERS", "Dataset", "DatasetError", "Split", "Texts", "choose_data", "open_dataset",
    "shard_folder",
]  # fmt: skip

BUILT_IN = ("stories", "python")
SHARD_FOLDERS = ("base_data_climbmix", "base_data")  # in a base dir; the first since 2026-03-04
CHECKED_BYTES = 64 << 20  # up to here everything is read on opening, about a second
_KINDS = {"parquet": (".parquet",), "jsonl": (".jsonl",), "text": (".txt", ".md")}  # in this order in a mixed folder
_SHARES = (0.1, 0.3, 0.5)  # of a single file, for validation: the first that leaves a document on both sides
_MAX_TAIL = 8 << 20  # bytes; more would not make validation better, only slower
_TRAIN_NAME = re.compile(r"(^|[._-])train", re.IGNORECASE)
_VAL_NAME = re.compile(r"(^|[._-])(val|valid|validation|dev|test)([._-]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Dataset:
    """Text in two parts that share no document, unless a note says so."""

    name: str  # what a person calls it: "stories", or the name of the folder or file
    train: Split
    val: Split
    opening_notes: tuple[str, ...]  # what was found on opening

    @property
    def notes(self) -> tuple[str, ...]:
        """One line each: how the text was divided, and what has been left out so far, with counts."""
        parts = [("training", self.train)] + ([("validation", self.val)] if self.val is not self.train else [])
        return self.opening_notes + tuple(f"{part}: {line}" for part, split in parts for line in split.remarks)


def open_dataset(spec: str | os.PathLike[str], *, seed: int = 0) -> Dataset:
    """Open a built-in corpus by name, or a folder or a file by path.

    spec: "stories", "python" (a folder of that name is "./python"), or a path. seed: which stories; else not used.

    Raises:
        DatasetError: there is nothing of the kind, or the text cannot be read.
    """
    if spec == "stories":
        note = "stories are made as they are needed and never repeat; 1,000 others validate"
        return Dataset("stories", Stories(seed, "train"), Stories(seed, "val"), (note,))
    if spec == "python":
        train, val = manual()
        note = f"{len(train.texts):,} topics of this Python's manual train, {len(val.texts):,} validate"
        return Dataset("python", train, val, (note,))
    path = paths.expand(spec)
    notes: list[str] = []
    if os.path.isdir(path):
        kind, files, notes = _files_in(path)
    elif os.path.isfile(path):
        kind, files = _kind_of(path), [path]
    else:
        reason = "it is not a regular file" if os.path.lexists(path) else "no folder or file can be found there"
        fail(path, reason, f"give {', '.join(BUILT_IN)}, or a path to .parquet, .jsonl or .txt")
    if kind == "parquet":
        return _parquet(path, files, notes)
    return _text(path, files, notes)


def shard_folder(base_dir: Path) -> Path:
    """Where nanochat's shards lie in a base dir: the newest of its folders that holds any, else the newest name."""
    for name in SHARD_FOLDERS:
        if any((base_dir / name).glob("*.parquet")):
            return base_dir / name
    return base_dir / SHARD_FOLDERS[0]


def choose_data(spec: str | None, base_dir: str | os.PathLike[str] | None = None) -> tuple[str, str]:
    """What to read and why: as asked, else the shards of the base dir or, without one, of either root, else stories.

    The tokenizer and the model that uses it learn from the same text, so both ask here.
    """
    if spec:
        return spec, "as asked"
    for base in [paths.expand(base_dir)] if base_dir else [root.path for root in paths.roots()]:
        folder = shard_folder(base)
        if any(folder.glob("*.parquet")):
            return str(folder), "the shards that are there"
    return "stories", "no shards are here; `nanochat fetch` brings some"


def _kind_of(path: Path) -> str:
    if path.suffix.lower() in (".gz", ".zst", ".xz", ".bz2", ".zip"):
        fail(path, "it is compressed", "unpack it first: packed text cannot be read from the middle")
    for kind, suffixes in _KINDS.items():
        if path.suffix.lower() in suffixes:
            return kind
    fail(path, f"files ending in {shown(path.suffix) or 'nothing'} are not known", "give .parquet, .jsonl, .txt or .md")


def _files_in(folder: Path) -> tuple[str, list[Path], list[str]]:
    """The kind of text in a folder, its files in name order, and what is not read."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    except OSError as error:
        unreadable(folder, error)
    for kind, suffixes in _KINDS.items():
        chosen = [name for name in names if name.lower().endswith(suffixes) and (folder / name).is_file()]
        if chosen:
            others = [name for name in names if name not in set(chosen)]
            listed = ", ".join(shown(name, 40) for name in others[:3]) + (", ..." if len(others) > 3 else "")
            notes = [f"{len(others):,} other entries of the folder are not read: {listed}"] if others else []
            return kind, [folder / name for name in chosen], notes
    what = "it is empty" if not names else f"none of its {len(names):,} entries is .parquet, .jsonl or .txt"
    fail(folder, what, "get nanochat's shards with `nanochat fetch`, or name a folder that holds text")


def _parquet(path: Path, files: Sequence[Path], notes: list[str]) -> Dataset:
    parts = [files, files] if len(files) == 1 else [files[:-1], files[-1:]]
    train = ParquetSplit(parts[0])
    val = train if len(files) == 1 else ParquetSplit(parts[1])
    for split, part in ((train, parts[0]), (val, parts[1])):
        if split.is_empty():
            fail(
                part[0],
                "there is no row in it, and it is all there is for one part",
                "get it again, or name other data",
            )
    if len(files) == 1:
        notes.append("there is one shard, so both parts read it: val_bpb says nothing about new text")
    else:
        notes.append(f"{len(files) - 1:,} shards train; the last, {shown(files[-1].name)}, validates")
    return Dataset(path.name, train, val, tuple(notes))


def _text(path: Path, files: Sequence[Path], notes: list[str]) -> Dataset:
    sizes = {file: size_of(file) for file in files}
    if not sum(sizes.values()):
        fail(path, "it is empty", "name a file with text in it")
    form: Form = "files" if len(files) > 1 and files[0].suffix.lower() != ".jsonl" else form_of(files[0])
    checked = sum(sizes.values()) <= CHECKED_BYTES
    if len(files) == 1:
        train, val, divided = _tail(files[0], form)
    else:
        held_out = _held_out(files, sizes, form)
        if any(_VAL_NAME.search(file.stem) for file in held_out) and form == "files":
            form = form_of(max(files, key=lambda file: sizes[file]))  # TinyStories-train.txt: not a file a document
        train = _pieces([file for file in files if file not in held_out], form)
        val = _pieces(held_out, form)
        divided = f"{_listed(held_out)} validate{'s' if len(held_out) == 1 else ''}"
    notes += [DESCRIPTIONS[form], divided]
    counts = [_count(split, checked) for split in (train, val)]
    if 0 in counts:
        purpose = "validate on" if counts[0] else "train on"
        fail(path, f"there is nothing but white space to {purpose}", "add text, or name another file")
    if checked:
        notes.append(f"{counts[0]:,} documents train, {counts[1]:,} validate; all were read and are sound")
    else:
        notes.append("too large to be read on opening: a broken line would show when it is reached")
    return Dataset(path.name, train, val, tuple(notes))


def _tail(path: Path, form: Form) -> tuple[TextSplit, TextSplit, str]:
    """The end of one file for validation: a tenth of it, more if a tenth has no document of its own."""
    size = size_of(path)
    for share in _SHARES:
        cut = max(round(size * (1 - share)), size - _MAX_TAIL)
        train, val = (TextSplit(stretches(path, *ends), form) for ends in ((0, cut), (cut, size)))
        if _count(train, False) and _count(val, True):
            return train, val, f"the last {100 * (size - cut) / size:.2g} % of the file validates"
    whole = _pieces([path], form)
    return whole, whole, "the file is one document, so both parts read it: val_bpb says nothing about new text"


def _pieces(files: Sequence[Path], form: Form) -> TextSplit:
    pieces: list[Piece] = [piece for file in files for piece in stretches(file)]
    return TextSplit(pieces, form)


def _held_out(files: Sequence[Path], sizes: dict[Path, int], form: Form) -> list[Path]:
    """The files of a folder that validate."""
    named = [file for file in files if _VAL_NAME.search(file.stem) and not _TRAIN_NAME.search(file.stem)]
    if named and any(_TRAIN_NAME.search(file.stem) for file in files):
        return named
    if form != "files":
        return [files[-1]]
    held_out: list[Path] = []  # many small documents: the last twentieth of them by size
    for file in reversed(files[1:]):
        held_out.insert(0, file)
        if sum(sizes[file] for file in held_out) * 20 >= sum(sizes.values()):
            break
    return held_out


def _listed(files: Sequence[Path]) -> str:
    return shown(files[0].name) if len(files) == 1 else f"{len(files):,} files from {shown(files[0].name)} on"


def _count(split: Split, whole: bool) -> int:
    """Documents of a split, reading all of it or up to the first group that has any."""
    total = 0
    for group in range(split.groups(0)):
        total += len(split.read(0, group))
        if total and not whole:
            break
    return total
