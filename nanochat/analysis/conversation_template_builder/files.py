"""Conversations in files: load one, save one, append one to a dataset. What was written is on the disk.

A `.json` file holds one conversation, a `.jsonl` file one a line. Saving replaces a file in one step, so a crash leaves
the old content or the new. Appending writes one whole line or, where the disk is full, nothing.
"""

import json
import os
import stat
import sys
from itertools import islice
from pathlib import Path
from typing import Any

from nanochat import paths
from nanochat.analysis.conversation_template_builder.making import BuilderError, blocking
from nanochat.checkpoint_files import CheckpointError, location, open_regular, read_small, shown
from nanochat.durable import publish, require_file, stage_bytes, sync_folder
from nanochat.json_document import BOM

MAX_BYTES = 16 * 2**20  # of one conversation, as tasks/conversation_file.py has it
LOOKED_AT = 2_000_000  # bytes of a dataset in which a conversation is looked for, each time a page is drawn
NO_LINES = (".gz", ".zst", ".parquet")  # endings of files that no line can be added to


def load(path: str | Path, line: int | None = None) -> Any:
    """One conversation: of a `.json` file, or the line of a `.jsonl` file (the first unless named, counted from 1).

    What it holds is not checked: `conversation.check` says what is wrong. Raises BuilderError where it is no JSON.
    """
    path = paths.expand(path)
    if line is not None or has_lines(path):
        return _parse(_line(path, 1 if line is None else line), f"{location(path)}, line {line or 1:,}")
    raw = _read(path)
    if len(raw) > MAX_BYTES:
        raise BuilderError(
            f"{location(path)} has more than {MAX_BYTES / 2**20:.0f} MB, and one conversation was expected; name a "
            "line of it with --line, or look at it with `nanochat dataset_inspector`"
        )
    return _parse(raw, location(path))


def has_lines(path: str | Path | None) -> bool:
    """Whether a file has one conversation a line, by its name."""
    return path is not None and Path(path).suffix.lower() in (".jsonl", ".ndjson")


def parse(content: bytes, name: str, line: int = 1) -> Any:
    """One conversation of a file that is in memory, such as an upload. Raises BuilderError."""
    if has_lines(name):
        lines = content.split(b"\n")
        if line > len(lines):
            raise BuilderError(
                f"{shown(name)} has {len(lines):,} lines, so there is no line {line:,}; name one of those"
            )
        content, name = lines[line - 1], f"{name}, line {line:,}"
    return _parse(content, shown(name))


def save(path: str | Path, conversation: Any, overwrite: bool = False, dataset: str | Path | None = None) -> Path:
    """Write one conversation to a file of its own, readable and indented. A folder that is missing is made.

    dataset: the file that it came from, one line of many, which is never replaced.
    Raises BuilderError where a file is there already (unless `overwrite`) or nothing can be written.
    """
    path = paths.expand(path)
    if dataset is not None and os.path.realpath(path) == os.path.realpath(paths.expand(dataset)):
        raise BuilderError(f"{location(path)} is the dataset itself, and would be lost; give another name")
    try:
        require_file(path)
    except CheckpointError as error:
        raise BuilderError(str(error)) from None
    if os.path.lexists(path) and not overwrite:
        raise BuilderError(f"{location(path)} is there already; choose another name, or say that it may be replaced")
    content = f"{json.dumps(_writable(conversation), ensure_ascii=False, indent=2)}\n".encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        publish(stage_bytes(path, content))
        sync_folder(path.parent)
    except CheckpointError as error:
        raise BuilderError(str(error)) from None
    except OSError as error:
        raise _cannot_write(path, error) from None
    return path


def append(path: str | Path, conversation: Any, profile: str = "chat") -> int:
    """Add one conversation as the last line of a dataset; returns the number of the line. A missing file is made.

    Only a conversation fit for training is taken. A last line without its line break gets one first.
    Raises BuilderError where it is not fit, where the last line is half written, or nothing can be written.
    """
    path = paths.expand(path)
    for problem in blocking(conversation, profile):
        where = "" if problem.message_index is None else f"message {problem.message_index + 1}: "
        raise BuilderError(
            f"this conversation was not added to {location(path)}: {where}{problem.sentence} ({problem.kind}); "
            f"{problem.remedy}"
        )
    content = as_line(conversation, profile).encode()
    if path.suffix.lower() in NO_LINES:
        raise BuilderError(f"{location(path)} is no file of lines, by its name; name a .jsonl file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not os.path.lexists(path)
        if not is_new and not stat.S_ISREG(os.stat(path).st_mode):
            raise BuilderError(f"{location(path)} is not a regular file; name a .jsonl file")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        raise _cannot_write(path, error) from None
    try:
        _lock(descriptor)
        before = os.fstat(descriptor).st_size
        _require_lines(descriptor, path)
        number, gap = _end(descriptor, path)
        try:
            rest = memoryview(gap + content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, before)  # a full disk must not leave half a line
            raise
        if is_new:
            sync_folder(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from None
    finally:
        os.close(descriptor)  # ends the lock
    return number


def held(path: str | Path, conversation: Any, most: int = LOOKED_AT) -> tuple[int, bool] | None:
    """How many lines of a dataset are not blank, and whether one has these messages, however it is written.

    None for a file of more than `most` bytes, and for one that cannot be read.
    """
    try:
        with open_regular(paths.expand(path)) as file:
            data = file.read(most + 1)
    except (CheckpointError, OSError):
        return None
    if len(data) > most:
        return None
    lines = [line for line in data.removeprefix(BOM).split(b"\n") if line.strip()]
    wanted = _messages_of(conversation)
    return len(lines), any(_messages_in(line) == wanted for line in lines)


def _messages_in(line: bytes) -> Any:
    try:
        return _messages_of(json.loads(line))
    except (ValueError, RecursionError):
        return None


def _messages_of(value: Any) -> Any:
    return value.get("messages") if isinstance(value, dict) else value


def append_and_tell(path: str | Path, conversation: Any, profile: str = "chat") -> str:
    """`append`, and in a sentence without its end: which line it is now, and which earlier one is the same."""
    number = append(path, conversation, profile)
    content = as_line(conversation, profile).encode()
    try:
        with paths.expand(path).open("rb") as file:
            first = next((at for at, line in enumerate(islice(file, number - 1), 1) if line == content), None)
    except OSError:  # it was added; that nobody can look any more is another matter
        first = None
    again = "" if first is None else f"; line {first:,} is the same conversation, which then counts twice"
    return f"Added to {path} as line {number:,}{again}"


def as_line(conversation: Any, profile: str = "chat") -> str:
    """The conversation as one line of a dataset. nanochat's own loader ("nanochat-custom") reads bare lists only."""
    value = conversation
    if profile == "nanochat-custom" and isinstance(conversation, dict):
        value = conversation.get("messages")
    return f"{json.dumps(_writable(value), ensure_ascii=False)}\n"


def _writable(conversation: Any) -> Any:
    try:
        json.dumps(conversation, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise BuilderError("the text has half a character, which no file can hold; type it again") from None
    except (ValueError, TypeError, RecursionError):
        raise BuilderError("this is nothing that JSON can hold; a conversation is messages of text") from None
    return conversation


def _read(path: Path) -> bytes:
    try:
        return read_small(path, MAX_BYTES)
    except CheckpointError as error:
        raise BuilderError(str(error)) from None


def _line(path: Path, number: int) -> bytes:
    """One line of a file, by its number."""
    if number < 1:
        raise BuilderError(f"line {number} does not exist; lines are counted from 1")
    count = 0
    try:
        with open_regular(path) as raw, os.fdopen(os.dup(raw.fileno()), "rb") as file:
            while line := file.readline(MAX_BYTES + 1):
                if len(line) > MAX_BYTES:
                    raise BuilderError(
                        f"{location(path)}, line {count + 1:,} is longer than any conversation; end lines with \\n"
                    )
                count += 1
                if count == number:
                    return line
    except CheckpointError as error:
        raise BuilderError(str(error)) from None
    except OSError as error:
        raise BuilderError(f"{location(path)}: reading failed ({shown(error.strerror)}); check the disk") from None
    raise BuilderError(f"{location(path)} has {count:,} lines, so there is no line {number:,}; name one of those")


def _parse(raw: bytes, where: str) -> Any:
    raw = raw.removeprefix(BOM)
    if not raw.strip():
        raise BuilderError(f"{where} is empty; write a conversation with --simple, or name another file")
    try:
        return json.loads(raw.decode(), parse_constant=_no_constant)
    except BuilderError as error:
        raise BuilderError(f"{where}: {error}") from None
    except UnicodeDecodeError as error:
        raise BuilderError(f"{where}: byte {error.start + 1:,} is not UTF-8; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        many = "a dataset has one conversation a line: name one with --line"
        remedy = many if error.msg == "Extra data" else "mend it there"
        place = f"line {error.lineno}, column {error.colno}"
        raise BuilderError(f"{where}: not JSON ({error.msg.lower()} in {place}); {remedy}") from None
    except (RecursionError, ValueError):  # brackets a thousand deep, a number of ten thousand digits, NaN
        raise BuilderError(f"{where}: JSON of no conversation; write messages with a role and a content") from None


def _no_constant(word: str) -> float:
    raise BuilderError(f"{word} is no JSON; write null or a number")


def _require_lines(descriptor: int, path: Path) -> None:
    """Refuse a file whose first line is no conversation: a packed one, a table, a text, one JSON document."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    with os.fdopen(os.dup(descriptor), "rb") as file:
        first = next((line for line in iter(lambda: file.readline(MAX_BYTES), b"") if line.strip()), None)
    if first is None:
        return
    try:
        value = json.loads(first.removeprefix(BOM).decode())
    except (ValueError, RecursionError):
        if not first.endswith(b"\n") and first.startswith((b"{", b"[")):
            return  # a line that was cut off: `_end` says so
        value = None
    item = value[0] if isinstance(value, list) and value else value
    if not isinstance(item, dict) or (item is not value and "role" not in item):
        raise BuilderError(
            f"{location(path)}: its first line is no conversation; mend that line, or name a .jsonl file (this may be "
            "packed, a table, or one JSON document)"
        )


def _end(descriptor: int, path: Path) -> tuple[int, bytes]:
    """The number that the next line will have, and the line break that the last one lacks."""
    lines, tail = 0, b""
    os.lseek(descriptor, 0, os.SEEK_SET)
    while block := os.read(descriptor, 1 << 20):
        lines += block.count(b"\n")
        tail = block.rpartition(b"\n")[2] if b"\n" in block else (tail + block)[-MAX_BYTES:]
    if not tail.strip():
        return lines + 1, b"\n" if tail else b""
    try:
        json.loads(tail)
    except (ValueError, RecursionError):
        raise BuilderError(
            f"{location(path)}: line {lines + 1:,}, the last, is half written; mend or remove it first "
            "(`nanochat dataset_inspector FILE --clean NEW` keeps the whole lines)"
        ) from None
    return lines + 2, b"\n"


def _lock(descriptor: int) -> None:
    """Two windows may add to the same file: one waits for the other. Windows has no such wait; a line is one write."""
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _cannot_write(path: Path, error: OSError) -> BuilderError:
    return BuilderError(
        f"{location(path)} cannot be written ({shown(error.strerror)}); check the folder's permissions and free space; "
        "what was there before is untouched"
    )
