"""What the tests of the dataset inspector share: a tokenizer that is quick to make, and lines."""

import json
from pathlib import Path
from typing import Any

from nanochat.analysis.dataset_inspector import Options, Report, find_sources, inspect
from nanochat.tokenizer import train_tokenizer

TOKENIZER = train_tokenizer(["hug pug hugs a bug, and 12 more"] * 2, 275)


def talk(question: str = "Hi", answer: Any = "Hello.") -> list[dict[str, Any]]:
    """A conversation of two messages."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def lines_file(path: Path, *values: Any) -> Path:
    """A JSONL file; bytes are written as they are, all else as JSON."""
    path.write_bytes(b"".join(one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n" for one in values))
    return path


def look(*paths: Path, tokens: bool = False, **options: Any) -> Report:
    """Inspect some files."""
    return inspect(find_sources(list(paths)), Options(**options), TOKENIZER if tokens else None)
