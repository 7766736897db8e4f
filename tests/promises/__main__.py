"""`make promises`: asks pytest for all tests, and writes docs/why/promises.md and the table of `spine doctor` from their
marks. With --check it writes nothing, and exits with 1 when they are not as they should be."""

from __future__ import annotations

import sys

import pytest

from tests.promises.marks import ROOT, Shown, gathered
from tests.promises.table import made, stale


class Gather:
    def __init__(self) -> None:
        self.shown: list[Shown] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.shown = gathered(session.items)


def main(check: bool = False) -> int:
    gather = Gather()
    asked = [
        "--collect-only",
        "-qqqq",
        "-p",
        "no:cacheprovider",
        str(ROOT / "tests"),
        "--ignore",
        str(ROOT / "tests/docs"),
    ]
    code = pytest.main(asked, [gather])
    if code != pytest.ExitCode.OK:
        return int(code)
    files = made(gather.shown)
    changed = stale(files)
    for place in changed:
        if not check:
            place.write_text(files[place], encoding="utf-8")
        print(f"{'stale: run `make promises`' if check else 'written'}: {place.relative_to(ROOT)}")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv))
