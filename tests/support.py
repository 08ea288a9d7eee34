"""What tests share: where real nanochat's runs lie and the mark that skips without them.

The fixtures are runs made by unmodified nanochat. They are not part of this repository: name their folder in
NANOCHAT_FIXTURES (default: ../shared/fixtures beside the checkout). Tests that need them skip where they are absent.
"""

import os
from pathlib import Path

import pytest

FIXTURES = Path(os.environ.get("NANOCHAT_FIXTURES", Path(__file__).parents[2] / "shared" / "fixtures"))


def fixture_dirs(pattern: str = "nanochat_*") -> list[Path]:
    """Base dirs made by real nanochat, oldest first; empty where the fixtures are absent."""
    return sorted(path for path in FIXTURES.glob(pattern) if path.is_dir())


needs_fixtures = pytest.mark.skipif(
    not fixture_dirs(), reason=f"real nanochat runs are not at {FIXTURES}; set NANOCHAT_FIXTURES to their folder"
)
