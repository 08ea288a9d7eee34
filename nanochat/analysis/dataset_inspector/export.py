"""A data set in three files: what can be trained on, what cannot, and what can once small faults are repaired.

Clean and rejected lines are copied as bytes and never written anew; together they are the whole data set but for blank
lines. An export also ends lines with \\n and drops a byte order mark. Each file appears whole or not at all.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from nanochat.analysis.dataset_inspector.diagnose import diagnose
from nanochat.analysis.dataset_inspector.findings import secrets_in
from nanochat.analysis.dataset_inspector.kinds import KINDS, REFUSED, mask_of
from nanochat.analysis.dataset_inspector.other_shapes import in_our_shape
from nanochat.analysis.dataset_inspector.report import Progress, Report
from nanochat.analysis.dataset_inspector.rows import sample
from nanochat.analysis.dataset_inspector.sources import Block, InspectorError, Source, blocks, copy_bytes
from nanochat.analysis.dataset_inspector.text import issue_lines, samples
from nanochat.checkpoint_files import location
from nanochat.conversation import check
from nanochat.durable import publish, require_file, stage
from nanochat.json_document import BOM
from nanochat.tasks.conversation_file import MAX_LINE_BYTES

NOT_TEXT = (".gz", ".zst", ".parquet")  # endings that promise something else than lines
PARTS = ("clean", "rejected", "repaired")
# Faults after which nobody can say what was meant, so nothing is guessed.
_BEYOND_REPAIR = mask_of("invalid_utf8", "dup_key")
_BLANK = KINDS["blank_line"].mask
_DROPPED = KINDS["duplicate"].mask  # in a line's mask here only where an export shall drop it
_OUT = REFUSED | _DROPPED


@dataclass(frozen=True)
class Drop:
    """What an export leaves out of the clean and the repaired lines."""

    duplicates: bool = False  # lines that equal an earlier one; nor is a repaired one written twice
    secrets: bool = False  # lines that hold one of the secrets looked for


NOTHING = Drop()


def export_issues(report: Report, target: Path) -> int:
    """Write every line that has an issue, one JSON object each; how many. Raises InspectorError and CheckpointError."""
    require_other(report.sources, target)

    def produce(file: Any) -> None:
        for part in issue_lines(report):
            file.write(part)

    publish(stage(target, produce))
    return len(report.issues)


def export_samples(report: Report, target: Path, count: int, seed: int = 0) -> int:
    """Write random conversations as text for reading; how many. Raises InspectorError and CheckpointError."""
    require_other(report.sources, target)
    rows = sample(report, count, seed)
    text = "\n".join(samples(rows, report, clip=MAX_LINE_BYTES)) + "\n"
    publish(stage(target, lambda file: file.write(text.encode(errors="replace"))))
    return len(rows)


def require_other(sources: Sequence[Source], target: Path) -> None:
    """Refuse to write over a file that is read. Raises InspectorError."""
    for source in sources:
        if source.path is not None and target.exists() and source.path.exists() and target.samefile(source.path):
            raise InspectorError(f"{location(target)}: this is a file that is read; give another name")


def require_targets(sources: Sequence[Source], targets: Mapping[str, Path]) -> None:
    """Refuse, before anything is read, files that cannot be written. targets: flag without dashes -> file.

    Raises InspectorError for a file that is read, two flags with one file, an ending that promises something else, and
    a folder that is missing; CheckpointError for what is no file.
    """
    flags: dict[str, str] = {}  # place -> the flag that names it
    for flag, target in targets.items():
        require_file(target)
        if not target.parent.is_dir():
            raise InspectorError(f"{location(target)}: there is no such folder; make it first")
        require_other(sources, target)
        if flag == "counts" and target.suffix.lower() != ".parquet":
            raise InspectorError(f"{location(target)}: --counts writes a table; end its name in .parquet")
        if flag != "counts" and target.suffix.lower() in NOT_TEXT:
            raise InspectorError(f"{location(target)}: --{flag} writes no such file; end its name in .jsonl or .txt")
        place = os.path.realpath(target)
        if place in flags:
            raise InspectorError(f"{location(target)}: --{flags[place]} and --{flag} name this file; give each its own")
        flags[place] = flag


@dataclass(frozen=True)
class Exported:
    """What one file got."""

    lines: int
    size: int  # bytes
    repairs: dict[str, int]  # what was done -> lines


def export_file(
    report: Report,
    part: str,
    target: Path,
    watch: Callable[[Progress], None] = lambda p: None,
    *,
    drop: Drop = NOTHING,
) -> Exported:
    """Write one of PARTS to a file, which replaces an older one. Raises InspectorError and CheckpointError."""
    require_other(report.sources, target)
    found: list[Exported] = []

    def produce(file: Any) -> None:
        found.append(export(report, part, file.write, watch, drop=drop))

    publish(stage(target, produce))
    return found[0]


def export(
    report: Report,
    part: str,
    write: Callable[[bytes], object],
    watch: Callable[[Progress], None] = lambda p: None,
    *,
    drop: Drop = NOTHING,
) -> Exported:
    """Hand the lines of one of PARTS to `write`, some megabytes at a time. Raises InspectorError.

    drop: lines that are rejected, although they could be trained on.
    """
    repeated = report.duplicates["row"].implode()
    again = pl.col("row").is_in(repeated).cast(pl.UInt32) * (_DROPPED if drop.duplicates else 0)
    counts: Counter[str] = Counter()
    seen: set[bytes] = set()  # of what is repaired: two faults of one line come out alike
    lines = size = done = 0
    for number, source in enumerate(report.sources):
        kinds = report.index.collect(
            report.index.scan().filter(pl.col("file") == number).sort("row").select(kinds=pl.col("kinds") | again)
        )["kinds"].to_list()
        for block in blocks(source):
            if block.overlong:
                if part == "rejected":
                    copy_bytes(source, block.offset, block.overlong, write)
                    lines, size = lines + 1, size + block.overlong
                continue
            if drop.secrets:
                for secret in secrets_in(block.data, block.first_line):
                    kinds[secret.line - 1] |= _DROPPED
            kept = list(_chosen(report, block, kinds, part, counts))
            if part == "repaired" and drop.duplicates:
                kept = list(_first_times(kept, seen))
            data = b"".join(kept)
            write(data)
            lines, size, done = lines + len(kept), size + len(data), done + len(block.data)
            watch(Progress(f"writing {part} lines", done, report.size))
    return Exported(lines, size, dict(counts.most_common()))


def keep(report: Report, part: str, folder: Path, *, drop: Drop = NOTHING) -> Path:
    """One of PARTS as a file of `folder` that is named by source and content, so that twice the same is one file.

    Raises InspectorError, also where there is no such line, and CheckpointError.
    """
    digest = hashlib.sha256()
    if not export(report, part, digest.update, drop=drop).lines:
        raise InspectorError(f"no line is {part}, so there is nothing to train on; the tab Problems says what is wrong")
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", report.sources[0].name.partition(".")[0])[:40].strip("-") or "data"
    target = folder / f"{name}-{part}-{digest.hexdigest()[:8]}.jsonl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InspectorError(
            f"{location(folder)}: no file can be put there ({error.strerror}); make it a folder"
        ) from None
    export_file(report, part, target, drop=drop)
    return target


def _chosen(report: Report, block: Block, kinds: list[int], part: str, counts: Counter[str]) -> Iterator[bytes]:
    """The lines of a block that belong to a part, as they are written."""
    lines = block.data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, block.first_line):
        mask = kinds[number - 1]
        if mask & _BLANK:
            continue
        if part == "rejected":
            if mask & _OUT:
                yield line + b"\n"
            continue
        if not mask & _OUT:
            yield plain(line, number) + b"\n"
        elif part == "repaired" and not mask & _DROPPED:
            repaired, done = repair(line, report.options.profile, first=number == 1)
            if repaired is not None:
                counts.update(done)
                yield repaired + b"\n"


def _first_times(lines: list[bytes], seen: set[bytes]) -> Iterator[bytes]:
    """The lines whose digest is not in `seen`, which learns it."""
    for line in lines:
        digest = hashlib.blake2b(line, digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            yield line


def plain(line: bytes, number: int) -> bytes:
    """A line without byte order mark and carriage return."""
    return (line.removeprefix(BOM) if number == 1 else line).removesuffix(b"\r")


def repair(line: bytes, profile: str, *, first: bool = False) -> tuple[bytes | None, list[str]]:
    """A line that can be trained on, and what was done to it; None where nobody can say what was meant.

    >>> repair(b'[{"role": "user", "content": "Hi"}, {"role": "user", "content": "there"}]', "chat")
    (None, [])
    >>> line = b'[{"role":"user","content":"Hi\\\\ud83d"},{"role":"assistant","content":"Ho"}]'
    >>> repair(line, "chat")[1]
    ['half a character removed']
    """
    found = diagnose(line, profile, first=first)
    if not found.readable or found.mask & _BEYOND_REPAIR:
        return None, []
    value, done = found.value, []
    other = in_our_shape(value)
    if other is not None:
        value = other[1]
        done.append("written as messages")
    messages = value.get("messages") if isinstance(value, dict) else value
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return None, []
    done += [f"{word} removed" for kind, word in (("nul", "NUL byte"), ("nan", "NaN")) if found.mask & KINDS[kind].mask]
    if found.mask & KINDS["lone_surrogate"].mask:
        messages = _whole(messages)
        done.append("half a character removed")
    messages = _merged(messages, done)
    while messages and messages[-1].get("role") == "user":
        messages = messages[:-1]
        if "last message without a reply dropped" not in done:
            done.append("last message without a reply dropped")
    if profile == "nanochat-custom":
        if isinstance(value, dict):
            done.append("bare list written")
        value = messages
    else:
        value = value | {"messages": messages} if isinstance(value, dict) else messages
    if check(value, profile):
        return None, []
    try:
        line = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, UnicodeEncodeError):  # half a character in a field of the file's own
        return None, []
    return (line, done) if len(line) < MAX_LINE_BYTES else (None, [])


def _merged(messages: list[Any], done: list[str]) -> list[Any]:
    """Neighbours of the same role as one message, where both are plain text."""
    merged: list[Any] = []
    for message in messages:
        last = merged[-1] if merged else None
        if (
            last is not None
            and last.get("role") == message.get("role")
            and message.get("role") in ("user", "assistant")
            and isinstance(last.get("content"), str)
            and isinstance(message.get("content"), str)
        ):
            merged[-1] = last | {"content": last["content"] + "\n\n" + message["content"]}
            if "two messages merged" not in done:
                done.append("two messages merged")
        else:
            merged.append(message)
    return merged


def _whole(value: Any) -> Any:
    """A JSON value without lone surrogates."""
    if isinstance(value, str):
        return "".join(character for character in value if not "\ud800" <= character <= "\udfff")
    if isinstance(value, list):
        return [_whole(one) for one in value]
    if isinstance(value, dict):
        return {key: _whole(one) for key, one in value.items()}
    return value
