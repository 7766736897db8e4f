"""`spine retention` and `spine backup`, and what trace and rewind say of what was deleted."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from eventspine.cli import backup as command
from eventspine.journal.port import PARTITIONS, Done, Drop, Unit

HOUR_US = 3_600_000_000


@pytest.fixture
def swept(story):
    """Orders are kept for an hour, and are all old; the first has been handled, the last has not."""

    async def write(journal):
        await journal.keep("orders", {"orders": HOUR_US}, 1_700_000_000_000_000)
        await journal.sweep("orders", after=0, upto=6, limit=10)

    story.journal(write)
    return story


def hours_later(story, monkeypatch):
    def events_are_old(connection):
        connection.execute("update spine_events set recorded_us = recorded_us - 7200000000")
        connection.commit()

    with closing(sqlite3.connect(story.url.removeprefix("sqlite:///"))) as connection:
        events_are_old(connection)


def listed(say):
    return {row["channel"]: row for row in json.loads(say("retention", "--json").stdout)}


def test_everything_is_kept_for_ever_unless_somebody_says_otherwise(say, story):
    rows = listed(say)
    assert {"orders", "stock"} == set(rows)
    assert (None, 2, True, 0, None) == tuple(
        rows["orders"][name] for name in ("kept_s", "events", "events_are_exact", "deleted", "held_by")
    )
    ran = say("retention", "run")
    assert (0, "") == (ran.exit_code, ran.stdout)
    assert "kept for ever" in ran.stderr


def test_what_is_kept_deleted_and_held_is_listed(say, swept, monkeypatch):
    hours_later(swept, monkeypatch)
    row = listed(say)["orders"]
    assert (3600.0, ["orders"], 1, 1, 1) == tuple(
        row[name] for name in ("kept_s", "said_by", "events", "deleted", "deleted_upto")
    )
    assert ("stock.reserve", "active", 5, 6) == tuple(
        row["held_by"][name] for name in ("subscription", "state", "position", "due")
    )
    header, orders, _ = say("retention").stdout.splitlines()
    assert header.split() == ["CHANNEL", "KEPT", "EVENTS", "DELETED", "UP", "TO", "HELD", "BY"]
    assert orders.split()[:4] == ["orders", "1h", "1", "1"]
    assert "stock.reserve (active)" in orders
    assert say("retention").stdout == say("retention", "list").stdout


def test_run_deletes_what_is_old_enough_and_says_who_holds_the_rest(say, story, monkeypatch):
    async def stocks_are_kept_for_an_hour(journal):
        await journal.keep("stock", {"stock": HOUR_US}, 1_700_000_000_000_000)

    story.journal(stocks_are_kept_for_an_hour)
    hours_later(story, monkeypatch)
    ran = say("retention", "run")
    assert "stock: 0 events deleted, older than 1h.\n" == ran.stdout
    assert "email.count holds stock at 2 of 6" in ran.stderr

    async def everything_is_over(journal):
        for row in await journal.subscriptions("email"):
            done = [Done(row.number, part, [(0, 6)], row.generation) for part in range(PARTITIONS)]
            assert (await journal.commit([Unit(done=done)]))[0].ok
        await journal.control([Drop([row.number for row in await journal.deliveries()])])

    story.journal(everything_is_over)
    assert "stock: 3 events deleted, older than 1h.\n" == say("retention", "run").stdout


def test_trace_says_that_it_began_earlier(say, swept):
    shown = say("trace", swept.reserved)
    assert "older events were deleted" in shown.stderr
    assert json.loads(say("trace", swept.reserved, "--json").stdout)["begins_later"]
    gone = say("trace", "01900000-0000-7000-8000-00000000ffff")
    assert 4 == gone.exit_code
    assert "Older events were deleted" in gone.stderr


def test_trace_says_nothing_where_nothing_is_missing(say, story):
    shown = say("trace", story.reserved)
    assert "retention" not in shown.stderr
    assert not json.loads(say("trace", story.reserved, "--json").stdout)["begins_later"]


def test_a_rewind_says_what_is_gone(say, swept):
    back = say("subscriptions", "rewind", "stock.reserve", "--to", "earliest", "--repeat-effects")
    assert 0 == back.exit_code, back.stderr
    assert "Events of orders up to position 1 (" in back.stderr
    assert "goes on with what is left" in back.stderr
    other = say("subscriptions", "rewind", "email.count", "--to", "earliest", "--repeat-effects")
    assert "Events of orders published since then were deleted too" in other.stderr
    later = say("subscriptions", "rewind", "stock.reserve", "--to", "3", "--repeat-effects")
    assert "retention" not in later.stderr


# --- backup -----------------------------------------------------------------------------------------------------------


def test_a_backup_is_told_in_words_and_in_json(say, story, tmp_path):
    made = say("backup", "copy.db")
    assert 0 == made.exit_code, made.stderr
    assert made.stdout.startswith(f"{tmp_path}/copy.db: ")
    assert ", 6 events, up to position 6 of 20" in made.stdout
    assert made.stdout.endswith("Z. Verified.\n")
    assert "" == made.stderr

    told = json.loads(say("backup", "second.db", "--json").stdout)
    assert (f"{tmp_path}/second.db", 6, 6) == (told["target"], told["position"], told["events"])
    assert (tmp_path / "second.db").stat().st_size == told["bytes"]
    assert (
        say("tail", "--no-follow", "--json").stdout
        == say("tail", "--no-follow", "--json", "--journal", f"sqlite:///{tmp_path}/copy.db").stdout
    )


def test_what_exists_is_replaced_only_when_told(say, story, tmp_path):
    (tmp_path / "copy.db").write_text("precious")
    refused = say("backup", "copy.db")
    assert 2 == refused.exit_code
    assert "replace it with --force." in refused.stderr
    assert 0 == say("backup", "copy.db", "--force").exit_code
    assert 2 == say("backup", "spine.db", "--force").exit_code
    assert "File name too long. Name another file" in say("backup", "b" * 300).stderr


def test_there_must_be_a_journal(say, tmp_path):
    assert 4 == say("backup", "copy.db").exit_code
    assert [] == list(tmp_path.iterdir())


def test_a_terminal_shows_how_far_it_is(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with command.progress_bar() as told:
        assert told is not None
        told("copying", 0.5)
        told("verifying", 0.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    with command.progress_bar() as told:
        assert told is None
    assert "" == capsys.readouterr().out
