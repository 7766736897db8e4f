"""Events and rows of SQLAlchemy's in one commit: Session, AsyncSession, Connection, AsyncConnection, aiosqlite."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from functools import wraps
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from sqlalchemy import create_engine, event, insert, inspect as sa_inspect, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from eventspine import Delivery, Event, Retry, Service, Spine
from eventspine.errors import DeclarationError, EventRefused, Fenced, JournalBusy, SettingsError
from eventspine.integrations.sqlalchemy import begin_immediate, refuse_dual_writes
from eventspine.journal import _sqlite_file
from eventspine.journal.port import Unit, Verdict
from eventspine.sync import Delivery as BlockingDelivery, Spine as BlockingSpine
from eventspine.within import carrier_of


class Placed(Event, context="orders", key="customer"):
    customer: str = "ann"


class Placed2(Event, context="rows", key="customer"):
    customer: str = "ann"


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "shop_rows"
    id: Mapped[int] = mapped_column(primary_key=True)


class Note(Base):
    __tablename__ = "shop_notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(default="")


SHOP: Service[Any] = Service("shop", publishes="orders")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    engine = create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    engine.dispose()
    return path


@pytest.fixture
async def spine(path: Path) -> AsyncIterator[Spine]:
    async with Spine(f"sqlite:///{path}", service=SHOP) as opened:
        yield opened


def stored(path: Path) -> tuple[int, int]:
    """(rows, events), as anybody else sees them."""
    with closing(sqlite3.connect(path)) as own:
        rows = own.execute("select count(*) from shop_rows").fetchone()[0]
        events = own.execute("select count(*) from spine_events").fetchone()[0]
    return rows, events


# --- whatever people have in hand: each opens it, and gives (within, add a row, commit, roll back) -----------------------


class Hand:
    def __init__(self, within: Any, add: Any, commit: Any, rollback: Any) -> None:
        self.within, self.add, self.commit, self.rollback = within, add, commit, rollback


def awaited(call: Callable[..., Any]) -> Callable[..., Any]:
    async def run(*arguments: Any) -> None:
        call(*arguments)

    return run


@asynccontextmanager
async def session(path: Path) -> AsyncIterator[Hand]:
    engine = create_engine(f"sqlite:///{path}")
    with Session(engine) as own:
        yield Hand(own, awaited(lambda: own.add(Row())), awaited(own.commit), awaited(own.rollback))
    engine.dispose()


@asynccontextmanager
async def scoped(path: Path) -> AsyncIterator[Hand]:
    engine = create_engine(f"sqlite:///{path}")
    own = scoped_session(sessionmaker(engine))
    yield Hand(own, awaited(lambda: own.add(Row())), awaited(own.commit), awaited(own.rollback))
    own.remove()
    engine.dispose()


@asynccontextmanager
async def connection(path: Path) -> AsyncIterator[Hand]:
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as own:
        insert = text("insert into shop_rows default values")
        yield Hand(own, awaited(lambda: own.execute(insert)), awaited(own.commit), awaited(own.rollback))
    engine.dispose()


@asynccontextmanager
async def async_session(path: Path) -> AsyncIterator[Hand]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    async with AsyncSession(engine) as own:
        yield Hand(own, awaited(lambda: own.add(Row())), own.commit, own.rollback)
    await engine.dispose()


@asynccontextmanager
async def async_scoped(path: Path) -> AsyncIterator[Hand]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    own = async_scoped_session(async_sessionmaker(engine), scopefunc=lambda: 1)
    yield Hand(own, awaited(lambda: own.add(Row())), own.commit, own.rollback)
    await own.remove()
    await engine.dispose()


@asynccontextmanager
async def async_connection(path: Path) -> AsyncIterator[Hand]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    async with engine.connect() as own:

        async def add() -> None:
            await own.execute(text("insert into shop_rows default values"))

        yield Hand(own, add, own.commit, own.rollback)
    await engine.dispose()


@asynccontextmanager
async def plain_aiosqlite(path: Path) -> AsyncIterator[Hand]:
    async with aiosqlite.connect(path) as own:

        async def add() -> None:
            await own.execute("insert into shop_rows default values")

        yield Hand(own, add, own.commit, own.rollback)


EVERY = [session, scoped, connection, async_session, async_scoped, async_connection, plain_aiosqlite]


@pytest.fixture(params=EVERY, ids=lambda one: one.__name__)
async def hand(request: Any, path: Path) -> AsyncIterator[Hand]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(request.param(path))


async def test_rows_and_events_commit_as_one(hand: Hand, spine: Spine, path: Path) -> None:
    await hand.add()
    receipt = await spine.publish(Placed(), within=hand.within)
    assert (receipt.durable, stored(path)) == (False, (0, 0))
    await hand.commit()
    assert stored(path) == (1, 1)


async def test_rows_and_events_are_rolled_back_as_one(hand: Hand, spine: Spine, path: Path) -> None:
    await hand.add()
    await spine.publish(Placed(), Placed(), within=hand.within)
    await hand.rollback()
    assert stored(path) == (0, 0)


async def test_an_event_alone_begins_the_transaction_that_the_caller_commits(
    hand: Hand, spine: Spine, path: Path
) -> None:
    await spine.publish(Placed(), within=hand.within)
    await hand.add()
    assert stored(path) == (0, 0)
    await hand.commit()
    assert stored(path) == (1, 1)


@pytest.mark.parametrize("kind", EVERY[:3], ids=lambda one: one.__name__)
async def test_the_blocking_spine_takes_what_blocks(kind: Any, path: Path) -> None:
    with BlockingSpine(f"sqlite:///{path}", service=SHOP) as spine:
        async with kind(path) as hand:
            await hand.add()
            spine.publish(Placed(), within=hand.within)
            await hand.commit()
    assert stored(path) == (1, 1)


@pytest.mark.parametrize("kind", EVERY[3:], ids=lambda one: one.__name__)
async def test_the_blocking_spine_refuses_what_is_awaited(kind: Any, path: Path) -> None:
    with BlockingSpine(f"sqlite:///{path}", service=SHOP) as spine:
        async with kind(path) as hand:
            with pytest.raises(SettingsError, match="await spine.publish"):
                spine.publish(Placed(), within=hand.within)
            await hand.rollback()
    assert stored(path) == (0, 0)


@pytest.mark.parametrize("kind", EVERY, ids=lambda one: one.__name__)
async def test_another_file_is_refused_as_the_dual_write_that_it_is(kind: Any, spine: Spine, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as own:
        own.execute("create table shop_rows (id integer primary key)")
    async with kind(other) as hand:
        with pytest.raises(SettingsError, match=r"other\.db.*dual write"):
            await spine.publish(Placed(), within=hand.within)
        await hand.rollback()


async def test_pending_rows_are_written_before_their_events_and_refuse_them(path: Path, spine: Spine) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with Session(engine) as own:
        own.add_all([Row(id=1), Row(id=1)])
        with pytest.raises(IntegrityError):
            await spine.publish(Placed(), within=own)
        own.rollback()
    engine.dispose()
    assert stored(path) == (0, 0)


async def test_a_nested_transaction_takes_its_events_with_it(path: Path, spine: Spine) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    begin_immediate(engine)
    async with AsyncSession(engine) as own:
        own.add(Row())
        async with own.begin_nested() as nested:
            own.add(Row())
            await spine.publish(Placed(), within=own)
            await nested.rollback()
        await spine.publish(Placed(customer="bob"), within=own)
        await own.commit()
    await engine.dispose()
    assert stored(path) == (1, 1)


async def test_a_session_that_commits_each_statement_is_told_to_begin(path: Path, spine: Spine) -> None:
    engine = create_engine(f"sqlite:///{path}", isolation_level="AUTOCOMMIT")
    with Session(engine) as own, pytest.raises(SettingsError, match=r"begin_immediate\(engine\)"):
        await spine.publish(Placed(), within=own)
    engine.dispose()


# --- what was read still holds ------------------------------------------------------------------------------------------


def deferred(engine: Any) -> None:
    """The recipe that many have copied: snapshots from the first read on."""

    @event.listens_for(engine, "connect")
    def connected(driver: Any, _: object) -> None:
        driver.isolation_level = None

    @event.listens_for(engine, "begin")
    def begun(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")


@pytest.mark.parametrize("safe", [False, True])
async def test_a_snapshot_that_others_have_made_old_names_the_way_to_begin(
    path: Path, spine: Spine, safe: bool
) -> None:
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 0.1})
    (begin_immediate if safe else deferred)(engine)
    with Session(engine) as own:
        assert own.execute(text("select count(*) from shop_rows")).scalar() == 0
        with closing(sqlite3.connect(path, timeout=0.1)) as other:
            try:
                other.execute("insert into shop_rows default values")
                other.commit()
            except sqlite3.OperationalError:
                assert safe, "the lock was ours"
        if safe:
            await spine.publish(Placed(), within=own)
            own.commit()
        else:
            with pytest.raises(JournalBusy, match=r"BEGIN IMMEDIATE.*sqlalchemy.begin_immediate\(engine\)"):
                await spine.publish(Placed(), within=own)
            own.rollback()
    engine.dispose()
    assert stored(path) == ((0, 1) if safe else (1, 0))


async def test_who_only_reads_begins_without_the_lock(path: Path, spine: Spine) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    begin_immediate(engine)
    async with AsyncSession(engine.execution_options(spine_read_only=True)) as reading:
        await reading.execute(text("select count(*) from shop_rows"))
        assert (await spine.publish(Placed())).durable
    await engine.dispose()


# --- a forgotten within= ------------------------------------------------------------------------------------------------


async def forget(path: Path, spine: Spine, asynchronous: bool, change: Any) -> None:
    """Publish without within= while a session of this task has this change; not guarded, unless the test did."""
    if asynchronous:
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        sessions = async_sessionmaker(engine)
        refuse_dual_writes(sessions)
        async with sessions() as own:
            await own.run_sync(change)
            try:
                await spine.publish(Placed())
            finally:
                await own.rollback()
                await engine.dispose()
    else:
        plain = create_engine(f"sqlite:///{path}")
        made = sessionmaker(plain)
        refuse_dual_writes(made)
        with made() as own:
            change(own)
            try:
                await spine.publish(Placed())
            finally:
                own.rollback()
                plain.dispose()


def pending(session: Session) -> None:
    session.add(Row())


def flushed(session: Session) -> None:
    session.add(Row())
    session.flush()


def executed(session: Session) -> None:
    session.execute(insert(Row))


def saved_in_bulk(session: Session) -> None:
    session.bulk_save_objects([Row()])


def inserted_as_mappings(session: Session) -> None:
    session.bulk_insert_mappings(sa_inspect(Row), [{"id": 7}])


def executed_by_its_connection(session: Session) -> None:
    session.connection().execute(insert(Row))


def executed_as_text(session: Session) -> None:
    session.execute(text("insert into shop_rows default values"))


CHANGES = [
    pending, flushed, executed, saved_in_bulk, inserted_as_mappings, executed_by_its_connection, executed_as_text,
]  # fmt: skip


def committed(session: Session) -> None:
    session.add(Row())
    session.commit()
    session.execute(select(Row)).all()


@pytest.mark.parametrize("change", CHANGES, ids=lambda one: one.__name__)
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_forgotten_within_is_refused_at_once(path: Path, spine: Spine, asynchronous: bool, change: Any) -> None:
    with pytest.raises(EventRefused, match="within=session"):
        await forget(path, spine, asynchronous, change)
    assert stored(path) == (0, 0)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_session_that_has_committed_or_only_reads_forbids_nothing(
    path: Path, spine: Spine, asynchronous: bool
) -> None:
    await forget(path, spine, asynchronous, committed)
    assert stored(path) == (1, 1)


async def test_what_only_reads_forbids_nothing_and_a_connection_that_outlives_its_sessions_remembers_none(
    path: Path, spine: Spine
) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        sessions = sessionmaker(connection)
        refuse_dual_writes(sessions)
        for _ in range(3):
            with sessions() as own:
                own.execute(text("with one as (select 1 as id) select id from one")).all()
                with own.begin_nested():
                    assert (await spine.publish(Placed())).durable
        assert not list(connection.dispatch.after_cursor_execute)
    engine.dispose()


def set_as_it_was(session: Session) -> None:
    note = session.get_one(Note, 1)
    note.text = str(note.text)


def set_anew(session: Session) -> None:
    session.get_one(Note, 1).text = "new"


async def test_an_attribute_that_is_set_to_what_it_was_forbids_nothing(path: Path, spine: Spine) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as own:
        own.execute("insert into shop_notes values (1, 'old')")
    await forget(path, spine, False, set_as_it_was)
    with pytest.raises(EventRefused, match="within=session"):
        await forget(path, spine, False, set_anew)
    assert stored(path) == (0, 1)


async def test_a_session_with_an_engine_for_each_class_is_told_what_to_pass(path: Path, spine: Spine) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with Session(binds={Row: engine}) as session:
        session.add(Row())
        with pytest.raises(SettingsError, match=r"within=session.connection\(bind_arguments"):
            await spine.publish(Placed(), within=session)
        await spine.publish(Placed(), within=session.connection(bind_arguments={"mapper": Row}))
        session.commit()
    engine.dispose()
    assert stored(path) == (1, 1)


def test_a_forgotten_within_is_refused_to_who_blocks_too(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}")
    made = sessionmaker(engine)
    refuse_dual_writes(made)
    with BlockingSpine(f"sqlite:///{path}", service=SHOP) as spine, made() as own:
        own.add(Row())
        with pytest.raises(EventRefused, match="within=session"):
            spine.publish(Placed())
        spine.publish(Placed(), within=own)
        own.commit()
        assert spine.publish(Placed()).durable
    engine.dispose()
    assert stored(path) == (1, 2)


async def test_another_tasks_session_and_another_files_forbid_nothing(path: Path, spine: Spine, tmp_path: Path) -> None:
    other = create_engine(f"sqlite:///{tmp_path}/other.db")
    Base.metadata.create_all(other)
    made = sessionmaker(other)
    refuse_dual_writes(made)

    async def elsewhere(own: Session) -> None:
        own.add(Row())

    here = create_engine(f"sqlite:///{path}")
    mine = sessionmaker(here)
    refuse_dual_writes(mine)
    with made() as own, mine() as of_another_task:
        own.add(Row())
        await asyncio.create_task(elsewhere(of_another_task))
        assert (await spine.publish(Placed())).durable
    other.dispose()
    here.dispose()


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="only Linux tells who holds a lock")
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_unguarded_the_lock_that_ones_own_session_holds_is_refused_and_names_within(
    path: Path, spine: Spine, asynchronous: bool
) -> None:
    """Nothing was set up: the journal finds that this very process keeps it waiting."""
    async with (async_session if asynchronous else session)(path) as hand:
        await hand.add()
        flush = hand.within.flush()
        if asynchronous:
            await flush
        began = time.monotonic()
        with pytest.raises(JournalBusy, match="within=<session or connection>"):
            await spine.publish(Placed())
        assert time.monotonic() - began < 10, "long before the limit of 30 s"
        await hand.rollback()
    assert stored(path) == (0, 0)


def test_a_journal_that_would_be_made_inside_ones_own_transaction_says_to_open_first(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}")
    spine = BlockingSpine(f"sqlite:///{path}", service=SHOP)
    with Session(engine) as own:
        own.add(Row())
        own.flush()
        with pytest.raises(JournalBusy, match=r"open the spine before.*spine.open\(\)"):
            spine.publish(Placed(), within=own)
        own.rollback()
        with spine.open():
            own.add(Row())
            spine.publish(Placed(), within=own)
            own.commit()
    engine.dispose()
    assert stored(path) == (1, 1)


# --- in handlers: delivery.join(session) ----------------------------------------------------------------------------------


def handling(path: Path, join: str, failures: int = 0) -> tuple[Service[Any], list[int]]:
    """A service that adds a row through an AsyncSession, and fails so many times after it has joined."""
    service, attempts = Service("rows"), list[int]()
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")

    @service.on(Placed, retry=Retry(attempts=5, first_s=0.01))
    async def add(event: Placed, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        async with AsyncSession(engine) as own:
            own.add(Row())
            delivery.publish(Placed2())
            if join == "awaited":
                await delivery.join(own)
            elif join == "forgotten":
                coroutine: Any = delivery.join(own)
                coroutine.close()  # as if never awaited, without Python's warning
            if len(attempts) <= failures:
                raise OSError("after it has joined")
            await own.commit()
        await engine.dispose()

    return service, attempts


async def test_a_handlers_rows_its_events_and_its_end_are_one_commit(path: Path, spine: Spine) -> None:
    service, attempts = handling(path, "awaited", failures=2)
    async with spine.running(service):
        await spine.publish(Placed())
        await handled(spine, lambda: stored(path) == (1, 2))
    assert attempts == [1, 2, 3]
    assert stored(path) == (1, 2)


async def test_a_join_that_was_not_awaited_is_dead_at_once_and_never_tried_again(path: Path, spine: Spine) -> None:
    service, attempts = handling(path, "forgotten")
    async with spine.running(service):
        await spine.publish(Placed())
        await handled(spine, lambda: dead(path))
    assert attempts == [1]
    assert stored(path) == (1, 1)
    assert "await delivery.join(session)" in dead(path)[0]


async def test_a_def_handler_may_not_join_what_is_awaited(path: Path, spine: Spine) -> None:
    service = Service("rows")
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")

    @service.on(Placed, retry=Retry(attempts=1))
    def add(event: Placed, delivery: BlockingDelivery) -> None:
        delivery.join(AsyncSession(engine))

    async with spine.running(service):
        await spine.publish(Placed())
        await handled(spine, lambda: dead(path))
    await engine.dispose()
    assert "is written on by awaiting" in dead(path)[0]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_handler_that_is_to_return_an_event_may_not_join(path: Path, spine: Spine, asynchronous: bool) -> None:
    """Its event would be lost, whatever else it does: it commits nothing, and is not tried again."""
    service = Service("rows")
    engine, awaited = create_engine(f"sqlite:///{path}"), create_async_engine(f"sqlite+aiosqlite:///{path}")

    def add(event: Placed, delivery: BlockingDelivery) -> Placed2:
        with Session(engine) as own:
            own.add(Row())
            with suppress(DeclarationError):
                delivery.join(own)
            own.commit()
        return Placed2()

    async def add_awaiting(event: Placed, delivery: Delivery) -> Placed2:
        async with AsyncSession(awaited) as own:
            own.add(Row())
            with suppress(DeclarationError):
                await delivery.join(own)
            await own.commit()
        return Placed2()

    service.on(Placed, retry=Retry(attempts=1))(add_awaiting if asynchronous else add)
    async with spine.running(service):
        await spine.publish(Placed())
        await handled(spine, lambda: dead(path))
    engine.dispose()
    await awaited.dispose()
    assert stored(path) == (0, 1)


async def test_such_a_handler_is_dead_at_once_and_told_to_publish_before_it_joins(path: Path, spine: Spine) -> None:
    service, engine = Service("rows"), create_engine(f"sqlite:///{path}")

    @service.on(Placed)
    def add(event: Placed, delivery: BlockingDelivery) -> Placed2:
        with Session(engine) as own:
            own.add(Row())
            delivery.join(own)
            own.commit()
        return Placed2()

    async with spine.running(service):
        await spine.publish(Placed())
        await handled(spine, lambda: dead(path))
    engine.dispose()
    assert stored(path) == (0, 1)
    assert "Publish it before join(), by delivery.publish(...), and write -> None" in dead(path)[0]


async def test_a_decorator_that_joins_may_publish_what_the_handler_in_it_returns(path: Path, spine: Spine) -> None:
    service, engine = Service("rows"), create_engine(f"sqlite:///{path}")

    def in_a_session(handler: Callable[[Placed, Session], Placed2]) -> Callable[[Placed, BlockingDelivery], None]:
        @wraps(handler)
        def handle(event: Placed, delivery: BlockingDelivery) -> None:
            with Session(engine) as own:
                delivery.publish(handler(event, own))
                delivery.join(own)
                own.commit()

        return handle

    @service.on(Placed)
    @in_a_session
    def add(event: Placed, own: Session) -> Placed2:
        own.add(Row())
        return Placed2()

    async with spine.running(service):
        await spine.publish(Placed())
        await handled(spine, lambda: stored(path) == (1, 2))
    engine.dispose()
    assert dead(path) == []


async def test_a_second_join_is_told_of_the_first(path: Path, spine: Spine) -> None:
    service, engine = Service("rows"), create_engine(f"sqlite:///{path}")

    @service.on(Placed, retry=Retry(attempts=1))
    def add(event: Placed, delivery: BlockingDelivery) -> None:
        with Session(engine) as own:
            delivery.join(own)
            delivery.join(own)

    async with spine.running(service):
        await spine.publish(Placed())
        await handled(spine, lambda: dead(path))
    engine.dispose()
    assert "has joined a transaction already" in dead(path)[0]


async def test_a_join_in_a_savepoint_that_was_rolled_back_is_told_of_savepoints(path: Path, spine: Spine) -> None:
    service, engine = Service("rows"), create_engine(f"sqlite:///{path}")
    begin_immediate(engine)

    @service.on(Placed, retry=Retry(attempts=1))
    def add(event: Placed, delivery: BlockingDelivery) -> None:
        with Session(engine) as own:
            own.add(Row())
            with suppress(OSError), own.begin_nested():
                delivery.join(own)
                raise OSError
            own.commit()

    async with spine.running(service):
        await spine.publish(Placed())
        await handled(spine, lambda: dead(path))
    engine.dispose()
    assert "join() was called in a savepoint that was rolled back" in dead(path)[0]


@pytest.mark.parametrize("then", ["leaks", "commits"])
@pytest.mark.parametrize("kind", EVERY, ids=lambda one: one.__name__)
async def test_what_joins_before_what_it_follows_is_stored_is_rolled_back_whatever_its_handler_does(
    path: Path, spine: Spine, kind: Any, then: str
) -> None:
    """Left as it is, it would keep the lock from the commit that it waits for; committed, its row would come again."""
    async with AsyncExitStack() as left:
        service, attempts, wrote = Service("rows"), list[str](), asyncio.Event()

        @service.on(Placed)
        async def add(event: Placed, delivery: Delivery) -> None:
            attempts.append(event.customer)
            if len(attempts) == 1:
                return  # the second of the key follows it
            hand = await left.enter_async_context(kind(path))
            await hand.add()
            if hasattr(hand.within, "flush"):
                flushed = hand.within.flush()
                await flushed if flushed is not None else None
            wrote.set()
            try:
                joined = delivery.join(hand.within)
                await joined if joined is not None else None
            except Fenced:
                if then == "leaks":
                    raise
            await hand.commit()

        stored_after(spine, wrote)
        await spine.publish(Placed(), Placed())
        async with spine.running(service):
            await handled(spine, lambda: finished(path) == 2)
        assert (len(attempts), stored(path)) == (3, (1, 2))


async def test_it_is_so_of_a_scoped_session_in_a_thread(path: Path, spine: Spine) -> None:
    """Which nobody has to close: it is the next attempt's as well."""
    service, attempts, wrote = Service("rows"), list[int](), asyncio.Event()
    engine = create_engine(f"sqlite:///{path}")
    own, loop = scoped_session(sessionmaker(engine)), asyncio.get_running_loop()

    @service.on(Placed)
    def add(event: Placed, delivery: BlockingDelivery) -> None:
        attempts.append(delivery.attempt)
        if len(attempts) == 1:
            return
        own.add(Row())
        own.flush()
        loop.call_soon_threadsafe(wrote.set)
        delivery.join(own)
        own.commit()

    stored_after(spine, wrote)
    await spine.publish(Placed(), Placed())
    async with spine.running(service):
        await handled(spine, lambda: finished(path) == 2)
    assert (attempts, stored(path)) == ([1, 1, 1], (1, 2))
    own.remove()
    engine.dispose()


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_session_that_was_given_a_savepoint_gives_back_all_of_its_connection(
    path: Path, asynchronous: bool
) -> None:
    sql = text("insert into shop_rows default values")
    async with (async_connection if asynchronous else connection)(path) as hand:
        await hand.add()
        savepoint = hand.within.begin_nested()
        within: Any
        if asynchronous:
            await savepoint
            within = AsyncSession(hand.within, join_transaction_mode="create_savepoint")
            await within.execute(sql)
            await carrier_of(within).roll_back_async()
        else:
            within = Session(hand.within, join_transaction_mode="create_savepoint")
            within.execute(sql)
            carrier_of(within).roll_back()
        with closing(sqlite3.connect(path, timeout=0)) as other:
            other.execute("begin immediate")
        await hand.commit()
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("select count(*) from shop_rows").fetchone() == (0,)


def stored_after(spine: Spine, happened: asyncio.Event) -> None:
    """What is handled without effects is stored after this has happened, and no sooner."""
    commit = spine.journal.commit

    async def later(units: Sequence[Unit]) -> list[Verdict]:
        if any(unit.done for unit in units):
            await happened.wait()
        return await commit(units)

    spine.journal.commit = later  # type: ignore[method-assign]


def finished(path: Path) -> int:
    """How far a cursor has come."""
    with closing(sqlite3.connect(path)) as own:
        return int(own.execute("select max(position) from spine_cursors").fetchone()[0] or 0)


def dead(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as own:
        return [row[0] for row in own.execute("select error from spine_deliveries where state = 'dead'")]


async def handled(spine: Spine, condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


# --- what the safeguards are for: the same, without them ------------------------------------------------------------------


async def test_without_the_guard_pending_rows_and_their_event_are_two_commits(path: Path, spine: Spine) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with sessionmaker(engine)() as own:
        own.add(Row())
        await spine.publish(Placed())
        own.rollback()
    engine.dispose()
    assert stored(path) == (0, 1)


@pytest.mark.parametrize("safe", [False, True])
def test_without_the_lock_first_a_deposit_is_lost(path: Path, safe: bool) -> None:
    """Read, decide, write, by two at once: as the driver comes, the second has read what the first has changed since."""
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
    if safe:
        begin_immediate(engine)
    both = threading.Barrier(2, timeout=1)

    def deposit(_: int) -> None:
        with Session(engine) as own:
            highest = own.execute(text("select coalesce(max(id), 0) from shop_rows")).scalar_one()
            try:
                both.wait()
            except threading.BrokenBarrierError:
                pass  # the other waits for us
            own.execute(text("insert or ignore into shop_rows values (:id)"), {"id": highest + 1})
            own.commit()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(deposit, range(2)))
    with closing(sqlite3.connect(path)) as own:
        assert own.execute("select count(*) from shop_rows").fetchone() == (2 if safe else 1,)
    engine.dispose()


async def test_a_publish_that_is_cancelled_leaves_nothing_and_no_lock(path: Path, spine: Spine) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")

    async def request(after: int) -> None:
        async with AsyncSession(engine) as own:
            own.add(Row())
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_later(after / 2000, task.cancel)
            await spine.publish(Placed(), within=own)
            await asyncio.sleep(30)
            await own.commit()

    for after in range(12):
        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(request(after))
    assert (await spine.publish(Placed())).durable
    await engine.dispose()
    assert stored(path) == (0, 1)


async def test_many_requests_at_once_lose_and_repeat_nothing(path: Path, spine: Spine) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}", connect_args={"timeout": 60})
    begin_immediate(engine)

    async def request(number: int) -> None:
        async with AsyncSession(engine) as own:
            own.add(Row())
            await spine.publish(Placed(), within=own)
            await (own.rollback() if number % 5 == 0 else own.commit())

    await asyncio.gather(*(request(number) for number in range(50)))
    await engine.dispose()
    assert stored(path) == (40, 40)


async def test_tests_that_roll_back_an_outer_transaction_take_the_events_too(path: Path, spine: Spine) -> None:
    """SQLAlchemy's recipe for test suites: the session commits into a savepoint."""
    engine = create_engine(f"sqlite:///{path}")
    begin_immediate(engine)
    with engine.connect() as outer, outer.begin() as transaction:
        with Session(outer, join_transaction_mode="create_savepoint") as own:
            own.add(Row())
            await spine.publish(Placed(), within=own)
            own.commit()
        transaction.rollback()
    engine.dispose()
    assert stored(path) == (0, 0)


def test_a_file_that_others_are_just_writing_to_becomes_a_journal(tmp_path: Path, monkeypatch: Any) -> None:
    """SQLite waits for nobody when it changes to a WAL; without our own wait, a start would fail by chance."""
    for wait_s, opens in ((1.0, True), (0.0, False)):
        monkeypatch.setattr(_sqlite_file, "_WRITER_S", wait_s)
        file = tmp_path / f"{opens}.db"
        with closing(sqlite3.connect(file, check_same_thread=False)) as own:
            own.execute("create table mine (n)")
            own.execute("begin immediate")
            end = threading.Timer(0.2, own.rollback)
            end.start()
            spine = BlockingSpine(f"sqlite:///{file}", service=SHOP)
            if opens:
                assert spine.open().publish(Placed()).durable
            else:
                with pytest.raises(JournalBusy):
                    spine.open()
            spine.close()
            end.join()


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_nested_transaction_that_python_would_commit_early_is_refused(
    path: Path, spine: Spine, asynchronous: bool
) -> None:
    async with (async_session if asynchronous else session)(path) as hand:
        nested = hand.within.begin_nested()
        if asynchronous:
            await nested
        with pytest.raises(SettingsError, match=r"nested.*begin_immediate\(engine\)"):
            await spine.publish(Placed(), within=hand.within)
        await hand.rollback()
    assert stored(path) == (0, 0)


def test_the_early_commit_of_a_nested_transaction_is_real(path: Path) -> None:
    """Why it is refused: what the outer transaction rolls back is there."""
    engine = create_engine(f"sqlite:///{path}")
    with Session(engine) as own:
        with own.begin_nested():
            own.add(Row())
        own.rollback()
    engine.dispose()
    with closing(sqlite3.connect(path)) as own_connection:
        assert own_connection.execute("select count(*) from shop_rows").fetchone() == (1,)


def test_what_must_not_be_in_a_transaction_still_need_not(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}")
    begin_immediate(engine)
    for _ in range(2):
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as own:
            own.execute(text("vacuum"))
        with Session(engine) as own_session:
            own_session.add(Row())
            own_session.rollback()
    engine.dispose()
    with closing(sqlite3.connect(path)) as own_connection:
        assert own_connection.execute("select count(*) from shop_rows").fetchone() == (0,)
