"""Look at a run again and again while it is being written: each look costs what is new.

follower = Follower("base_checkpoints/d20")
follower.look()    # the run, as open_run gives it
follower.look()    # the same, with the steps that came in between
"""

import threading
from dataclasses import replace
from pathlib import Path

from nanochat import metrics, paths
from nanochat.analysis.training_dashboard.history import History, is_live, open_log, open_run, runs_of, stamp
from nanochat.checkpoint_files import location
from nanochat.records import METRICS_NAME


class Follower:
    """One run's folder, or one file of metrics. Several threads may look: a page's visitors share it."""

    def __init__(self, path: str | Path) -> None:
        self.path = paths.expand(path)
        self._files = metrics.Files()
        self._lock = threading.Lock()
        self._stamp: str | None = None
        self._found: list[History] = []

    @property
    def looked(self) -> bool:
        """Whether it was read before, so that another look is quick."""
        return self._stamp is not None

    def glance(self) -> tuple[list[History], float]:
        """(the run by some of its lines, the share of the file that they are) where to read all of it takes a while
        and nobody did yet; none where a look is quick.

        Raises:
            MetricsError: it cannot be read.
        """
        found = None if self.looked else metrics.glance(self.path / METRICS_NAME if self.path.is_dir() else self.path)
        if found is None:
            return [], 1.0
        read = metrics.Metrics(found.frame, (), {}, ())
        return runs_of(read, location(self.path), self.path.name), found.share

    def look(self) -> list[History]:
        """The runs in it as they stand now; one of a folder. They are the same objects while nothing was written.

        Raises:
            MetricsError: nothing of a run is there, or it cannot be read.
        """
        with self._lock:
            is_folder = self.path.is_dir()
            now = stamp(self.path)
            if self._stamp is None or now != self._stamp:
                self._stamp = None  # should reading fail, the next look tries again
                one = open_run(self.path, files=self._files) if is_folder else None
                self._found = [one] if one is not None else open_log(self.path, self._files)
                self._stamp = now
            live = [is_live(one, self.path) for one in self._found]
            if live != [one.live for one in self._found]:  # a run that ended wrote nothing more to say so
                self._found = [replace(one, live=now) for one, now in zip(self._found, live, strict=True)]
            return self._found
