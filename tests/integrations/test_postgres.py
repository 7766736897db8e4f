"""`within=` and `delivery.join` on PostgreSQL, with every kind of connection: rows and events are one commit, or none."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import Column, String, create_engine, insert, select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, declarative_base, sessionmaker

from eventspine import Delivery, Event, Service, Spine
from eventspine.errors import Conflict, EventRefused, Fenced, JournalError, SettingsError
from eventspine.integrations.sqlalchemy import refuse_dual_writes
from eventspine.journal._postgres_bridge import filled
from eventspine.journal.port import Append, Unit, Verdict
from eventspine.testing.servers import Server
from eventspine.within import carrier_of, write_async
from tests.journal.material import WAIT_S, event


class Paid(Event, context="till", key="order"):
    order: str


till = Service("till")


@pytest.fixture
async def spine(postgres_url: str, schema: str) -> AsyncIterator[Spine]:
    async with Spine(postgres_url, service=till) as opened:
        with psycopg.connect(postgres_url.partition("?")[0], autocommit=True) as connection:
            connection.execute(f"create table {schema}.rows (n text)")
        yield opened


class Own:
    """A transaction of the caller's: the connection to hand over, SQL on it, and its ends."""

    def __init__(self, within: Any, execute: Any, commit: Any, rollback: Any) -> None:
        self.within, self.execute, self.commit, self.rollback = within, execute, commit, rollback


def _awaitable(function: Any) -> Any:
    async def call(*arguments: Any) -> Any:
        return function(*arguments)

    return call


@asynccontextmanager
async def _psycopg(url: str) -> AsyncIterator[Own]:
    with psycopg.connect(url) as own:
        yield Own(own, _awaitable(own.execute), _awaitable(own.commit), _awaitable(own.rollback))


@asynccontextmanager
async def _async_psycopg(url: str) -> AsyncIterator[Own]:
    async with await psycopg.AsyncConnection.connect(url) as own:
        yield Own(own, own.execute, own.commit, own.rollback)


@asynccontextmanager
async def _asyncpg(url: str) -> AsyncIterator[Own]:
    own = await asyncpg.connect(url)
    transaction = own.transaction()
    await transaction.start()
    try:
        yield Own(own, own.execute, transaction.commit, transaction.rollback)
    finally:
        await own.close()


@asynccontextmanager
async def _asyncpg_pool(url: str) -> AsyncIterator[Own]:
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool, pool.acquire() as own:
        transaction = own.transaction()
        await transaction.start()
        yield Own(own, own.execute, transaction.commit, transaction.rollback)


@asynccontextmanager
async def _session(url: str) -> AsyncIterator[Own]:
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    try:
        with Session(engine) as own:
            yield Own(
                own, _awaitable(lambda sql: own.execute(text(sql))), _awaitable(own.commit), _awaitable(own.rollback)
            )
    finally:
        engine.dispose()


@asynccontextmanager
async def _async_session(url: str, driver: str) -> AsyncIterator[Own]:
    engine = create_async_engine(url.replace("postgresql:", f"postgresql+{driver}:"))
    try:
        async with AsyncSession(engine) as own:
            yield Own(own, lambda sql: own.execute(text(sql)), own.commit, own.rollback)
    finally:
        await engine.dispose()


KINDS = {
    "psycopg": _psycopg,
    "psycopg, async": _async_psycopg,
    "asyncpg": _asyncpg,
    "asyncpg's pool": _asyncpg_pool,
    "Session": _session,
    "AsyncSession on asyncpg": lambda url: _async_session(url, "asyncpg"),
    "AsyncSession on psycopg": lambda url: _async_session(url, "psycopg"),
}


@pytest.fixture(params=KINDS)
async def own(request: pytest.FixtureRequest, postgres_url: str, spine: Spine) -> AsyncIterator[Own]:
    async with KINDS[request.param](postgres_url.partition("?")[0]) as own:
        yield own


async def rows_of(spine: Spine) -> list[str]:
    return [row["n"] for row in await spine.journal.query("select n from rows order by n", {})]


@pytest.mark.parametrize("first", ["row", "event"])
@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_rows_and_events_are_one_commit(spine: Spine, schema: str, own: Own, end: str, first: str):
    if first == "row":
        await own.execute(f"insert into {schema}.rows values ('it''s 100 %')")
    receipt = await spine.publish(Paid(order="it's 100 % \\ \u00e9\U0001f600"), within=own.within)
    await spine.publish(Paid(order="two"), within=own.within)
    if first == "event":
        await own.execute(f"insert into {schema}.rows values ('it''s 100 %')")
    assert not receipt.durable
    assert 0 == await spine.journal.head()
    await getattr(own, end)()
    keys = [record.key for record in (await spine.journal.feed(0, limit=10)).records]
    assert (["it's 100 %25 \\ \u00e9\U0001f600", "two"] if end == "commit" else []) == keys
    assert (["it's 100 %"] if end == "commit" else []) == await rows_of(spine)


async def test_a_conflict_leaves_the_callers_transaction_as_it_was(spine: Spine, schema: str, own: Own):
    stream = Append([event()], "till", "o-1", 0)
    assert "done" == (await spine.journal.commit([Unit([stream])]))[0].kind
    await own.execute(f"insert into {schema}.rows values ('kept')")
    with pytest.raises(Conflict):
        await write_async(carrier_of(own.within), spine.journal, Unit([Append([event()], "till", "o-1", 0)]))
    await spine.publish(Paid(order="one"), within=own.within)
    await own.commit()
    assert ["kept"] == await rows_of(spine)
    assert 2 == await spine.journal.head()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_handler_joins_its_own_transaction_and_the_event_is_handled_with_it(
    postgres_url: str, schema: str, spine: Spine, kind: str
):
    url, handled = postgres_url.partition("?")[0], asyncio.Event()
    books = Service("books")

    @books.on(Paid)
    async def book(paid: Paid, delivery: Delivery[Paid]) -> None:
        async with KINDS[kind](url) as own:
            await own.execute(f"insert into {schema}.rows values ('{paid.order}')")
            if delivery.attempt == 1:
                await own.rollback()
                raise ValueError("the first time it fails")
            joined = delivery.join(own.within)
            if joined is not None:
                await joined
            await own.commit()
        handled.set()

    async with spine.running(books):
        await spine.publish(Paid(order="one"))
        await asyncio.wait_for(handled.wait(), WAIT_S)
    assert ["one"] == await rows_of(spine), "once, whatever was tried"
    mine = next(row for row in await spine.journal.subscriptions() if row.name == "books.book")
    async with spine.running(books):
        pass
    assert [] == await spine.journal.deliveries(subscriptions=[mine.number], states=["parked", "dead"])


@pytest.mark.parametrize("then", ["raises", "returns an event", "takes too long"])
@pytest.mark.parametrize("kind", KINDS)
async def test_what_fails_behind_the_commit_that_it_joined_is_done_once_and_told(
    postgres_url: str, schema: str, spine: Spine, kind: str, then: str, caplog: pytest.LogCaptureFixture
):
    url, attempts = postgres_url.partition("?")[0], list[str]()
    books = Service("books")

    @books.on(Paid, timeout_s=0.3 if then == "takes too long" else 30)
    async def book(paid: Paid, delivery: Delivery[Paid]) -> Paid | None:
        attempts.append(paid.order)
        async with KINDS[kind](url) as own:
            await own.execute(f"insert into {schema}.rows values ('{paid.order}')")
            joined = delivery.join(own.within)
            await joined if joined is not None else None
            await own.commit()
        if then == "raises":
            raise ValueError("the printer is out of paper")
        if then == "takes too long":
            await asyncio.Event().wait()
        return Paid(order=paid.order)

    async with spine.running(books):
        await spine.publish(Paid(order="one"))
        while not (told := [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]):
            await asyncio.sleep(0.01)
    assert ["one"] == attempts
    assert ["one"] == await rows_of(spine)
    assert 1 == await spine.journal.head()
    assert "it is not tried again" in told[0]


@pytest.mark.parametrize("kind", [*KINDS, "psycopg, transaction()"])
async def test_what_joins_before_what_it_follows_is_stored_is_rolled_back_whatever_its_handler_does(
    postgres_url: str, schema: str, spine: Spine, kind: str
):
    """Committed, its row would come again with the next attempt."""
    url, wrote, attempts, last = postgres_url.partition("?")[0], asyncio.Event(), list[int](), asyncio.Event()
    books = Service("books")

    @books.on(Paid)
    async def book(paid: Paid, delivery: Delivery[Paid]) -> None:
        attempts.append(delivery.attempt)
        if len(attempts) == 1:
            return  # the second of the key follows it
        async with KINDS.get(kind, _psycopg_block)(url) as own:
            await own.execute(f"insert into {schema}.rows values ('{paid.order}')")
            wrote.set()
            with suppress(Fenced):
                joined = delivery.join(own.within)
                await joined if joined is not None else None
            await own.commit()
        if len(attempts) == 3:
            last.set()

    commit = spine.journal.commit

    async def later(units: Sequence[Unit]) -> list[Verdict]:
        if any(unit.done for unit in units):
            await wrote.wait()
        return await commit(units)

    spine.journal.commit = later  # type: ignore[method-assign]
    async with spine.running(books):
        await spine.publish(Paid(order="one"), Paid(order="one"))
        await asyncio.wait_for(last.wait(), WAIT_S)
    assert ([1, 1, 1], ["one"]) == (attempts, await rows_of(spine))


@asynccontextmanager
async def _psycopg_block(url: str) -> AsyncIterator[Own]:
    with psycopg.connect(url) as own, own.transaction():
        yield Own(own, _awaitable(own.execute), _awaitable(lambda: None), None)


async def test_asyncpg_outside_of_a_transaction_is_refused(spine: Spine, postgres_url: str):
    own = await asyncpg.connect(postgres_url.partition("?")[0])
    with pytest.raises(SettingsError, match="commits each statement by itself"):
        await spine.publish(Paid(order="one"), within=own)
    await own.close()


@pytest.mark.parametrize("kind", ["session", "async_session"])
async def test_an_engine_in_autocommit_is_told_sqlalchemys_own_way_out(spine: Spine, postgres_url: str, kind: str):
    async with _on_autocommit(postgres_url.partition("?")[0], kind) as own:
        with pytest.raises(SettingsError, match="commits each statement by itself") as refused:
            await spine.publish(Paid(order="one"), within=own)
    assert 'engine.execution_options(isolation_level="READ COMMITTED")' in str(refused.value)
    assert "connection.transaction()" not in str(refused.value)


@asynccontextmanager
async def _on_autocommit(url: str, kind: str) -> AsyncIterator[Any]:
    if kind == "session":
        engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
        with Session(engine) as own:
            yield own
        engine.dispose()
    else:
        awaited = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"), isolation_level="AUTOCOMMIT")
        async with AsyncSession(awaited) as other:
            yield other
        await awaited.dispose()


async def test_a_transaction_that_may_only_read_is_told_so(spine: Spine, schema: str, postgres_url: str):
    engine = create_engine(
        postgres_url.partition("?")[0].replace("postgresql:", "postgresql+psycopg:"),
        execution_options={"postgresql_readonly": True},
    )
    with Session(engine) as own, pytest.raises(JournalError, match="Your transaction is read-only"):
        await spine.publish(Paid(order="one"), within=own)
    engine.dispose()
    assert 0 == await spine.journal.head()


# --- a forgotten within= ------------------------------------------------------------------------------------------------


def _plain(url: str) -> str:
    return url.replace("postgresql:", "postgresql+psycopg:")


def _host_in_query(url: str) -> str:
    user, _, place = url.removeprefix("postgresql://").partition("@")
    host, _, database = place.partition("/")
    return f"postgresql+psycopg://{user}@/{database}?host={host}"


def _by_name(url: str) -> str:
    return _plain(url).replace("127.0.0.1", "localhost")


@pytest.mark.parametrize("written", [_plain, _host_in_query, _by_name], ids=lambda one: one.__name__.strip("_"))
async def test_a_forgotten_within_is_refused(spine: Spine, schema: str, postgres_url: str, written: Any):
    engine = create_engine(written(postgres_url.partition("?")[0]))
    sessions = sessionmaker(engine)
    refuse_dual_writes(sessions)
    with sessions() as own:
        own.add(_row_of(schema)(n="one"))
        with pytest.raises(EventRefused, match="within=session"):
            await spine.publish(Paid(order="one"))
        own.rollback()
        await spine.publish(Paid(order="one"))
    engine.dispose()
    assert 1 == await spine.journal.head()


async def test_a_forgotten_within_is_refused_whatever_way_the_change_was_sent(
    spine: Spine, schema: str, postgres_url: str
):
    """Here nothing else would find it: nobody waits for the other's lock."""
    engine = create_engine(_plain(postgres_url.partition("?")[0]))
    sessions, row = sessionmaker(engine), _row_of(schema)
    refuse_dual_writes(sessions)
    changes: list[Any] = [
        lambda own: own.bulk_save_objects([row(n="one")]),
        lambda own: own.bulk_insert_mappings(row, [{"n": "one"}]),
        lambda own: own.connection().execute(row.__table__.insert().values(n="one")),
        lambda own: own.execute(text(f"insert into \"{schema}\".rows values ('one')")),
        lambda own: own.execute(select(insert(row).values(n="one").returning(row.n).cte("made"))),
    ]
    for change in changes:
        with sessions() as own:
            change(own)
            with pytest.raises(EventRefused, match="within=session"):
                await spine.publish(Paid(order="one"))
    with sessions() as own:
        own.execute(select(row).with_for_update()).all()
        assert (await spine.publish(Paid(order="one"))).durable
    engine.dispose()
    assert 1 == await spine.journal.head()


async def test_a_forgotten_within_is_refused_to_who_awaits_his_session(spine: Spine, schema: str, postgres_url: str):
    engine = create_async_engine(postgres_url.partition("?")[0].replace("postgresql:", "postgresql+asyncpg:"))
    sessions = async_sessionmaker(engine)
    refuse_dual_writes(sessions)
    async with sessions() as own:
        own.add(_row_of(schema)(n="one"))
        await own.flush()
        with pytest.raises(EventRefused, match="within=session"):
            await spine.publish(Paid(order="one"))
    await engine.dispose()
    assert 0 == await spine.journal.head()


async def test_a_session_on_another_database_forbids_nothing(spine: Spine, schema: str, postgres_url: str):
    url = _plain(postgres_url.partition("?")[0])
    engine = create_engine(f"{url.rpartition('/')[0]}/template1")
    sessions = sessionmaker(engine)
    refuse_dual_writes(sessions)
    with sessions() as own:
        own.add(_row_of(schema)(n="one"))
        await spine.publish(Paid(order="one"))
    engine.dispose()


def _row_of(schema: str) -> Any:
    base: Any = declarative_base()
    return type(
        "Row",
        (base,),
        {"__tablename__": "rows", "__table_args__": {"schema": schema}, "n": Column(String, primary_key=True)},
    )


async def test_whoever_is_cancelled_leaves_the_connection_in_peace(spine: Spine, postgres_url: str):
    own = await asyncpg.connect(postgres_url.partition("?")[0])
    for turns in range(6):
        async with own.transaction():
            publishing = asyncio.create_task(spine.publish(Paid(order="one"), within=own))
            for _ in range(turns):
                await asyncio.sleep(0)
            publishing.cancel()
            await asyncio.wait([publishing])
            assert 1 == await own.fetchval("select 1"), "nobody else is using it"
    await own.close()


async def test_values_are_written_into_a_statement_as_they_are(spine: Spine, postgres_url: str):
    when = datetime(2026, 1, 2, tzinfo=UTC)
    values = {
        "text": ["a'b\\c %s :x", "", "\u00e9\U0001f600"],
        "bytea": [bytes(range(256)), b"'", b"\\", b""],
        "bigint": [5, -1, 2**62],
        "boolean": [True, False],
        "timestamptz": [when],
        "bytea[]": [[b"'\\", None, bytes(range(256))], []],
        "text[]": [["a'b", None, 'c"d\\'], []],
    }
    own = await asyncpg.connect(postgres_url.partition("?")[0])
    for kind, some in values.items():
        for value in [None, *some]:
            row = await own.fetchrow(filled(f"select %(one)s::{kind}, '%%'", {"one": value}))
            assert [value, "%"] == list(row)
    await own.close()


DJANGO = """
import sys
import django
from django.conf import settings
host, port, schema, end = sys.argv[1:]
settings.configure(DATABASES={"default": {
    "ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": "postgres", "HOST": host, "PORT": port}})
django.setup()
from django.db import connection, transaction
from eventspine import Event, Service
from eventspine.sync import Spine


class Paid(Event, context="till", key="order"):
    order: str


with Spine(f"postgresql://postgres@{host}:{port}/postgres?schema={schema}", service=Service("till")) as spine:
    try:
        with transaction.atomic():
            connection.cursor().execute(f"insert into {schema}.rows values ('one')")
            with transaction.atomic():
                spine.publish(Paid(order="one"), within=connection)
            if end == "rollback":
                raise KeyError
    except KeyError:
        pass
"""


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_djangos_own_connection_is_taken(spine: Spine, schema: str, postgres_server: Server, end: str):
    host, _, port = postgres_server.address.partition(":")
    arguments = ["-W", "error", "-c", DJANGO, host, port, schema, end]
    done = await asyncio.create_subprocess_exec(sys.executable, *arguments)
    assert 0 == await done.wait()
    assert (["one"] if end == "commit" else []) == await rows_of(spine)
    assert (1 if end == "commit" else 0) == await spine.journal.head()
