"""What an inspection finds, as plain frozen data. Pages and tools only lay it out."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl

from nanochat.analysis.dataset_inspector.index import Index
from nanochat.analysis.dataset_inspector.kinds import KINDS
from nanochat.analysis.dataset_inspector.lengths import Distribution, TokenLengths
from nanochat.analysis.dataset_inspector.sources import Source

COUNTING = "counting tokens"  # what an inspection says that it does while it counts them all


@dataclass(frozen=True)
class Options:
    """What is looked for."""

    profile: str = "chat"  # what a conversation may be: one of conversation.PROFILES
    by: str | None = None  # an extra field to break the figures down by
    normalised: bool = True  # find repetitions that differ in case and blanks only
    secrets: bool = True
    max_tokens: int = 2048  # a longer conversation is warned about; nanochat's own limit
    exact: bool = False  # count the tokens of every conversation
    near: bool = False  # look for near-duplicates
    personal: bool = False  # look for what may be personal data
    overlap: Path | None = None  # a file whose text should not be in the data: an evaluation, say
    seed: int = 0  # of the sample whose tokens are counted


@dataclass(frozen=True)
class Progress:
    """How far an inspection is."""

    doing: str
    done: int
    total: int


@dataclass(frozen=True)
class Report:
    """One data set of conversations."""

    sources: tuple[Source, ...]
    options: Options
    lines: int  # all of them
    checked: int  # lines that are not blank
    conversations: int  # lines without an error; every figure below is about these
    size: int  # bytes, unpacked
    kind_counts: dict[str, int]  # kind -> lines, of those that occur
    error_lines: int
    warning_lines: int  # lines that have warnings and no error
    issues: pl.DataFrame  # row, file, line, kinds (a mask): every line that has any
    duplicates: pl.DataFrame  # row, first, first_file, first_line: lines that an earlier one equals
    normalised_duplicates: int  # more lines that equal an earlier one but for case and blanks
    roles: dict[str, int]  # role -> messages
    chars: Distribution | None  # characters of a conversation
    message_chars: dict[str, Distribution]  # role -> characters of a message
    tokens: TokenLengths | None
    notes: tuple[str, ...]  # what was decided or could not be done, each a sentence
    secrets: pl.DataFrame  # file, line, kind, excerpt
    secret_counts: dict[str, int]
    fields: dict[str, int]  # extra field -> lines that have it
    groups: pl.DataFrame  # group, lines, errors, conversations, messages, chars, tokens, share (of tokens or chars)
    files: pl.DataFrame  # the same with a file a row
    index: Index
    near: pl.DataFrame | None = None  # row, first, similarity
    personal: pl.DataFrame | None = None  # file, line, kind, excerpt
    overlap: pl.DataFrame | None = None  # row, shared (13-grams that it shares with the file)

    @property
    def messages(self) -> int:
        """Messages of all conversations."""
        return sum(self.roles.values())

    @property
    def insight(self) -> str:
        """What the lengths mean, in a sentence or two."""
        if self.tokens is not None:
            typical, unit, short, long = self.tokens.distribution.median, "tokens", 150, 800
        elif self.chars is not None:
            typical, unit, short, long = self.chars.median, "characters", 600, 3200
        else:
            return "No line of this data set can be trained on. Repair the errors first."
        if typical < short:
            return f"Your conversations are short ({typical:,} {unit}). Many fit into one row, so pack them."
        if typical > long:
            return f"Your conversations are long ({typical:,} {unit}). Watch what the sequence length cuts off."
        return f"Your conversations are medium length ({typical:,} {unit}). Balanced for most use cases."


@dataclass(frozen=True)
class Issue:
    """A line that something is wrong with, in words."""

    row: int
    file: str
    line: int
    severity: str
    kinds: tuple[str, ...]
    message: int | None  # index of the first message concerned
    detail: str  # what is wrong, all of it
    remedy: str  # what to do about each

    def as_json(self, with_file: bool) -> dict[str, Any]:
        """One object for --issues."""
        found: dict[str, Any] = {"file": self.file} if with_file else {}
        return found | {
            "line": self.line,
            "severity": self.severity,
            "kinds": list(self.kinds),
            "message": self.message,
            "detail": self.detail,
            "remedy": self.remedy,
        }


def kind_table(report: Report) -> pl.DataFrame:
    """kind, severity, lines, meaning, remedy: the kinds that occur, most lines first, errors before warnings."""
    rows = [
        (kind.name, kind.severity, report.kind_counts[kind.name], kind.sentence, kind.remedy)
        for kind in KINDS.values()
        if report.kind_counts.get(kind.name)
    ]
    rows.sort(key=lambda row: (row[1] != "error", -row[2]))
    schema = ["kind", "severity", "lines", "meaning", "remedy"]
    return pl.DataFrame(rows, schema=schema, orient="row") if rows else pl.DataFrame({name: [] for name in schema})


def as_json(report: Report) -> dict[str, Any]:
    """The report as one object of plain values; the lists of lines are `--issues`'s."""
    tokens = report.tokens
    return {
        "files": [source.name for source in report.sources],
        "profile": report.options.profile,
        "lines": report.lines,
        "checked": report.checked,
        "bytes": report.size,
        "error_lines": report.error_lines,
        "warning_lines": report.warning_lines,
        "kinds": report.kind_counts,
        "conversations": report.conversations,
        "messages": report.messages,
        "roles": report.roles,
        "duplicates": len(report.duplicates),
        "normalised_duplicates": report.normalised_duplicates,
        "secrets": report.secret_counts,
        "characters": _distribution(report.chars),
        "message_characters": {role: _distribution(one) for role, one in report.message_chars.items()},
        "tokens": None
        if tokens is None
        else {
            "exact": tokens.exact,
            "counted": tokens.counted,
            "total": tokens.total,
            "interval": list(tokens.interval),
            "per_character": round(tokens.per_char, 6),
            "supervised_share": round(tokens.supervised_share, 6),
            "lengths": _distribution(tokens.distribution),
            "sequence_lengths": tokens.choices.to_dicts(),
            "recommended": tokens.recommended,
            "reason": tokens.reason,
        },
        "fields": report.fields,
        "groups": report.groups.to_dicts() if report.options.by is not None else None,
        "by_file": report.files.to_dicts() if len(report.sources) > 1 else None,
        "near_duplicates": None if report.near is None else len(report.near),
        "personal": None if report.personal is None else _counts(report.personal),
        "overlap": None if report.overlap is None else len(report.overlap),
        "notes": list(report.notes),
    }


def _counts(frame: pl.DataFrame) -> dict[str, int]:
    return dict(frame.group_by("kind").len().sort("kind").iter_rows())


def _distribution(one: Distribution | None) -> dict[str, Any] | None:
    if one is None:
        return None
    percentiles = {f"p{share}": value for share, value in one.percentiles.items()}
    return {"count": one.count, "min": one.min, "max": one.max, "mean": round(one.mean, 2)} | percentiles


BINS = 40  # bars of a histogram
FAR, FEW = 4, 9  # times the 90th percentile is far; of so few conversations that is the longest itself: the 75th


def length_bins(report: Report) -> tuple[pl.DataFrame, str]:
    """Bars of equal width up to the 99th percentile, one more for the rest (low, high, count), and what is counted.

    Where the 99th is far from most, up to the longest that is not: a few long conversations would leave a single bar
    for all others.
    """
    unit = "characters" if report.tokens is None else "tokens"
    histogram, described = (
        length_histogram(report),
        report.chars if report.tokens is None else report.tokens.distribution,
    )
    if described is None:
        return pl.DataFrame({"low": [], "high": [], "count": []}), unit
    low, usual = described.min, described.percentiles[99]
    far = FAR * described.percentiles[90 if described.count > FEW else 75]
    if usual > far:
        usual = int(histogram.filter(pl.col("value") <= far)["value"].max())  # type: ignore[arg-type]
    width = max(-(-(usual + 1 - low) // BINS), 1)
    edges = [low + width * number for number in range(-(-(usual + 1 - low) // width) + 1)]
    rows = buckets(histogram, edges)
    return pl.DataFrame(rows, schema=["low", "high", "count"], orient="row"), unit


def length_histogram(report: Report) -> pl.DataFrame:
    """value, count of the conversations' lengths: tokens where there is a tokenizer, else characters."""
    if report.tokens is not None:
        return report.tokens.histogram
    return report.index.histogram(pl.col("chars").cast(pl.Int64))


BUCKETS: Sequence[int] = (0, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)


def buckets(histogram: pl.DataFrame, edges: Sequence[int] = BUCKETS) -> list[tuple[int, int, int]]:
    """(from, up to, conversations) of a histogram, from the first bucket that has any to the last."""
    bounds = [*edges, max(edges[-1], int(histogram["value"].max() or 0)) + 1]  # type: ignore[arg-type]
    found = [
        (low, high, int(histogram.filter(pl.col("value").is_between(low, high, closed="left"))["count"].sum()))
        for low, high in pairwise(bounds)
    ]
    used = [number for number, bucket in enumerate(found) if bucket[2]]
    return found[used[0] : used[-1] + 1] if used else []
