"""The inspection itself: read every line once, then ask the index; count tokens last, because they cost most."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from nanochat.analysis.dataset_inspector import similar
from nanochat.analysis.dataset_inspector.check import Settings
from nanochat.analysis.dataset_inspector.findings import personal_in
from nanochat.analysis.dataset_inspector.index import Index, IndexBuilder
from nanochat.analysis.dataset_inspector.kinds import ERRORS, KINDS
from nanochat.analysis.dataset_inspector.lengths import (
    SAMPLE,
    Counted,
    TokenLengths,
    count_tokens,
    describe,
    histogram_of,
    ratio_of,
    token_lengths,
)
from nanochat.analysis.dataset_inspector.report import COUNTING, Options, Progress, Report
from nanochat.analysis.dataset_inspector.rows import PLACE, Row, read_rows
from nanochat.analysis.dataset_inspector.sources import InspectorError, Source, blocks
from nanochat.analysis.dataset_inspector.workers import Checkers, processes_for
from nanochat.conversation import PROFILES
from nanochat.paths import expand, roots

if TYPE_CHECKING:
    from nanochat.tokenizer import Tokenizer

LEAST_BUDGET = 8 << 20  # bytes of long conversations that are always counted exactly
BUDGET_SHARE = 20  # and of a large data set this part
NO_GROUP = "(none)"  # the group of lines without the field
BY_ESTIMATE = "by their estimate; --exact counts them all"  # the end of a note
Watcher = Callable[[Progress], None]


def open_tokenizer(folder: str | Path | None = None) -> "tuple[Tokenizer | None, str]":
    """The tokenizer to count with and where it is from; None and what to do where there is none.

    folder: a base dir or a folder that holds a tokenizer; unless named, our workspace and then nanochat's base dir,
    and where neither has one of its own, the first run that keeps one.
    Raises TokenizerError for one that is named and cannot be opened.
    """
    from nanochat.analysis.tokenizer_playground.sources import runs_with_tokenizer
    from nanochat.tokenizer import load_tokenizer

    if folder is not None:
        named = expand(folder)
        inner = named / "tokenizer"
        return load_tokenizer(inner if inner.is_dir() else named), f"tokens are counted with {named}"
    for root in roots():
        if (root.path / "tokenizer").is_dir():
            return load_tokenizer(root.path / "tokenizer"), f"tokens are counted with {root.path / 'tokenizer'}"
    in_runs = [run for root in roots() for _, run in runs_with_tokenizer(root.path)]
    if in_runs:
        return load_tokenizer(in_runs[0]), f"tokens are counted with {in_runs[0]}"
    listed = " nor in ".join(str(root.path / "tokenizer") for root in roots())
    return None, f"lengths are in characters: no tokenizer is in {listed}; `nanochat tok_train` makes one"


def inspect(
    sources: Sequence[Source],
    options: Options | None = None,
    tokenizer: "Tokenizer | None" = None,
    watch: Watcher = lambda progress: None,
) -> Report:
    """Look at every line of the sources. Without a tokenizer, lengths are in characters only.

    watch: told how far it is; whatever it raises ends the inspection. Raises InspectorError.
    """
    options = options or Options()
    if options.profile not in PROFILES:
        raise InspectorError(f"the profile {options.profile!r} is not known; use {' or '.join(PROFILES)}")
    if options.max_tokens < 1:
        raise InspectorError(f"max_tokens is {options.max_tokens}; give 1 or more, such as 2048")
    builder, size = _read(sources, options, watch)
    index = builder.finish()
    if not index.rows:
        raise InspectorError("there is no line in these files; write one conversation a line")
    notes = [
        f"{source.name} is one JSON document, not one conversation a line: line N is its conversation N"
        for source in sources
        if source.form == "document"
    ]
    duplicates = index.repeats("hash")
    duplicates = _with_place(index, duplicates)
    normalised = index.repeats("normal").join(duplicates, on="row", how="anti") if options.normalised else None
    totals = index.collect(index.fit().select(pl.len().alias("count"), pl.col("chars").cast(pl.Int64).sum())).row(0)
    if not totals[0] and index.collect(index.scan().select((pl.col("kinds") == KINDS["blank_line"].mask).all())).item():
        raise InspectorError("all lines of these files are blank; write one conversation a line")
    tokens, too_long = None, pl.Series([], dtype=pl.UInt32)
    if tokenizer is not None and totals[0]:
        tokens, too_long = _tokens(sources, index, options, tokenizer, totals, watch, notes)
    elif tokenizer is None:
        notes.append(f"without a tokenizer nobody can say which conversations exceed {options.max_tokens:,} tokens")
    chars = index.histogram(pl.col("chars").cast(pl.Int64))
    return Report(
        sources=tuple(sources),
        options=options,
        lines=index.rows,
        conversations=totals[0],
        size=size,
        duplicates=duplicates,
        normalised_duplicates=0 if normalised is None else len(normalised),
        roles={role: sum(builder.lengths[role].values()) for role in KINDS_OF_ROLE if role in builder.lengths},
        chars=describe(chars),
        message_chars={
            role: found
            for role in KINDS_OF_ROLE
            if (found := describe(histogram_of(builder.lengths.get(role, {}).items()))) is not None
        },
        notes=tuple(notes),
        secrets=_found([(sources[file].name, one) for file, one in builder.secrets]),
        secret_counts=dict(sorted(builder.secret_counts.items())),
        fields=dict(builder.fields.most_common()),
        index=index,
        **_figures(sources, index, list(builder.groups) or [""], duplicates, tokens, too_long),
        **_on_request(sources, index, options, watch),
    )


KINDS_OF_ROLE = ("system", "user", "assistant")


def with_counts(report: Report, counted: Counted) -> Report:
    """The same report with the tokens of every conversation, as `Options(exact=True)` gives it.

    counted: of exactly this data set and profile. Raises InspectorError where it is of another.
    """
    if len(counted.frame) != report.conversations:
        raise InspectorError(
            f"the tokens of {len(counted.frame):,} conversations were counted and the data set has "
            f"{report.conversations:,}; count them again"
        )
    tokens, too_long = _exact(report.index, counted, report.options.max_tokens)
    labels = ["" if label == NO_GROUP else label for label in report.groups["group"]]
    return replace(
        report,
        options=replace(report.options, exact=True),
        notes=tuple(note for note in report.notes if not note.endswith(BY_ESTIMATE)),
        **_figures(report.sources, report.index, labels, report.duplicates, tokens, too_long),
    )


def _figures(
    sources: Sequence[Source],
    index: Index,
    labels: list[str],
    duplicates: pl.DataFrame,
    tokens: TokenLengths | None,
    too_long: pl.Series,
) -> dict[str, Any]:
    """The fields of a report in which its tokens have a say."""
    issues = _issues(index, duplicates["row"], too_long)
    errors = int((issues["kinds"] & ERRORS != 0).sum())
    kinds = {kind.name: int((issues["kinds"] & kind.mask != 0).sum()) for kind in KINDS.values()}
    per_char = tokens.per_char if tokens is not None else None
    return {
        "tokens": tokens,
        "issues": issues,
        "kind_counts": {name: count for name, count in kinds.items() if count},
        "checked": index.rows - kinds["blank_line"],
        "error_lines": errors,
        "warning_lines": len(issues) - errors,
        "groups": _breakdown(index, "group", labels, per_char),
        "files": _breakdown(index, "file", [source.name for source in sources], per_char),
    }


def _read(sources: Sequence[Source], options: Options, watch: Watcher) -> tuple[IndexBuilder, int]:
    settings = Settings(options.profile, options.by, options.normalised, options.secrets)
    builder = IndexBuilder()
    total = sum(source.size for source in sources)
    before = size = 0
    with Checkers(settings, processes_for(sources)) as checkers:
        for number, source in enumerate(sources):

            def tell(done: int, before: int = before) -> None:
                watch(Progress("checking lines", before + done, total))

            for taken, checked in checkers.run(blocks(source, tell, checkers.block)):
                builder.add(number, checked)
                size += taken
            before += source.size
            watch(Progress("checking lines", before, total))
    return builder, size


def _with_place(index: Index, repeats: pl.DataFrame) -> pl.DataFrame:
    """Add where the first of the equal lines stands."""
    names = {"row": "first", "file": "first_file", "line": "first_line"}
    first = index.places(repeats["first"]).select(*names).rename(names)
    return repeats.join(first, on="first", how="left").sort("row")


def _issues(index: Index, duplicates: pl.Series, too_long: pl.Series) -> pl.DataFrame:
    """Every line that has any kind: row, file, line, kinds."""
    more = pl.concat(
        [
            pl.DataFrame({"row": rows.cast(pl.UInt32)}).with_columns(more=pl.lit(KINDS[kind].mask, pl.UInt32))
            for kind, rows in (("duplicate", duplicates), ("too_long", too_long))
        ]
    )
    more = more.group_by("row").agg(pl.col("more").sum())
    query = index.scan().select("row", "file", "line", "kinds").join(more.lazy(), on="row", how="left")
    query = query.with_columns(kinds=pl.col("kinds") | pl.col("more").fill_null(0)).drop("more")
    return index.collect(query.filter(pl.col("kinds") != 0)).sort("row")


def _breakdown(index: Index, column: str, labels: list[str], per_char: float | None) -> pl.DataFrame:
    """Figures for each value of a column; `share` is of the tokens, estimated, or of the characters."""
    fit = pl.col("messages") > 0
    query = (
        index.scan()
        .group_by(column)
        .agg(
            pl.len().alias("lines"),
            (pl.col("kinds") & ERRORS != 0).sum().alias("errors"),
            fit.sum().alias("conversations"),
            pl.col("messages").cast(pl.Int64).sum(),
            pl.col("chars").cast(pl.Int64).sum(),
            pl.col("specials").cast(pl.Int64).sum(),
        )
    )
    frame = index.collect(query).sort(column)
    tokens = None if per_char is None else (frame["specials"] + frame["chars"] * per_char).round().cast(pl.Int64)
    basis = frame["chars"] if tokens is None else tokens
    return frame.select(
        pl.Series("group", [_text(labels[number]) or NO_GROUP for number in frame[column]], dtype=pl.String),
        "lines",
        "errors",
        "conversations",
        "messages",
        "chars",
        pl.Series("tokens", tokens, dtype=pl.Int64) if tokens is not None else pl.lit(None, pl.Int64).alias("tokens"),
        (basis / max(int(basis.sum()), 1)).alias("share"),
    )


def _text(label: str) -> str:
    """A field's value without half characters, which no table can hold."""
    return label.encode(errors="replace").decode()


def _tokens(
    sources: Sequence[Source],
    index: Index,
    options: Options,
    tokenizer: "Tokenizer",
    totals: tuple[Any, ...],
    watch: Watcher,
    notes: list[str],
) -> tuple[TokenLengths, pl.Series]:
    """The token lengths, and the rows of more than options.max_tokens."""
    conversations = int(totals[0])
    fit = index.collect(index.fit().select("row"))["row"]
    if options.exact or conversations <= SAMPLE:
        counted = _count(sources, index, fit, tokenizer, watch, COUNTING)
        return _exact(index, counted, options.max_tokens)
    chosen = np.sort(np.random.default_rng(options.seed).choice(conversations, SAMPLE, replace=False))
    counted = _count(sources, index, fit.gather(chosen), tokenizer, watch, "estimating tokens")
    sizes = index.collect(
        index.scan().select("row", "specials", "chars").filter(pl.col("row").is_in(counted.frame["row"].implode()))
    )
    ratio, error = ratio_of(counted.frame.join(sizes, on="row"), conversations)
    estimate = (pl.col("specials") + pl.col("chars") * ratio).round().cast(pl.Int64)
    histogram = index.histogram(estimate)
    total = int((histogram["value"] * histogram["count"]).sum())
    lengths = token_lengths(counted, histogram, total, 1.96 * error * int(totals[1]), ratio)
    return lengths, _too_long(sources, index, options, tokenizer, estimate, watch, notes)


def _exact(index: Index, counted: Counted, limit: int) -> tuple[TokenLengths, pl.Series]:
    """The token lengths where all are known, and the rows of more than `limit`."""
    frame = counted.frame
    histogram = frame.group_by(pl.col("tokens").alias("value")).len("count").sort("value")
    known = index.collect(index.fit().select("specials", "chars").select(pl.all().cast(pl.Int64).sum())).row(0)
    total = int(frame["tokens"].sum())
    ratio = (total - known[0]) / max(known[1], 1)
    lengths = token_lengths(counted, histogram, total, 0.0, ratio)
    return lengths, frame.filter(pl.col("tokens") > limit)["row"]


def _count(
    sources: Sequence[Source], index: Index, rows: pl.Series, tokenizer: "Tokenizer", watch: Watcher, doing: str
) -> Counted:
    def conversations() -> Iterator[tuple[int, Any]]:
        wanted = index.scan().select(PLACE).filter(pl.col("row").is_in(rows.implode()))
        for row in read_rows(tuple(sources), index.collect(wanted).sort("row")):
            yield row.row, row.value()

    return count_tokens(conversations(), tokenizer, lambda done: watch(Progress(doing, done, len(rows))))


def _too_long(
    sources: Sequence[Source],
    index: Index,
    options: Options,
    tokenizer: "Tokenizer",
    estimate: pl.Expr,
    watch: Watcher,
    notes: list[str],
) -> pl.Series:
    """The rows of more than max_tokens. A token has at least one byte, so a short line needs no counting.

    Of the others, those nearest to the limit are counted until the budget is used up; the estimate decides the rest.
    """
    limit = options.max_tokens
    query = index.fit().filter(pl.col("nbytes") + pl.col("specials") > limit).select("row", "nbytes", guess=estimate)
    frame = index.collect(query).with_columns(distance=(pl.col("guess") / limit).log().abs()).sort("distance")
    size = int(index.collect(index.scan().select(pl.col("nbytes").cast(pl.Int64).sum())).item())
    used = pl.col("nbytes").cast(pl.Int64).cum_sum()
    near = frame.filter(used <= max(LEAST_BUDGET, size // BUDGET_SHARE))["row"]
    far = frame.filter(~pl.col("row").is_in(near.implode()))
    if len(far):
        notes.append(f"{len(far):,} long conversations were compared with the limit of {limit:,} tokens {BY_ESTIMATE}")
    counted = _count(sources, index, near, tokenizer, watch, "measuring long conversations").frame
    over = counted.filter(pl.col("tokens") > limit)["row"]
    return pl.concat([over, far.filter(pl.col("guess") > limit)["row"]]).sort()


def _found(found: Sequence[tuple[str, Any]]) -> pl.DataFrame:
    rows = [(file, one.line, one.kind, one.excerpt) for file, one in found]
    schema = {"file": pl.String, "line": pl.Int64, "kind": pl.String, "excerpt": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _on_request(sources: Sequence[Source], index: Index, options: Options, watch: Watcher) -> dict[str, Any]:
    """What is looked for only when asked, in one more pass over the lines without an error."""
    if not (options.near or options.personal or options.overlap):
        return {}
    near = similar.NearDuplicates() if options.near else None
    overlap = similar.Overlap(options.overlap) if options.overlap else None
    personal: list[tuple[str, Any]] = []
    done = 0
    for places in index.runs(index.fit().select(PLACE)):
        for row in read_rows(tuple(sources), places):
            text = similar.text_of(row.value())
            if near is not None:
                near.add(row.row, text)
            if overlap is not None:
                overlap.add(row.row, text)
            if options.personal:
                personal += [(sources[row.file].name, one) for one in personal_in(text.encode(), row.line)]
            done += 1
            if done % 256 == 0:
                watch(Progress("comparing", done, index.rows))
    return {
        "near": near.finish() if near else None,
        "overlap": overlap.finish() if overlap else None,
        "personal": _found(personal) if options.personal else None,
    }


__all__ = ["Row", "inspect", "open_tokenizer", "with_counts"]
