"""A first look at a long metrics.jsonl: lines from places all over it, so that a chart stands while the rest is read.

found = metrics.glance("base_checkpoints/d20/metrics.jsonl")
found.frame    # about 30,000 of a million rows, in their order; spikes between them are not there
found.share    # how much of the file that was
"""

import os
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from nanochat import metrics_cache
from nanochat.metrics_find import source_of
from nanochat.metrics_frame import mark_superseded
from nanochat.metrics_meta import stage_of
from nanochat.metrics_reader import open_metrics
from nanochat.metrics_records import RecordParser

LONG = 64 << 20  # bytes; less is read about as soon as a chart is drawn
LONG_KEPT = 256 << 20  # the same where the file is kept as Parquet
PLACES = 400  # as many as a chart has points, about
PIECE = 1 << 15  # bytes at each place: some 80 records


@dataclass(frozen=True)
class Glance:
    """Some rows of a file, and how much of it they are."""

    frame: pl.DataFrame  # columns of metrics.SCHEMA; `line` counts what was looked at
    share: float  # of the file's bytes, 0 to 1


def glance(path: str | Path) -> Glance | None:
    """Rows from all over the file; None where reading all of it takes no longer, or where none of it is a record.

    Raises:
        MetricsError: it cannot be read.
    """
    path = Path(path)
    if source_of(path) != "metrics" or not path.is_file():
        return None
    with open_metrics(path) as file:
        length = os.fstat(file.fileno()).st_size
        if length < (LONG_KEPT if metrics_cache.is_kept(path) else LONG):
            return None
        parts = []
        for number in range(PLACES):
            file.seek(length * number // PLACES)
            piece = file.read(PIECE)
            begin = piece.find(b"\n") + 1 if number else 0  # where a line begins
            parts.append(piece[begin : piece.rfind(b"\n") + 1])
    parser = RecordParser(str(path), stage_of(path))
    parser.feed(b"".join(parts))
    frame = mark_superseded(parser.frame())  # steps that a resumed run did again count once here, too
    return Glance(frame, sum(map(len, parts)) / length) if len(frame) else None
