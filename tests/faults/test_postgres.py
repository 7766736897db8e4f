"""Processes that share a journal in PostgreSQL, killed, stopped and set upon by their own handlers: the reckoning is that of SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from eventspine.testing.servers import Server

from .harness import HANDLERS, NOTHING, until
from .postgres import PostgresPlace, stop_in_a_transaction
from .test_killed import after_all_were_killed_at_once, after_killed_publishers
from .test_stopped import KEYS, LEASE_S, goes_on

BUSY_S = 2.0  # a transaction that stands still for twice as long is ended by the server
ROUGH = {f"rough.{name}": "till.Counted" for name in ("commit", "deferred", "once", "innocent")} | HANDLERS


@pytest.fixture
def place(tmp_path: Path, postgres_server: Server, schema: str) -> Iterator[PostgresPlace]:
    place = PostgresPlace(tmp_path, postgres_server.url, schema)
    try:
        yield place
    finally:
        place.end()
        with psycopg.connect(postgres_server.url, autocommit=True) as connection:
            connection.execute(f"drop schema if exists {schema} cascade")  # type: ignore[arg-type]


@pytest.mark.promise("published twice", "postgres processes")
@pytest.mark.promise("process killed", "postgres processes")
def test_killed_publishers_lose_nothing_acknowledged_and_store_nothing_twice(place: PostgresPlace) -> None:
    assert NOTHING == after_killed_publishers(place, 2)


@pytest.mark.promise("all killed", "postgres processes")
def test_all_processes_killed_at_once(place: PostgresPlace) -> None:
    assert NOTHING == after_all_were_killed_at_once(place, 2)
    assert [] == place.dead()


@pytest.mark.promise("process stopped", "postgres processes")
def test_r13_a_process_that_was_stopped_past_its_lease_settles_nothing(place: PostgresPlace) -> None:
    assert 0 == place.start("publish", "--keys", KEYS, "--count", 3, "--do", "wait").end()
    late = place.start("consume", "--lease", LEASE_S, faults="wait").ready()
    until(lambda: KEYS == len(place.log()), "an event of every key to be in hand")
    other = place.start("consume", "--lease", LEASE_S).ready()
    late.stop()
    until(lambda: {other.pid} == place.owners(), "all leases to be taken over")
    place.settle()
    assert KEYS == goes_on(place, late)["fenced"]
    assert NOTHING == place.reckon()


@pytest.mark.promise("stopped in a commit", "postgres processes")
def test_a_process_stopped_inside_a_commit_holds_others_up_until_its_session_is_ended(place: PostgresPlace) -> None:
    publisher = place.start("publish", "--busy", BUSY_S).ready()
    holder = place.start("consume", "--lease", LEASE_S, "--busy", BUSY_S).ready()
    place.progress(20)
    with place.slow(0.05):
        stop_in_a_transaction(place, holder)
    told = len(place.acknowledged())
    other = place.start("consume", "--lease", LEASE_S, "--busy", BUSY_S).ready()
    until(lambda: {other.pid} == place.owners(), "the other one to take over")
    until(lambda: len(place.acknowledged()) > told + 20, "the publisher to go on")
    holder.go_on()
    place.stop_publishing(publisher)
    place.settle()
    assert NOTHING == place.reckon()


@pytest.mark.promise("handler fails", "postgres processes")
def test_a_poison_event_in_a_hot_key_stops_that_key_until_it_is_replayed(place: PostgresPlace) -> None:
    consumers = [place.start("consume", "--services", "strict", faults="fail").ready() for _ in range(2)]
    assert 0 == place.start("publish", "--keys", 5, "--count", 20, "--do", "fail:p-0:5", "--pause", 0).end()
    until(lambda: [("p-0", "ValueError", 0)] == place.dead(), "the poison to be dead")
    until(lambda: 4 + 4 * 20 == place.effects("strict.keep"), "all others to be handled")
    place.touch("mended")
    assert 0 == place.spine("dead", "replay", "--handler", "strict.keep").end()
    place.settle("strict.keep")
    assert NOTHING == place.reckon({"strict.keep": "till.Counted"})
    assert [0, 0] == [consumer.terminate() for consumer in consumers]


@pytest.mark.promise("handler's SQL", "postgres processes")
def test_r5_sql_that_commits_or_breaks_a_constraint_harms_nobody_else(place: PostgresPlace) -> None:
    deeds = ["commit:p-2:3", "commit:p-3:7", "deferred:p-4:2", "deferred:p-5:7", "once:p-0:9"]
    assert 0 == place.start("publish", "--count", 10, "--pause", 0, "--do", *deeds).end()
    for services in (["rough"], ["rough", "books", "mail"]):
        place.start("consume", "--services", *services)
    place.settle(*ROUGH)
    assert NOTHING == place.reckon(ROUGH)
    assert ["p-2", "p-3", "p-4", "p-5"] == sorted(key for key, *_ in place.dead())


@pytest.mark.promise("poison", "postgres", "postgres processes")
def test_r16_an_event_that_kills_its_process_dies_alone(place: PostgresPlace) -> None:
    assert 0 == place.start("publish", "--keys", 8, "--count", 10, "--do", "exit:p-3:4", "--pause", 0).end()
    deaths = 0
    while not place.dead():
        consumer = place.start("consume", faults="exit")
        until(lambda: not consumer.alive or place.dead(), place.told)  # noqa: B023 -- waited for within the loop
        deaths += not consumer.alive
        assert deaths < 10
    place.settle()
    assert [("p-3", "killed-its-process", 3)] == place.dead()
    assert NOTHING == place.reckon()
