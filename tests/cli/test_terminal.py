"""On a terminal: tables, and questions that somebody can answer."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator

import pytest

pty = pytest.importorskip("pty")


@contextlib.contextmanager
def terminal(spine, *arguments: str, term: str = "xterm") -> Iterator[int]:
    """The command with a terminal of its own for all three streams; the other end of it."""
    ours, theirs = pty.openpty()
    spine.environment |= {"TERM": term, "COLUMNS": "100"}
    process = subprocess.Popen(
        spine.line(arguments), cwd=spine.folder, env=spine.environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        yield ours
        process.wait(60)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read(ours: int, word: str | None = None) -> str:
    """What is shown up to this word, or to the end."""
    shown = ""
    while word is None or word not in shown:
        try:
            shown += os.read(ours, 4096).decode()
        except OSError:  # the other side is closed
            assert word is None, shown
            return shown
    return shown


def test_a_list_is_a_table_that_can_not_be_forged(spine, story):
    with terminal(spine, "dead", "list") as ours:
        shown = read(ours)

    assert "email.confirm" in shown
    assert "\x1b[2J" not in shown
    assert "\\x1b[2J" in shown.replace("\r\n", "").replace(" ", "")


@pytest.mark.parametrize(("answer", "left"), [("y\n", [2]), ("n\n", [1, 2])])
def test_dropping_asks_somebody_who_is_there(spine, story, answer, left):
    with terminal(spine, "dead", "drop", "1") as ours:
        read(ours, "Drop 1 dead delivery for good?")
        os.write(ours, answer.encode())
        read(ours)

    assert left == [delivery["number"] for delivery in json.loads(spine("dead", "list", "--json").stdout)]
