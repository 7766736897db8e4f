"""What the processes of these tests run: a till that counts, books that write down, mail that tells.

    till ── Counted ──▶ books.book ── Booked ──▶ mail.tell

Every handler leaves two traces: a row in the table `effects`, which is part of its unit, and lines in a file, which are
not. These files are in the folder named by FAULTS_FOLDER, and so are those whose being there changes what handlers do.
An event may say in `do` what goes wrong while it is handled, in processes whose FAULTS name it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import threading
import time
import types
from contextlib import closing
from enum import Enum
from pathlib import Path
from typing import Any

from eventspine import Batch, BatchDelivery, Delivery, Event, Retry, Service
from eventspine.sync import Delivery as ThreadDelivery

FOLDER = Path(os.environ.get("FAULTS_FOLDER", "."))
POSTGRES = os.environ.get("FAULTS_JOURNAL", "").startswith("postgres")
FAULTS = frozenset(os.environ.get("FAULTS", "").split(","))
SOON = Retry(attempts=3, immediate=1, first_s=0.05, factor=1.0, most_s=0.05)
EFFECT = "insert into effects (handler, key, number, idem, pid) values (:handler, :key, :number, :idem, :pid)"


class Counted(Event, context="till", key="key"):
    key: str
    number: int
    do: str = ""


class Booked(Event, context="books", key="key"):
    key: str
    number: int


def tables(connection: Any) -> None:
    connection.executescript(
        "create table if not exists effects"
        f" (id {'bigint generated always as identity' if POSTGRES else 'integer'} primary key, handler text, key text, number integer, idem text, pid integer);"
        "create table if not exists parents (name text primary key);"
        "create table if not exists children"
        " (name text primary key, parent text references parents deferrable initially deferred);"
    )


till = Service("till", tables=tables)
books = Service("books", tables=tables)
mail = Service("mail", tables=tables)
threads = Service("threads", tables=tables)
bundles = Service("bundles", tables=tables)
rough = Service("rough", tables=tables)


def note(word: str, event: Any, delivery: Any) -> None:
    """One line, whole or not at all, whatever happens next."""
    line = f"{time.monotonic_ns()} {word} {delivery.handler} {event.key} {event.number} {delivery.idempotency_key} {os.getpid()}\n"
    file = os.open(FOLDER / f"log-{os.getpid()}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)


def there(name: str) -> bool:
    return (FOLDER / name).exists()


def effect(event: Any, delivery: Any) -> None:
    delivery.execute(
        EFFECT,
        handler=delivery.handler,
        key=event.key,
        number=event.number,
        idem=delivery.idempotency_key,
        pid=os.getpid(),
    )


async def misbehave(do: str, key: str) -> None:
    if do not in FAULTS or there("mended"):
        return
    match do:
        case "wait":
            while not (there("go") or there(f"go-{key}")):
                await asyncio.sleep(0.01)
        case "work":
            await asyncio.sleep(0.3)
        case "hang":
            await asyncio.Event().wait()
        case "fail":
            raise ValueError("this event is poison")
        case "exit":
            os._exit(9)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)


@books.on(Counted, retry=SOON, timeout_s=30)
async def book(event: Counted, delivery: Delivery) -> Booked:
    note("start", event, delivery)
    await misbehave(event.do, event.key)
    effect(event, delivery)
    note("end", event, delivery)
    return Booked(key=event.key, number=event.number)


@mail.on(Booked)
async def tell(event: Booked, delivery: Delivery) -> None:
    note("start", event, delivery)
    effect(event, delivery)
    note("end", event, delivery)


@bundles.on(Counted, batch=Batch(20), concurrency=2, retry=SOON)
async def bundle(events: list[Counted], delivery: BatchDelivery) -> None:
    for event in events:
        one = delivery.of(event)
        note("start", event, one)
        await misbehave(event.do, event.key)
        values = {"handler": one.handler, "key": event.key, "number": event.number, "idem": one.idempotency_key}
        delivery.execute(EFFECT, **values, pid=os.getpid())
        note("end", event, one)


impatient = Service("impatient", tables=tables)


@impatient.on(Counted, retry=SOON, timeout_s=0.3)
async def wait_for_it(event: Counted, delivery: Delivery) -> None:
    note("start", event, delivery)
    await misbehave(event.do, event.key)
    effect(event, delivery)
    note("end", event, delivery)


strict = Service("strict", tables=tables)


@strict.on(Counted, retry=SOON, on_dead="waits")
async def keep(event: Counted, delivery: Delivery) -> None:
    note("start", event, delivery)
    await misbehave(event.do, event.key)
    effect(event, delivery)
    note("end", event, delivery)


@threads.on(Counted, retry=SOON, timeout_s=0.3)
def compute(event: Counted, delivery: ThreadDelivery) -> None:
    note("start", event, delivery)
    if event.do == "hang" and not there("mended"):
        threading.Event().wait()
    effect(event, delivery)
    note("end", event, delivery)


# --- a clock, of which every stroke counts ------------------------------------------------------------------------------------

clockwork = Service("clockwork", tables=tables)


@clockwork.every(seconds=1, missed="all", retry=SOON, timeout_s=30)
async def strike(delivery: Delivery) -> None:
    second = round(delivery.time.timestamp())
    stroke = Counted(key="clock", number=second)
    note("start", stroke, delivery)
    await misbehave("hang", "clock")
    effect(stroke, delivery)
    note("end", stroke, delivery)


# --- every kind of handler ---------------------------------------------------------------------------------------------------

kinds = Service("kinds", tables=tables)


@kinds.on(Counted, order="feed")
async def whole(event: Counted, delivery: Delivery) -> None:
    note("start", event, delivery)
    effect(event, delivery)
    note("end", event, delivery)


@kinds.on(Counted, order="none")
async def loose(event: Counted, delivery: Delivery) -> None:
    note("start", event, delivery)
    effect(event, delivery)
    note("end", event, delivery)


@kinds.on(Counted, batch=Batch(20, within_ms=5))
async def run(events: list[Counted], delivery: BatchDelivery) -> None:
    for event in events:
        note("start", event, delivery.of(event))
        one = delivery.of(event)
        values = {"handler": one.handler, "key": event.key, "number": event.number, "idem": one.idempotency_key}
        delivery.execute(EFFECT, **values, pid=os.getpid())
        note("end", event, one)


@kinds.on(Counted, retry=Retry(attempts=5, immediate=0, first_s=0.03, factor=1.0, most_s=0.03))
async def flaky(event: Counted, delivery: Delivery) -> None:
    """Every third event fails at first, and waits in a row of its own, with others of its key behind it."""
    note("start", event, delivery)
    if event.number % 3 == 0 and delivery.attempt == 1:
        raise ValueError("at first")
    effect(event, delivery)
    note("end", event, delivery)


@kinds.on(Counted)
async def sparse(event: Counted, delivery: Delivery) -> None:
    """Two of three change nothing, so that what follows them in their key begins before they are stored."""
    note("start", event, delivery)
    if event.number % 3 == 0:
        effect(event, delivery)
    note("end", event, delivery)


@kinds.on(Counted)
def threaded(event: Counted, delivery: ThreadDelivery) -> None:
    note("start", event, delivery)
    effect(event, delivery)
    note("end", event, delivery)


@kinds.on(Counted)
async def interactive(event: Counted, delivery: Delivery) -> None:
    """Reads its own writes, holding the write lock."""
    note("start", event, delivery)
    async with delivery.transaction() as transaction:
        values = {"handler": delivery.handler, "key": event.key, "number": event.number}
        await transaction.execute(EFFECT, **values, idem=delivery.idempotency_key, pid=os.getpid())
        sql = "select max(number) as last from effects where handler = :handler and key = :key"
        rows = await transaction.query(sql, handler=delivery.handler, key=event.key)
        assert event.number == rows[0]["last"]
    note("end", event, delivery)


@kinds.on(Counted)
async def joined(event: Counted, delivery: Delivery) -> None:
    """Commits on a connection of its own, and so before it returns."""
    note("start", event, delivery)
    note("end", event, delivery)
    await asyncio.to_thread(_join, event, delivery)


def _join(event: Counted, delivery: Delivery) -> None:
    with closing(sqlite3.connect(FOLDER / "spine.db", timeout=30, isolation_level=None)) as connection:
        connection.execute("begin immediate")
        values = (delivery.handler, event.key, event.number, delivery.idempotency_key, os.getpid())
        connection.execute("insert into effects (handler, key, number, idem, pid) values (?, ?, ?, ?, ?)", values)
        delivery.join(connection)
        connection.execute("commit")


# --- SQL that would harm others, beside handlers that harm nobody --------------------------------------------------------


def rough_handler(name: str) -> None:
    @rough.on(Counted, name=name, retry=Retry(attempts=2, immediate=1))
    async def handle(event: Counted, delivery: Delivery) -> None:
        note("start", event, delivery)
        effect(event, delivery)
        if event.do == name:
            misuse(name, event, delivery)
        note("end", event, delivery)


def misuse(name: str, event: Counted, delivery: Delivery) -> None:
    match name:
        case "rollback":
            for _ in range(2):
                delivery.execute("insert or rollback into parents values (:name)", name=f"{event.key} {event.number}")
        case "commit":
            delivery.execute("commit")
        case "deferred":
            delivery.execute("insert into children values (:name, 'nobody')", name=f"{event.key} {event.number}")
        case "once" if delivery.attempt == 1:
            delivery.execute("insert into nowhere values (1)")


for each in ("rollback", "commit", "deferred", "once", "innocent"):
    rough_handler(each)


# --- a rolling deploy: the same service as its releases declare it -----------------------------------------------------------


class Refunded(Event, context="till", key="key"):
    key: str
    number: int


async def _tell(event: Any, delivery: Delivery) -> None:
    note("start", event, delivery)
    effect(event, delivery)
    note("end", event, delivery)


def letters(release: int) -> Service[Any]:
    service: Service[Any] = Service("letters", tables=tables)
    if release == 1:
        service.on(Counted, name="write")(_tell)
    elif release == 2:  # the filter is widened
        service.on(Counted, Refunded, name="write")(_tell)
    elif release == 3:  # a handler is renamed, another added
        service.on(Counted, Refunded, name="compose", renamed_from="write")(_tell)
        service.on(Counted, name="count", start="earliest")(_tell)
    elif release == 4:  # and removed again, which has to be said with retire=
        service.on(Counted, Refunded, name="compose", renamed_from="write")(_tell)
    return service


# --- a producer that goes on ahead: new members of an enum, and a new version of an event ------------------------------------


class Painted(Event, context="till", key="key"):
    key: str
    number: int
    do: str = "red"


class Carved(Event, context="till", key="key", version=2):
    key: str
    number: int


def readers(release: int) -> Service[Any]:
    """What the service of another team knows: some colours of Painted, some version of Carved."""
    Colour = Enum("Colour", {name: name for name in ("red", "green")[:release]})
    declared = {"context": "till", "key": "key"}
    Closed = types.new_class("Closed", (Event,), {**declared, "type": "till.Painted"}, _fields(do=Colour))
    Older = types.new_class("Older", (Event,), {**declared, "type": "till.Carved", "version": release}, _fields())
    service: Service[Any] = Service("readers", tables=tables)
    service.on(Closed, name="by_colour")(_tell)
    service.on(Older, name="by_version")(_tell)
    return service


def _fields(**more: Any) -> Any:
    annotations = {"key": str, "number": int, **more}
    return lambda namespace: namespace.update(__annotations__=annotations, __module__=__name__)
