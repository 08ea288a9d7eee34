"""A report in words, a line a string: what the terminal prints, and what stands in a file for reading.

Text of the data set comes out on one line each and harmless: what would move a cursor or turn letters round is spelt.
"""

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

import polars as pl

from nanochat.analysis.dataset_inspector.corpus import CorpusReport
from nanochat.analysis.dataset_inspector.lengths import Distribution
from nanochat.analysis.dataset_inspector.report import Report, buckets, kind_table, length_histogram
from nanochat.analysis.dataset_inspector.rows import Row, issue_rows, issues
from nanochat.checkpoint_files import shown

WIDTH = 80
SHOWN_ISSUES = 20  # named in the terminal; --issues has them all
BAR = 40  # characters of the longest bar
CLIP = 400  # characters of a message in a sample
Lines = Iterator[str]


def section(title: str) -> list[str]:
    """The head of a section."""
    return ["=" * WIDTH, title, "=" * WIDTH, ""]


def validation(report: Report) -> Lines:
    """What is wrong, by kind, and the first bad lines."""
    yield from section("FORMAT VALIDATION")
    yield f"Checked {report.checked:,} conversations"
    yield ""
    if not report.kind_counts:
        yield "✅ No format issues found! Dataset looks good."
    elif not report.error_lines:
        yield f"✅ No errors. {_lines(report.warning_lines)} with a warning:"
    else:
        yield f"❌ {_lines(report.error_lines)} with an error, {_lines(report.warning_lines)} with only a warning:"
    for row in kind_table(report).iter_rows(named=True):
        yield f"  {row['severity']:<7} {row['kind']:<21} {row['lines']:>9,}  {row['meaning']}; {row['remedy']}"
    if report.error_lines:
        yield "--repaired FILE writes the clean lines and what can be repaired, such as other projects' shapes."
    yield ""
    for severity in ("error", "warning"):
        rows = issue_rows(report, severity=severity)
        if not len(rows):
            continue
        yield f"First {severity}s:" if len(rows) > SHOWN_ISSUES else f"All {severity}s:"
        for issue in issues(report, rows.head(SHOWN_ISSUES)):
            place = f"{shown(issue.file)}, line" if len(report.sources) > 1 else "line"
            yield f"  {place} {issue.line:,}: {shown(issue.detail, 300)} ({', '.join(issue.kinds)})"
        if len(rows) > SHOWN_ISSUES:
            yield f"  ... and {len(rows) - SHOWN_ISSUES:,} more; --issues FILE writes them all"
        yield ""


def statistics(report: Report, origin: str) -> Lines:
    """What the data set consists of. origin: which tokenizer counts."""
    yield from section("DATASET STATISTICS")
    yield f"Total conversations: {report.conversations:,}"
    yield f"Total messages:      {report.messages:,}"
    yield f"Avg messages/conv:   {report.messages / max(report.conversations, 1):.1f}"
    yield ""
    yield "Message Role Distribution:"
    yield from (f"  {role:<15}: {count:,}" for role, count in report.roles.items())
    yield ""
    if report.error_lines:
        yield f"Left out:            {_lines(report.error_lines)} with an error"
    yield f"Exact duplicates:    {len(report.duplicates):,}"
    if report.options.normalised:
        yield f"Same but for case and blanks: {report.normalised_duplicates:,}"
    yield f"Secrets:             {_counts(report.secret_counts) or 'none of the six kinds looked for'}"
    for row in report.secrets.head(5).iter_rows(named=True):
        yield f"  {shown(row['file'])}, line {row['line']:,}: {row['kind']} {shown(row['excerpt'])}"
    if report.near is not None:
        yield f"Near-duplicates:     {len(report.near):,}"
    if report.personal is not None:
        kinds = dict(report.personal.group_by("kind").len().sort("kind").iter_rows())
        yield f"Maybe personal data: {_counts(kinds) or 'nothing'} (many false alarms: look at them)"
    if report.overlap is not None:
        yield f"Overlap:             {len(report.overlap):,} conversations share 13 words in a row with the file"
    if report.fields and report.options.by is None:
        names = ", ".join(shown(name, 40) for name in islice(report.fields, 20))
        yield f"Extra fields:        {names}; --by NAME breaks down by one"
    for title, frame, wanted in (
        (f"By {shown(report.options.by or '', 40)}", report.groups, report.options.by is not None),
        ("By file", report.files, len(report.sources) > 1),
    ):
        if wanted:
            yield ""
            yield from breakdown(title, frame)
    yield ""
    yield from (f"Note: {shown(note, 400)}." for note in ([origin] if origin else []) + list(report.notes))
    yield ""


def breakdown(title: str, frame: pl.DataFrame) -> Lines:
    """A table with a row a group."""
    yield f"{title}:"
    yield f"  {'':<24} {'lines':>10} {'errors':>8} {'messages':>10} {'characters':>13} {'share':>7}"
    for row in frame.iter_rows(named=True):
        name = shown(row["group"], 24)
        yield (
            f"  {name:<24} {row['lines']:>10,} {row['errors']:>8,} {row['messages']:>10,} {row['chars']:>13,} "
            f"{row['share']:>7.1%}"
        )


def lengths(report: Report) -> Lines:
    """How long conversations are and which sequence length suits them."""
    yield from section("LENGTH ANALYSIS")
    yield f"Total conversations: {report.conversations:,}"
    yield ""
    if report.tokens is not None:
        tokens = report.tokens
        yield "Full Conversation Lengths (in tokens):"
        yield from _four(tokens.distribution)
        if tokens.exact:
            yield f"  Total:   {tokens.total:,}, every conversation counted"
        else:
            low, high = tokens.interval
            yield f"  Total:   {tokens.total:,}, estimated from {tokens.counted:,} (95 %: {low:,} to {high:,})"
        yield f"  The model learns from {tokens.supervised_share:.1%} of them"
    else:
        yield "Full Conversation Lengths (in characters):"
        if report.chars is not None:
            yield from _four(report.chars)
    yield ""
    for role, one in report.message_chars.items():
        yield f"{role.capitalize()} Message Lengths (characters):"
        yield from _four(one)
        yield ""
    unit = "characters" if report.tokens is None else "tokens"
    yield f"Length Distribution ({unit}):"
    yield from bars(report)
    yield ""
    if report.tokens is not None:
        yield "What each sequence length does:"
        heads = f"{'too long':>9} {'lost':>7} {'left with none':>15} {'packed rows':>12} {'filled':>7} {'unpacked':>9}"
        yield f"  {'length':>7} {heads}"
        for row in report.tokens.choices.iter_rows(named=True):
            mark = " <- recommended" if row["length"] == report.tokens.recommended else ""
            yield (
                f"  {row['length']:>7,} {row['cut_share']:>9.1%} {row['lost_share']:>7.1%} {row['empty_share']:>15.1%} "
                f"{row['rows']:>12,} {row['filled']:>7.1%} {row['padded']:>9.1%}{mark}"
            )
        yield f"Recommended sequence length: {report.tokens.recommended:,}, because {report.tokens.reason}."
        yield ""
    yield "💡 Learning Insight:"
    yield f"  {report.insight}"
    yield ""


def bars(report: Report) -> Lines:
    """The distribution of the lengths as bars of characters."""
    histogram = length_histogram(report)
    if not len(histogram):
        return
    found = buckets(histogram)
    most = max(count for _, _, count in found)
    for low, high, count in found:
        yield f"  {f'{low}-{high}':<12}: {count:>6,} {'#' * round(BAR * count / most)}".rstrip()


def samples(rows: list[Row], report: Report, clip: int = CLIP) -> Lines:
    """Conversations to read. clip: characters of a message."""
    yield from section("SAMPLE CONVERSATIONS")
    for row in rows:
        place = f"{shown(report.sources[row.file].name)}, line" if len(report.sources) > 1 else "line"
        yield f"--- {place} {row.line:,} " + "-" * 40
        yield from conversation(row.value(), clip)
        yield ""


def conversation(value: Any, clip: int = CLIP) -> Lines:
    """A conversation without an error, a message a line."""
    for message in value["messages"] if isinstance(value, dict) else value:
        content = message["content"]
        if not isinstance(content, str):
            content = " ".join(part["text"] if part["type"] == "text" else _tool(part) for part in content)
        yield f"[{message['role'].upper()}] {_clipped(content, clip)}"


def _tool(part: dict[str, str]) -> str:
    return f"<{part['type']}: {part['text']}>"


def _clipped(text: str, clip: int) -> str:
    return " ".join(shown(line, clip) for line in text[: clip + 1].split("\n")) + ("..." if len(text) > clip else "")


def preview(row: Row, clip: int = 120) -> str:
    """One line for a table: how the conversation begins; the bare line where it is none. Never begins a formula."""
    try:
        first = next(conversation(row.value(), clip), "")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # whatever a bad line may be
        first = ""
    return first or f"line: {shown(row.data[:clip].decode(errors='replace').strip(), clip)}"


def found(report: Report, rows: list[Row], text: str) -> Lines:
    """The lines that hold a text."""
    yield from section("SEARCH")
    yield f"{len(rows):,} lines hold {shown(text)!r}{' (the first ones)' if len(rows) >= 100 else ''}"
    for row in rows:
        yield f"  {shown(report.sources[row.file].name)}, line {row.line:,}: {preview(row)}"
    yield ""


def written(files: dict[str, Any]) -> Lines:
    """Which files were written."""
    for what, one in files.items():
        if what == "plot":
            yield one["said"]
            continue
        repairs = f" (repaired: {_counts(one['repairs'])})" if one.get("repairs") else ""
        unit = "conversations" if what == "export" else "lines"
        yield f"Wrote {one['lines']:,} {unit} to {shown(one['file'], 300)}{repairs}"


def issue_lines(report: Report) -> Iterator[bytes]:
    """What --issues writes: a JSON object for every line that has any issue."""
    several = len(report.sources) > 1
    found = issues(report)
    while part := list(islice(found, 1000)):
        yield "".join(json.dumps(one.as_json(several)) + "\n" for one in part).encode()


def corpus(report: CorpusReport) -> Lines:
    """The report on plain text."""
    yield from section("TEXT CORPUS")
    yield f"Documents:   {report.documents:,}"
    yield f"Characters:  {report.characters:,} ({report.size:,} bytes)"
    if report.tokens is not None and report.interval is not None:
        yield f"Tokens:      {report.tokens:,}, estimated (95 %: {report.interval[0]:,} to {report.interval[1]:,})"
    yield f"Duplicates:  {report.duplicates:,} documents, {report.duplicate_share:.1%} of the characters"
    if report.empty:
        yield f"Empty:       {report.empty:,} documents"
    if report.bad:
        places = ", ".join(f"{shown(file)}:{line:,}" for file, line in report.bad_lines[:SHOWN_ISSUES])
        yield f'No text in:  {_lines(report.bad)}: {places}; write {{"text": ...}} or drop them'
    yield ""
    if report.lengths is not None:
        yield "Document Lengths (characters):"
        yield from _four(report.lengths)
        yield ""
    yield "Languages by script:"
    for row in report.scripts.head(10).iter_rows(named=True):
        yield f"  {row['script']:<15}: {row['documents']:,} documents, {row['share']:.1%}"
    yield from (f"Note: {note}." for note in report.notes)


def corpus_json(report: CorpusReport) -> dict[str, Any]:
    """The same as one object."""
    lengths = None
    if report.lengths is not None:
        one = report.lengths
        lengths = {"min": one.min, "max": one.max, "mean": round(one.mean, 2)}
        lengths |= {f"p{share}": value for share, value in one.percentiles.items()}
    return {
        "files": [source.name for source in report.sources],
        "documents": report.documents,
        "empty": report.empty,
        "characters": report.characters,
        "bytes": report.size,
        "lengths": lengths,
        "duplicates": report.duplicates,
        "duplicate_share": round(report.duplicate_share, 6),
        "tokens": report.tokens,
        "interval": list(report.interval) if report.interval else None,
        "scripts": report.scripts.to_dicts(),
        "bad_lines": report.bad,
        "notes": list(report.notes),
    }


def _four(one: Distribution) -> Lines:
    yield f"  Min:     {one.min:,}"
    yield f"  Max:     {one.max:,}"
    yield f"  Mean:    {one.mean:,.1f}"
    yield f"  Median:  {one.median:,}"
    yield "  " + ", ".join(f"{share} %: {value:,}" for share, value in one.percentiles.items() if share != 50)


def _lines(count: int) -> str:
    return f"{count:,} line{'' if count == 1 else 's'}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())
