"""The raw twins: the same work by hand on the interpreter's sqlite3, with the same durability."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from eventspine.journal.port import Record

READ = 500  # events that the hand-written loop reads, and after which it stores its position

_COLUMNS = (
    "id blob not null, channel text, slot integer not null, key text, type text not null, version integer not null,"
    " time_us integer not null, recorded_us integer not null, source text not null, correlation text, causation text,"
    " hops integer not null, meta blob, data blob not null"
)
_INSERT = (
    "insert into events (id, channel, slot, key, type, version, time_us, recorded_us, source, correlation, causation,"
    " hops, meta, data) values (?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)


def connect(path: Path) -> sqlite3.Connection:
    """WAL and synchronous=FULL: what is acknowledged survives the loss of power, as in the journal."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("pragma journal_mode=wal").close()
    connection.execute("pragma synchronous=full").close()
    return connection


# --- publishing -----------------------------------------------------------------------------------------------------


class SameColumns:
    """The journal's columns under AUTOINCREMENT, with a unique id."""

    def __init__(self, path: Path) -> None:
        self.connection = connect(path)
        self.connection.execute(f"create table events (position integer primary key autoincrement, {_COLUMNS})")
        self.connection.execute("create unique index events_id on events (id)")

    @classmethod
    def on(cls, connection: sqlite3.Connection) -> SameColumns:
        """A table that somebody else has made."""
        self = cls.__new__(cls)
        self.connection = connection
        return self

    def insert(self, rows: Iterable[Any]) -> None:
        self.connection.execute("begin immediate")
        self.connection.executemany(_INSERT, rows)
        self.connection.execute("commit")

    @staticmethod
    def rows(records: Iterable[Record]) -> list[Any]:
        return [record[1:] for record in records]


class SameBytes:
    """A bare table: a number and a blob with as many bytes as the columns have."""

    def __init__(self, path: Path) -> None:
        self.connection = connect(path)
        self.connection.execute("create table events (position integer primary key, data blob not null)")

    def insert(self, rows: Iterable[Any]) -> None:
        self.connection.execute("begin immediate")
        self.connection.executemany("insert into events (data) values (?)", rows)
        self.connection.execute("commit")

    @staticmethod
    def rows(records: Iterable[Record]) -> list[Any]:
        return [(bytes(sum(_size(value) for value in record[1:])),) for record in records]


def _size(value: Any) -> int:
    if value is None:
        return 0
    return (value.bit_length() + 7) // 8 if isinstance(value, int) else len(value)


# --- handling -------------------------------------------------------------------------------------------------------


class Order(msgspec.Struct, frozen=True):
    order_id: str
    customer_id: str
    sku: str
    units: int
    amount: Decimal


def decoder() -> Callable[[bytes], Order]:
    return msgspec.json.Decoder(Order).decode


def decoder_of(cls: type[Any]) -> Callable[[bytes], Any]:
    """Of the fields of an event, into a plain struct."""
    fields = [(field.name, field.type) for field in msgspec.structs.fields(cls)]
    return msgspec.json.Decoder(msgspec.defstruct(f"Bare{cls.__name__}", fields, frozen=True)).decode


async def handle_all(path: Path, name: str, handler: Any) -> int:
    """The hand-written loop on a journal's feed: read 500, decode each, await its handler, store the position. One at a
    time, in order, without retries, keys, leases or any other service."""
    connection = connect(path)
    connection.execute("create table if not exists by_hand (name text primary key, position integer not null)")
    connection.execute("insert into by_hand values (?, 0)", (name,))
    decoders = {"orders.OrderPlaced": decoder()}
    position = handled = 0
    while rows := connection.execute(
        "select position, type, data from spine_events where position > ? order by position limit ?", (position, READ)
    ).fetchall():
        for _, type, data in rows:
            await handler(decoders[type](data))
        handled += len(rows)
        position = rows[-1][0]
        connection.execute("begin immediate")
        connection.execute("update by_hand set position = ? where name = ?", (position, name))
        connection.execute("commit")
    connection.close()
    return handled
