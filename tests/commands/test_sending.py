"""A command is done once, as one, or not at all; and its sender is told which."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from eventspine import (
    Batch,
    Command,
    Delivery,
    Envelope,
    HandlerTimeout,
    Middleware,
    Reject,
    Service,
    Spine,
    acting,
    correlate,
)
from eventspine.errors import (
    CommandRefused,
    CommandReused,
    Conflict,
    DeclarationError,
    JournalError,
    NotHandled,
    OutcomeUnknown,
    ResultRefused,
    SettingsError,
    SpineError,
    UnitFailed,
)
from eventspine.journal.port import Journal, Unit, Verdict

from .shop import Cancel, Charged, Customer, OrderPlaced, PlaceOrder, Shop, TooMany, tables


@pytest.fixture
async def shop(journal: Callable[[], Journal]) -> AsyncIterator[tuple[Shop, Spine]]:
    store = journal()
    shop = Shop(sql=store.sql)
    async with Spine(store, service=shop.service) as spine:
        yield shop, spine


async def published(spine: Spine) -> list[str]:
    return [one.type for one in (await spine.journal.feed(0, limit=100)).records]


async def rows(spine: Spine) -> int:
    if not spine.journal.sql:
        return len([type for type in await published(spine) if type == "orders.OrderPlaced"])
    (row,) = await spine.journal.query("select count(*) as n from orders_rows", {})
    return int(row["n"])


def unknown(spine: Spine, monkeypatch: pytest.MonkeyPatch, times: int, *, happens: bool = True) -> None:
    """The next commits can't say whether they happened."""
    commit, left = spine.journal.commit, times

    async def forgetful(units: Any) -> list[Verdict]:
        nonlocal left
        if not left:
            return await commit(units)
        left -= 1
        if happens:
            await commit(units)
        return [Verdict("unknown") for _ in units]

    monkeypatch.setattr(spine.journal, "commit", forgetful)


# --- done ---------------------------------------------------------------------------------------------------------------


async def test_the_result_comes_back_as_the_type_that_the_command_says(shop: tuple[Shop, Spine]) -> None:
    made = await shop[1].send(PlaceOrder(units=2))
    assert type(made) is UUID
    assert ["accounts.Charged", "orders.OrderPlaced"] == sorted(await published(shop[1]))
    assert 1 == await rows(shop[1])
    assert 2 == (await shop[1].load(Customer, "ann")).units


async def test_the_handler_gets_the_command_as_it_would_over_a_wire(shop: tuple[Shop, Spine]) -> None:
    command = PlaceOrder(units=2)
    await shop[1].send(command)
    assert shop[0].called == [command]
    assert shop[0].called[0] is not command


async def test_whoever_sends_it_may_have_declared_it_again(shop: tuple[Shop, Spine]) -> None:
    class Theirs(Command[str], context="orders", type="orders.PlaceOrder"):
        sku: str

    made = await shop[1].send(Theirs(sku="pot"))
    assert UUID(made)
    assert shop[0].called == [PlaceOrder(sku="pot")]


async def test_what_was_published_belongs_to_the_request_and_names_the_command_as_its_cause(
    shop: tuple[Shop, Spine],
) -> None:
    with correlate("request-1", traceparent=f"00-{'a' * 32}-{'b' * 16}-01"):
        await shop[1].send(PlaceOrder())
    first, second = (await shop[1].journal.feed(0, limit=10)).records
    assert ("request-1", 1) == (first.correlation, first.hops)
    assert first.causation == second.causation
    assert UUID(first.causation)
    assert b"a" * 32 in (first.meta or b"")


async def test_whoever_has_it_done_is_said_by_what_was_published(shop: tuple[Shop, Spine]) -> None:
    with acting("user:42", why="ticket 811"):
        await shop[1].send(PlaceOrder())
    for record in (await shop[1].journal.feed(0, limit=10)).records:
        assert {"actor": "user:42", "why": "ticket 811"}.items() <= Envelope(record).extensions.items()


async def test_a_spine_publish_inside_goes_with_the_rest(journal: Callable[[], Journal]) -> None:
    orders = Service("orders")
    async with Spine(journal(), service=orders) as spine:

        @orders.command(Cancel)
        async def cancel(command: Cancel) -> None:
            receipt = await spine.publish(OrderPlaced(order_id=command.order_id, sku="x", units=1))
            assert not receipt.durable
            if command.order_id == "bad":
                raise Reject("no")

        await spine.send(Cancel(order_id="good"))
        with pytest.raises(Reject):
            await spine.send(Cancel(order_id="bad"))
        assert ["orders.OrderPlaced"] == await published(spine)


async def test_plain_functions_are_called_in_threads(journal: Callable[[], Journal]) -> None:
    import threading

    from eventspine.sync import Delivery as Blocking

    orders = Service("orders", publishes=["orders", "accounts"])
    threads: list[int] = []

    @orders.command(PlaceOrder)
    def place(command: PlaceOrder, delivery: Blocking) -> UUID:
        threads.append(threading.get_ident())
        customer = delivery.load_or_new(Customer, command.customer)
        customer.charge(command.units)
        delivery.save(customer)
        return UUID(int=command.units)

    async with Spine(journal(), service=orders) as spine:
        assert UUID(int=3) == await spine.send(PlaceOrder(units=3))
        assert 3 == (await spine.load(Customer, "ann")).units
    assert threads != [threading.get_ident()]


async def test_a_handler_may_read_its_own_writes(file: Callable[[], Journal]) -> None:
    shop = Shop()
    other = Service("orders", tables=shop.service.tables)

    @other.command(PlaceOrder)
    async def place(command: PlaceOrder, delivery: Delivery) -> UUID:
        async with delivery.transaction() as own:
            await own.execute("insert into orders_rows values ('1', :sku, 1)", sku=command.sku)
            (row,) = await own.query("select count(*) as n from orders_rows")
        delivery.publish(OrderPlaced(order_id="1", sku="x", units=1))
        return UUID(int=row["n"])

    async with Spine(file(), service=other) as spine:
        for _ in range(2):
            assert UUID(int=1) == await spine.send(PlaceOrder(), command_id="k")
        assert 1 == await rows(spine)
        assert ["orders.OrderPlaced"] == await published(spine)


# --- refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "error", "told"),
    [
        (PlaceOrder(units=101), TooMany, "ann has 0, and wants 101 more"),
        (PlaceOrder(sku="none"), Reject, "there is no such thing"),
        (PlaceOrder(units="2"), CommandRefused, "units: Expected `int`"),
    ],
)
async def test_a_refusal_reaches_the_sender_and_nothing_has_happened(
    shop: tuple[Shop, Spine], command: PlaceOrder, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        await shop[1].send(command, command_id="k")
    assert [] == await published(shop[1])
    assert 0 == await rows(shop[1])
    assert [] == await shop[1].journal.notes("orders", "answer")


async def test_after_a_refusal_the_same_id_may_be_tried_again(journal: Callable[[], Journal]) -> None:
    orders, stock = Service("orders"), [0]

    @orders.command(Cancel)
    async def cancel(command: Cancel) -> None:
        if not stock[0]:
            raise Reject("not yet")

    async with Spine(journal(), service=orders) as spine:
        with pytest.raises(Reject):
            await spine.send(Cancel(order_id="1"), command_id="k")
        stock[0] = 1
        await spine.send(Cancel(order_id="1"), command_id="k")
        stock[0] = 0
        await spine.send(Cancel(order_id="1"), command_id="k")  # it was done


async def test_a_result_that_the_command_does_not_promise_stores_nothing(journal: Callable[[], Journal]) -> None:
    orders = Service("orders")

    @orders.command(PlaceOrder)
    async def place(command: PlaceOrder, delivery: Delivery) -> Any:
        delivery.publish(OrderPlaced(order_id="1", sku="x", units=1))
        return "x" * (2_000_000 if command.units == 2 else 1)

    async with Spine(journal(), service=orders) as spine:
        with pytest.raises(ResultRefused, match=r"orders\.place returned 'x', and PlaceOrder is answered with UUID"):
            await spine.send(PlaceOrder())
        with pytest.raises(ResultRefused, match="2,000,002 bytes; a result has at most 1,000,000"):
            await spine.send(PlaceOrder(units=2))
        assert [] == await published(spine)


async def test_what_was_recorded_and_not_saved_is_an_error(journal: Callable[[], Journal]) -> None:
    orders = Service("orders", publishes=["orders", "accounts"])

    @orders.command(Cancel)
    async def forget(command: Cancel, delivery: Delivery) -> None:
        (await delivery.load_or_new(Customer, "ann")).charge(1)

    async with Spine(journal(), service=orders) as spine:
        with pytest.raises(
            SpineError, match="orders.forget returned with Charged recorded in Customer 'ann' and not saved"
        ):
            await spine.send(Cancel(order_id="1"))


async def test_nobody_handles_it(journal: Callable[[], Journal]) -> None:
    async with Spine(journal(), service=Service("web")) as spine:
        with pytest.raises(NotHandled, match=r"Nobody here handles orders\.Cancel.*commands=\[orders\]"):
            await spine.send(Cancel(order_id="1"))


async def test_an_event_is_not_sent(shop: tuple[Shop, Spine]) -> None:
    with pytest.raises(DeclarationError, match="a fact is published"):
        await shop[1].send(Charged(account="ann", units=1))  # type: ignore[arg-type, unused-ignore]


@pytest.mark.parametrize("id", ["", "x" * 513, "a\nb", "\ud800", 7])
async def test_hostile_ids_are_refused(shop: tuple[Shop, Spine], id: Any) -> None:
    with pytest.raises(SettingsError, match="command_id="):
        await shop[1].send(PlaceOrder(), command_id=id)
    assert shop[0].called == []


async def test_a_handler_that_takes_too_long_has_done_nothing(journal: Callable[[], Journal]) -> None:
    import threading

    orders, go_on = Service("orders"), threading.Event()

    @orders.command(PlaceOrder, timeout_s=0.01)
    async def place(command: PlaceOrder, delivery: Delivery) -> UUID:
        delivery.publish(OrderPlaced(order_id="1", sku="x", units=1))
        await asyncio.Event().wait()
        raise AssertionError

    @orders.command(Cancel, timeout_s=0.01)
    def cancel(command: Cancel) -> None:
        go_on.wait(0.05)

    async with Spine(journal(), service=orders) as spine:
        for command in (PlaceOrder(), Cancel(order_id="1")):
            with pytest.raises(HandlerTimeout, match=r"did not return within 0.01 s"):
                await spine.send(command, command_id="k")
        assert [] == await published(spine)
        assert [] == await spine.journal.notes("orders", "answer")


async def test_a_sender_that_goes_away_leaves_nothing(shop: tuple[Shop, Spine]) -> None:
    orders, began = shop[0].service, asyncio.Event()

    @orders.command(Cancel)
    async def cancel(command: Cancel, delivery: Delivery) -> None:
        delivery.publish(OrderPlaced(order_id="1", sku="x", units=1))
        began.set()
        await asyncio.Event().wait()

    sent = asyncio.create_task(shop[1].send(Cancel(order_id="1"), command_id="k"))
    await began.wait()
    sent.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sent
    assert [] == await published(shop[1])
    await asyncio.wait_for(shop[1].send(PlaceOrder(), command_id="k"), 20)  # its turn has ended


@pytest.mark.parametrize("batch", [False, True])
async def test_inside_a_handler_a_command_would_commit_apart(shop: tuple[Shop, Spine], batch: bool) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    other = Service("other")

    async def react(_: Any) -> None:
        try:
            await shop[1].send(PlaceOrder())
        except SpineError as error:
            told.put_nowait(str(error))

    if batch:
        other.on(OrderPlaced, batch=Batch(10))(react)
    else:
        other.on(OrderPlaced)(react)

    async with shop[1].running(other):
        await shop[1].send(PlaceOrder())
        assert "other.react sends orders.PlaceOrder, which would commit apart" in await asyncio.wait_for(told.get(), 20)
    assert 1 == len(shop[0].called)


# --- once ---------------------------------------------------------------------------------------------------------------


async def test_the_same_command_under_the_same_id_is_answered_and_not_done_again(shop: tuple[Shop, Spine]) -> None:
    first = await shop[1].send(PlaceOrder(), command_id="k")
    assert first == await shop[1].send(PlaceOrder(), command_id="k")
    assert first != await shop[1].send(PlaceOrder(), command_id="l")
    assert first != await shop[1].send(PlaceOrder())
    assert 3 == len(shop[0].called) == await rows(shop[1])


@pytest.mark.parametrize("other", [PlaceOrder(units=2), PlaceOrder(sku="pot"), Cancel(order_id="1")])
async def test_another_command_under_the_same_id_is_an_error(shop: tuple[Shop, Spine], other: Any) -> None:
    @shop[0].service.command(Cancel)
    async def cancel(command: Cancel) -> None:
        raise AssertionError

    await shop[1].send(PlaceOrder(), command_id="k")
    with pytest.raises(CommandReused, match=r"'k' was given to another command before"):
        await shop[1].send(other, command_id="k")
    assert 1 == len(shop[0].called)


async def test_one_that_changes_nothing_is_remembered_too(journal: Callable[[], Journal]) -> None:
    orders, called = Service("orders"), list[Cancel]()

    @orders.command(Cancel)
    async def cancel(command: Cancel) -> None:
        called.append(command)

    async with Spine(journal(), service=orders) as spine:
        for _ in range(2):
            await spine.send(Cancel(order_id="1"), command_id="k")
        assert 1 == len(called)
        for _ in range(2):
            await spine.send(Cancel(order_id="1"))
        assert 3 == len(called)
        assert 1 == len(await spine.journal.notes("orders", "answer"))  # what nobody can ask for is not noted


async def test_twenty_at_once_call_the_handler_once(shop: tuple[Shop, Spine]) -> None:
    results = await asyncio.gather(*[shop[1].send(PlaceOrder(), command_id="k") for _ in range(20)])
    assert 1 == len(set(results)) == len(shop[0].called) == await rows(shop[1])
    assert {} == shop[1]._turns._locks


async def test_of_twenty_refused_at_once_each_is_told(shop: tuple[Shop, Spine]) -> None:
    sent = [shop[1].send(PlaceOrder(units=101), command_id="k") for _ in range(20)]
    assert [TooMany] * 20 == [type(one) for one in await asyncio.gather(*sent, return_exceptions=True)]


async def test_two_spines_of_one_journal_commit_one_of_the_two(journal: Callable[[], Journal]) -> None:
    """As two processes: both may call the handler, and one of the two has done it."""
    first, second = journal(), journal()
    shops = Shop(sql=first.sql), Shop(sql=first.sql)
    async with Spine(first, service=shops[0].service) as one, Spine(second, service=shops[1].service) as other:
        for number in range(20):
            sent = [spine.send(PlaceOrder(), command_id=f"k{number}") for spine in (one, other) for _ in range(5)]
            assert 1 == len(set(await asyncio.gather(*sent)))
        assert 20 == await rows(one)
        assert 20 == (await one.load(Customer, "ann")).units


async def test_the_id_outlives_the_process_and_the_store_keeps_it_a_week(journal: Callable[[], Journal]) -> None:
    from eventspine.testing import VirtualClock

    clock, store = VirtualClock(), journal()
    shop = Shop(sql=store.sql)
    async with Spine(store, service=shop.service, clock=clock) as spine:
        first = await spine.send(PlaceOrder(), command_id="k")
    clock.move(clock.now_us() + timedelta(days=6) // timedelta(microseconds=1))
    async with Spine(journal(), service=shop.service, clock=clock) as spine:
        assert first == await spine.send(PlaceOrder(), command_id="k")


# --- conflicts ----------------------------------------------------------------------------------------------------------


async def test_commands_that_race_for_one_aggregate_are_all_done(shop: tuple[Shop, Spine]) -> None:
    await asyncio.gather(*[shop[1].send(PlaceOrder(), command_id=str(n)) for n in range(8)])
    assert 8 == (await shop[1].load(Customer, "ann")).units == await rows(shop[1])


async def test_a_conflict_that_does_not_end_is_raised_after_as_many_tries_as_the_handler_says(
    journal: Callable[[], Journal],
) -> None:
    orders, called = Service("orders", publishes=["orders", "accounts"]), list[int]()
    async with Spine(journal(), service=orders) as spine:

        @orders.command(Cancel, conflict_tries=3)
        async def cancel(command: Cancel, delivery: Delivery) -> None:
            called.append(delivery.attempt)
            customer = await delivery.load_or_new(Customer, "ann")
            customer.charge(1)
            delivery.save(customer)
            faster = Customer("ann")
            faster._spine.version = len(called) - 1
            faster.charge(1)
            unit, _ = spine._unit_of([faster], None)
            assert (await spine.journal.commit([unit]))[0].ok

        with pytest.raises(Conflict):
            await spine.send(Cancel(order_id="1"))
    assert [1, 2, 3] == called


class Taken(Reject):
    pass


class Claim(Command[int], context="orders", key="name"):
    name: str


def claiming(both: asyncio.Barrier, *, looks: bool = True) -> tuple[Service[None], list[int]]:
    """Names that are taken once. On their first attempt two meet between looking and writing."""
    service, attempts = Service("orders", tables=tables), list[int]()

    @service.command(Claim)
    async def claim(command: Claim, delivery: Delivery) -> int:
        attempts.append(delivery.attempt)
        if looks and await delivery.query("select id from orders_rows where id = :name", name=command.name):
            raise Taken(command.name)
        if delivery.attempt == 1:
            await both.wait()
        delivery.execute("insert into orders_rows values (:name, '', 1)", name=command.name)
        return delivery.attempt

    return service, attempts


@pytest.mark.parametrize("processes", [1, 2])
async def test_of_two_who_take_a_unique_key_at_once_the_second_is_refused_as_one_who_comes_later(
    database: Callable[[], Journal], processes: int
) -> None:
    both = asyncio.Barrier(2)
    async with AsyncExitStack() as stack:
        spines = [
            await stack.enter_async_context(Spine(database(), service=claiming(both)[0])) for _ in range(processes)
        ] * (2 // processes)
        sent = [spine.send(Claim(name="ann")) for spine in spines]
        answers = await asyncio.gather(*sent, return_exceptions=True)
        assert {1, Taken} == {one if isinstance(one, int) else type(one) for one in answers}
        with pytest.raises(Taken):
            await spines[0].send(Claim(name="ann"))
        assert 1 == await rows(spines[0])


async def test_who_does_not_look_is_called_once_more_and_told_what_the_database_said(
    database: Callable[[], Journal],
) -> None:
    both = asyncio.Barrier(1)
    service, attempts = claiming(both, looks=False)
    async with Spine(database(), service=service) as spine:
        assert 1 == await spine.send(Claim(name="ann"))
        with pytest.raises(UnitFailed, match="orders_rows") as told:
            await spine.send(Claim(name="ann"))
        assert told.value.__cause__ is not None
    assert [1, 1, 2] == attempts


async def test_another_constraint_is_broken_once(database: Callable[[], Journal]) -> None:
    orders, attempts = Service("orders", tables=_whole_units), list[int]()

    @orders.command(Claim)
    async def claim(command: Claim, delivery: Delivery) -> int:
        attempts.append(delivery.attempt)
        delivery.execute("insert into orders_rows values (:name, '', 0)", name=command.name)
        return 1

    async with Spine(database(), service=orders) as spine:
        with pytest.raises(UnitFailed):
            await spine.send(Claim(name="ann"))
    assert [1] == attempts


def _whole_units(connection: Any) -> None:
    connection.execute("create table orders_rows (id text primary key, sku text, units int check (units > 0))")


# --- commits that can't say ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 100])
@pytest.mark.promise("commit unknown", "sqlite")
async def test_where_commit_can_not_say_the_note_does(
    shop: tuple[Shop, Spine], monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    with monkeypatch.context() as patched:
        unknown(shop[1], patched, times)
        made = await shop[1].send(PlaceOrder())
    assert type(made) is UUID
    assert 1 == len(shop[0].called) == await rows(shop[1])


async def test_sql_alone_is_not_done_twice_when_its_commit_is_asked_again(
    file: Callable[[], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an event in it, nothing but the note tells one attempt from the next."""
    orders = Service("orders", tables=Shop().service.tables)

    @orders.command(Cancel)
    async def cancel(command: Cancel, delivery: Delivery) -> None:
        delivery.execute("insert into orders_rows select :id || count(*), '', 1 from orders_rows", id=command.order_id)

    async with Spine(file(), service=orders) as spine:
        unknown(spine, monkeypatch, 1)
        await spine.send(Cancel(order_id="1"))
        assert 1 == await rows(spine)


async def test_what_stays_unknown_names_the_id_to_send_it_again_with(
    shop: tuple[Shop, Spine], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def blind(*_: Any, **__: Any) -> Any:
        raise JournalError("the disk is gone")

    with monkeypatch.context() as patched:
        unknown(shop[1], patched, 100)
        patched.setattr(shop[1].journal, "notes", blind)
        with pytest.raises(OutcomeUnknown, match="Send it again with command_id=") as caught:
            await shop[1].send(PlaceOrder())
    made = await shop[1].send(PlaceOrder(), command_id=caught.value.details["command_id"])
    assert type(made) is UUID
    assert 1 == len(shop[0].called) == await rows(shop[1])


async def test_what_did_not_happen_is_unknown_until_it_is_sent_again(
    shop: tuple[Shop, Spine], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        unknown(shop[1], patched, 100, happens=False)
        with pytest.raises(OutcomeUnknown):
            await shop[1].send(PlaceOrder(), command_id="k")
    await shop[1].send(PlaceOrder(), command_id="k")
    assert 2 == len(shop[0].called)
    assert 1 == await rows(shop[1])


# --- a transaction of the handler's ---------------------------------------------------------------------------------------


def joining(path: Path, *, commits: bool = True, then: Exception | None = None) -> Service[None]:
    orders: Service[None] = Service("orders", tables=Shop().service.tables)

    @orders.command(PlaceOrder)
    async def place(command: PlaceOrder, delivery: Delivery) -> UUID:
        id = UUID(int=command.units)
        with closing(sqlite3.connect(path, isolation_level=None)) as own:
            own.execute("begin immediate")
            own.execute("insert into orders_rows values (?, ?, ?)", (str(id), command.sku, command.units))
            delivery.publish(OrderPlaced(order_id=str(id), sku=command.sku, units=command.units))
            delivery.join(own, id)
            own.execute("commit" if commits else "rollback")
        if then is not None:
            raise then
        return id

    return orders


async def test_rows_events_and_the_answer_share_a_transaction_of_the_handlers(tmp_path: Path) -> None:
    path = tmp_path / "spine.db"
    async with Spine(f"sqlite:///{path}", service=joining(path)) as spine:
        for _ in range(2):
            assert UUID(int=1) == await spine.send(PlaceOrder(), command_id="k")
        assert 1 == await rows(spine)
        assert ["orders.OrderPlaced"] == await published(spine)


async def test_one_that_did_not_commit_has_failed(tmp_path: Path) -> None:
    path = tmp_path / "spine.db"
    async with Spine(f"sqlite:///{path}", service=joining(path, commits=False)) as spine:
        with pytest.raises(UnitFailed, match="the transaction that it joined has not committed"):
            await spine.send(PlaceOrder(), command_id="k")
        assert [] == await published(spine)


async def test_one_that_raises_after_its_commit_was_done_and_what_it_raised_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "spine.db"
    async with Spine(f"sqlite:///{path}", service=joining(path, then=ValueError("too late"))) as spine:
        assert UUID(int=1) == await spine.send(PlaceOrder())
    [told] = [record.getMessage() for record in caplog.records if record.name == "eventspine.commands"]
    assert "orders.place is done, since the transaction that it joined had committed when it raised" in told
    assert "ValueError: too late" in caplog.text


async def test_who_is_cancelled_while_it_goes_on_after_its_commit_is_cancelled(tmp_path: Path) -> None:
    path, committed = tmp_path / "spine.db", asyncio.Event()
    orders: Service[None] = Service("orders", tables=Shop().service.tables)

    @orders.command(PlaceOrder)
    async def place(_: PlaceOrder, delivery: Delivery) -> UUID:
        with closing(sqlite3.connect(path, isolation_level=None)) as own:
            own.execute("begin immediate")
            delivery.join(own, UUID(int=1))
            own.execute("commit")
        committed.set()
        await asyncio.Event().wait()
        return UUID(int=1)

    async with Spine(f"sqlite:///{path}", service=orders) as spine:
        sending = asyncio.create_task(spine.send(PlaceOrder(), command_id="k"))
        await committed.wait()
        sending.cancel()
        await asyncio.wait([sending])
        assert sending.cancelled()
        assert UUID(int=1) == await spine.send(PlaceOrder(), command_id="k"), "it was done, all the same"


def joining_without(path: Path, command: Any) -> Service[None]:
    orders: Service[None] = Service("orders", tables=Shop().service.tables)

    @orders.command(command)
    async def place(_: Any, delivery: Delivery) -> Any:
        with closing(sqlite3.connect(path, isolation_level=None)) as own:
            own.execute("begin immediate")
            delivery.join(own)
            own.execute("commit")
        return UUID(int=1)

    return orders


async def test_one_that_joins_without_the_result_is_told_what_to_write(tmp_path: Path) -> None:
    path = tmp_path / "spine.db"
    async with Spine(f"sqlite:///{path}", service=joining_without(path, PlaceOrder)) as spine:
        told = r"orders.place joined a transaction with the result None, .* Write delivery.join\(session, result\), with what"
        with pytest.raises(ResultRefused, match=told):
            await spine.send(PlaceOrder())


class AskPerhaps(Command[UUID | None], context="orders"):
    pass


async def test_what_is_returned_and_was_not_joined_with_is_an_error_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "spine.db"
    async with Spine(f"sqlite:///{path}", service=joining_without(path, AskPerhaps)) as spine:
        assert await spine.send(AskPerhaps()) is None
    [told] = [record.getMessage() for record in caplog.records if record.name == "eventspine.commands"]
    assert f'orders.place returned "{UUID(int=1)}", and had joined a transaction with null, which is the answer' in told


async def test_an_event_has_no_result_to_join_with(tmp_path: Path) -> None:
    from eventspine.testing import delivery

    with pytest.raises(SpineError, match="leave result= out"):
        Delivery.join(delivery(OrderPlaced(order_id="1", sku="x", units=1)), object(), "result")


# --- around ---------------------------------------------------------------------------------------------------------------


class Around(Middleware):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def publish(self, event: Any, attributes: dict[str, str], proceed: Callable[[], Any]) -> Any:
        self.seen.append(f"publish {type(event).__name__}")
        attributes["tenant"] = "nl"
        return proceed()

    async def handle(self, event: Any, delivery: Any, proceed: Callable[[], Awaitable[Any]]) -> Any:
        self.seen.append(
            f"handle {type(event).__name__} in {delivery.handler} of {delivery.envelope.extensions['tenant']}"
        )
        result = await proceed()
        self.seen.append(f"returned {type(result).__name__}")
        return result


async def test_middleware_sees_it_sent_handled_and_its_events_published(journal: Callable[[], Journal]) -> None:
    around, store = Around(), journal()
    shop = Shop(sql=store.sql)
    async with Spine(store, service=shop.service, middleware=[around]) as spine:
        await spine.send(PlaceOrder())
    assert around.seen == [
        "publish PlaceOrder", "handle PlaceOrder in orders.place of nl", "publish OrderPlaced", "publish Charged",
        "returned UUID",
    ]  # fmt: skip


async def test_its_spans_are_one_trace(journal: Callable[[], Journal]) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from eventspine.observe.tracing import Tracing

    exporter, provider, store = InMemorySpanExporter(), TracerProvider(), journal()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    shop = Shop(sql=store.sql)
    async with Spine(store, service=shop.service, middleware=[Tracing(provider)]) as spine:
        await spine.send(PlaceOrder())
        with pytest.raises(TooMany):
            await spine.send(PlaceOrder(units=101))
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans[:4]] == [
        "send orders.PlaceOrder", "publish orders.OrderPlaced", "publish accounts.Charged", "process orders.place",
    ]  # fmt: skip
    assert 1 == len({span.context.trace_id for span in spans[:4] if span.context})
    assert not spans[-1].status.is_ok


async def test_log_lines_inside_say_what_is_handled(
    journal: Callable[[], Journal], caplog: pytest.LogCaptureFixture
) -> None:
    from eventspine.observe.logs import CorrelationFilter

    orders = Service("orders")

    @orders.command(Cancel)
    async def cancel(command: Cancel) -> None:
        logging.getLogger("shop").warning("cancelling")

    caplog.handler.addFilter(CorrelationFilter())
    async with Spine(journal(), service=orders) as spine:
        with correlate("request-1"):
            await spine.send(Cancel(order_id="7"))
    (line,) = [record for record in caplog.records if record.name == "shop"]
    told = vars(line)
    assert ("request-1", "orders.cancel", "7", 1) == tuple(
        told[f"spine_{name}"] for name in ("correlation", "handler", "key", "attempt")
    )


# --- whose it is ----------------------------------------------------------------------------------------------------------


async def test_anyone_sends_it_and_its_owner_publishes(journal: Callable[[], Journal]) -> None:
    store = journal()
    shop = Shop(sql=store.sql)
    async with Spine(store, service=Service("web"), commands=[shop.service]) as spine:
        await spine.send(PlaceOrder(), command_id="k")
        assert {"orders"} == {one.source for one in (await store.feed(0, limit=10)).records}
        assert 1 == len(await store.notes("orders", "answer"))
        assert 1 == await rows(spine)


async def test_a_spine_that_speaks_for_nobody_sends_too(journal: Callable[[], Journal]) -> None:
    store = journal()
    shop = Shop(sql=store.sql)
    async with Spine(store, commands=[shop.service]) as spine:
        assert type(await spine.send(PlaceOrder())) is UUID


async def test_a_service_that_runs_here_handles_its_commands(journal: Callable[[], Journal]) -> None:
    store = journal()
    shop = Shop(sql=store.sql)
    async with Spine(store) as spine:
        async with spine.running(shop.service):
            await spine.send(PlaceOrder())
        with pytest.raises(NotHandled):
            await spine.send(PlaceOrder())


@pytest.mark.parametrize("runs", [False, True])
async def test_resources_are_those_of_the_owner_made_once(journal: Callable[[], Journal], runs: bool) -> None:
    told: list[str] = []

    @asynccontextmanager
    async def clients() -> AsyncIterator[dict[str, str]]:
        told.append("open")
        yield {"name": "mailer"}
        told.append("closed")

    orders: Service[dict[str, str]] = Service("orders", lifespan=clients)

    @orders.command(Cancel)
    async def cancel(command: Cancel, delivery: Delivery[dict[str, str]]) -> None:
        told.append(delivery.resources["name"])

    async with Spine(journal(), service=orders) as spine:
        if runs:
            async with spine.running(orders):
                await spine.send(Cancel(order_id="1"))
        else:
            await asyncio.gather(*[spine.send(Cancel(order_id="1")) for _ in range(2)])
    assert told == ["open", *["mailer"] * (1 if runs else 2), "closed"]


async def test_resources_that_can_not_be_made_are_the_senders_error_and_tried_again(
    journal: Callable[[], Journal],
) -> None:
    down = [True]

    @asynccontextmanager
    async def clients() -> AsyncIterator[int]:
        if down[0]:
            raise ConnectionError("the mailer is down")
        yield 1

    orders: Service[int] = Service("orders", lifespan=clients)

    @orders.command(Cancel)
    async def cancel(command: Cancel, delivery: Delivery[int]) -> None:
        assert delivery.resources == 1

    async with Spine(journal(), service=orders) as spine:
        with pytest.raises(ConnectionError):
            await spine.send(Cancel(order_id="1"))
        down[0] = False
        await spine.send(Cancel(order_id="1"))


async def test_the_idempotency_key_for_the_outside_is_that_of_the_command(journal: Callable[[], Journal]) -> None:
    orders, keys = Service("orders"), list[str]()

    @orders.command(Cancel)
    async def cancel(command: Cancel, delivery: Delivery) -> None:
        keys.append(delivery.idempotency_key)
        raise Reject("try again")

    async with Spine(journal(), service=orders) as spine:
        for id in ("k", "k", "l", None):
            with pytest.raises(Reject):
                await spine.send(Cancel(order_id="1"), command_id=id)
    assert keys[0] == keys[1]
    assert 3 == len(set(keys))


async def test_a_unit_without_the_note_would_be_done_twice(
    shop: tuple[Shop, Spine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the note is good for."""
    committed = shop[1]._committed

    async def careless(unit: Unit) -> Verdict:
        unit.notes.clear()
        return await committed(unit)

    monkeypatch.setattr(shop[1], "_committed", careless)
    for _ in range(2):
        await shop[1].send(PlaceOrder(), command_id="k")
    assert 2 == len(shop[0].called) == await rows(shop[1])


async def test_the_class_in_place_of_a_command_is_explained(shop: tuple[Shop, Spine]) -> None:
    with pytest.raises(SpineError, match=r"the class PlaceOrder, and takes a command: PlaceOrder\(\.\.\.\)"):
        await shop[1].send(PlaceOrder)  # type: ignore[arg-type]
