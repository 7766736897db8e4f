"""`make promises`: asks pytest for all tests, and writes docs/why/promises.md and the table of `spine doctor` from their marks."""

from __future__ import annotations

import sys

import pytest

from tests.promises.marks import ROOT, Shown, gathered
from tests.promises.table import write


class Gather:
    def __init__(self) -> None:
        self.shown: list[Shown] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.shown = gathered(session.items)


def main() -> int:
    gather = Gather()
    code = pytest.main(["--collect-only", "-qqqq", str(ROOT / "tests"), "--ignore", str(ROOT / "tests/docs")], [gather])
    if code != pytest.ExitCode.OK:
        return int(code)
    for place in write(gather.shown):
        print(f"written: {place.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
