"""A service of the failover test: `spine run tests.journal.failover_service`. Each event is a row, once and in order."""

from __future__ import annotations

import os

from eventspine import Delivery, Event, Service


class Counted(Event, context="counting", key="name"):
    name: str
    number: int


def tables(db) -> None:
    db.executescript(
        "create table counter_rows (place bigint generated always as identity, name text, number integer, pid integer,"
        " primary key (name, number));"
    )


counter = Service("counter", tables=tables)


@counter.on(Counted, concurrency=8)
async def count(event: Counted, delivery: Delivery) -> None:
    delivery.execute(
        "insert into counter_rows (name, number, pid) values (:name, :number, :pid)",
        name=event.name,
        number=event.number,
        pid=os.getpid(),
    )
