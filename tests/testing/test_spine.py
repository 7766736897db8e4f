"""`testing.spine`: the engine on virtual time, idle exactly when it is, and what handlers raise is raised."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import traceback
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from eventspine import Batch, Dead, Delivery, Drop, Reject, Retry, Service, Spine, testing
from eventspine.errors import EventRefused, RowsUnexpected, SettingsError, SpineError
from eventspine.journal.memory import MemoryJournal
from eventspine.journal.sqlite import SQLiteJournal

from .shop import (
    Mailed,
    Mailer,
    OrderPlaced,
    OrderReminded,
    SmtpDown,
    StockReserved,
    make_email,
    make_inventory,
    make_plain_inventory,
)

SLOWLY = Retry(attempts=4, immediate=0, first_s=60.0, factor=10.0, most_s=86_400.0)


def handling(*types: Any, **options: Any) -> Any:
    """A service around one handler: `@handling(OrderPlaced)`."""

    def made(function: Any) -> Service[Any]:
        service: Service[Any] = Service("watch")
        service.on(*types or (OrderPlaced,), **options)(function)
        return service

    return made


# --- publishing, and what came of it ------------------------------------------------------------------------------------


async def test_a_chain_of_services_runs_to_its_end() -> None:
    email, mailer = make_email(), Mailer()
    async with testing.spine(make_inventory(), email, resources={email: mailer}) as spine:
        await spine.publish(OrderPlaced(order_id="A"), OrderPlaced(order_id="B", sku="cup"))
        await spine.idle()
        assert sorted(event.order_id for event in spine.published(StockReserved)) == ["A", "B"]
        assert len(spine.published(Mailed)) == 2
        assert spine.query("select free from inventory_stock where sku = :sku", sku="teapot") == [{"free": 2}]
    assert sorted(mailer.sent) == ["A", "B"]


async def test_published_gives_typed_events_in_the_order_of_the_feed() -> None:
    async with testing.spine(make_plain_inventory()) as spine:
        orders = [OrderPlaced(order_id=str(number)) for number in range(1200)]
        await spine.publish(*orders)
        await spine.idle()
        assert spine.published(OrderPlaced) == orders
        assert [event.order_id for event in spine.published(StockReserved)] == [event.order_id for event in orders]
        both = spine.published(OrderPlaced, StockReserved)
        assert both[:1200] == orders
        assert len(both) == 2400
        (first, *_) = spine.envelopes(StockReserved)
        assert (first.source, first.causationid) == ("inventory", spine.envelopes(OrderPlaced)[0].id)
        assert len(spine.envelopes()) == 2400


async def test_without_a_service_the_test_plays_the_outside_world() -> None:
    async with testing.spine(make_plain_inventory()) as spine:
        await spine.publish(OrderPlaced(order_id="A"), StockReserved(order_id="A"), Mailed(order_id="A"))


async def test_what_the_test_publishes_to_nobody_is_said_and_what_handlers_publish_is_not(caplog: Any) -> None:
    """The first is a mistake, most likely; the second is what the test looks at."""
    async with testing.spine(make_plain_inventory()) as spine:
        await spine.publish(OrderPlaced(order_id="A"), Mailed(order_id="A"))
        await spine.idle()
    said = [record.getMessage() for record in caplog.records if "no subscriber" in record.getMessage()]
    assert [message.split()[0] for message in said] == ["email.Mailed"]


async def test_with_a_service_it_may_publish_what_that_may() -> None:
    storefront = Service("storefront", publishes="orders")
    async with testing.spine(make_plain_inventory(), service=storefront) as spine:
        await spine.publish(OrderPlaced(order_id="A"))
        with pytest.raises(SpineError, match="belongs to the context 'inventory'"):
            await spine.publish(StockReserved(order_id="A"))
        assert [envelope.source for envelope in spine.envelopes(OrderPlaced)] == ["storefront"]


async def test_services_and_their_declarations_stay_as_they_are() -> None:
    email = make_email()
    lifespan, handlers = email.lifespan, dict(email.handlers)
    for _ in range(2):
        async with testing.spine(email, resources={email: Mailer()}) as spine:
            await spine.publish(StockReserved(order_id="A"))
            await spine.idle()
            assert len(spine.published(Mailed)) == 1, "each spine has a journal of its own"
    assert (email.lifespan, email.handlers) == (lifespan, handlers)


async def test_without_a_fake_the_lifespan_runs() -> None:
    with pytest.raises(RuntimeError, match="the real mailer"):
        async with testing.spine(make_email()):
            pass


async def test_the_journal_is_in_memory_until_a_service_has_tables() -> None:
    async with testing.spine(make_plain_inventory()) as spine:
        assert isinstance(spine.journal, MemoryJournal)
        with pytest.raises(SettingsError, match="sql=True"):
            spine.query("select 1")
    for options in ({"services": [make_inventory()]}, {"services": [make_plain_inventory()], "sql": True}):
        async with testing.spine(*options.pop("services"), **options) as spine:
            assert isinstance(spine.journal, SQLiteJournal)
            folder = spine.journal.path.parent
            assert spine.query("select 1 as one") == [{"one": 1}]
        assert not folder.exists(), "nothing is left behind"


async def test_sql_without_tables_of_its_own_is_told_what_to_say() -> None:
    @handling()
    async def watch(event: OrderPlaced, delivery: Delivery) -> None:
        delivery.execute("update somebody_elses set n = 1")

    with pytest.raises(SpineError) as caught:
        async with testing.spine(watch) as spine:
            await spine.publish(OrderPlaced(order_id="A"))
            await spine.idle()
    assert any("sql=True" in note for note in caught.value.__notes__)


async def test_it_can_run_on_a_file_of_the_tests_own(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/spine.db"
    for order in ("A", "B"):
        async with testing.spine(make_inventory(), url=url) as spine:
            await spine.publish(OrderPlaced(order_id=order))
            await spine.idle()
    async with testing.spine(url=url) as spine:
        assert [event.order_id for event in spine.published(StockReserved)] == ["A", "B"]


async def test_postgresql_is_refused_with_what_tests_it() -> None:
    with pytest.raises(
        SettingsError, match=r"memory or a SQLite file.*'postgresql://…@db/shop'.*spine servers up postgres"
    ):
        testing.spine(make_inventory(), url="postgresql://ann:secret@db/shop")


async def test_joining_in_memory_is_told_what_to_give_the_test() -> None:
    @handling()
    async def watch(event: OrderPlaced, delivery: Delivery) -> None:
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            connection.execute("begin")
            delivery.join(connection)

    with pytest.raises(SettingsError, match=r"delivery\.join\(\).*url=f\"sqlite:///.*sql=True"):
        async with testing.spine(watch) as spine:
            await spine.publish(OrderPlaced(order_id="A"))
            await spine.idle()


# --- what handlers raise ------------------------------------------------------------------------------------------------


async def test_idle_raises_what_a_handler_raised_with_its_own_traceback() -> None:
    @handling()
    async def watch(event: OrderPlaced) -> None:
        raise SmtpDown("no route")

    async with testing.spine(watch) as spine:
        await spine.publish(OrderPlaced(order_id="A"))
        with pytest.raises(SmtpDown, match="no route") as caught:
            await spine.idle()
        await spine.idle()  # it is raised once
    text = "".join(traceback.format_exception(caught.value))
    assert 'raise SmtpDown("no route")' in text
    assert "raised by watch.watch, attempt 1, handling orders.OrderPlaced" in text
    assert f"seed={spine.seed}" in text


async def test_idle_raises_all_that_several_deliveries_raised() -> None:
    @handling()
    async def watch(event: OrderPlaced) -> None:
        raise SmtpDown(event.order_id)

    async with testing.spine(watch) as spine:
        await spine.publish(OrderPlaced(order_id="A"), OrderPlaced(order_id="B", sku="cup"))
        with pytest.raises(ExceptionGroup, match="2 deliveries failed") as caught:
            await spine.idle()
    assert sorted(str(error) for error in caught.value.exceptions) == ["A", "B"]


async def test_what_was_never_asked_for_is_raised_when_the_block_is_left() -> None:
    reached = asyncio.Event()

    @handling()
    async def watch(event: OrderPlaced) -> None:
        reached.set()
        raise SmtpDown

    with pytest.raises(SmtpDown):
        async with testing.spine(watch) as spine:
            await spine.publish(OrderPlaced(order_id="A"))
            await reached.wait()
            await asyncio.sleep(0)


async def test_a_test_that_fails_otherwise_is_told_what_handlers_raised() -> None:
    @handling()
    async def watch(event: OrderPlaced) -> None:
        raise SmtpDown("no route")

    with pytest.raises(AssertionError) as caught:
        async with testing.spine(watch, seed=5) as spine:
            await spine.publish(OrderPlaced(order_id="A"))
            await spine._settle(10.0)
            assert spine.published(Mailed) == [Mailed(order_id="A")]
    assert any("SmtpDown('no route') was raised by watch.watch" in note for note in caught.value.__notes__)
    assert any("seed=5" in note for note in caught.value.__notes__)


async def test_a_failed_delivery_is_not_tried_again_before_time_passes() -> None:
    attempts: list[int] = []

    @handling()
    async def watch(event: OrderPlaced, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        raise SmtpDown

    async with testing.spine(watch) as spine:
        await spine.publish(OrderPlaced(order_id="A"))
        with pytest.raises(SmtpDown):
            await spine.idle()
        assert attempts == [1]
        with pytest.raises(SmtpDown):
            await spine.advance(hours=1)
        assert attempts == [1, 2]
        (parked,) = spine.parked()
        assert (parked.handler, parked.event, parked.attempts) == ("watch.watch", OrderPlaced(order_id="A"), 2)


async def test_with_retry_failures_are_tried_again_as_declared() -> None:
    attempts: list[int] = []

    @handling(retry=Retry(attempts=3, immediate=1, first_s=60.0))
    async def watch(event: OrderPlaced, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        raise SmtpDown("no route")

    async with testing.spine(watch, failures="retry") as spine:
        await spine.publish(OrderPlaced(order_id="A"), OrderPlaced(order_id="B"))
        await spine.idle()
        assert attempts == [1, 2]
        assert [(row.event.order_id, row.due is None) for row in spine.parked()] == [("A", False), ("B", True)]
        await spine.advance(minutes=10)
        assert [row.event.order_id for row in spine.dead("watch")] == ["A", "B"]
        dead = spine.dead()[0]
        assert (dead.reason, dead.attempts, dead.key, dead.due) == ("SmtpDown", 3, "teapot", None)
        assert "no route" in dead.error


@pytest.mark.parametrize(
    ("error", "policies"), [(Reject("no"), {}), (SmtpDown(), {SmtpDown: Dead}), (SmtpDown(), {SmtpDown: Drop})]
)
async def test_every_error_is_raised_whatever_policy_it_has(error: Exception, policies: Any) -> None:
    @handling(errors=policies)
    async def watch(event: OrderPlaced) -> None:
        raise error

    async with testing.spine(watch) as spine:
        await spine.publish(OrderPlaced(order_id="A"))
        with pytest.raises(type(error)):
            await spine.idle()
    async with testing.spine(watch, failures="retry") as spine:
        await spine.publish(OrderPlaced(order_id="A"))
        await spine.idle()
        assert len(spine.dead()) == (policies.get(SmtpDown) is not Drop)


async def test_a_unit_that_fails_is_raised_too() -> None:
    async with testing.spine(make_inventory()) as spine:
        await spine.publish(OrderPlaced(order_id="A", units=99))
        with pytest.raises(RowsUnexpected, match="expect_rows=1"):
            await spine.idle()
        assert spine.published(StockReserved) == []


async def test_dead_deliveries_can_be_replayed() -> None:
    broken = True

    @handling(errors={SmtpDown: Dead})
    async def watch(event: OrderPlaced, delivery: Delivery) -> Mailed | None:
        if broken:
            raise SmtpDown
        return Mailed(order_id=f"{event.order_id} {delivery.late}")

    service = watch
    async with testing.spine(service, failures="retry", service=service) as spine:
        assert spine.dead() == []
    service.publishes = ("email", "orders")
    async with testing.spine(service, failures="retry", service=service) as spine:
        await spine.publish(OrderPlaced(order_id="A"), OrderPlaced(order_id="B"))
        await spine.idle()
        broken = False
        assert await spine.replay(spine.dead()[0]) == 1
        await spine.idle()
        assert spine.published(Mailed) == [Mailed(order_id="A True")]
        assert await spine.replay() == 1
        await spine.idle()
        assert spine.dead() == []


# --- idle ---------------------------------------------------------------------------------------------------------------


async def test_idle_waits_for_handlers_however_they_wait() -> None:
    done: list[str] = []
    service: Service[Any] = Service("watch")

    @service.on(OrderPlaced)
    async def sleeps(event: OrderPlaced) -> None:
        await asyncio.sleep(0.05)
        done.append("async")

    @service.on(OrderPlaced)
    def thread(event: OrderPlaced) -> None:
        threading.Event().wait(0.05)
        done.append("thread")

    async with testing.spine(service) as spine:
        await spine.publish(OrderPlaced(order_id="A"))
        await spine.idle()
        assert sorted(done) == ["async", "thread"]


async def test_idle_says_what_is_at_work_when_it_takes_too_long() -> None:
    @handling()
    async def watch(event: OrderPlaced) -> None:
        await asyncio.Event().wait()

    async with testing.spine(watch) as spine:
        await spine.publish(OrderPlaced(order_id="A"))
        with pytest.raises(
            testing.NotIdle, match=r"(?s)within 0.05 s.*watch.watch: at work on orders.OrderPlaced"
        ) as caught:
            await spine.idle(limit_s=0.05)
        assert "test_spine.py" in str(caught.value)
        assert "in watch" in str(caught.value)


async def test_idle_says_at_which_line_a_thread_stands() -> None:
    done = threading.Event()

    @handling()
    def watch(event: OrderPlaced) -> None:
        done.wait(30)  # here

    async with testing.spine(watch) as spine:
        await spine.publish(OrderPlaced(order_id="A"))
        with pytest.raises(testing.NotIdle) as caught:
            await spine.idle(limit_s=0.5)
        line = next(n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if text.endswith("# here"))
        assert f"test_spine.py:{line} in watch" in str(caught.value)
        done.set()


async def test_idle_says_why_nothing_is_stored(monkeypatch: Any) -> None:
    from eventspine.errors import JournalFull
    from eventspine.journal.port import Verdict

    async with testing.spine(make_plain_inventory()) as spine:
        await spine.publish(OrderPlaced(order_id="A"))

        async def full(units: Any) -> Any:
            return [Verdict("failed", error=JournalFull("no space left")) for _ in units]

        with monkeypatch.context() as patch:
            patch.setattr(spine.journal, "commit", full)
            with pytest.raises(testing.NotIdle, match="no space left"):
                await spine.idle(limit_s=0.3)
        await spine.idle()
        assert len(spine.published(StockReserved)) == 1


@pytest.mark.parametrize("sql", [False, True])
async def test_idle_is_exact(sql: bool) -> None:
    """Whatever was published is handled when it returns, every time; a wait for a while would miss some."""
    async with testing.spine(make_plain_inventory(), sql=sql) as spine:
        for number in range(1, 201):
            await spine.publish(OrderPlaced(order_id=str(number)))
            await spine.idle()
            assert len(spine.published(StockReserved)) == number


async def test_a_look_at_the_queue_alone_would_not_be_exact(monkeypatch: Any) -> None:
    """The safeguard switched off: without asking the journal, idle returns before what was published is even read."""
    from eventspine.testing import virtual as module

    def forgetful(runtime: Any) -> Any:
        for host in runtime.hosts:
            for one in host.subscriptions:
                if one.lanes.ready:
                    yield "deliveries are ready"

    monkeypatch.setattr(module, "engine_work", forgetful)
    async with testing.spine(make_plain_inventory()) as spine:
        await spine.publish(OrderPlaced(order_id="A"))
        await spine.idle()
        assert spine.published(StockReserved) == []


async def test_a_run_of_a_batch_handler_is_gathered_and_handled() -> None:
    runs: list[int] = []

    @handling(batch=Batch(100, within_ms=50))
    async def watch(events: list[OrderPlaced]) -> None:
        runs.append(len(events))

    async with testing.spine(watch) as spine:
        began = spine.now
        await spine.publish(*[OrderPlaced(order_id=str(number), sku=str(number)) for number in range(7)])
        await spine.idle()
        assert runs == [7]
        assert timedelta(milliseconds=50) <= spine.now - began < timedelta(milliseconds=100)


async def test_operators_words_are_followed_before_it_is_idle() -> None:
    """What `spine parked retry` would do."""
    from eventspine.journal.port import Retry as RetryNow

    attempts = 0

    @handling(retry=SLOWLY)
    async def watch(event: OrderPlaced) -> None:
        nonlocal attempts
        attempts += 1
        raise SmtpDown

    async with testing.spine(watch, failures="retry", sql=True) as spine:
        await spine.publish(OrderPlaced(order_id="A"))
        await spine.idle()
        await spine.journal.control([RetryNow([spine.parked()[0].number])])
        await spine.idle()
        assert attempts == 2


async def test_a_failure_of_the_engine_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        async with testing.spine(make_plain_inventory()) as spine:
            spine._runtimes[0].fail(ZeroDivisionError())
            await spine.idle()


# --- time ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sql", [False, True])
async def test_time_stands_still_until_it_is_advanced(sql: bool) -> None:
    seen: list[datetime] = []
    start = datetime(2030, 1, 1, tzinfo=UTC)

    @handling(OrderReminded)
    async def watch(event: OrderReminded) -> None:
        seen.append(spine.now)

    async with testing.spine(watch, sql=sql, start=start) as spine:
        assert spine.now == start
        await spine.publish(OrderReminded(), after=timedelta(hours=23))
        await spine.publish(OrderReminded(), at=start + timedelta(hours=2))
        await spine.idle()
        await spine.advance(hours=1)
        assert seen == []
        await spine.advance(days=1)
        assert seen == [start + timedelta(hours=2), start + timedelta(hours=23)], "each at its own time"
        assert spine.now == start + timedelta(hours=25)
        assert [envelope.time for envelope in spine.envelopes(OrderReminded)] == [start, start]


async def test_what_happens_on_the_way_is_due_on_the_way() -> None:
    times: list[float] = []

    @handling(OrderReminded, name="again")
    async def watch(event: OrderReminded, delivery: Delivery) -> None:
        times.append((spine.now - began).total_seconds())
        delivery.publish(OrderReminded(), after=timedelta(minutes=10))

    watch.publishes = ("orders",)
    async with testing.spine(watch) as spine:
        began = spine.now
        await spine.publish(OrderReminded())
        await spine.advance(hours=1)
        assert times == [0.0, 600.0, 1200.0, 1800.0, 2400.0, 3000.0, 3600.0]


@pytest.mark.parametrize("sql", [False, True])
async def test_a_month_is_quick_and_no_lease_runs_out(sql: bool) -> None:
    times: list[datetime] = []

    @handling(OrderReminded)
    async def watch(event: OrderReminded) -> None:
        times.append(spine.now)

    async with testing.spine(watch, sql=sql) as spine:
        began = spine.now
        for hours in range(1, 30 * 24 + 1, 3):
            await spine.publish(OrderReminded(), after=timedelta(hours=hours))
        await spine.advance(days=30)
        assert times == [began + timedelta(hours=hours) for hours in range(1, 30 * 24 + 1, 3)]
        (service,) = spine.health()["services"]
        assert (service["restarts"], service["fenced"], len(service["partitions"])) == (0, 0, 16)


async def test_events_that_answer_one_another_in_a_circle_come_to_an_end() -> None:
    @handling(OrderReminded)
    async def watch(event: OrderReminded, delivery: Delivery) -> None:
        delivery.publish(OrderReminded(), after=timedelta(hours=1))

    watch.publishes = ("orders",)
    async with testing.spine(watch) as spine:
        await spine.publish(OrderReminded(sku="cup"))
        with pytest.raises(EventRefused, match="answer one another in a circle"):
            await spine.advance(days=30)


async def test_retries_come_at_their_own_times_by_the_seed() -> None:
    times: list[float] = []

    @handling(retry=SLOWLY)
    async def watch(event: OrderPlaced) -> None:
        times.append((spine.now - began).total_seconds())
        if len(times) % 4:
            raise SmtpDown

    for _ in range(2):
        async with testing.spine(watch, failures="retry", seed=3) as spine:
            began = spine.now
            await spine.publish(OrderPlaced(order_id="A"))
            await spine.advance(days=2)
    first, second = times[:4], times[4:]
    assert first == second == sorted(set(first))
    assert 0 < first[1] <= 60
    assert 0 < first[2] - first[1] <= 600


async def test_advance_stops_where_a_handler_raised() -> None:
    @handling(OrderReminded)
    async def watch(event: OrderReminded) -> None:
        raise SmtpDown

    async with testing.spine(watch) as spine:
        began = spine.now
        await spine.publish(OrderReminded(), after=timedelta(hours=2))
        with pytest.raises(SmtpDown):
            await spine.advance(days=1)
        assert spine.now - began == timedelta(hours=2)


async def test_a_handler_that_hangs_runs_out_of_virtual_time() -> None:
    cancelled: list[float] = []

    @handling(timeout_s=60)
    async def watch(event: OrderPlaced) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append((spine.now - began).total_seconds())

    async with testing.spine(watch, failures="retry", hang_s=0.05) as spine:
        began = spine.now
        await spine.publish(OrderPlaced(order_id="A"))
        await spine.advance(seconds=59)
        assert cancelled == []
        await spine.advance(seconds=2)
        assert cancelled == [pytest.approx(60.0, abs=0.001)], "at its time, not at the end"

    async with testing.spine(watch, hang_s=0.05) as spine:
        began = spine.now
        await spine.publish(OrderPlaced(order_id="A"))
        with pytest.raises(SpineError, match="did not return within 60 s"):
            await spine.advance(seconds=61)


async def test_a_handler_that_only_takes_its_time_is_waited_for() -> None:
    """Each in a thread, one after the other, longer in all than what is taken for hanging."""
    done: list[str] = []

    @handling(timeout_s=60)
    def watch(event: OrderPlaced) -> None:
        threading.Event().wait(0.1)
        done.append(event.order_id)

    async with testing.spine(watch, hang_s=0.4) as spine:
        await spine.publish(*[OrderPlaced(order_id=str(number)) for number in range(6)])
        await spine.advance(hours=1)
        assert done == [str(number) for number in range(6)]


async def test_a_hanging_thread_is_timed_out_and_waited_for() -> None:
    go = threading.Event()
    attempts: list[int] = []

    @handling(timeout_s=60)
    def watch(event: OrderPlaced, delivery: Any) -> None:
        attempts.append(delivery.attempt)
        if delivery.attempt == 1:
            go.wait(20)

    async with testing.spine(watch, failures="retry", hang_s=0.05) as spine:
        await spine.publish(OrderPlaced(order_id="A"))
        await spine.advance(minutes=5)
        assert "1 handler thread is stuck" in spine.health()["problems"][0]
        assert attempts == [1]
        go.set()
        await spine.idle()
        assert attempts == [1, 2]


async def test_time_goes_forward_only() -> None:
    async with testing.spine() as spine:
        with pytest.raises(SettingsError, match="forward only"):
            await spine.advance(seconds=-1)


# --- what is wrong --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"failures": "ignore"}, "neither 'raise' nor 'retry'"),
        ({"start": datetime(2030, 1, 1)}, "no time zone"),  # noqa: DTZ001
        ({"resources": {Service("elsewhere"): 1}}, "'elsewhere', which is not run here"),
        ({"resources": {"inventory": 1}}, "resources= is by service, and 'inventory' is none"),
    ],
)
def test_wrong_options_are_refused(options: Any, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        testing.spine(make_plain_inventory(), **options)


def test_a_list_of_services_is_refused() -> None:
    with pytest.raises(SettingsError, match="one by one"):
        testing.spine([make_plain_inventory()])  # type: ignore[arg-type]


async def test_the_seed_may_come_from_the_environment(monkeypatch: Any) -> None:
    monkeypatch.setenv("EVENTSPINE_SEED", "42")
    assert testing.spine().seed == 42
    assert testing.spine(seed=7).seed == 7
    monkeypatch.setenv("EVENTSPINE_SEED", "forty-two")
    with pytest.raises(SettingsError, match="not a whole number"):
        testing.spine()


async def test_it_is_a_spine() -> None:
    async with testing.spine(make_plain_inventory()) as spine:
        assert isinstance(spine, Spine)
        receipt = await spine.publish(OrderPlaced(order_id="A"), after=timedelta(hours=1))
        assert await spine.cancel(receipt) == 1
        await spine.advance(hours=2)
        assert spine.published(OrderPlaced) == []


async def test_each_is_for_one_block() -> None:
    spine = testing.spine(make_plain_inventory())
    with pytest.raises(SpineError, match="inside `async with"):
        await spine.idle()
    async with spine:
        await spine.idle()
    with pytest.raises(SpineError, match="inside `async with"):
        await spine.idle()
    with pytest.raises(SpineError, match="has been used"):
        async with spine:
            pass


def test_outside_of_asyncio_it_says_so() -> None:
    import trio

    async def on_trio() -> None:
        async with testing.spine(make_plain_inventory()):
            pass

    with pytest.raises(SpineError, match="runs on asyncio.*anyio_backend"):
        trio.run(on_trio)


@pytest.mark.parametrize("sql", [False, True])
async def test_periodic_handlers_run_at_their_times(sql: bool) -> None:
    service: Service[Any] = Service("watch")
    times: list[datetime] = []

    @service.every(minutes=5)
    async def sweep() -> None:
        times.append(spine.now)

    @service.every(minutes=20, retry=Retry(attempts=3, immediate=0, first_s=30.0, factor=1.0))
    async def report(delivery: Delivery) -> Mailed:
        if delivery.attempt == 1:
            raise SmtpDown
        return Mailed(order_id=f"{delivery.time:%H:%M}")

    service.publishes = ("email",)
    start = datetime(2030, 1, 1, 12, tzinfo=UTC)
    async with testing.spine(service, sql=sql, failures="retry", start=start) as spine:
        await spine.idle()
        await spine.advance(hours=1)
        assert [f"{time:%H:%M}" for time in times] == [f"12:{5 * n:02}" for n in range(1, 12)] + ["13:00"]
        assert {time - time.replace(second=0, microsecond=0) for time in times} == {timedelta(0)}
        await spine.advance(minutes=1)
        assert [event.order_id for event in spine.published(Mailed)] == ["12:20", "12:40", "13:00"]
