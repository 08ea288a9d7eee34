"""Every token counted, as a background job: the command that does it, the file that it leaves, and how far it is.

    nanochat dataset_inspector chats.jsonl --counts counts.parquet

Counting takes ten times as long as all checks, so a page has it done by a process of its own (jobs.py). That writes the
tokens of every conversation to a file of the workspace, whose name follows from what was counted; whoever looks at the
same data again finds it.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from nanochat import jobs
from nanochat.analysis.dataset_inspector.export import require_other
from nanochat.analysis.dataset_inspector.lengths import Counted
from nanochat.analysis.dataset_inspector.report import COUNTING, Progress, Report
from nanochat.analysis.dataset_inspector.sources import InspectorError, Source
from nanochat.checkpoint_files import location
from nanochat.durable import publish, stage_bytes
from nanochat.paths import workspace

KIND = "dataset_inspector"  # of the job's facts
COLUMNS = pl.Schema({"row": pl.UInt32, "tokens": pl.Int64, "supervised": pl.Int64})
CHECKING = 0.1  # of the time goes by before the first token is counted, about
_SUMS = b"nanochat.sums"  # in the file's metadata: what was kept and left empty at each length, and what was counted


def save_counts(report: Report, target: Path, fingerprint: str) -> int:
    """Write row, file, line, tokens and supervised tokens of every conversation as parquet; how many.

    fingerprint: of the tokenizer.
    The report must be exact. Raises InspectorError where it is not, CheckpointError where the file cannot be written.
    """
    import pyarrow.parquet as pq

    if report.tokens is None or not report.tokens.exact:
        raise InspectorError(
            "no tokens were counted, for want of a tokenizer or of a line without an error; `nanochat tok_train` makes "
            "a tokenizer, and --validate names the bad lines"
        )
    require_other(report.sources, target)
    counts = report.tokens.counts
    places = report.index.places(counts.frame["row"]).select("row", "file", "line")
    names = pl.DataFrame({"file": range(len(report.sources)), "name": [one.name for one in report.sources]})
    files = names.cast({"file": pl.UInt16})
    frame = counts.frame.join(places, on="row").join(files, on="file").drop("file").rename({"name": "file"})
    table = frame.select("row", "file", "line", "tokens", "supervised").sort("row").to_arrow()
    counted = [report.options.profile, fingerprint, [(source.size, source.stamp) for source in report.sources]]
    sums = json.dumps([list(counts.kept.items()), list(counts.empty.items()), counted])
    table = table.replace_schema_metadata({_SUMS: sums.encode()})
    content = io.BytesIO()  # some ten bytes a conversation
    pq.write_table(table, content)
    publish(stage_bytes(target, content.getbuffer()))  # type: ignore[arg-type]
    return len(frame)


def load_counts(path: Path, sources: Sequence[Source], profile: str, fingerprint: str) -> Counted:
    """What `save_counts` wrote of these sources. Raises InspectorError for any other file.

    A job opens tokenizer and files when it gets to them: by then they may be others than those it was asked about.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        kept, empty, counted = json.loads((table.schema.metadata or {})[_SUMS])
        # An upload has no time of its own; what a job counts is a copy that was made for it.
        now = [
            [source.size, source.stamp if source.path else stamp]
            for source, (_, stamp) in zip(sources, counted[2], strict=True)
        ]
        frame = pl.from_arrow(table.select(list(COLUMNS)))
        assert isinstance(frame, pl.DataFrame)
        found = Counted(frame.cast(COLUMNS), dict(kept), dict(empty))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException, pl.exceptions.PolarsError):
        raise InspectorError(
            f"{location(path)}: these are no counted tokens; remove the file and count again"
        ) from None
    if counted != [profile, fingerprint, now]:
        raise InspectorError(
            f"{location(path)}: another tokenizer, or files that have changed, were counted; count again"
        )
    return found


def counts_file(sources: Sequence[Source], profile: str, fingerprint: str) -> Path:
    """Where the counts of these files with this tokenizer lie, whether they were made yet or not."""
    files = [(str(one.path.absolute()) if one.path else one.name, one.size, one.stamp) for one in sources]
    digest = hashlib.sha256(json.dumps([files, profile, fingerprint]).encode()).hexdigest()
    return workspace() / "token_counts" / f"{digest[:24]}.parquet"


def job_of(target: Path) -> jobs.Job | None:
    """The newest job that counts into this file."""
    return next((job for job in jobs.all_jobs({KIND}) if job.facts.get("counts") == str(target)), None)


def start(sources: Sequence[Source], profile: str, target: Path, tokenizer_folder: Path | None = None) -> jobs.Job:
    """Begin to count. The sources must lie on disk; no folder is that of the tokenizer which is taken unasked.

    Raises JobError and CheckpointError.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    files = [str(source.path.absolute()) for source in sources if source.path is not None]
    command = ["nanochat.tools.dataset_inspector", *files, "--profile", profile, "--counts", str(target), "--events"]
    command += [] if tokenizer_folder is None else ["--tokenizer-dir", str(tokenizer_folder)]
    title = f"Counting the tokens of {sources[0].name}" + (f" and {len(files) - 1} more" if len(files) > 1 else "")
    return jobs.start(title, [command], {"kind": KIND, "counts": str(target)})


def event(progress: Progress) -> str:
    """A line that `progress_of` reads."""
    return json.dumps({"event": "Progress", "doing": progress.doing, "done": progress.done, "total": progress.total})


def progress_of(job: jobs.Job) -> tuple[str, float]:
    """What a job said last that it does, and the share of the whole that is done by then, 0 to 1."""
    for line in reversed(jobs.log_tail(job, 4_096).splitlines()):
        said = jobs.event_in(line)
        if said and said.get("event") == "Progress":
            doing = str(said.get("doing"))
            share = min(int(said.get("done") or 0) / max(int(said.get("total") or 0), 1), 1.0)
            before, part = (CHECKING, 1 - CHECKING) if doing == COUNTING else (0.0, CHECKING)
            return doing, before + part * share
    return "starting", 0.0


def last_words(job: jobs.Job) -> str:
    """The last line that it said for people."""
    lines = (
        line for line in reversed(jobs.log_tail(job, 4_096).splitlines()) if line.strip() and not jobs.event_in(line)
    )
    return next(lines, "")
