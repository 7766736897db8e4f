"""The same names for programs without a loop: they block, from any thread, and survive a fork."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import eventspine
from eventspine import Batch, Event, Service, correlate, testing
from eventspine.errors import JournalError, SpineClosed, WouldDeadlock
from eventspine.sync import BatchDelivery, Delivery, Spine


class Placed(Event, context="orders", key="customer"):
    customer: str = "ann"
    number: int = 0


class Mailed(Event, context="email", key="customer"):
    customer: str = "ann"
    number: int = 0


SHOP: Service[Any] = Service("shop", publishes="orders")


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def longer(told: list[Any], than: int) -> bool:
    return len(told) > than


@pytest.fixture(params=["memory", "sqlite"])
def url(request: Any, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'spine.db'}"


def test_publishing_from_many_threads(url: str) -> None:
    with Spine(url, service=SHOP) as spine, ThreadPoolExecutor(8) as threads:
        receipts = list(threads.map(lambda number: spine.publish(Placed(number=number)), range(50)))
    assert sorted(receipt.position for receipt in receipts) == list(range(1, 51))


def test_handlers_run_in_the_background_until_the_block_is_left(url: str) -> None:
    service, handled = Service("email"), list[tuple[int, str]]()

    @service.on(Placed)
    def confirm(event: Placed, delivery: Delivery[None]) -> Mailed:
        handled.append((event.number, threading.current_thread().name))
        return Mailed(number=event.number)

    with Spine(url, service=SHOP) as spine:
        with spine.running(service):
            spine.publish(*[Placed(number=number) for number in range(5)])
            until(lambda: len(handled) == 5)
            assert spine.health()["status"] == "ok"
            assert spine.health()["services"][0]["service"] == "email"
        spine.publish(Placed(number=5))
        assert spine.health()["services"] == []
    assert [number for number, _ in handled] == [0, 1, 2, 3, 4]
    assert all(name.startswith("spine-handler") for _, name in handled)


def test_a_service_that_can_not_start_raises_where_the_block_begins(url: str) -> None:
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def broken() -> Any:
        raise ZeroDivisionError
        yield

    with Spine(url, service=SHOP) as spine:
        with pytest.raises(ZeroDivisionError), spine.running(Service("email", lifespan=broken)):
            pass
        assert spine.publish(Placed()).position == 1


def test_what_the_block_raises_is_raised_and_the_services_are_drained(url: str) -> None:
    with Spine(url, service=SHOP) as spine:
        with pytest.raises(ZeroDivisionError), spine.running(Service("email")):
            raise ZeroDivisionError
        assert spine.health()["services"] == []


def test_correlation_flows_from_the_callers_thread(url: str) -> None:
    service, seen = Service("email"), list[str]()

    @service.on(Placed)
    def confirm(event: Placed, delivery: Delivery[None]) -> None:
        seen.append(delivery.correlation)

    with Spine(url, service=SHOP) as spine, spine.running(service):
        with correlate("request-7"):
            spine.publish(Placed())
        until(lambda: seen)
    assert seen == ["request-7"]


def test_a_handler_in_a_thread_may_publish_through_the_spine(url: str) -> None:
    service, mailed = Service("email"), list[int]()

    with Spine(url, service=SHOP) as spine:

        @service.on(Placed)
        def confirm(event: Placed) -> None:
            receipt = spine.publish(Mailed(number=event.number))
            assert not receipt.durable, "it commits with the handler"

        @service.on(Mailed)
        def note(event: Mailed) -> None:
            mailed.append(event.number)

        with spine.running(service):
            spine.publish(Placed(number=7))
            until(lambda: mailed == [7])


def test_a_run_in_a_thread_reads_and_answers_without_await(tmp_path: Path) -> None:
    service, mailed = Service("email", tables=customers), list[str]()

    @service.on(Placed, batch=Batch(10, within_ms=20))
    def confirm(events: list[Placed], delivery: BatchDelivery[None]) -> None:
        rows = delivery.query("select count(*) as n from email_customers")
        for event in events:
            if event.customer == "bob":
                delivery.dead(event, "moved away")
            elif delivery.of(event).attempt == 1:
                delivery.retry(event, OSError(f"after {rows[0]['n']}"))
            else:
                delivery.execute("insert into email_customers values (:name)", name=event.customer)
                delivery.publish(Mailed(customer=event.customer), cause=event)

    @service.on(Mailed)
    def note(event: Mailed) -> None:
        mailed.append(event.customer)

    with Spine(f"sqlite:///{tmp_path}/spine.db", service=SHOP) as spine, spine.running(service):
        spine.publish(Placed(), Placed(customer="bob"))
        until(lambda: mailed == ["ann"])
    with closing(sqlite3.connect(tmp_path / "spine.db")) as own:
        assert own.execute("select name from email_customers").fetchall() == [("ann",)]
        assert own.execute("select reason from spine_deliveries where state = 'dead'").fetchall() == [("rejected",)]


def customers(connection: Any) -> None:
    connection.execute("create table email_customers (name text primary key)")


def test_scheduling_and_cancelling(url: str) -> None:
    with Spine(url, service=SHOP) as spine:
        receipt = spine.publish(Placed(), after=timedelta(hours=1))
        assert receipt.due is not None
        assert spine.cancel(receipt) == 1
        assert spine.cancel(receipt) == 0


def test_within_a_connection_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "spine.db"
    with Spine(f"sqlite:///{path}", service=SHOP) as spine:
        spine.publish(Placed())
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("create table visits (n integer)")
        for commit in (False, True):
            connection.execute("begin immediate")
            connection.execute("insert into visits values (1)")
            one = spine.publish(Placed(), within=connection)
            two = spine.publish(Placed(), Placed(), within=connection)
            assert (one.durable, [receipt.durable for receipt in two]) == (False, [False, False])
            connection.execute("commit" if commit else "rollback")
        assert connection.execute("select count(*) from visits").fetchone() == (1,)
        assert connection.execute("select count(*) from spine_events").fetchone() == (4,)
        connection.close()


async def test_it_may_be_used_from_a_program_with_a_loop_in_another_thread(url: str) -> None:
    with Spine(url, service=SHOP) as spine:
        receipt = await asyncio.to_thread(spine.publish, Placed())
    assert receipt.position == 1


def test_its_own_loop_can_not_wait_for_itself(url: str) -> None:
    service, errors = Service("email"), list[Exception]()
    with Spine(url, service=SHOP) as spine:

        @service.on(Placed)
        async def confirm(event: Placed) -> None:
            try:
                spine.publish(Mailed())
            except WouldDeadlock as error:
                errors.append(error)

        with spine.running(service):
            spine.publish(Placed())
            until(lambda: errors)
    assert "with await here" in str(errors[0])


FORKING = """
    import os, sys
    from eventspine import Event, Service
    from eventspine.sync import Spine

    class Placed(Event, context="orders", key="customer"):
        customer: str

    spine = Spine(sys.argv[1], service=Service("shop", publishes="orders"))
    first = spine.publish(Placed(customer="parent"))
    child = os.fork()
    if child == 0:
        second = spine.publish(Placed(customer="child"))
        assert second.id != first.id
        spine.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    third = spine.publish(Placed(customer="parent again"))
    assert third.position == 3, third
    spine.close()
    print("both")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_opens_its_own_and_leaves_the_parents_alone(tmp_path: Path) -> None:
    script = tmp_path / "forking.py"
    script.write_text(textwrap.dedent(FORKING))
    ended = subprocess.run(
        [sys.executable, script, f"sqlite:///{tmp_path / 'spine.db'}"], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, "both"), ended.stderr


FORKING_MEANWHILE = """
    import os, signal, sys, threading
    from eventspine import Event, Service
    from eventspine.sync import Spine

    class Placed(Event, context="orders", key="customer"):
        customer: str

    spine = Spine(sys.argv[1], service=Service("shop", publishes="orders")).open()
    for held in (spine._loop._lock, spine._loop.counting):
        there, go_on = threading.Event(), threading.Event()

        def another() -> None:
            with held:
                there.set()
                go_on.wait()

        threading.Thread(target=another).start()
        there.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            with spine:
                spine.publish(Placed(customer="child"))
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0, held
        go_on.set()
    spine.close()
    print("both")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_that_is_forked_while_another_thread_publishes_does_not_wait_for_that_thread(tmp_path: Path) -> None:
    script = tmp_path / "forking.py"
    script.write_text(textwrap.dedent(FORKING_MEANWHILE))
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", script, f"sqlite:///{tmp_path / 'spine.db'}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, "both"), ended.stderr


def test_it_can_be_opened_again_after_it_was_closed(url: str) -> None:
    spine = Spine(url, service=SHOP)
    for _ in range(2):
        with spine:
            assert spine.publish(Placed()).durable


def test_closing_leaves_no_thread_waiting_for_what_it_publishes(url: str) -> None:
    """Each publish is answered: before the loop ends, or by the word that the spine is closed."""
    before = set(threading.enumerate())
    for _ in range(5):
        spine, told = Spine(url, service=SHOP).open(), list[Any]()

        def publish(spine: Spine = spine, told: list[Any] = told) -> None:
            for number in range(50):
                try:
                    told.append(spine.publish(Placed(number=number)).position)
                except SpineClosed as error:
                    told.append(error)

        threads = [threading.Thread(target=publish, daemon=True) for _ in range(6)]
        for thread in threads:
            thread.start()
        until(partial(longer, told, 20))
        spine.close()
        until(partial(longer, told, 299))
        assert not [one for one in set(threading.enumerate()) - before if one.name == "eventspine"]


def test_a_closed_spine_publishes_nothing_until_it_is_opened_again(url: str) -> None:
    spine = Spine(url, service=SHOP).open()
    spine.close()
    spine.close()
    with pytest.raises(SpineClosed, match="open it again"):
        spine.publish(Placed())
    with spine:
        assert spine.publish(Placed()).durable


def test_loops_in_several_threads_may_open_one_spine_at_once(tmp_path: Path) -> None:
    spine = eventspine.Spine(f"sqlite:///{tmp_path / 'spine.db'}", service=SHOP)
    told = list[int]()

    async def publish() -> None:
        for _ in range(5):
            told.append((await spine.publish(Placed())).position)

    threads = [threading.Thread(target=lambda: asyncio.run(publish()), daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(told) == 20)
    asyncio.run(spine.close())


async def test_tables_that_fail_leave_the_journal_closed_and_are_tried_again(tmp_path: Path) -> None:
    tried = 0

    def tables(connection: Any) -> None:
        nonlocal tried
        tried += 1
        connection.execute("create tabel mistake (x)")

    spine = eventspine.Spine(
        f"sqlite:///{tmp_path / 'spine.db'}", service=Service("shop", publishes="orders", tables=tables)
    )
    for _ in range(2):
        with pytest.raises(Exception, match="syntax error"):
            await spine.publish(Placed())
    assert tried == 2
    with pytest.raises(JournalError, match="not open"):
        await spine.journal.head()


def test_threads_that_enter_and_leave_at_once_close_nothing_under_each_other(url: str) -> None:
    spine = Spine(url, service=SHOP)

    def publish(_: int) -> int:
        for _ in range(10):
            with spine:
                spine.publish(Placed())
        return 10

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(publish, range(4))) == 40
    with spine:
        assert spine.publish(Placed()).position == 41


def test_a_spine_that_is_entered_without_async_names_both_ways_on(tmp_path: Path) -> None:
    spine: Any = eventspine.Spine(f"sqlite:///{tmp_path}/spine.db", service=SHOP)
    with pytest.raises(TypeError, match=r"^A Spine is entered with `async with`.* eventspine\.sync\.Spine, with plain"):
        with spine:
            raise AssertionError
    assert not (tmp_path / "spine.db").exists()
    with pytest.raises(TypeError, match=r"entered with `async with`.* testing\.sync_spine"):
        with testing.spine(SHOP):  # type: ignore[attr-defined]
            raise AssertionError
