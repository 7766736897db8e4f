"""Random lives, led on two journals at once: memory and SQLite answer alike, and hold the same in the end.

The lives are short of ids, streams, positions and leases, so that units meet: repeat, race, fence and conflict.
Positions and numbers only ascend, and SQLite leaves some out. So events are compared by id and order, deliveries by
place, and each journal is asked for its own n-th delivery.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventspine.errors import SpineError
from eventspine.journal.memory import MemoryJournal
from eventspine.journal.port import (
    Append,
    Change,
    Control,
    Done,
    Drop,
    Fence,
    Journal,
    LeaseView,
    Note,
    Put,
    Record,
    Registration,
    Rename,
    Replay,
    Retry,
    Rewind,
    Seen,
    SetState,
    StartMark,
    Subscription,
    SubscriptionDeclaration,
    Timer,
    Unit,
)
from eventspine.journal.sqlite import SQLiteJournal

from .material import LEASE_US, HandClock, event, handler, process, whole_feed

STEPS = 40
ORIGINS = ("a:1", "b:1")
NAMES = ("email.a", "email.b", "email.c")


class Life:
    """The same for the same seed; what it does next depends on nothing that a journal answers, but what is stored."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.subscriptions: list[Subscription] = []

    def some(self, most: int, make: Callable[[], Any]) -> list[Any]:
        return [make() for _ in range(max(0, self.random.randint(-most, most)))]

    def number(self) -> int:
        return self.random.randint(1, 3)

    def generation(self, number: int) -> int:
        known = {row.number: row.generation for row in self.subscriptions}
        return known.get(number, 1) - (self.random.random() < 0.1)

    def record(self, first: int, last: int) -> Record:
        """One of few events, each always the same."""
        number = self.random.randint(first, last)
        channel = ("orders", "billing", None)[number % 3]
        correlation = "c" if number % 4 else None
        return event(id=number.to_bytes(16, "big"), channel=channel, slot=number, correlation=correlation)

    def append(self) -> Append:
        """An event is appended to one stream, or to none, whenever it is."""
        stream, first, last = self.random.choice([(None, 1, 15), ("s", 16, 30), ("t", 31, 45)])
        expected = self.random.choice([None, 0, 1, 2, 4]) if stream else None
        return Append(self.some(3, lambda: self.record(first, last)), "orders", stream, expected)

    def timer(self) -> Timer:
        return Timer(self.random.randint(0, 100), self.record(46, 60))

    def done(self) -> Done:
        number = self.number()
        starts = [self.random.randint(0, 12) for _ in range(self.random.randint(0, 3))]
        ranges = [(start, start + self.random.randint(1, 4)) for start in starts]
        return Done(number, self.random.randint(0, 1), ranges, self.generation(number))

    def seen(self) -> Seen:
        starts = [self.random.randint(0, 9) for _ in range(self.random.randint(0, 3))]
        ranges = [(start, start + self.random.randint(1, 3)) for start in starts]
        return Seen(self.number(), self.random.choice(ORIGINS), "orders", self.random.randint(0, 1), ranges)

    def put(self) -> Put:
        position = self.random.randint(1, 6)
        record = event(id=position.to_bytes(16, "big"), position=position)
        state = self.random.choice(["parked", "dead", "held", "settled"])
        due = self.random.choice([None, 5])
        return Put(self.number(), self.random.randint(0, 1), record, state, self.random.randint(1, 9), due, "r")

    def change(self) -> Change:
        state = self.random.choice([None, "parked", "dead", "settled", "gone"])
        states = self.random.choice([("parked",), ("dead",), ("parked", "dead", "held", "settled")])
        late, due = self.random.choice([None, True, False]), self.random.choice([None, 7])
        return Change(self.random.randint(0, 8), state, attempts=self.random.choice([None, 3]), due_us=due, late=late,
                      while_state=states)  # fmt: skip

    def mark(self) -> StartMark:
        times, alone = self.random.randint(0, 3), self.random.randint(0, 1)
        return StartMark(self.number(), self.random.randint(0, 1), self.random.randint(1, 5), times, alone)

    def note(self) -> Note:
        key, value = self.random.choice("ab"), self.random.choice([None, b"1", b"2"])
        return Note("orders", "k", key, value, self.random.choice([None, None, 0, 1, 2]))

    def unit(self) -> Unit:
        rare = self.random.random() < 0.4
        return Unit(
            appends=self.some(3, self.append),
            fences=[Fence(self.random.choice("lm"), self.random.randint(1, 2))] if self.random.random() < 0.2 else [],
            done=self.some(2, self.done),
            puts=self.some(2, self.put) if rare else [],
            changes=self.some(1, self.change) if rare else [],
            starts=self.some(2, self.mark) if rare else [],
            timers=self.some(2, self.timer) if rare else [],
            cancels=self.some(1, lambda: self.record(46, 60).id) if rare else [],
            marks=self.some(2, self.seen) if self.random.random() < 0.4 else [],
            notes=self.some(2, self.note) if self.random.random() < 0.4 else [],
        )

    def control(self) -> Control:
        numbers = [self.random.randint(0, 8) for _ in range(3)]
        states = ("active", "active", "paused", "suspended", "retired")
        choices: list[Callable[[], Control]] = [
            self.rewind,
            lambda: SetState(self.number(), self.random.choice(states)),
            lambda: Rename(self.number(), self.random.choice(NAMES)),
            lambda: Replay(numbers),
            lambda: Drop(numbers),
            lambda: Retry(numbers),
        ]
        return self.random.choice(choices)()

    def rewind(self) -> Rewind:
        origins = self.random.sample(ORIGINS, self.random.randint(0, 2))
        return Rewind(self.number(), self.random.randint(0, 9), self.random.choice(["", "x"]), origins)

    def declaration(self, name: str) -> SubscriptionDeclaration:
        types = self.random.choice([(), (("orders.OrderPlaced", 1),)])
        renamed = self.random.choice([None, None, *NAMES])
        start = self.random.choice(["earliest", 1])
        order = "feed" if self.random.random() < 0.05 else "key"
        return handler(name, types=types, renamed_from=renamed, start=start, order=order)

    def registration(self) -> Registration:
        names = [name for name in NAMES if self.random.random() < 0.6]
        retire = tuple(name for name in NAMES if self.random.random() < 0.2)
        declared = tuple(self.declaration(name) for name in names)
        return Registration("email", (), declared, self.random.random() < 0.2, retire)


def step(life: Life, clock_us: int) -> Callable[[Journal], Awaitable[Any]]:
    draw = life.random.random()
    if draw < 0.6:
        units = [life.unit() for _ in range(life.random.randint(1, 6))]
        units += [units[0]] if life.random.random() < 0.3 else []
        return lambda journal: _commit(journal, units)
    if draw < 0.75:
        operations = [life.control() for _ in range(life.random.randint(1, 2))]
        return lambda journal: _control(journal, operations)
    if draw < 0.85:
        registration = life.registration()
        return lambda journal: _register(journal, registration, clock_us)
    if draw < 0.9:
        limit = life.random.randint(1, 3)
        return lambda journal: journal.fire(60, limit)
    who = process(life.random.choice("pq"), generation=life.random.randint(1, 3))
    if draw < 0.92:
        return lambda journal: journal.leave(who)
    take, release = life.random.sample("lmn", 2), life.random.sample("lmn", 1)
    return lambda journal: journal.lease(who, take, release, clock_us, clock_us + LEASE_US)


async def _numbered(journal: Journal) -> Callable[[int], int]:
    """The number that its n-th delivery has."""
    numbers = [row.number for row in await journal.deliveries(records=False)]
    return lambda n: numbers[n] if n < len(numbers) else 10_000 + n


async def _commit(journal: Journal, units: list[Unit]) -> object:
    number = await _numbered(journal)
    verdicts = await journal.commit(
        [
            msgspec.structs.replace(
                unit, changes=[change._replace(number=number(change.number)) for change in unit.changes]
            )
            for unit in units
        ]
    )
    events = {record.position: record.id for record in await whole_feed(journal, private=True)}
    places = {row.number: (row.subscription, row.partition, row.position) for row in await journal.deliveries()}
    return [
        (
            verdict.kind,
            [events[position] for position in verdict.positions],
            verdict.versions,
            [places.get(number) for number in verdict.numbers],
            verdict.cancelled,
            type(verdict.error),
        )
        for verdict in verdicts
    ]


async def _control(journal: Journal, operations: list[Control]) -> int:
    number = await _numbered(journal)
    return await journal.control(
        [
            operation._replace(numbers=[number(n) for n in operation.numbers])
            if isinstance(operation, Replay | Drop | Retry)
            else operation
            for operation in operations
        ]
    )


async def _register(journal: Journal, registration: Registration, now_us: int) -> object:
    registered = await journal.register(registration, now_us)
    return registered._replace(subscriptions=tuple(row._replace(uid=b"") for row in registered.subscriptions))


async def answer(journal: Journal, ask: Callable[[Journal], Awaitable[Any]]) -> object:
    try:
        told = await ask(journal)
        return told._replace(processes=sorted(told.processes)) if isinstance(told, LeaseView) else told
    except SpineError as error:
        return type(error)


def placeless(records: list[Record]) -> list[Record]:
    return [record._replace(position=0) for record in records]


async def everything(journal: Journal) -> dict[str, Any]:
    rows = await journal.subscriptions()
    numbers = [row.number for row in rows]
    return {
        "feed": placeless(await whole_feed(journal, private=True)),
        "streams": [placeless(await journal.stream("orders", name)) for name in "st"],
        "correlated": placeless(await journal.correlated("c")),
        "subscriptions": [row._replace(uid=b"") for row in rows],
        "cursors": sorted((*row[:3], tuple(row.beyond), row.feed) for row in await journal.cursors(numbers)),
        "deliveries": [row._replace(number=0) for row in await journal.deliveries()],
        "marks": [await journal.marks(number, origin, "orders") for number in (1, 2, 3) for origin in ORIGINS],
        "starts": [await journal.starts(number) for number in (1, 2, 3)],
        "notes": await journal.notes("orders", "k"),
        "timers": await journal.timers(),
        "next_due": await journal.next_due(),
        "leases": sorted(await journal.leases()),
        "processes": sorted(await journal.processes()),
        "declarations": await journal.declarations("email"),
        "control": await journal.control_version(),
    }


@pytest.mark.parametrize("seed", range(24))
async def test_a_random_life_is_the_same_on_both(seed: int, tmp_path: Path):
    clocks = HandClock(), HandClock()
    journals: list[Journal] = [MemoryJournal(clocks[0]), SQLiteJournal(f"sqlite:///{tmp_path}/spine.db", clocks[1])]
    for journal in journals:
        await journal.open()
    life = Life(seed)
    try:
        for number in range(STEPS):
            forward = life.random.choice([1, 1_000, LEASE_US // 2])
            now_us, _ = (clock.forward(forward) for clock in clocks)
            ask = step(life, now_us)
            in_memory, on_disk = [await answer(journal, ask) for journal in journals]
            assert in_memory == on_disk, f"step {number}"
            held_in_memory, held_on_disk = [await everything(journal) for journal in journals]
            for part, held in held_in_memory.items():
                assert held == held_on_disk[part], f"{part} after step {number}"
            life.subscriptions = held_in_memory["subscriptions"]
    finally:
        for journal in journals:
            await journal.close()
