"""Events and rows of SQLAlchemy's in one commit: Session, AsyncSession, Connection, AsyncConnection, aiosqlite."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from eventspine import Event, Service, Spine
from eventspine.errors import SettingsError
from eventspine.sync import Spine as BlockingSpine


class Placed(Event, context="orders", key="customer"):
    customer: str = "ann"


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "shop_rows"
    id: Mapped[int] = mapped_column(primary_key=True)


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
