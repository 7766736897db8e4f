"""What type checkers see of `within=` and `join`: an asynchronous session has to be awaited, a blocking one must not."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, assert_type

import aiosqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from eventspine import Delivery, Event, Receipt, sync
from eventspine.integrations.fastapi import BlockingSpineDep, SpineDep


class Placed(Event, context="orders"):
    pass


async def awaited(
    delivery: Delivery, session: AsyncSession, connection: AsyncConnection, plain: aiosqlite.Connection
) -> None:
    await delivery.join(session)
    await delivery.join(connection)
    await delivery.join(plain)


async def called(delivery: Delivery, session: Session, connection: sqlite3.Connection) -> None:
    delivery.join(session)
    delivery.join(connection)
    delivery.join("default")


async def endpoint(spine: SpineDep, session: AsyncSession) -> None:
    assert_type(await spine.publish(Placed(), within=session), Receipt)


def blocking_endpoint(spine: BlockingSpineDep, session: Session) -> None:
    assert_type(spine.publish(Placed(), within=session), Receipt)


if TYPE_CHECKING:

    async def forgotten(delivery: Delivery, session: AsyncSession) -> None:
        delivery.join(session)  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]

    async def too_much(delivery: Delivery, session: Session) -> None:
        await delivery.join(session)  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]


def test_what_the_checkers_accept_can_be_imported() -> None:
    assert sync.Delivery is not None
