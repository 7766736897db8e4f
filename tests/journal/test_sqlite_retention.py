"""Deleting in a file: space is used again, writers go on, and what each safeguard is good for."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from eventspine.clock import SystemClock
from eventspine.engine.upkeep import sweep
from eventspine.journal import _sql_retention as retention
from eventspine.journal.port import SetState
from eventspine.journal.sqlite import SQLiteJournal

from .material import all_pages, event, events, one_subscription, publish, publish_to, whole_feed

EVERYTHING = 1_000_000_000


async def fill(journal: SQLiteJournal, count: int, **given: object) -> None:
    for _ in range(count // 1000):
        await publish(journal, *events(1000, **given))


async def sweep_all(journal: SQLiteJournal) -> int:
    return (await sweep(journal, SystemClock(), "orders", upto=EVERYTHING)).deleted


async def test_what_was_deleted_is_room_for_what_comes(journal: SQLiteJournal) -> None:
    """The file gives nothing back to the disk by itself, and does not grow either."""
    sizes = []
    for _ in range(4):
        await fill(journal, 5000, data=bytes(500))
        assert 4999 <= await sweep_all(journal)
        with closing(sqlite3.connect(journal.path)) as own:
            own.execute("pragma wal_checkpoint(truncate)").fetchall()
        sizes.append(os.stat(journal.path).st_size)
    assert max(sizes[1:]) < 1.2 * sizes[0]
    assert (await journal.describe())["free_bytes"] > 0.6 * sizes[-1]  # type: ignore[operator]


async def test_vacuum_gives_it_back_and_moves_no_position(journal: SQLiteJournal) -> None:
    await fill(journal, 5000, data=bytes(500))
    await sweep_all(journal)
    before = await whole_feed(journal)
    with closing(sqlite3.connect(journal.path)) as own:
        own.execute("vacuum")
        own.execute("pragma wal_checkpoint(truncate)").fetchall()
    assert os.stat(journal.path).st_size < 500_000
    assert before == await whole_feed(journal)
    assert await publish(journal, event()) == [before[-1].position + 1]


async def test_publishers_hardly_notice(journal: SQLiteJournal, tmp_path: Path) -> None:
    """Deleting is done in commits of a few milliseconds, with rests in between."""
    await fill(journal, 20_000)
    other = SQLiteJournal(f"sqlite:///{tmp_path}/spine.db")
    await other.open()
    took = []

    async def publish_on() -> None:
        while True:
            began = time.monotonic()
            await publish(other, event(channel="audit"))
            took.append(time.monotonic() - began)

    publishing = asyncio.create_task(publish_on())
    assert 19_999 <= await sweep_all(journal) <= 20_000
    publishing.cancel()
    took.sort()
    print(f"{len(took)} publishers waited {took[len(took) // 2] * 1000:.1f} ms, {took[-1] * 1000:.1f} ms at most")
    assert took[len(took) // 2] < 0.1
    assert took[-1] < 1.0
    await other.close()


async def test_large_events_are_deleted_a_few_at_a_time(journal: SQLiteJournal) -> None:
    await publish(journal, *events(12, data=bytes(1024 * 1024)))
    swept = await journal.sweep("orders", after=0, upto=EVERYTHING, limit=500)
    assert 4 == swept.deleted
    assert swept.more
    assert 7 == await sweep_all(journal)


async def test_a_long_hole_is_passed_in_one_step(journal: SQLiteJournal) -> None:
    await fill(journal, 1000)
    with closing(sqlite3.connect(journal.path)) as own:
        own.execute("update sqlite_sequence set seq = 50000000 where name = 'spine_events'")
        own.commit()
    [last] = await publish(journal, event())
    pages = await all_pages(journal, limit=500)
    assert last == pages[-1].scanned == 50_000_001
    assert len(pages) < 6
    assert 1000 == await sweep_all(journal)
    assert 2 >= len(await all_pages(journal, limit=500))


async def test_a_page_never_passes_what_it_was_told_to_stop_at(journal: SQLiteJournal) -> None:
    placed = await publish(journal, *events(5))
    await sweep_all(journal)
    with closing(sqlite3.connect(journal.path)) as own:
        own.execute("update sqlite_sequence set seq = 200000 where name = 'spine_events'")
        own.commit()
    await publish(journal, event())
    for upto in (placed[-1], 30_000, 199_999):
        after = placed[-1] if upto > placed[-1] else 0
        while True:
            page = await journal.feed(after, limit=10, upto=upto)
            assert page.scanned <= upto
            if page.scanned == after or not page.more:
                break
            after = page.scanned


async def test_many_events_are_counted_from_a_sample(journal: SQLiteJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "COUNTED", 100)
    await fill(journal, 3000)
    await fill(journal, 1000, channel="audit")
    sizes = {row.channel: row for row in await journal.channel_sizes()}
    assert not sizes["orders"].exact
    assert 2600 < sizes["orders"].events < 3400
    assert 700 < sizes["audit"].events < 1300


async def test_who_keeps_everything_pays_for_no_index(journal: SQLiteJournal) -> None:
    await publish_to(journal, "cart", event())

    def indexes() -> set[str]:
        with closing(sqlite3.connect(journal.path)) as own:
            return {name for (name,) in own.execute("select name from sqlite_master where type = 'index'")}

    assert "spine_stream_events_position" not in indexes()
    await journal.keep("shop", {"orders": 1}, 1)
    assert "spine_stream_events_position" not in indexes()
    await sweep_all(journal)
    assert "spine_stream_events_position" in indexes()


# --- what each safeguard is good for --------------------------------------------------------------------------------------


async def test_without_asking_the_cursors_a_paused_handler_loses_events(
    journal: SQLiteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscription = await one_subscription(journal, start="earliest")
    await journal.control([SetState(subscription.number, "paused")])
    await publish(journal, *events(5))
    assert 0 == await sweep_all(journal)
    monkeypatch.setattr(retention, "_floor", lambda _cursor, _channel, otherwise: otherwise)
    assert 4 == await sweep_all(journal)


async def test_what_changed_since_it_was_looked_for_is_seen_by_the_commit(
    journal: SQLiteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subscription comes between the look and the commit; without the second look its events would be gone."""
    await publish(journal, *events(5))
    look = retention.find

    def looked(cursor: sqlite3.Cursor, *given: object) -> retention.Found:
        found = look(cursor, *given)  # type: ignore[arg-type]
        comes.set()
        assert registered.wait(20)
        return found

    comes, registered = threading.Event(), threading.Event()
    monkeypatch.setattr(retention, "find", looked)
    sweeping = asyncio.create_task(journal.sweep("orders", after=0, upto=EVERYTHING, limit=10))
    assert await asyncio.to_thread(comes.wait, 20)
    await one_subscription(journal, start="earliest")
    registered.set()
    assert 0 == (await sweeping).deleted
    assert 5 == len(await whole_feed(journal))


async def test_without_keeping_the_last_event_the_feed_would_end_earlier(
    journal: SQLiteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so would time: positions are found by it."""
    await publish(journal, *events(5))
    monkeypatch.setattr(retention, "_find", without_the_last)
    await sweep_all(journal)
    assert 0 == await journal.head()


def without_the_last(cursor: sqlite3.Cursor, channel: str, after: int, upto: int, limit: int) -> retention.Found:
    rows = cursor.execute(retention._FIND, (after, upto, channel, limit)).fetchall()
    return retention.Found([row[0] for row in rows], upto, False)
