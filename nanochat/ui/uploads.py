"""An upload as a file of the workspace, for a job: that outlives the page which holds the upload in memory.

    $NANOCHAT_LAB_DIR/uploads/<digest of its content>.jsonl

Nothing deletes them: a training that is resumed months later reads its text again. The page says where they are.
"""

import hashlib
from pathlib import Path
from typing import Any

import streamlit as st

from nanochat.durable import publish, stage_bytes
from nanochat.paths import workspace


def kept(upload: Any, ending: str) -> Path:
    """A file with the content of an upload; the same content twice is one file. Raises CheckpointError."""
    known = st.session_state.setdefault("uploads_kept", {})  # a page asks again at every touch
    path: Path | None = known.get((upload.file_id, ending))
    if path is None or not path.exists():
        content = upload.getbuffer()
        path = workspace() / "uploads" / f"{hashlib.sha256(content).hexdigest()[:16]}{ending}"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            publish(stage_bytes(path, content))
        known[upload.file_id, ending] = path
    return path
