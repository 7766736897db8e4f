"""What runs in a soak: a shop's books, its parcels, a view of them, and a clock.

    till ── Counted ──┬─▶ ledger.book ── Entered ──┬─▶ parcels.pack   in batches
                      │        └─ 1 s later, Due ──┤   parcels.send   in one order for all
                      ├─▶ ledger.weigh  in threads └─▶ ledger.remind
                      └─▶ views.project  is paused and rewound
    every second ──────▶ clock.strike

Every handler leaves a row in `soak_effects`, within its unit. Which deliveries fail at first, and which for good, is a matter
of the event's number, so that the reckoning knows it too. Those that fail for good succeed once there is a file `mended`.
"""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from eventspine import Batch, BatchDelivery, Dead, Delivery, Event, Retry, Service
from eventspine.sync import Delivery as ThreadDelivery
from tests.faults.services import Counted

FOLDER = Path(os.environ.get("FAULTS_FOLDER", "."))
SOON = Retry(attempts=5, immediate=1, first_s=0.2, factor=1.0, most_s=0.2)
EFFECT = (
    "insert into soak_effects (handler, key, number, idem, attempt, late)"
    " values (:handler, :key, :number, :idem, :attempt, :late)"
)


class Entered(Event, context="ledger", key="key"):
    key: str
    number: int


class Due(Event, context="ledger", key="key"):
    key: str
    number: int


class Hopeless(Exception):
    pass


def tables(connection: Any) -> None:
    connection.executescript(
        "create table if not exists soak_effects (id integer primary key autoincrement, handler text, key text,"
        " number integer, idem text, attempt integer, late integer)"
    )


ledger = Service("ledger", tables=tables)
parcels = Service("parcels", tables=tables)
views = Service("views", tables=tables)
clock = Service("clock", tables=tables)


async def elsewhere() -> None:
    """Where a stop or a kill finds work in hand."""
    await asyncio.sleep(0.01)


def fails_at_first(number: int) -> bool:
    return number % 7 == 3


def fails_for_good(number: int) -> bool:
    return number % 61 == 60


def is_reminded(number: int) -> bool:
    return number % 5 == 0


def breaks_its_sql(number: int) -> bool:
    return number % 13 == 5


def effect(event: Any, delivery: Any) -> dict[str, Any]:
    return {
        "handler": delivery.handler,
        "key": event.key,
        "number": event.number,
        "idem": delivery.idempotency_key,
        "attempt": delivery.attempt,
        "late": delivery.late,
    }


@ledger.on(Counted, retry=SOON, errors={Hopeless: Dead})
async def book(event: Counted, delivery: Delivery) -> Entered:
    if fails_for_good(event.number) and not (FOLDER / "mended").exists():
        raise Hopeless(f"{event.number} has no place in these books")
    if fails_at_first(event.number) and delivery.attempt <= 2:
        raise ValueError("not yet")
    await elsewhere()
    delivery.execute(EFFECT, **effect(event, delivery))
    if is_reminded(event.number):
        delivery.publish(Due(key=event.key, number=event.number), after=timedelta(seconds=1))
    return Entered(key=event.key, number=event.number)


@ledger.on(Due)
async def remind(event: Due, delivery: Delivery) -> None:
    delivery.execute(EFFECT, **effect(event, delivery))


@ledger.on(Counted, retry=SOON)
def weigh(event: Counted, delivery: ThreadDelivery) -> None:
    delivery.execute(EFFECT, **effect(event, delivery))
    if breaks_its_sql(event.number) and delivery.attempt == 1:
        delivery.execute("insert into nowhere values (1)")


@parcels.on(Entered, batch=Batch(20, within_ms=5))
async def pack(events: list[Entered], delivery: BatchDelivery) -> None:
    for event in events:
        delivery.execute(EFFECT, **effect(event, delivery.of(event)))


@parcels.on(Entered, order="feed")
async def send(event: Entered, delivery: Delivery) -> None:
    delivery.execute(EFFECT, **effect(event, delivery))


@views.on(Counted, replayable=True)
async def project(event: Counted, delivery: Delivery) -> None:
    await elsewhere()
    delivery.execute(EFFECT, **effect(event, delivery))


@clock.every(seconds=1, missed="all", retry=SOON)
async def strike(delivery: Delivery) -> None:
    second = round(delivery.time.timestamp())
    delivery.execute(EFFECT, **effect(Counted(key="clock", number=second), delivery))
