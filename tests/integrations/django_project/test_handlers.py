"""Handlers that use the ORM: rows, events and "this event is handled" are one commit."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path

import django
import pytest
from asgiref.sync import sync_to_async
from django.db import IntegrityError, connection, connections, transaction

from eventspine import Batch, Service
from eventspine.errors import DeclarationError, Fenced
from eventspine.integrations.django import apublish, atomic_delivery, publish, sqlite
from eventspine.integrations.django.testing import running
from eventspine.journal.lockfile import TurnLock
from eventspine.journal.postgres import PostgresJournal
from eventspine.journal.sqlite import SQLiteJournal
from eventspine.policies import Dead, Retry
from eventspine.sync import Delivery, Spine

from .desk.events import Heard, Said
from .desk.models import Done, Row

WAIT_S = 30.0
SOON = Retry(attempts=3, first_s=0.01)


def until(condition: Callable[[], object], limit_s: float = WAIT_S) -> object:
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return value


@pytest.fixture
def ear() -> Service:
    return Service("ear")


def dead(spine: Spine) -> list[str]:
    rows = spine._loop.run(spine.journal.deliveries(states=["dead"]))
    return [f"{row.reason}: {row.error}" for row in rows]


def finished(stored, events: int = 1) -> bool:
    """Whether the cursors say that this many events are handled."""
    return bool(stored.ask(f"select 1 from spine_cursors where position >= {events}"))


def test_what_a_handler_writes_publishes_and_returns_is_there_together(stored, ear):
    @ear.on(Said)
    @atomic_delivery
    def hear(event: Said) -> Heard:
        Done.objects.create(name=event.name)
        publish(Heard(name="published"))
        assert ([], ["ann"]) == (stored.done, stored.keys)
        return Heard(name="returned")

    publish(Said())
    with running(ear):
        until(lambda: stored.done)
        assert ["ann", "published", "returned"] == stored.keys
    causes = stored.ask("select count(distinct causation) from spine_events where key <> 'ann'")
    assert [(1,)] == causes


def test_a_handler_that_raises_leaves_nothing_and_is_tried_again(stored, ear):
    attempts = []

    @ear.on(Said, retry=SOON)
    @atomic_delivery
    def hear(event: Said, delivery: Delivery) -> Heard:
        attempts.append(delivery.attempt)
        Done.objects.create(name=f"{event.name}-{delivery.attempt}")
        publish(Heard(name=f"attempt {delivery.attempt}"))
        if delivery.attempt == 1:
            raise ValueError("not now")
        return Heard()

    publish(Said())
    with running(ear):
        until(lambda: stored.done)
    assert (["ann-2"], [1, 2]) == (stored.done, attempts)
    assert ["ann", "attempt 2", "ann"] == stored.keys


def test_the_cursor_is_part_of_the_commit(stored, ear, monkeypatch):
    """Without it, the effects would be stored and the event handled again: here, until it is dead."""
    monkeypatch.setattr("eventspine.delivery.Delivery.join", lambda *_: None)

    @ear.on(Said, retry=SOON)
    @atomic_delivery
    def hear(event: Said) -> None:
        Done.objects.create(name=event.name)
        if len(stored.done) < 2:
            raise_after_commit()

    def raise_after_commit() -> None:
        def fail() -> None:
            raise RuntimeError("the process died here")

        transaction.on_commit(fail)

    publish(Said())
    with running(ear):
        until(lambda: len(stored.done) == 3)
    monkeypatch.undo()


def test_what_fails_after_the_commit_does_not_run_it_again(stored, ear):
    @ear.on(Said, retry=SOON)
    @atomic_delivery
    def hear(event: Said) -> None:
        Done.objects.create(name=event.name)

        def fail() -> None:
            raise RuntimeError("in on_commit")

        if event.name == "ann":
            transaction.on_commit(fail)

    publish(Said())
    publish(Said(name="bob"))
    with running(ear) as spine:
        until(lambda: len(stored.done) == 2)
        until(lambda: spine.health()["status"] == "ok")
        assert [] == dead(spine)
    assert ["ann", "bob"] == sorted(stored.done)


def test_publishing_in_on_commit_is_refused_in_a_handler(stored, ear):
    refused = []

    @ear.on(Said)
    @atomic_delivery
    def hear(event: Said) -> None:
        def late() -> None:
            try:
                publish(Heard())
            except Exception as error:
                refused.append(str(error))

        transaction.on_commit(late)

    publish(Said())
    with running(ear):
        until(lambda: refused)
    assert "joined" in refused[0]
    assert ["ann"] == stored.keys


def test_a_savepoint_of_the_handlers_own_takes_its_events_with_it(stored, ear):
    @ear.on(Said)
    @atomic_delivery
    def hear(event: Said) -> None:
        Done.objects.create(name="kept")
        try:
            with transaction.atomic():
                Done.objects.create(name="not kept")
                publish(Heard(name="not kept"))
                raise ValueError
        except ValueError:
            publish(Heard(name="kept"))

    publish(Said())
    with running(ear):
        until(lambda: stored.done)
    assert (["kept"], ["ann", "kept"]) == (stored.done, stored.keys)


def test_a_transaction_that_django_has_given_up_is_a_failed_attempt_that_says_why(stored, ear):
    @ear.on(Said, retry=SOON)
    @atomic_delivery
    def hear(event: Said) -> None:
        Row.objects.create(name="ann")
        try:
            with transaction.atomic(savepoint=False):
                Row.objects.create(name="ann")
        except IntegrityError:
            pass  # and the rest of the transaction is lost

    publish(Said())
    with running(ear) as spine:
        (reason,) = until(lambda: dead(spine))
    assert "TransactionManagementError" in reason
    assert [] == stored.rows


def test_sql_handed_to_the_delivery_is_in_the_same_commit(stored, ear):
    @ear.on(Said)
    @atomic_delivery
    def hear(event: Said, delivery: Delivery) -> None:
        Done.objects.create(name="orm")
        delivery.execute("insert into desk_done (name) values (:name)", name="sql", expect_rows=1)

    publish(Said())
    with running(ear):
        until(lambda: stored.done)
    assert ["orm", "sql"] == stored.done


def test_events_published_without_a_transaction_go_with_the_delivery(stored, ear):
    @ear.on(Said, retry=SOON)
    def hear(event: Said, delivery: Delivery) -> None:
        assert not publish(Heard(name=f"attempt {delivery.attempt}")).durable
        if delivery.attempt == 1:
            raise ValueError

    publish(Said())
    with running(ear):
        until(lambda: len(stored.keys) == 2)
    assert ["ann", "attempt 2"] == stored.keys


def test_an_async_handler_publishes_by_awaiting_and_may_hand_its_rows_to_a_function(stored, ear):
    @ear.on(Said)
    async def hear(event: Said) -> None:
        await apublish(Heard(name="before"))
        await sync_to_async(write)(event)

    @atomic_delivery
    def write(event: Said) -> None:
        Done.objects.create(name=event.name)

    publish(Said())
    with running(ear):
        until(lambda: stored.done and len(stored.keys) == 2)
    assert (["ann"], ["ann", "before"]) == (stored.done, stored.keys)


def test_an_async_handler_cannot_have_a_transaction_of_djangos_and_is_told_so():
    with pytest.raises(DeclarationError, match="Make it `def`"):

        @atomic_delivery
        async def hear(event: Said) -> None: ...


def test_called_by_hand_it_is_the_function_in_a_transaction(stored):
    @atomic_delivery
    def hear(event: Said) -> Heard:
        Done.objects.create(name=event.name)
        if event.name == "bob":
            raise ValueError
        return Heard(name=event.name)

    assert hear(Said()) == Heard()
    with pytest.raises(ValueError):
        hear(Said(name="bob"))
    assert ["ann"] == stored.done


def test_many_keys_and_many_events_are_handled_once_each(stored, ear):
    @ear.on(Said)
    @atomic_delivery
    def hear(event: Said) -> None:
        Done.objects.create(name=event.name)

    with transaction.atomic():
        for n in range(100):
            publish(Said(name=f"n{n % 20}"))
    with running(ear) as spine:
        until(lambda: len(stored.done) >= 100)
        assert [] == dead(spine)
    assert sorted(stored.done) == sorted([f"n{n % 20}" for n in range(100)])


def test_r4_waiting_for_the_turn_is_not_the_handlers_time(stored, ear):
    attempts = []

    @ear.on(Said, timeout_s=0.2, retry=SOON)
    @atomic_delivery
    def hear(event: Said, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        Done.objects.create(name=event.name)

    publish(Said())
    turn = TurnLock(Path(f"{stored.path}-lock"))
    with running(ear):
        pass  # it has registered, and needs the turn no more before it handles
    handled = stored.done
    assert handled in ([], ["ann"])
    publish(Said(name="bob"))
    waiting = threading.Event()
    take = sqlite._Turn.__enter__

    def noticed(self: sqlite._Turn) -> None:
        waiting.set()
        take(self)

    with pytest.MonkeyPatch.context() as patch, running(ear):
        turn.take()
        try:
            patch.setattr(sqlite._Turn, "__enter__", noticed)
            publish(Said(name="cid"))
            assert waiting.wait(WAIT_S)
            began = time.monotonic()
            until(lambda: time.monotonic() - began > 0.8)
        finally:
            turn.give_back()
        until(lambda: "cid" in stored.done)
    turn.close()
    assert set(attempts) == {1}


@contextmanager
def max_age(seconds: int | None):
    settings, before = connection.settings_dict, connection.settings_dict["CONN_MAX_AGE"]
    settings["CONN_MAX_AGE"] = seconds
    try:
        yield
    finally:
        settings["CONN_MAX_AGE"] = before


@pytest.mark.parametrize("decorated", [True, False])
@pytest.mark.parametrize("age", [0, None])
def test_connections_of_handler_threads_live_as_long_as_conn_max_age_says(stored, ear, age, decorated):
    seen = []

    def hear(event: Said) -> None:
        Done.objects.create(name=event.name)
        seen.append(connection.connection)

    hear.__annotations__ = {"event": Said, "return": None}
    ear.on(Said, concurrency=1)(atomic_delivery(hear) if decorated else hear)

    with max_age(age), running(ear):
        publish(Said())
        until(lambda: len(seen) == 1)
        first = seen[0]
        until(lambda: finished(stored))
        if age == 0:
            until(lambda: closed(first))
        else:
            assert not closed(first)
    if not closed(first):
        first.close()  # its thread is gone


def closed(driver: object) -> bool:
    if not isinstance(driver, sqlite3.Connection):
        return driver.closed
    try:
        driver.total_changes
    except sqlite3.ProgrammingError:
        return True
    return False


def test_errors_of_the_orm_can_be_named_in_policies(stored, ear):
    Row.objects.create(name="ann")

    @ear.on(Said, errors={IntegrityError: Dead})
    @atomic_delivery
    def hear(event: Said) -> None:
        Row.objects.create(name=event.name)

    publish(Said())
    with running(ear) as spine:
        (reason,) = until(lambda: dead(spine))
    assert reason.startswith("IntegrityError")


def test_two_engines_on_one_file_share_the_work_and_none_of_it_twice(stored, ear):
    """As `spine run` in two processes: here two spines, each with connections, threads and leases of its own."""

    @ear.on(Said)
    @atomic_delivery
    def hear(event: Said) -> None:
        Done.objects.create(name=event.name)

    with running(ear), running(ear):
        for n in range(60):
            publish(Said(name=f"n{n}"))
        until(lambda: len(stored.done) >= 60)
    assert len(set(stored.done)) == len(stored.done) == 60


def test_a_running_loop_elsewhere_does_no_harm(stored, ear):
    @ear.on(Said)
    @atomic_delivery
    def hear(event: Said) -> None:
        Done.objects.create(name=event.name)

    async def main() -> None:
        await apublish(Said())
        await sync_to_async(handle)()
        await sync_to_async(connections.close_all)()

    def handle() -> None:
        with running(ear):
            until(lambda: stored.done)

    asyncio.run(main())


def test_r4_a_second_transaction_is_refused_at_once_rather_than_waited_for(stored, ear):
    @ear.on(Said, retry=Retry(attempts=1))
    @atomic_delivery
    def hear(event: Said, delivery: Delivery) -> None:
        with delivery.transaction():
            pass

    publish(Said())
    with running(ear) as spine:
        (reason,) = until(lambda: dead(spine))
    assert reason.startswith("WouldDeadlock")


def test_a_run_of_events_is_refused(stored, ear):
    @ear.on(Said, batch=Batch(10), retry=Retry(attempts=1))
    @atomic_delivery
    def hear(events: list[Said]) -> None:
        Done.objects.create(name="never")

    publish(Said())
    with running(ear) as spine:
        (reason,) = until(lambda: dead(spine))
    assert "handles a run" in reason
    assert [] == stored.done


def test_r21_a_delivery_may_join_djangos_transaction_by_hand(stored, ear):
    @ear.on(Said)
    def hear(event: Said, delivery: Delivery) -> None:
        with transaction.atomic():
            Done.objects.create(name=event.name)
            delivery.join("default")

    publish(Said())
    with running(ear):
        until(lambda: finished(stored))
    assert ["ann"] == stored.done


@pytest.mark.parametrize("nested", [False, True])
def test_what_joins_before_what_it_follows_is_stored_is_rolled_back_whatever_its_handler_does(
    stored, ear, monkeypatch, nested
):
    """Also what the handler wrote in the blocks around the one in which it joined, and Django knows of it."""
    attempts, written, refused = [], threading.Event(), []

    @ear.on(Said)
    def hear(event: Said, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if len(attempts) == 1:
            return  # the second of the key follows it
        with transaction.atomic():
            Done.objects.create(name="outer")
            written.set()
            try:
                with transaction.atomic() if nested else nullcontext():
                    Done.objects.create(name="inner")
                    delivery.join("default")
            except Fenced:
                assert not getattr(connection.connection, "in_transaction", False), "its lock is free at once"
                try:
                    Done.objects.create(name="never")
                except transaction.TransactionManagementError as error:
                    refused.append(str(error))

    stored_after(monkeypatch, written)
    publish(Said(), Said())
    with running(ear):
        until(lambda: finished(stored, 2))
    assert ([1, 1, 1], ["outer", "inner"], 1) == (attempts, stored.done, len(refused))


def test_it_is_so_where_the_handler_ends_its_transactions_itself(stored, ear, monkeypatch):
    attempts, written = [], threading.Event()

    @ear.on(Said)
    def hear(event: Said, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if len(attempts) == 1:
            return
        transaction.set_autocommit(False)
        try:
            Done.objects.create(name=event.name)
            written.set()
            with suppress(Fenced):
                delivery.join("default")
            transaction.commit()
        finally:
            transaction.set_autocommit(True)

    stored_after(monkeypatch, written)
    publish(Said(), Said())
    with running(ear):
        until(lambda: finished(stored, 2))
    assert ([1, 1, 1], ["ann"]) == (attempts, stored.done)


def stored_after(monkeypatch: pytest.MonkeyPatch, happened: threading.Event) -> None:
    """What is handled without effects is stored after this has happened, and no sooner."""
    for kind in (SQLiteJournal, PostgresJournal):
        monkeypatch.setattr(kind, "commit", _later(kind.commit, happened))


def _later(commit, happened):
    async def later(journal, units):
        while any(unit.done for unit in units) and not happened.is_set():
            await asyncio.sleep(0.002)
        return await commit(journal, units)

    return later


@pytest.mark.parametrize("safe", [True, False])
def test_what_a_handler_reads_cannot_be_stale_when_it_writes_whatever_the_transaction_mode(
    stored, ear, monkeypatch, safe
):
    """It has the write lock before it reads. Without that, a write by others in between fails the attempt."""
    if not safe:
        monkeypatch.setattr(sqlite, "TAKE_LOCK", "select 1")
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "transaction_mode", None)
    if django.VERSION < (5, 1):
        monkeypatch.delitem(connection.settings_dict["OPTIONS"], "transaction_mode")
    attempts, refused = [], []

    @ear.on(Said, retry=SOON)
    @atomic_delivery
    def hear(event: Said, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        seen = Row.objects.count()
        if delivery.attempt == 1:
            with closing(sqlite3.connect(stored.path, timeout=0)) as other:
                try:
                    other.execute("insert into desk_row (name) values ('in between')")
                    other.commit()
                except sqlite3.OperationalError as error:
                    refused.append(str(error))
        Done.objects.create(name=f"saw {seen}")

    publish(Said())
    with running(ear):
        until(lambda: stored.done)
    if safe:
        assert ([1], ["saw 0"], ["database is locked"]) == (attempts, stored.done, refused)
    else:
        assert ([1, 2], ["saw 1"], []) == (attempts, stored.done, refused)


def test_periodic_work_is_one_commit_too(stored, ear):
    @ear.every(seconds=1)
    @atomic_delivery
    def tick() -> Heard:
        Done.objects.create(name="tick")
        return Heard()

    with running(ear):
        until(lambda: stored.done)
    assert len(stored.done) == stored.keys.count("ann")


DYING = """
import os, signal, sys, time
from tests.integrations.django_project import conftest
from django.db import connections, transaction
from eventspine import Batch, Service
from eventspine.integrations.django import atomic_delivery
from eventspine.integrations.django.testing import running
from tests.integrations.django_project.desk.events import Said
from tests.integrations.django_project.desk.models import Done
conftest.use(sys.argv[1])
ear = Service("ear")

def hear(event: Said) -> None:
    with transaction.atomic():
        Done.objects.create(name=event.name)
        if sys.argv[3] == "die":  # the moment after the commit
            transaction.on_commit(lambda: os.kill(os.getpid(), signal.SIGKILL))

ear.on(Said)(atomic_delivery(hear) if sys.argv[2] == "atomic" else hear)
with running(ear) as spine:
    while True:
        cursors = spine._loop.run(spine.journal.cursors([1]))
        if cursors and min(c.position for c in cursors) >= 1:
            break
        time.sleep(0.01)
"""


@pytest.mark.parametrize(("how", "times"), [("atomic", 1), ("plain", 2)])
def test_killed_right_after_djangos_commit_it_is_done_once_and_without_the_decorator_twice(stored, how, times):
    publish(Said())
    for fate, code in (("die", -9), ("live", 0)):
        line = [sys.executable, "-c", DYING, stored.given, how, fate]
        assert subprocess.run(line, timeout=WAIT_S * 2).returncode == code
    assert ["ann"] * times == stored.done
