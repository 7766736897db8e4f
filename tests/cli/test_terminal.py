"""On a terminal: tables, and questions that somebody can answer."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventspine.journal.port import PARTITIONS, Append, Put, Unit

from .conftest import record

pty = pytest.importorskip("pty")


@contextlib.contextmanager
def terminal(spine, *arguments: str, term: str = "xterm", columns: int = 100) -> Iterator[int]:
    """The command with a terminal of its own for all three streams; the other end of it."""
    with on_terminal(spine, *arguments, term=term, columns=columns) as (_, ours):
        yield ours


@contextlib.contextmanager
def on_terminal(
    spine, *arguments: str, term: str = "xterm", columns: int = 100
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    ours, theirs = pty.openpty()
    spine.environment |= {"TERM": term, "COLUMNS": str(columns)}
    process = subprocess.Popen(
        spine.line(arguments), cwd=spine.folder, env=spine.environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        yield process, ours
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


def until_it_waits(process: subprocess.Popen[bytes]) -> None:
    """For an answer. Between a prompt and the reading after it Python hears no signal until something is typed; it is a moment
    in which only a test is quick enough to send one."""
    stat = Path(f"/proc/{process.pid}/stat")
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "S":
        time.sleep(0.001)


def without_style(shown: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r\n", "\n")


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


@pytest.mark.parametrize("arguments", [("subscriptions", "retire", "email.count"), ("dead", "drop", "1"), ("reset",)])
def test_one_ctrl_c_at_a_question_is_enough(spine, story, arguments):
    with on_terminal(spine, *arguments) as (process, ours):
        read(ours, "[y/N]")
        until_it_waits(process)
        process.send_signal(signal.SIGINT)
        read(ours)
        assert 130 == process.wait(60)
    assert 3 == len(json.loads(spine("subscriptions", "--json").stdout)), "nothing was done"


async def _many_dead(journal) -> None:
    (confirm,) = [row for row in await journal.subscriptions() if row.name == "email.confirm"]
    records = [record(n, "stock.Reserved", f"k{n}") for n in range(1000, 3500)]
    (verdict,) = await journal.commit([Unit(appends=[Append(records)])])
    puts = [
        Put(confirm.number, row.slot % PARTITIONS, row._replace(position=position), "dead", 1, None, "SmtpDown")
        for row, position in zip(records, verdict.positions, strict=True)
    ]
    await journal.commit([Unit(puts=puts)])


def test_long_work_shows_how_far_it_is(spine, story):
    story.journal(_many_dead)

    with terminal(spine, "dead", "replay", "--all") as ours:
        shown = read(ours)

    assert "replay" in shown
    assert "/2502" in shown
    assert "2,502 dead deliveries to be tried again." in shown


def test_in_a_pipe_long_work_says_what_it_has_done_and_no_more(spine, story):
    story.journal(_many_dead)

    replayed = spine("dead", "replay", "--all")

    assert ("2,502 dead deliveries to be tried again.\n", "") == (replayed.stdout, replayed.stderr)


def test_no_color_is_honoured_in_tables(spine, story):
    spine.environment["NO_COLOR"] = "1"
    with terminal(spine, "subscriptions") as ours:
        shown = read(ours)

    assert "email.confirm" in shown
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", shown)


def test_numbers_and_times_stay_in_one_line_however_narrow_it_is(spine, story):
    with terminal(spine, "dead", "list") as ours:
        shown = read(ours)

    plain = without_style(shown)
    assert re.search(r"^\d+ +\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", plain, re.MULTILINE), plain


KEY = "01a20a97-b1dd-7a1f-8f6d-b3c75ebd7608"


async def _a_long_key(journal) -> None:
    (reserve,) = [row for row in await journal.subscriptions() if row.name == "stock.reserve"]
    order = record(8, "orders.Ordered", KEY, b'{"title": "Emma", "copies": 2, "for": "Mr Knightley"}')
    (verdict,) = await journal.commit([Unit(appends=[Append([order], "orders", f"order-{KEY}", 0)])])
    stored = order._replace(position=verdict.positions[0])
    reason = "ShelfTooHigh: nobody who is in today can reach the shelf on which it stands, nor the one above it"
    parked = Put(reserve.number, stored.slot % PARTITIONS, stored, "parked", 1, 4_000_000_000_000_000, "X", reason)
    await journal.commit([Unit(puts=[parked])])


@pytest.mark.parametrize(
    ("command", "whole"),
    [
        (["subscriptions", "--window", "0"], ["subscription", "parked", "stock.reserve", "stock.Reserved"]),
        (["audit-trail"], ["recorded", "position", "orders.Ordered", KEY]),
        (["parked", "list"], ["attempts", "stock.reserve", "orders.Ordered", KEY]),
        (["streams", "list"], ["stream", f"order-{KEY}"]),
        (["streams", "show", "orders", f"order-{KEY}"], ["version", "orders.Ordered", "Knightley"]),
    ],
)
def test_on_80_columns_no_head_name_or_key_is_broken(spine, story, command, whole):
    story.journal(_a_long_key)

    with terminal(spine, *command, columns=80) as ours:
        shown = without_style(read(ours))

    assert not [word for word in whole if not re.search(rf"(?<![\w.-]){re.escape(word)}(?![\w-])", shown)], shown
    assert not [line for line in shown.splitlines() if len(line) > 80], shown


def test_what_fits_beside_nothing_stands_below_by_name(spine, story):
    story.journal(_a_long_key)

    with terminal(spine, "parked", "list", "--key", KEY, columns=80) as ours:
        heads, row, *below = without_style(read(ours)).splitlines()

    assert ["number", "due", "handler", "type", "attempts"] == heads.split()
    assert row.endswith("orders.Ordered  1")
    assert f"    key: {KEY}" == below[0]
    assert below[1].startswith("    reason: ")


def test_a_word_that_is_longer_than_a_line_is_in_one_piece_with_its_name(spine, story):
    story.journal(_a_long_key)

    with terminal(spine, "audit-trail", "--key", KEY, columns=30) as ours:
        shown = without_style(read(ours)).splitlines()

    assert ["recorded", f"    key: {KEY}"] == [shown[0], shown[3]], shown
