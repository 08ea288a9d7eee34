"""Conversations from a JSONL file, one a line: `{"messages": [...]}` or a bare list of messages.

    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]

Both of nanochat's shapes may stand in one file. Every line is checked when the file is opened, and the first bad one is
named with its number, because a file that half trains a model costs more than one that is refused. Only the place of
each line stays in memory; its text is read when it is asked for, so a file of a gigabyte is no burden.
"""

import hashlib
import json
from array import array
from pathlib import Path
from typing import Any

from nanochat import paths
from nanochat.conversation import PROFILES, check
from nanochat.json_document import BOM, is_document
from nanochat.tasks import Conversation, TaskError, check_index, check_split, expected, held_out, words_of

MAX_LINE_BYTES = 16 * 2**20  # a line beyond this is no conversation: a file without line breaks, say
PEEK = 8 << 10  # bytes that tell what a file is


class ConversationFile:
    """The conversations of one split of a file; does not change.

    One conversation in `every` is kept for the val split, chosen by its first message, so that copies of a question
    never stand on both sides. 0 keeps none: everything is trained on. `profile` is one of conversation.py's: "chat"
    takes all that can be rendered, "nanochat-custom" what nanochat's own loader takes.

    Raises TaskError with the line number for a line that is no conversation, and for a file that cannot be read.
    """

    def __init__(
        self, path: str | Path, split: str = "train", *, profile: str = "chat", every: int = 10, name: str | None = None
    ) -> None:
        check_split(split)
        if profile not in PROFILES:
            raise TaskError(f"profile {profile!r} is not known; use {' or '.join(PROFILES)}")
        if every < 0:
            raise TaskError(f"every is {every}; give 0 to keep nothing back, or 10 to keep one conversation in ten")
        self.path, self.split, self.profile = paths.expand(path), split, profile
        self.name = name or self.path.stem
        self.skipped = 0  # blank lines, which are no fault
        self._offsets, self._sizes = array("q"), array("q")
        digest = hashlib.sha256()
        try:
            with self.path.open("rb") as file:
                if is_document(file.peek(PEEK)[:PEEK]):
                    raise TaskError(
                        f"{self.path}: this is one JSON document and not one conversation a line; "
                        "`nanochat dataset_inspector FILE --clean NEW.jsonl` makes lines of it"
                    )
                offset = 0
                number = 0
                while line := file.readline(MAX_LINE_BYTES + 1):
                    number += 1
                    digest.update(line)
                    if len(line) > MAX_LINE_BYTES:
                        raise self._bad(
                            number, f"it is longer than {MAX_LINE_BYTES / 2**20:.0f} MB; end lines with \\n"
                        )
                    if not line.removeprefix(BOM if number == 1 else b"").strip():
                        self.skipped += 1
                    elif self._is_mine(self._parse(line, number), every):
                        self._offsets.append(offset)
                        self._sizes.append(len(line))
                    offset += len(line)
        except OSError as error:
            raise TaskError(f"{self.path}: cannot be read ({error.strerror}); name a JSONL file") from None
        self.identity = f"{self.name}/{split}/{profile}/{every}/{digest.hexdigest()}"

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Conversation:
        index = check_index(index, len(self))
        try:
            with self.path.open("rb") as file:
                file.seek(self._offsets[index])
                line = file.read(self._sizes[index])
        except OSError as error:
            raise TaskError(f"{self.path}: cannot be read any more ({error.strerror}); put it back") from None
        found = self._parse(line, None)
        return found if isinstance(found, dict) else {"messages": found}

    def judge(self, conversation: Conversation, reply: str) -> bool:
        """The same words as the file's reply: right for facts, too strict for free talk, which has many answers."""
        return words_of(reply) == words_of(expected(conversation))

    def _is_mine(self, conversation: Any, every: int) -> bool:
        messages = conversation["messages"] if isinstance(conversation, dict) else conversation
        first = json.dumps(messages[0]["content"])
        return (every > 0 and held_out(first, every)) == (self.split == "val")

    def _parse(self, line: bytes, number: int | None) -> Any:
        """The conversation in a line, checked. `number` is None for one that was checked before."""
        try:
            conversation = json.loads(line.removeprefix(BOM).decode("utf-8"))
        except UnicodeDecodeError as error:
            raise self._bad(number, f"byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None
        except json.JSONDecodeError as error:
            raise self._bad(
                number, f"it is not JSON ({error.msg.lower()} at column {error.colno}); write one conversation a line"
            ) from None
        except (RecursionError, ValueError):  # brackets a thousand deep, a number of ten thousand digits
            raise self._bad(number, "it is JSON of no conversation; write one conversation a line") from None
        for problem in check(conversation, self.profile):
            if problem.severity == "error" or problem.kind == "ends_with_user":
                where = "" if problem.message_index is None else f"message {problem.message_index + 1}: "
                raise self._bad(number, f"{where}{problem.sentence} ({problem.kind}); {problem.remedy}")
        return conversation

    def _bad(self, number: int | None, why: str) -> TaskError:
        if number is None:
            return TaskError(f"{self.path}: the file changed while it was in use ({why}); start again")
        return TaskError(
            f"{self.path}, line {number:,}: {why}. `nanochat dataset_inspector` lists all such lines, and its "
            "--repaired FILE writes what can be trained on"
        )
