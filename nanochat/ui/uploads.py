"""An upload as a file of the workspace, for a job: that outlives the page which holds the upload in memory."""

import hashlib
from pathlib import Path

from nanochat.durable import publish, stage_bytes
from nanochat.paths import workspace


def kept(content: memoryview, ending: str) -> Path:
    """A file with this content and ending; the same content twice is one file. Raises CheckpointError."""
    path = workspace() / "uploads" / f"{hashlib.sha256(content).hexdigest()[:16]}{ending}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        publish(stage_bytes(path, content))  # type: ignore[arg-type]
    return path
