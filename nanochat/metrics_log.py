"""Reads what nanochat printed: from a log file of any date and stage to rows and sections.

`LogParser` takes the bytes of a log in pieces of any size and gives rows as soon as their line is complete. A line
without its end is not a line yet: it is kept until the rest comes, so a log that was cut anywhere gives the same rows
up to the cut as the whole one. Every complete line is counted as one of metrics_lines.LINE_KINDS.

    parser = LogParser("run.log")
    parser.feed(open("run.log", "rb").read())
    parser.frame()       # rows, a Polars frame with the columns of metrics_frame.SCHEMA
    parser.sections()    # one for each process that wrote into the file: tok_train, base_train, ...
"""

import datetime
import re
from collections import Counter
from typing import Any

import polars as pl

from nanochat.metrics_facts import TRAINING, Draft, Section, date_results, note, note_message, record_pairs
from nanochat.metrics_frame import Carry, Origin, Part, joined, log_frame
from nanochat.metrics_lines import UNKNOWN_LINES, clean, recognise, segments
from nanochat.metrics_sections import opens, settle
from nanochat.metrics_steps import STEP, StepLine, figures, number, parse_step, usual_fields
from nanochat.metrics_stretches import blank_end, dull_end

MAX_LINE = 1 << 16  # bytes; of a longer line the first and the last half of that are read
CHUNK_ROWS = 50_000  # rows that wait as Python objects before they become a frame: bounds the memory
MAX_SECTIONS = 10_000  # processes that are told apart: each takes memory, and a hostile log has one in every line
MAX_UNKNOWN = 50  # lines that nothing fits and that are kept to be shown

_FILE_HINT = re.compile("|".join(("tok_train|tok_eval|base_loss|base_eval|base_train", *TRAINING[1:], "chat_eval")))
_MERGED = datetime.datetime(2026, 1, 31)  # from then on fine-tuning prints what midtraining had printed
_ZEROS = {"0" * digits for digits in range(1, 10)}
# Behind these come indented lines that explain them.
_WITH_NOTES = {"python_warning", "base_model", "data", "max_chars", "tok_train", "ends"}
_ERROR = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception): ", re.ASCII)


class LogParser:
    """Reads one log, in pieces."""

    def __init__(self, file: str, source: str = "log") -> None:
        self.file, self.source = file, source
        self.counts: Counter[str] = Counter()  # lines of each kind
        self.unknown: list[tuple[int, str]] = []  # number and text of lines that nothing fits, the first ones
        self.at = 0  # complete lines so far
        self.crowded = False  # whether there were more processes than MAX_SECTIONS; they count to the last one
        hint = _FILE_HINT.search(file.replace("\\", "/").rpartition("/")[2])
        self._hint = hint[0] if hint else None
        self._rest, self._tail, self._dropping = b"", b"", False
        self._mode = ""  # what a line that nothing fits belongs to: sample, chat, traceback, ...
        self._draft = Draft(file, 0, 1)
        self._drafts = [self._draft]
        self._runs: dict[str, int] = {}  # script -> number of its latest run
        self._next_run = 0
        self._origin: Origin | None = None
        self._carry = Carry()
        self._steps: list[tuple[int, tuple[str | None, ...]]] = []  # line number, fields
        self._others: list[dict[str, Any]] = []
        self._parts: list[Part] = []  # rows of earlier origins that wait too
        self._waiting = 0  # rows in them
        self._chunks: list[pl.DataFrame] = []

    @property
    def torn(self) -> str | None:
        """The last line if its end is missing; it gives no row. None where the log ends with a whole line."""
        return self._rest[:MAX_LINE].decode("utf-8", "replace") if self._rest or self._dropping else None

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the log."""
        if self._dropping:
            data = self._drop(data)
        data = self._rest + data
        end = data.rfind(b"\n") + 1
        self._rest = data[end:]
        self._block(data[:end].decode("utf-8", "replace"))
        if len(self._rest) > MAX_LINE:
            # A file without newlines must not fill the memory: the middle of such a line is let go.
            self._rest, self._tail, self._dropping = self._rest[: MAX_LINE // 2], self._rest[-MAX_LINE // 2 :], True

    def _drop(self, data: bytes) -> bytes:
        """Go on with an overlong line; returns what comes after it, the shortened line before it."""
        end = data.find(b"\n")
        self._tail = (self._tail + (data if end < 0 else data[:end]))[-MAX_LINE // 2 :]
        if end < 0:
            return b""
        self._dropping = False
        # The carriage returns make the two ends segments of their own: they are not read as one text.
        return b"\r\r" + self._tail + data[end:]

    def frame(self) -> pl.DataFrame:
        """The rows that came since the last call."""
        self._flush()
        chunks, self._chunks = self._chunks, []
        return joined(chunks)

    def sections(self) -> tuple[Section, ...]:
        """What is known by now about each process of the log."""
        return tuple(draft.freeze(self._hint) for draft in self._drafts if draft.last_line)

    def _block(self, text: str) -> None:
        """Whole lines. Nearly all lines of a long log are steps: one regular expression finds them in a row."""
        position, in_a_row = 0, 0
        for found in STEP.finditer(text):
            start, end = found.span()
            fields = found.groups()
            if start != position:
                self._in_a_row(in_a_row)
                self._lines(text[position:start])
                in_a_row = 0
            if not in_a_row or fields[0] in _ZEROS:
                self._in_a_row(in_a_row)
                self._before_step(fields[1] is not None, fields[0] in _ZEROS, fields[9] is not None)
                in_a_row = 0
            in_a_row += 1
            self._steps.append((self.at + in_a_row, fields))
            position = end
            if len(self._steps) >= CHUNK_ROWS:
                self._flush()
        self._in_a_row(in_a_row)
        if position != len(text):
            self._lines(text[position:])

    def _in_a_row(self, count: int) -> None:
        """Count step lines that followed each other."""
        if count:
            self.at += count
            self.counts["step"] += count
            self._draft.last_line = self.at
            self._draft.last_step = None  # worked out where a save asks

    def _lines(self, text: str) -> None:
        """Whole lines that are not steps in their usual wording."""
        place, kind = 0, ""
        while place < len(text):
            if kind in ("unknown", "blank", "chat") and (end := self._pass_over(text, place)) > place:
                place = end
                continue
            end = text.index("\n", place)
            kind = self._line(text[place:end])
            place = end + 1

    def _pass_over(self, text: str, start: int) -> int:
        """Count the lines from `start` on that are blank or nothing, if many are; returns where the next one begins."""
        end, kind = start, ""
        if self._mode in ("", "notes", "chat"):
            end, kind = blank_end(text, start), "blank"
        if end == start and self._mode in ("", "chat") and len(self.unknown) >= MAX_UNKNOWN:
            end, kind = dull_end(UNKNOWN_LINES, text, start), self._mode or "unknown"
        if end > start:
            count = text.count("\n", start, end)
            self.at += count
            self.counts[kind] += count
            if kind == "blank" and self._mode == "notes":
                self._mode = ""
            if kind != "blank" or self._draft.last_line:
                self._draft.last_line = self.at
        return end

    def _line(self, line: str) -> str:
        """Take one line, without its end; returns its kind."""
        self.at += 1
        if len(line) > MAX_LINE:  # as feed does with one that it cannot hold
            line = line[: MAX_LINE // 2] + "\r\r" + line[-MAX_LINE // 2 :]
        kinds = [self._segment(segment) for segment in segments(line)]
        # A line is what its last segment is that says more than a counter does.
        kind = next((k for k in reversed(kinds) if k not in ("progress", "blank", "unknown")), kinds[-1])
        if kind == "unknown" and len(line) > MAX_LINE // 4:
            kind = "overlong"
        if kind == "unknown" and len(self.unknown) < MAX_UNKNOWN:
            self.unknown.append((self.at, line[:200]))
        self.counts[kind] += 1
        if kind != "blank" or self._draft.last_line:
            self._draft.last_line = self.at
        return kind

    def _segment(self, segment: str) -> str:
        """Take one text of a line; returns its kind."""
        text, rank = clean(segment)
        if rank:
            if self._draft.error is None and _ERROR.match(text):
                self._draft.error = f"rank {rank}: {text[:500]}"
            return "rank"
        if self._mode == "traceback" and text[:1].isspace():
            return "traceback"
        line = recognise(text, in_prose=self._mode in ("sample", "chat"))
        if line.kind == "step":
            step = parse_step(text)
            if step is not None:
                return self._step_line(step)
        if line.kind == "unknown" or (line.kind == "blank" and self._mode in ("sample", "chat")):
            return self._continue(text, line.kind)
        if self._mode == "chat" and line.kind in ("rule", "sample", "progress"):
            return "chat"
        if opens(self._draft, line):
            self._begin()
        settle(self._draft, line)
        if not (line.kind == "blank" and self._mode == "traceback"):
            self._mode = line.kind if line.name in ("start", "heading") else ""
            if line.name in _WITH_NOTES:
                self._mode = "notes"
        if line.kind == "traceback":
            self._mode = "traceback"
            self._draft.error_line = -1  # the message of this one is still to come
        if line.kind == "sample" and line.name == "start":
            self._draft.samples.append([text])
        note(self._draft, line, self.at)
        if line.name == "remark" and line.kind == "checkpoint" and line.match is not None:
            self._other("checkpoint", int(line.match[1]), events=["checkpoint"])
        if line.name == "logger" and line.match is not None:
            return self._logged(line.match)
        if line.name == "record" and line.match is not None and line.match[1] in ("step", "eval"):
            return self._record(line.match)
        return line.kind

    def _continue(self, text: str, kind: str) -> str:
        """A line that is nothing by itself belongs to what came before it."""
        if self._mode == "sample":
            if self._draft.samples:
                self._draft.samples[-1].append(text)
            return "sample" if kind == "unknown" else kind
        if self._mode == "chat":
            return "chat" if kind == "unknown" else kind
        if self._mode == "traceback":
            # Its last line is the only one that is not indented; a message may go on over further lines.
            if self._draft.error is None or self._draft.error_line < 0:
                self._draft.error, self._draft.error_line = text[:500], self.at
            return "traceback"
        if self._mode == "notes" and text[:1].isspace():
            return "notice"
        return kind

    def _begin(self) -> None:
        if len(self._drafts) >= MAX_SECTIONS:
            self.crowded = True
            return
        self._end_part()
        self._draft = Draft(self.file, len(self._drafts), self.at)
        self._drafts.append(self._draft)
        self._origin, self._mode = None, ""

    def _logged(self, found: re.Match[str]) -> str:
        """A line of Python's logging: a clock time and a message."""
        draft, message = self._draft, found[4]
        try:
            clock = datetime.datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S")
        except ValueError:
            clock = None
        draft.started, draft.ended = draft.started or clock, clock or draft.ended
        if found[2] == "rustbpe":
            draft.script, draft.body = draft.script or "tok_train", True
        note_message(draft, message)
        if "loaded_step" in draft.facts or draft.order < 4:
            draft.body = True
        if not message.startswith(("Saved model file", "Saved model parameters")):
            return "notice"
        named = re.search(r"model_(\d{6,12})\.pt", message, re.ASCII)
        step = int(named[1]) if named else self._step_to_save()
        draft.facts["saved"] = step
        self._other("checkpoint", step, events=["checkpoint"])
        return "checkpoint"

    def _step_to_save(self) -> int | None:
        """The step that a save is called where its path does not say: the one at hand."""
        if self._draft.last_step is not None or not self._steps:
            return self._draft.last_step
        last = number(self._steps[-1][1][0] or "")
        if not isinstance(last, int):
            return None
        return last + 1 if self._draft.script == "base_train" else last  # pretraining saves before the next step

    def _step_line(self, line: StepLine) -> str:
        """A line `step ... | ...` in another wording than the usual: fine-tuning of 2025, evaluations, RL, forks."""
        values, draft = line.values, self._draft
        is_training = "loss" in values or "training loss" in values or "average reward" in values
        if is_training and not line.capital:
            self._before_step(line.total is not None, line.step == 0, "epoch" in values)
            draft = self._draft
            self._steps.append((self.at, usual_fields(line)))
            draft.last_step = line.step + (1 if draft.script == "base_train" else 0)
            return "step"
        if draft.closed:
            self._begin()
            draft = self._draft
        draft.body, self._mode = True, ""
        if draft.script is None:
            if "average reward" in values or any(key.startswith("pass@") for key in values):
                draft.script = "chat_rl"
            elif "training loss" in values or "validation loss" in values:
                draft.script = "chat_sft"
            elif "validation bpb" in values:
                draft.script = self._tuning(False) if "loaded_step" in draft.facts else "base_train"
        row = figures(line)
        kind = "rollout" if "example step" in values else "step" if is_training else "evaluation"
        if line.total is not None:
            row["total_steps"] = line.total
        draft.last_step = line.step
        if "core" in row or "chatcore" in row:
            date_results(draft, line.step)
        self._other(kind, line.step, **row, events=["evaluation"] if kind == "evaluation" else [])
        return kind

    def _record(self, found: re.Match[str]) -> str:
        """`step step=4990 loss=2.3 ...`, as scripts newer than 2026-07 print it."""
        pairs = record_pairs(found[2])
        step = pairs.pop("step", None)
        if not isinstance(step, int) or abs(step) >= 1 << 62:
            return "fact"
        named = {
            "loss": "smooth_loss",
            "lrm": "lr_multiplier",
            "tok_per_sec": "tokens_per_second",
            "val_bpb": "val_bpb",
        }
        row = {named[key]: float(value) for key, value in pairs.items() if key in named and type(value) in (int, float)}
        if type(pairs.get("mfu")) in (int, float):
            row["mfu"] = pairs["mfu"] / 100
        kind = "step" if found[1] == "step" else "evaluation"
        self._other(kind, step, **row, events=["evaluation"] if kind == "evaluation" else [])
        return kind

    def _other(self, kind: str, step: int | None, **columns: Any) -> None:
        if self._origin is None:
            self._start_rows()
        if step is not None and step >= 1 << 62:
            step = None
        self._others.append({"line": self.at, "kind": kind, "step": step, **columns})
        if len(self._others) >= CHUNK_ROWS:
            self._flush()

    def _before_step(self, has_total: bool, first: bool, has_epoch: bool) -> None:
        """Before a step that follows something else, or looks like the first: which script, and is it a new run?"""
        draft, self._mode = self._draft, ""
        if draft.closed or (first and has_total and draft.steps):
            self._begin()  # a run that starts again without a header, as in a log that was filtered
            draft = self._draft
        if draft.script not in TRAINING:
            self._end_part()
            self._origin = None  # rows before it were of a script that was not known yet
            draft.script = "base_train" if has_total else self._tuning(has_epoch)
        draft.steps = draft.body = True
        draft.error = None  # what raised it did not end this process
        if self._origin is None:
            self._start_rows()

    def _tuning(self, has_epoch: bool) -> str:
        """Midtraining or the fine-tuning that took over its wording, where nothing in the header told."""
        if self._hint in TRAINING:
            return str(self._hint)
        draft = self._draft
        since = draft.started is not None and draft.started >= _MERGED
        return "chat_sft" if not draft.overridden and (since or (has_epoch and draft.started is None)) else "mid_train"

    def _start_rows(self) -> None:
        """Fix what the rows of this section have in common, when its first row comes."""
        draft, facts = self._draft, self._draft.facts
        resumed = "resumed_from" in facts
        script = draft.script or ""
        if not (resumed and script in self._runs):
            self._runs[script] = self._next_run
            self._next_run += 1
        draft.run = self._runs[script]
        batch, flops = facts.get("total_batch_size"), facts.get("flops_per_token")
        self._origin = Origin(
            *(self.source, self.file, draft.number, draft.run, draft.stage),
            batch=batch if isinstance(batch, int) and 0 < batch < 1 << 40 else None,
            flops_per_token=float(flops) if isinstance(flops, int | float) and 0 < flops < 1e30 else None,
            counts_from_one=script in ("mid_train", "chat_sft"),
            resumed=resumed,
        )

    def _end_part(self) -> None:
        """The rows that come next may be of another origin."""
        if self._origin is not None and (self._steps or self._others):
            if self._steps and self._draft.last_step is None:
                self._draft.last_step = self._step_to_save()
            self._parts.append(Part(self._origin, self._steps, self._others))
            self._waiting += len(self._steps) + len(self._others)
        self._steps, self._others = [], []
        if self._waiting >= CHUNK_ROWS:
            self._tabulate()

    def _tabulate(self) -> None:
        """Turn the waiting parts into a frame."""
        frame, self._carry = log_frame(self._parts, self._carry)
        self._chunks.append(frame)
        self._parts, self._waiting = [], 0

    def _flush(self) -> None:
        """Turn all waiting rows into a frame."""
        self._end_part()
        if self._parts:
            self._tabulate()
