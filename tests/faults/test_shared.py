"""What several processes may meet on a journal of any kind: clocks that are set, and an event that nobody can read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventspine import Spine
from eventspine.journal.port import Append, Unit
from eventspine.testing.servers import Server

from . import services
from .harness import NOTHING, Place
from .postgres import PostgresPlace

HOUR = 3600.0


@pytest.fixture(
    params=[
        pytest.param("sqlite", marks=pytest.mark.setup("sqlite processes")),
        pytest.param("postgres", marks=pytest.mark.setup("postgres", "postgres processes")),
    ]
)
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "sqlite":
        place = Place(tmp_path)
    else:
        server: Server = request.getfixturevalue("postgres_server")
        place = PostgresPlace(tmp_path, server.url, request.getfixturevalue("schema"))
    try:
        yield place
    finally:
        place.end()


@pytest.mark.promise("clock set")
def test_processes_whose_clocks_are_set_apart_do_everything_once_and_in_order(place: Place) -> None:
    """One goes an hour behind, the other an hour ahead, so that each takes the other's leases for what they are not."""
    publisher = place.start("publish", "--clock").ready()
    behind, ahead = (place.start("consume", "--clock").ready() for _ in range(2))
    place.progress(20)
    place.set_clock(behind, -HOUR)
    place.progress(20)
    place.set_clock(ahead, HOUR)
    place.set_clock(publisher, HOUR / 2)
    place.progress(20)
    for child in (publisher, behind, ahead):
        place.set_clock(child, 0)
    place.progress(20)
    place.stop_publishing(publisher)
    place.settle()
    assert NOTHING == place.reckon()
    assert [] == place.dead()


@pytest.mark.promise("unreadable")
def test_what_can_not_be_decoded_is_dead_and_the_others_go_on(place: Place) -> None:
    """It is among the events of a key, and two processes share the work."""
    assert 0 == place.start("publish", "--count", 5).end()
    asyncio.run(publish_unreadable(place.url))
    assert 0 == place.start("publish", "--count", 10).end()
    for _ in range(2):
        place.start("consume")
    place.settle()
    assert [("p-0", "undecodable", 0)] == place.dead()
    assert NOTHING == place.reckon({"mail.tell": "books.Booked"})
    assert 6 * 10 == place.effects()


async def publish_unreadable(url: str) -> None:
    async with Spine(url, service=services.till) as spine:
        (record,) = spine.records([services.Counted(key="p-0", number=0)], cause=None, time=None, id=None)
        (verdict,) = await spine.journal.commit([Unit([Append([record._replace(data=b'{"key":7}')])])])
        assert verdict.ok
