"""What this process has just committed is read from its memory: the same as SQLite would say, or SQLite is asked."""

from __future__ import annotations

import asyncio
from itertools import product
from typing import Any

import pytest

from eventspine.clock import SystemClock
from eventspine.journal import _sqlite_feed
from eventspine.journal._sqlite_recent import AGE_MAX_US, BYTES_MAX, KEPT, Recent
from eventspine.journal.port import Append, Page, Record, Timer, Unit
from eventspine.journal.sqlite import SQLiteJournal

from .material import event

Rows = list[tuple[Any, ...]]


async def append(journal: SQLiteJournal, records: list[Record]) -> None:
    (verdict,) = await journal.commit([Unit(appends=[Append(records)])])
    assert verdict.ok


def mixed(count: int) -> list[Record]:
    """Of all kinds that readers tell apart."""
    return [
        event(key=f"k{n % 7}")._replace(
            channel=("orders", "mail", None)[n % 3], slot=n % 32, type=("a.A", "b.B")[n % 2], meta=(None, b"{}")[n % 2]
        )
        for n in range(count)
    ]


async def from_file(journal: SQLiteJournal, monkeypatch: pytest.MonkeyPatch, *arguments: Any, **wanted: Any) -> Page:
    with monkeypatch.context() as patch:
        patch.setattr(Recent, "reaches", lambda *_: False)
        return await journal.feed(*arguments, **wanted)


async def test_it_is_what_the_file_says(journal: SQLiteJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        await append(journal, mixed(40))
    asked = product(
        (0, 1, 39, 40, 100, 119),
        (None, ("orders",), ("orders", "mail")),
        (None, (0, 3), tuple(range(16))),
        (None, ("a.A",)),
        (False, True),
        (None, 60),
    )
    for after, channels, partitions, types, private, upto in asked:
        wanted = {
            "channels": channels,
            "partitions": partitions,
            "types": types,
            "private": private,
            "upto": upto,
            "limit": 500,
        }
        page = await journal.feed(after, **wanted)
        stored = await from_file(journal, monkeypatch, after, **wanted)
        assert (list(page.records), page.scanned) == (list(stored.records), stored.scanned)


async def test_the_file_is_not_asked_for_it(journal: SQLiteJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    await append(journal, mixed(10))
    monkeypatch.delattr(_sqlite_feed, "page")
    page = await journal.feed(4, limit=3, private=True)
    assert [record.position for record in page.records] == [5, 6, 7]
    assert page.more, "what others have written by now is not known here"


async def test_where_it_ends_the_file_is_asked_and_others_are_seen(journal: SQLiteJournal) -> None:
    other = SQLiteJournal(journal.url)
    await other.open()
    await append(journal, mixed(3))
    await append(other, mixed(2))
    assert (await journal.feed(3, limit=10, private=True)).scanned == 5
    await append(journal, mixed(1))
    for after in range(6):
        page = await journal.feed(after, limit=10, private=True)
        assert page.records[0].position == after + 1, "nothing is left out between our own"
    await other.close()


async def test_events_that_were_there_already_begin_anew(journal: SQLiteJournal) -> None:
    first, second = mixed(3), mixed(3)
    await append(journal, first)
    await append(journal, [*first, *second])
    page = await journal.feed(0, limit=10, private=True)
    page = page if page.scanned == 6 else await journal.feed(page.scanned, limit=10, private=True)
    assert [record.id for record in page.records][-3:] == [record.id for record in second]


async def test_nothing_is_read_of_a_commit_that_failed(journal: SQLiteJournal) -> None:
    await append(journal, mixed(2))

    def refuse(_: Any) -> None:
        raise RuntimeError("no")

    writer = journal._here().writer
    commit, writer.commit_statement = writer.commit_statement, refuse
    with pytest.raises(RuntimeError):
        writer._once([Unit(appends=[Append(mixed(2))])])
    writer.commit_statement = commit
    assert (await journal.feed(0, limit=10, private=True)).scanned == 2


async def test_what_was_deleted_is_not_read(journal: SQLiteJournal) -> None:
    await append(journal, [record._replace(channel="orders") for record in mixed(10)])
    await journal.sweep("orders", after=0, upto=9, limit=100)
    page = await journal.feed(0, limit=100)
    assert [record.position for record in page.records] == [10]


def rows(count: int, at_us: int, size: int = 10) -> Rows:
    return [(b"id", "c", 0, "k", "t", 1, 0, at_us, "s", None, None, 0, None, bytes(size)) for _ in range(count)]


def everything(_: Record) -> bool:
    return True


def test_after_a_while_it_is_not_told_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    recent, now_us = Recent(clock), clock.now_us()
    recent.add(1, rows(1, now_us))
    assert recent.page(0, 10, None, everything) is not None
    monkeypatch.setattr(clock, "now_us", lambda: now_us + AGE_MAX_US + 1)
    assert recent.page(0, 10, None, everything) is None


def test_it_is_bounded_in_number_and_in_bytes() -> None:
    recent, now_us = Recent(SystemClock()), SystemClock().now_us()
    position = 1
    for size in (10, BYTES_MAX // 100):
        for _ in range(60):
            recent.add(position, rows(300, now_us, size) if size == 10 else rows(5, now_us, size))
            position += 300 if size == 10 else 5
            assert len(recent._rows) <= 2 * KEPT
            assert sum(len(row[13]) for row in recent._rows) == recent._bytes <= BYTES_MAX
            assert recent._first + len(recent._rows) == position


def test_who_wants_only_up_to_a_place_is_told_no_more() -> None:
    recent = Recent(SystemClock())
    recent.add(1, rows(10, SystemClock().now_us()))
    page = recent.page(2, 100, 5, everything)
    assert page is not None
    assert (len(page.records), page.scanned) == (3, 5)
    assert recent.page(5, 100, 5, everything) is None, "nothing to tell"


async def told(journal: SQLiteJournal, after: int, *, limit: int = 10, upto: int | None = None) -> bool:
    return (await journal.feed(after, limit=limit, upto=upto, private=True)).told


async def test_at_the_end_of_our_own_whoever_watches_need_not_ask_for_more(journal: SQLiteJournal) -> None:
    await append(journal, mixed(5))
    assert await told(journal, 0)
    assert not await told(journal, 0, limit=4), "there is more, and nobody will be told of it again"
    assert not await told(journal, 0, upto=4)
    await append(journal, mixed(1))
    assert await told(journal, 5)


async def test_who_was_told_of_anothers_commit_before_asks_for_it(journal: SQLiteJournal) -> None:
    """Its bell may have rung before the page was read; nobody would hear it again."""
    rung = asyncio.Event()
    journal.watch(rung.set)
    other = SQLiteJournal(journal.url)
    await other.open()
    await append(journal, mixed(2))
    rung.clear()
    await append(other, mixed(2))
    async with asyncio.timeout(30):
        await rung.wait()
    assert not await told(journal, 0)
    assert [record.position for record in (await journal.feed(2, limit=10, private=True)).records] == [3, 4]
    await other.close()


async def test_what_others_write_after_our_commit_began_is_not_taken_to_be_before_it(
    journal: SQLiteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bell that rings while our commit is under way may be that of an event behind it."""
    writer = journal._here().writer
    commit = writer.commit_statement

    def rung_meanwhile(connection: Any) -> Any:
        writer.recent.others_wrote()
        return commit(connection)

    monkeypatch.setattr(writer, "commit_statement", rung_meanwhile)
    await append(journal, mixed(2))
    assert not await told(journal, 0)


async def test_our_own_commits_that_are_not_remembered_are_asked_for(journal: SQLiteJournal) -> None:
    again = mixed(2)
    await append(journal, again)
    (verdict,) = await journal.commit([Unit(timers=[Timer(1, event())])])
    assert verdict.ok
    assert not await told(journal, 0), "of a timer nothing is inserted; whoever watches was told, and looks"
    await append(journal, mixed(1))
    assert await told(journal, 2)
    await journal.fire(2, 10)
    assert not await told(journal, 0)
    await append(journal, [*again, *mixed(1)])
    assert not await told(journal, 0)
