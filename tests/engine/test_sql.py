"""SQL in handlers: it commits with the cursor and the events, or not at all (R4), also on a connection of one's own (R21)."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import weakref
from contextlib import closing
from typing import Any

import pytest

from eventspine import Batch, BatchDelivery, Delivery, Retry, Service, Spine
from eventspine.errors import SettingsError
from eventspine.journal.port import Drop
from eventspine.observe.logs import CorrelationFilter
from eventspine.sync import Delivery as SyncDelivery

from .material import ONCE, QUICK, Broken, Mailed, Placed, dead, host, rows, subscription, until


def tables(connection: Any) -> None:
    connection.execute("create table email_done (number integer, note text)")


def mail() -> Service[Any]:
    return Service("email", tables=tables)


async def done(spine: Spine) -> list[int]:
    return [row["number"] for row in await spine.journal.query("select number from email_done order by rowid", {})]


def connect(spine: Spine) -> sqlite3.Connection:
    return sqlite3.connect(spine.journal.path, timeout=10)  # type: ignore[attr-defined]


INSERT = "insert into email_done (number) values (:number)"


async def test_what_is_handed_over_commits_with_the_cursor_or_not_at_all(file: Spine) -> None:
    service = mail()

    @service.on(Placed, retry=ONCE)
    async def note(event: Placed, delivery: Delivery) -> Mailed:
        delivery.execute(INSERT, number=event.number)
        if event.number == 2:
            raise Broken
        return Mailed(number=event.number)

    await file.publish(*[Placed(number=number) for number in (1, 2, 3)])
    async with file.running(service):
        await dead(file)
        await until(lambda: subscription(file).handled == 3)
    assert await done(file) == [1, 3]
    assert await file.journal.head() == 5


@pytest.mark.parametrize("how", ["delivery", "transaction", "batch", "of_event", "blocking"])
async def test_what_was_to_be_expect_rows_is_refused_once(file: Spine, how: str) -> None:
    """Such as `expect_rows` in other letters: what it was to guard would go through without a word."""
    service = mail()
    given = {"number": 1, "expected_rows": 1, "note": "x"}

    async def note(event: Placed, delivery: Delivery) -> None:
        if how == "delivery":
            delivery.execute(INSERT, **given)
        async with delivery.transaction() as transaction:
            await transaction.execute(INSERT, **given)

    async def note_many(events: list[Placed], delivery: BatchDelivery) -> None:
        whose: Any = delivery if how == "batch" else delivery.of(events[0])
        whose.execute(INSERT, **given)

    def note_blocking(event: Placed, delivery: SyncDelivery) -> None:
        delivery.execute(INSERT, **given)

    batch = Batch(10) if how in ("batch", "of_event") else None
    function: Any = note_many if batch else note_blocking if how == "blocking" else note
    service.on(Placed, batch=batch)(function)  # type: ignore[call-overload]
    await file.publish(Placed())
    async with file.running(service):
        (row,) = await dead(file)
    assert (row.reason, row.attempts) == ("DeclarationError", 1)
    assert "execute() was given expected_rows=, and the SQL has no :expected_rows: insert into" in row.error
    assert [] == await done(file)


async def test_a_parameter_may_have_any_name(file: Spine) -> None:
    """Columns are named so, and `as_sql` names parameters after them."""
    service, found = mail(), list[Any]()
    insert, look = "insert into email_done values (:self, :sql)", "select note from email_done where note = :sql"
    given: Any = {"self": 1, "sql": "x"}

    @service.on(Placed)
    async def note(event: Placed, delivery: Delivery) -> None:
        delivery.execute(insert, **given)
        found.extend(await delivery.query(look, **given))
        async with delivery.transaction() as transaction:
            await transaction.execute(insert, **given)
            found.extend(await transaction.query(look, **given))

    @service.on(Placed)
    def note_blocking(event: Placed, delivery: SyncDelivery) -> None:
        delivery.execute(insert, **given)
        delivery.query(look, **given)
        with delivery.transaction() as transaction:
            transaction.execute(insert, **given)
            transaction.query(look, **given)

    @service.on(Placed, batch=Batch(10))
    async def note_many(events: list[Placed], delivery: BatchDelivery) -> None:
        delivery.execute(insert, **given)
        delivery.of(events[0]).execute(insert, **given)
        await delivery.query(look, **given)

    await file.publish(Placed())
    async with file.running(service):
        await until(lambda: all(one.handled == 1 for one in host(file).subscriptions))
    assert {"note": "x"} in found
    assert await done(file) == [1] * 6


async def test_more_parameters_than_the_sql_names_are_left_out(file: Spine) -> None:
    service = mail()

    @service.on(Placed)
    async def note(event: Placed, delivery: Delivery) -> None:
        given = {"number": event.number, "note": "x", "expected": 1}
        delivery.execute("insert into email_done (number) select :number where :expected = 1", **given)

    await file.publish(Placed(number=3))
    async with file.running(service):
        await until(lambda: subscription(file).handled == 1)
    assert [3] == await done(file)


async def test_another_number_of_rows_than_expected_fails_the_attempt(file: Spine) -> None:
    service = mail()

    @service.on(Placed, retry=QUICK)
    async def note(event: Placed, delivery: Delivery) -> Mailed:
        delivery.execute(INSERT, number=event.number)
        delivery.execute("update email_done set note = 'x' where number = -1", expect_rows=1)
        return Mailed()

    await file.publish(Placed())
    async with file.running(service):
        (row,) = await dead(file)
    assert (row.reason, row.attempts) == ("RowsUnexpected", 3)
    assert await done(file) == []
    assert await file.journal.head() == 1


async def test_a_query_sees_all_that_earlier_events_of_the_key_did(file: Spine) -> None:
    service, counts = mail(), list[int]()

    @service.on(Placed)
    async def note(event: Placed, delivery: Delivery) -> None:
        (row,) = await delivery.query("select count(*) as n from email_done where note = :key", key=event.customer)
        counts.append(row["n"])
        delivery.execute("insert into email_done values (:number, :key)", number=event.number, key=event.customer)
        (again,) = await delivery.query("select count(*) as n from email_done where note = :key", key=event.customer)
        assert again == row, "not what it has only handed over"

    await file.publish(*[Placed(number=number) for number in range(20)])
    async with file.running(service):
        await until(lambda: len(counts) == 20)
    assert counts == list(range(20))


async def test_a_transaction_reads_its_own_writes_and_commits_with_the_handler(file: Spine) -> None:
    service, seen = mail(), list[int]()

    @service.on(Placed, retry=ONCE)
    async def note(event: Placed, delivery: Delivery) -> Mailed:
        delivery.execute(INSERT, number=event.number)
        async with delivery.transaction() as tx:
            assert await tx.execute(INSERT, number=event.number) == 1
            (row,) = await tx.query("select count(*) as n from email_done")
            seen.append(row["n"])
            assert [row] == await delivery.query("select count(*) as n from email_done")
        if event.number == 2:
            raise Broken
        return Mailed()

    await file.publish(*[Placed(number=number) for number in (1, 2, 3)])
    async with file.running(service):
        await dead(file)
        await until(lambda: subscription(file).handled == 3)
    assert seen == [2, 4, 4], "what was handed over before is in it"
    assert await done(file) == [1, 1, 3, 3]


async def test_a_transaction_is_closed_when_its_block_is_left(file: Spine) -> None:
    service = mail()

    @service.on(Placed, retry=ONCE)
    async def note(event: Placed, delivery: Delivery) -> None:
        async with delivery.transaction() as tx:
            await tx.execute(INSERT, number=1)
        await tx.execute(INSERT, number=2)

    await file.publish(Placed())
    async with file.running(service):
        (row,) = await dead(file)
    assert "has been left" in row.error
    assert await done(file) == []


@pytest.mark.parametrize("call", ["execute", "query"])
async def test_what_was_asked_of_a_transaction_and_not_awaited_fails_the_delivery(file: Spine, call: str) -> None:
    """The write would be lost, and the delivery count as done."""
    service = mail()

    @service.on(Placed)
    async def note(event: Placed, delivery: Delivery) -> None:
        async with delivery.transaction() as tx:
            await tx.execute(INSERT, number=1)
            getattr(tx, call)(INSERT, number=2)

    await file.publish(Placed())
    async with file.running(service):
        (row,) = await dead(file)
    assert "email.note did not await all that it asked of delivery.transaction()" in row.error
    assert (row.reason, row.attempts) == ("DeclarationError", 1)
    assert await done(file) == []


async def test_what_a_handler_raises_in_its_transaction_is_not_hidden_by_what_it_did_not_await(file: Spine) -> None:
    service, asked = mail(), list[Any]()

    @service.on(Placed, retry=ONCE)
    async def note(event: Placed, delivery: Delivery) -> None:
        async with delivery.transaction() as tx:
            asked.append(tx.execute(INSERT, number=1))
            raise Broken

    await file.publish(Placed())
    async with file.running(service):
        (row,) = await dead(file)
    asked[0].close()
    assert row.reason == "Broken"


async def test_a_transaction_may_be_asked_in_tasks(file: Spine) -> None:
    service = mail()

    @service.on(Placed, retry=ONCE)
    async def note(event: Placed, delivery: Delivery) -> None:
        async with delivery.transaction() as tx:
            await asyncio.gather(tx.execute(INSERT, number=1), tx.execute(INSERT, number=2))

    await file.publish(Placed())
    async with file.running(service):
        await until(lambda: subscription(file).handled == 1)
    assert await done(file) == [1, 2]


async def test_a_transaction_that_takes_too_long_fails_the_attempt(file: Spine, monkeypatch: Any) -> None:
    monkeypatch.setattr("eventspine.delivery.TRANSACTION_LIMIT_S", 0.1)
    service, release = mail(), asyncio.Event()

    @service.on(Placed, retry=ONCE)
    async def note(event: Placed, delivery: Delivery) -> None:
        async with delivery.transaction() as tx:
            await tx.execute(INSERT, number=1)
            await release.wait()

    await file.publish(Placed())
    async with file.running(service):
        await until(lambda: subscription(file).workers.items)
        asyncio.get_running_loop().call_later(0.3, release.set)
        (row,) = await dead(file)
    assert row.reason in ("UnitFailed", "TimeoutError")
    assert await done(file) == []


async def test_a_second_transaction_would_wait_for_the_first(file: Spine) -> None:
    service = mail()

    @service.on(Placed, retry=ONCE)
    async def note(event: Placed, delivery: Delivery) -> None:
        async with delivery.transaction(), delivery.transaction():
            pass

    await file.publish(Placed())
    async with file.running(service):
        (row,) = await dead(file)
    assert row.reason == "WouldDeadlock"


async def test_r21_a_delivery_joins_a_connection_and_commits_with_it(file: Spine) -> None:
    service = mail()

    @service.on(Placed, retry=ONCE)
    def note(event: Placed, delivery: SyncDelivery[Any]) -> None:
        connection = connect(file)
        try:
            connection.execute("begin immediate")
            connection.execute("insert into email_done (number) values (?)", (event.number,))
            delivery.publish(Mailed(number=event.number))
            delivery.join(connection)
            if event.number == 2:
                connection.rollback()
            if event.number != 3:
                connection.commit()
            if event.number == 4:
                raise Broken
        finally:
            connection.close()

    await file.publish(*[Placed(customer=f"c{number}", number=number) for number in (1, 2, 3, 4)])
    async with file.running(service):
        died = await dead(file, 2)
        await until(lambda: host(file).subscriptions[0].at_work == 0)
    assert all("has not committed" in row.error for row in died)
    assert sorted(await done(file)) == [1, 4], "4 had committed; what it raised afterwards changes nothing"
    assert len(await rows(file)) == 2
    assert await file.journal.head() == 6


@pytest.mark.parametrize("what", ["raises", "returns an event"])
async def test_what_comes_after_the_commit_of_a_joined_transaction_and_fails_is_told(
    file: Spine, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """The event is done, and can't be tried again: nobody would know."""
    service = mail()

    @service.on(Placed)
    async def note(event: Placed, delivery: Delivery) -> Mailed | None:
        with closing(connect(file)) as connection, connection:
            connection.execute("begin immediate")
            connection.execute("insert into email_done (number) values (?)", (event.number,))
            delivery.join(connection)
        if what == "raises":
            raise Broken("the mail server is down")
        return Mailed(number=event.number)

    async with file.running(service):
        await file.publish(Placed(number=7))
        await until(lambda: subscription(file).handled == 1)
    assert await done(file) == [7]
    told = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(told) == 1, told
    assert (
        "it is not tried again. What the handler still had to do is not done, nor is published what it returned"
        in told[0]
    )
    assert ("mail server is down" if what == "raises" else "Publish and execute before join()") in told[0]


async def test_of_what_was_given_up_while_it_was_handled_nobody_says_that_it_is_done(
    file: Spine, caplog: pytest.LogCaptureFixture
) -> None:
    """Its transaction was rolled back, and by the time that its handler raises somebody else has finished the event."""
    service, dropped = mail(), list[int]()

    @service.on(Placed, retry=Retry(attempts=5, immediate=0, first_s=0.001, most_s=0.001))
    async def note(event: Placed, delivery: Delivery) -> None:
        if delivery.attempt == 1:
            raise Broken
        await file.journal.control([Drop([row.number for row in await rows(file)])])
        dropped.append(event.number)
        with closing(connect(file)) as connection, connection:
            connection.execute("begin immediate")
            connection.execute("insert into email_done (number) values (?)", (event.number,))
            delivery.join(connection)

    caplog.set_level(logging.INFO)
    async with file.running(service):
        await file.publish(Placed(number=7))
        await until(lambda: dropped and not subscription(file).at_work)
    assert await done(file) == []
    said = [record.getMessage() for record in caplog.records]
    assert not [line for line in said if "had committed" in line]
    assert any("was settled by somebody else; its effects were dropped" in line for line in said), said


async def test_an_async_handler_may_join_too(file: Spine) -> None:
    service = mail()

    @service.on(Placed, retry=ONCE)
    async def note(event: Placed, delivery: Delivery) -> None:
        connection = connect(file)
        with connection:
            connection.execute("begin immediate")
            connection.execute("insert into email_done (number) values (?)", (event.number,))
            delivery.join(connection)
        connection.close()

    async with file.running(service):
        for number in range(5):
            await file.publish(Placed(number=number))
        await until(lambda: subscription(file).handled == 5)
    assert await done(file) == [0, 1, 2, 3, 4]


async def test_a_retried_delivery_may_join(file: Spine) -> None:
    service = mail()

    @service.on(Placed, retry=Retry(attempts=5, immediate=1, first_s=0.001, most_s=0.001))
    def note(event: Placed, delivery: SyncDelivery[Any]) -> None:
        if delivery.attempt < 4:
            raise Broken
        connection = connect(file)
        with connection:
            connection.execute("begin immediate")
            connection.execute("insert into email_done (number) values (?)", (event.number,))
            delivery.join(connection)
        connection.close()

    await file.publish(Placed(number=1), Placed(number=2))
    async with file.running(service):
        await until(lambda: subscription(file).waiting.count == 0 and subscription(file).handled >= 2)
    assert await done(file) == [1, 2]
    assert {"settled"} == {row.state for row in await rows(file)}


async def test_r21_publishing_within_a_connection_commits_or_rolls_back_with_it(file: Spine) -> None:
    service, handled = mail(), list[int]()

    @service.on(Placed)
    async def note(event: Placed) -> None:
        handled.append(event.number)

    async with file.running(service):
        connection = connect(file)
        for number in (1, 2):
            connection.execute("begin immediate")
            receipt = await file.publish(Placed(number=number), within=connection)
            assert not receipt.durable
            connection.rollback() if number == 1 else connection.commit()
        connection.close()
        await until(lambda: handled == [2])
    assert await file.journal.head() == 1


async def test_r21_a_connection_to_another_file_is_refused(file: Spine, tmp_path: Any) -> None:
    connection = sqlite3.connect(tmp_path / "other.db")
    with pytest.raises(SettingsError):
        await file.publish(Placed(), within=connection)
    connection.close()


async def test_a_memory_journal_says_that_it_has_no_tables(memory: Spine) -> None:
    with pytest.raises(SettingsError, match="SQLite journal.*in a test, a file in a temporary folder"):
        async with memory.running(mail()):
            pass
    with closing(sqlite3.connect(":memory:")) as own, pytest.raises(SettingsError, match="no connection to write on"):
        await memory.publish(Placed(), within=own)
    with pytest.raises(SettingsError, match="SQLAlchemy Session.*This is a object"):
        await memory.publish(Placed(), within=object())


async def test_a_thread_queries_without_await(file: Spine) -> None:
    service, seen = mail(), list[int]()

    @service.on(Placed)
    def note(event: Placed, delivery: SyncDelivery[Any]) -> None:
        delivery.execute(INSERT, number=event.number)
        with delivery.transaction() as tx:
            tx.execute(INSERT, number=event.number)
            seen.append(len(tx.query("select * from email_done")))
        seen.append(len(delivery.query("select * from email_done")))

    await file.publish(Placed(number=1))
    async with file.running(service):
        await until(lambda: subscription(file).handled == 1)
    assert seen == [2, 2]
    assert await done(file) == [1, 1]


@pytest.mark.parametrize("how", ["async", "batch"])
async def test_a_failed_statement_is_named_with_its_handler_and_its_delivery(
    file: Spine, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    caplog.handler.addFilter(CorrelationFilter())
    service = mail()

    async def note(event: Any, delivery: Any) -> None:
        delivery.execute("insert into email_done (number) values (1)")
        delivery.execute("insert into\n  nope values (:number)", number=1)

    service.on(Placed, retry=QUICK, **({"batch": Batch(10)} if how == "batch" else {}))(note)
    await file.publish(Placed(customer="ann"))
    async with file.running(service):
        (row,) = await dead(file)
    assert row.reason == "OperationalError"
    assert row.error == "OperationalError: no such table: nope; email.note executed: insert into nope values (:number)"
    said = [record.__dict__ for record in caplog.records if "failed, attempt" in record.message]
    assert [line["spine_attempt"] for line in said] == [1, 2, 3]
    assert {(line["spine_handler"], line["spine_key"]) for line in said} == {("email.note", "ann")}
    assert all("executed: insert into nope" in line["message"] for line in said)


async def test_a_statement_that_fails_in_a_transaction_is_named(file: Spine) -> None:
    service = mail()

    @service.on(Placed, retry=ONCE)
    async def note(event: Placed, delivery: Delivery) -> None:
        async with delivery.transaction() as tx:
            await tx.query("select * from nope")

    await file.publish(Placed())
    async with file.running(service):
        (row,) = await dead(file)
    assert "no such table: nope, in: select * from nope" in row.error


@pytest.mark.parametrize(
    "sql", ["commit", "delete from spine_events", "with x as (select 1) delete from spine_events", "select 1; select 2"]
)
async def test_statements_that_no_unit_may_contain_are_dead_at_once(file: Spine, sql: str) -> None:
    service = mail()

    @service.on(Placed)
    async def note(event: Placed, delivery: Delivery) -> None:
        delivery.execute(sql)

    await file.publish(Placed())
    async with file.running(service):
        (row,) = await dead(file)
    assert (row.reason, row.attempts) == ("StatementRefused", 1)


async def test_a_connection_that_was_forgotten_uncommitted_is_not_kept_open(file: Spine) -> None:
    """Its transaction holds the write lock for as long as anything refers to it."""
    service, forgotten = mail(), list[Any]()

    class Referable(sqlite3.Connection):
        pass

    @service.on(Placed, retry=ONCE)
    def note(event: Placed, delivery: SyncDelivery[Any]) -> None:
        connection = sqlite3.connect(file.journal.path, factory=Referable)  # type: ignore[attr-defined]
        delivery.join(connection)
        forgotten.append(weakref.ref(connection))

    await file.publish(Placed())
    async with file.running(service):
        (row,) = await dead(file)
        assert forgotten[0]() is None
    assert "has not committed" in row.error


async def test_a_delivery_with_a_transaction_of_its_own_joins_no_connection(file: Spine) -> None:
    service = mail()

    @service.on(Placed, retry=ONCE)
    async def note(event: Placed, delivery: Delivery) -> None:
        async with delivery.transaction() as tx:
            await tx.execute("insert into email_done (number) values (1)")
        delivery.join(connect(file))

    await file.publish(Placed())
    async with file.running(service):
        (row,) = await dead(file)
    assert row.reason == "WouldDeadlock"
    assert await done(file) == []
