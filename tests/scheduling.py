"""Which worker of `make test` runs which file, and when.

A file is one worker's, since its tests share servers. Those that take minutes come first; then those of few tests, which take
seconds each; the thousands of quick ones fill up what is left, so that at the end nobody is alone with a long one. Of the files
that have a real broker two run at a time: they mostly wait, and time limits are met by chance when many servers start at once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

BROKERS = Path(__file__).parent / "brokers"
AT_ONCE = 2


def in_order(items: list[pytest.Item]) -> None:
    """Sorts them."""
    count = Counter(item.path for item in items)
    first = {item.path for item in items if _takes_minutes(item)}
    items.sort(key=lambda item: (0, -count[item.path]) if item.path in first else (1, count[item.path]))


def _takes_minutes(item: pytest.Item) -> bool:
    long = item.get_closest_marker("long") is not None
    return long or item.path.is_relative_to(BROKERS) or item.path.stem.endswith("_conformance")


class FileByFile(LoadFileScheduling):
    """In the order of collection, but for the brokers' files, which wait while two others are at some."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        others = [files for one, files in self.assigned_work.items() if one is not node]
        if sum(map(_at_brokers, others)) >= AT_ONCE:
            other_file = next((file for file in self.workqueue if not _is_broker(file)), None)
            if other_file is not None:
                self.workqueue.move_to_end(other_file, last=False)
        super()._assign_work_unit(node)


def _is_broker(file: str) -> bool:
    return file.startswith("tests/brokers/")


def _at_brokers(files: dict[str, dict[str, bool]]) -> bool:
    """With a test in one of them that is not done."""
    return any(_is_broker(file) and not all(done.values()) for file, done in files.items())
