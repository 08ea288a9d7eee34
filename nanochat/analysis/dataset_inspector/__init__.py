"""A data set looked at before it trains anything: every bad line by number, and what the good ones are made of.

    sources = find_sources(["chats.jsonl"])
    report = inspect(sources, tokenizer=open_tokenizer()[0])
    for issue in issues(report): print(issue.line, issue.detail)

A line goes through three hands: `sources` cuts files into blocks of whole lines, `check` decodes a block with msgspec
and measures it, `index` keeps a row for every line in Polars, and every figure is a question to it.
"""

from nanochat.analysis.dataset_inspector.corpus import CorpusReport, inspect_corpus, is_corpus
from nanochat.analysis.dataset_inspector.counting import save_counts
from nanochat.analysis.dataset_inspector.export import (
    PARTS,
    Drop,
    Exported,
    export,
    export_file,
    export_issues,
    export_samples,
    keep,
    require_targets,
)
from nanochat.analysis.dataset_inspector.inspection import inspect, open_tokenizer, with_counts
from nanochat.analysis.dataset_inspector.kinds import KINDS, names_of
from nanochat.analysis.dataset_inspector.report import (
    Issue,
    Options,
    Progress,
    Report,
    as_json,
    buckets,
    kind_table,
    length_bins,
)
from nanochat.analysis.dataset_inspector.rows import Row, issue_rows, issues, rows_of, sample, search
from nanochat.analysis.dataset_inspector.sources import InspectorError, Source, find_sources, upload_source

__all__ = [
    "KINDS",
    "PARTS",
    "CorpusReport",
    "Drop",
    "Exported",
    "InspectorError",
    "Issue",
    "Options",
    "Progress",
    "Report",
    "Row",
    "Source",
    "as_json",
    "buckets",
    "export",
    "export_file",
    "export_issues",
    "export_samples",
    "find_sources",
    "inspect",
    "inspect_corpus",
    "is_corpus",
    "issue_rows",
    "issues",
    "keep",
    "kind_table",
    "length_bins",
    "names_of",
    "open_tokenizer",
    "require_targets",
    "rows_of",
    "sample",
    "save_counts",
    "search",
    "upload_source",
    "with_counts",
]
