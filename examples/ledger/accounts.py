"""The write side: accounts that keep their limit, and the commands that book entries on them.

A command's rows in the tables of ledger.sql and the events of its accounts commit as one, or not at all. Whose account has
a limit is an aggregate: of two who draw on it at once the second decides on what the first has left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from typing import Any

from eventspine import Aggregate, Command, Delivery, Event, Reject, Service, applies

from .entries import HOUSE, Entry, What

LIMIT_CENTS = 20_000_00


class Posted(Event, context="ledger", key="account"):
    """On a customer's account."""

    account: str
    entry: str
    what: What
    cents: int  # below zero: a debit


class Booked(Event, context="ledger", key="account"):
    """On an account of the house: all that one command has brought it of a month. Nobody asks for its single entries, which the
    customers' events name; so that taking over 300 orders publishes some twenty of these, and not 300 more."""

    account: str
    month: str
    cents: int


class Overdrawn(Reject):
    """There is not that much left."""


class AlreadyBooked(Reject):
    """There is an entry of that id."""


class Account(Aggregate, snapshot_every=50):
    cents: int = 0
    orders: int = 0
    spent: int = 0

    def post(self, entry: Entry, cents: int) -> None:
        if cents < 0 and self.cents + cents < -LIMIT_CENTS:
            raise Overdrawn(f"{self.id} has {self.cents + LIMIT_CENTS} cents left, and entry {entry.id} takes {-cents}")
        self.record(Posted(account=self.id, entry=entry.id, what=entry.what, cents=cents), time=midnight(entry.day))

    @applies(Posted)
    def _posted(self, event: Posted) -> None:
        self.cents += event.cents
        if event.what == "order":
            self.orders += 1
            self.spent -= event.cents


class Post(Command[None], context="ledger"):
    """Book an entry."""

    entry: Entry


class TakeOver(Command[None], context="ledger"):
    """Open accounts with what older books say of them: all of these entries, or none."""

    entries: tuple[Entry, ...]


def write_side() -> Service[None]:
    ledger = Service("ledger", tables="ledger.sql")

    @ledger.command(Post, conflict_tries=10)
    async def post(command: Post, delivery: Delivery) -> None:
        entry = command.entry
        entry.check()  # before anything else is touched
        await check_new([entry], delivery)
        owners = sorted(customers([entry]))
        book([entry], {owner: await delivery.load_or_new(Account, owner) for owner in owners}, delivery)

    @ledger.command(TakeOver)
    async def take_over(command: TakeOver, delivery: Delivery) -> None:
        for entry in command.entries:
            entry.check()
        await check_new(command.entries, delivery)
        # Not looked for, since they have to be new: the save is refused of one that is there.
        book(command.entries, {owner: Account(owner) for owner in sorted(customers(command.entries))}, delivery)

    return ledger


async def check_new(entries: Sequence[Entry], delivery: Delivery) -> None:
    """Of two who book one id at the same moment, both may come past this; the table's primary key then refuses one, which is
    called once more, and is told here."""
    ids = {f"e{number}": entry.id for number, entry in enumerate(entries)}
    some = ", ".join(f":{name}" for name in ids)
    rows = await delivery.query(f"select entry from ledger_entries where entry in ({some})", **ids) if ids else []
    twice = [row["entry"] for row in rows] or [id for id, times in Counter(ids.values()).items() if times > 1]
    if twice:
        raise AlreadyBooked(f"entry {twice[0]} is booked already; give another one an id of its own")


def customers(entries: Iterable[Entry]) -> set[str]:
    return {posting.account for entry in entries for posting in entry.postings} - set(HOUSE)


def book(entries: Sequence[Entry], accounts: dict[str, Account], delivery: Delivery) -> None:
    """Rows and events of one unit."""
    house: Counter[tuple[str, date]] = Counter()
    for entry in entries:
        for posting in entry.postings:
            if posting.account in accounts:
                accounts[posting.account].post(entry, posting.cents)
            else:
                house[posting.account, entry.day.replace(day=1)] += posting.cents
    write(entries, delivery)
    delivery.save(*accounts.values())
    for (account, month), cents in house.items():
        delivery.publish(Booked(account=account, month=f"{month:%Y-%m}", cents=cents), time=midnight(month))


def write(entries: Sequence[Entry], delivery: Delivery) -> None:
    names = sorted({posting.account for entry in entries for posting in entry.postings})
    limits = [(name, None if name in HOUSE else LIMIT_CENTS) for name in names]
    insert("ledger_accounts", limits, delivery, "on conflict (account) do nothing")
    insert("ledger_entries", [(entry.id, entry.day, entry.what) for entry in entries], delivery)
    postings = [(entry.id, p.account, p.debit, p.credit) for entry in entries for p in entry.postings]
    insert("ledger_postings", postings, delivery)


def insert(table: str, rows: Sequence[tuple[Any, ...]], delivery: Delivery, otherwise: str = "") -> None:
    """All rows by one statement."""
    names = [[f"v{number}_{column}" for column in range(len(row))] for number, row in enumerate(rows)]
    values = ", ".join(f"({', '.join(':' + name for name in line)})" for line in names)
    given = {name: value for line, row in zip(names, rows, strict=True) for name, value in zip(line, row, strict=True)}
    delivery.execute(f"insert into {table} values {values} {otherwise}", **given)


def midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
