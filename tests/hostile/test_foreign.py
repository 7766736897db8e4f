"""What a foreign writer puts into the feed, past all checks of ours: what can't be read is dead as `undecodable`, what
can be read is handled, and the neighbours go on."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from eventspine import Delivery, Service, Spine, testing
from eventspine.envelope import Envelope
from eventspine.errors import Undecodable
from eventspine.events import describe
from eventspine.journal.port import Append, Unit

from .corpus import KINDS, UNREADABLE, Plain, promptly

teller = Service("teller", publishes="hostile")
READABLE_ALL_THE_SAME = {  # by some kinds, which pass over what they have no field for, as they should
    "nested where nobody looks",
    "five million values where nobody looks",
}
ODD: dict[str, dict[str, Any]] = {
    "a negative slot": {"slot": -1},
    "a slot that there is not": {"slot": 2**40},
    "a time after the calendar": {"time_us": 2**62},
    "a time before the calendar": {"time_us": -(2**62)},
    "a source that is SQL": {"source": "'; drop table spine_events; --"},
    "a source that clears the screen": {"source": "\x1b[2J\u202e"},
    "a key that no key can be": {"key": "../../x\0\x1b[2J"},
    "a key of a megabyte": {"key": "k" * 1_000_000},
    "no slot of its key": {"key": "other", "slot": 7},
    "a correlation that is a header": {"correlation": "c\r\nX-Evil: y\x1b[2J"},
    "a cause of 100,000 letters": {"causation": "x" * 100_000},
    "negative hops": {"hops": -5},
    "more hops than a chain may have": {"hops": 2**60},
    "an id of one byte": {"id": b"x"},
    "no id": {"id": b""},
    "an id of 10,000 bytes": {"id": b"y" * 10_000},
    "an id that is no UTF-8": {"id": b"\xff\x1b[2J"},
    "a version of zero": {"version": 0},
    "a recording in the far future": {"recorded_us": 2**62},
    "attributes that are no JSON": {"meta": b"\xff"},
    "attributes without end": {"meta": b"{" * 1_000_000},
    "a trace that is a header": {"meta": b'{"traceparent":"00\\r\\nX-Evil: y"}'},
    "attributes of ten megabytes": {"meta": b'{"a":"' + b"x" * 10_000_000 + b'"}'},
    "attributes that are the envelope's": {"meta": b'{"type":"faked","A B":"x"}'},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", UNREADABLE)
def test_bytes_that_are_no_event_are_undecodable_promptly_and_in_few_words(kind: Any, name: str) -> None:
    with promptly():
        try:
            describe(kind).decode(UNREADABLE[name])
        except Undecodable as found:
            assert len(str(found)) < 500
            assert "\n" not in str(found)
        else:
            assert name in READABLE_ALL_THE_SAME or kind is not Plain


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_name_that_comes_twice_the_last_counts_for_every_reader_and_goes_on_alone(kind: Any) -> None:
    """As with Python's own JSON. What is published from it has the name once, so nobody after it can read it otherwise."""
    data = b'{"key":"first",' + b'"key":"first",' * 10_000 + b'"key":"last"}'
    with promptly():
        found = describe(kind).decode(data)
    assert "last" == found.key
    assert 1 == describe(kind).encode(found).count(b'"key"')


@given(st.binary(max_size=200) | st.sampled_from(list(UNREADABLE.values())).map(lambda data: data[:300]))
def test_any_bytes_are_an_event_of_every_kind_or_undecodable(data: bytes) -> None:
    for kind in KINDS:
        try:
            event = describe(kind).decode(data)
        except Undecodable:
            continue
        describe(kind).encode(event)  # what was read can be published


@pytest.mark.parametrize("url", ["memory://", "sqlite"])
async def test_the_whole_corpus_in_one_feed_stops_nobody(url: str, tmp_path: Path) -> None:
    """Each in a key of its own, and a good event after them all."""
    handled: set[int] = set()
    reader = Service("reader")

    @reader.on(Plain, concurrency=4)
    async def read(event: Plain, delivery: Delivery) -> None:
        handled.add(delivery.record.position)
        Envelope(delivery.record).to_json()
        assert delivery.idempotency_key
        assert delivery.time is not None

    async with Spine(f"sqlite:///{tmp_path}/spine.db" if url == "sqlite" else url, service=teller) as spine:
        unreadable = [await put(spine, {"data": data}, number) for number, data in enumerate(UNREADABLE.values())]
        readable = [await put(spine, odd, 1_000 + number) for number, odd in enumerate(ODD.values())]
        good = (await spine.publish(Plain(key="good"))).position
        slowest = 0.0
        async with spine.running(reader):
            while not {*readable, good} <= handled or len(await died(spine)) < len(unreadable):
                began = asyncio.get_running_loop().time()
                await asyncio.sleep(0.01)  # between two looks; the test's own time limit ends it
                slowest = max(slowest, asyncio.get_running_loop().time() - began)
        assert await died(spine) == dict.fromkeys(unreadable, "undecodable")
        assert slowest < 5.0  # else nobody's lease would have been renewed meanwhile


async def put(spine: Spine, changes: dict[str, Any], number: int) -> int:
    (record,) = spine.records([Plain(key=f"k{number}")], cause=None, time=None, id=None)
    (verdict,) = await spine.journal.commit([Unit(appends=[Append([record._replace(**changes)])])])
    assert verdict.kind == "done", verdict.error
    return verdict.positions[0]


async def died(spine: Spine) -> dict[int, str]:
    rows = await spine.journal.deliveries(states=["dead"], records=False)
    return {row.position: row.reason for row in rows}


async def test_an_event_with_a_negative_slot_is_read_by_whoever_has_its_partition(tmp_path: Path) -> None:
    async with Spine(f"sqlite:///{tmp_path}/spine.db", service=teller) as spine:
        position = await put(spine, {"slot": -1}, 0)
        page = await spine.journal.feed(0, limit=10, partitions=[15])
        assert [position] == [record.position for record in page.records]
        assert not (await spine.journal.feed(0, limit=10, partitions=list(range(15)))).records


@pytest.mark.parametrize("changes", [{"key": "\ud800"}, {"hops": 2**64}, {"id": None}])
async def test_a_record_that_no_file_can_hold_is_refused_alone(changes: dict[str, Any], tmp_path: Path) -> None:
    async with Spine(f"sqlite:///{tmp_path}/spine.db", service=teller) as spine:
        good, bad = spine.records([Plain(), Plain()], cause=None, time=None, id=None)
        units = [Unit(appends=[Append([record])]) for record in (good, bad._replace(**changes))]
        first, second = await spine.journal.commit(units)
        assert ("done", "failed") == (first.kind, second.kind)
        assert await spine.journal.head() == 1


async def test_names_of_sql_parameters_and_values_are_never_sql(tmp_path: Path) -> None:
    evil = "x'); drop table spine_events; --"

    def tables(connection: sqlite3.Connection) -> None:
        connection.execute("create table notes (note text)")

    keeper = Service("keeper", tables=tables)

    @keeper.on(Plain)
    async def keep(event: Plain, delivery: Delivery) -> None:
        delivery.execute("insert into notes values (:note)", **{"note": event.value, evil: 1})

    async with testing.spine(keeper, service=teller, url=f"sqlite:///{tmp_path}/spine.db") as spine:
        await spine.publish(Plain(value=evil))
        await spine.idle()
    with closing(sqlite3.connect(tmp_path / "spine.db")) as file:
        assert [(evil,)] == file.execute("select note from notes").fetchall()
        assert file.execute("select count(*) from spine_events").fetchone() == (1,)
