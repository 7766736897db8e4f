"""The shop with a journal for each of its services, and a broker between them; and what keeps that whole, turned off."""

from __future__ import annotations

from typing import Any

import pytest

from eventspine.brokers.port import Start
from eventspine.engine.arrivals import Arrivals
from eventspine.engine.carrying import Carrying
from eventspine.engine.intake import Intake
from eventspine.engine.relay import Relay
from eventspine.journal import _memory_tables
from eventspine.journal.port import Unit
from eventspine.testing.simulate import Faults
from eventspine.testing.simulate.history import Setup
from tests.simulate.shop import books, each_order_takes_stock_once, orders, stock

INVARIANTS = (each_order_takes_stock_once,)
LOG = Setup((stock, books), orders, INVARIANTS, 2, Faults(), None, "log")
QUEUE = Setup((stock, books), orders, INVARIANTS, 2, Faults(), None, "queue")
UNORDERED = Setup((stock, books), orders, INVARIANTS, 2, Faults(), None, "unordered")
CARRIED = {"log": LOG, "queue": QUEUE, "unordered": UNORDERED}


def ids_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    """Whether the journal has an event of this id, of which marks make a second net."""
    append = _memory_tables.Tables.append

    def whatever_its_id(self: Any, records: Any, *rest: Any) -> Any:
        for record in records:
            self.by_id.pop(record.id, None)
        return append(self, records, *rest)

    patch.setattr(_memory_tables.Tables, "append", whatever_its_id)


def marks_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    judge = Arrivals.judge
    patch.setattr(
        Arrivals, "judge", lambda *given, **more: "new" if (said := judge(*given, **more)) == "known" else said
    )


def numbers_not_stored(patch: pytest.MonkeyPatch) -> None:
    commit = Relay._commit
    patch.setattr(Relay, "_commit", lambda self, unit, upto, _: commit(self, unit, upto, {}))


def cursor_before_the_broker_has_it(patch: pytest.MonkeyPatch) -> None:
    deliver, commit = Relay._deliver, Relay._commit

    async def later(self: Any, batch: Any) -> None:
        self._batch = batch

    async def first(self: Any, unit: Unit, upto: int, numbers: dict[int, int]) -> None:
        await commit(self, unit, upto, numbers)
        batch, self._batch = getattr(self, "_batch", []), []
        await deliver(self, batch)

    patch.setattr(Relay, "_deliver", later)
    patch.setattr(Relay, "_commit", first)


def no_answer_taken_for_yes(patch: pytest.MonkeyPatch) -> None:
    async def hopeful(self: Any, messages: Any) -> Any:
        await answers(self, messages)
        return [None] * len(messages)

    answers = Relay._answers
    patch.setattr(Relay, "_answers", hopeful)


def relays_not_fenced(patch: pytest.MonkeyPatch) -> None:
    write = Relay._write

    async def unfenced(self: Any, unit: Unit) -> list[int]:
        unit.fences.clear()
        return await write(self, unit)

    patch.setattr(Relay, "_write", unfenced)


def whoever_takes_over_does_not_look(patch: pytest.MonkeyPatch) -> None:
    take_up = Relay._take_up

    async def as_it_was(self: Any) -> None:
        before, numbers = self.position, self._numbers
        await take_up(self)
        if before:
            self.position, self._numbers = before, numbers

    patch.setattr(Relay, "_take_up", as_it_was)


def intakes_not_fenced(patch: pytest.MonkeyPatch) -> None:
    unit = Intake._unit

    def unfenced(self: Any, intake: Any, landing: Any) -> Unit:
        made = unit(self, intake, landing)
        made.fences.clear()
        return made

    patch.setattr(Intake, "_unit", unfenced)


def early_taken_at_once(patch: pytest.MonkeyPatch) -> None:
    judge = Arrivals.judge
    patch.setattr(
        Arrivals, "judge", lambda *given, **more: "new" if (said := judge(*given, **more)) == "early" else said
    )


def settled_before_it_is_stored(patch: pytest.MonkeyPatch) -> None:
    store = Intake._store

    async def settle_first(self: Any, intake: Any, landings: Any) -> None:
        for landing in landings:
            await intake.settle(landing.settled)
        await store(self, intake, landings)

    patch.setattr(Intake, "_store", settle_first)


def start_decided_by_each(patch: pytest.MonkeyPatch) -> None:
    async def mine(_: Any, __: str, start: Start) -> Start:
        return start

    patch.setattr(Carrying, "_decided", mine)


def held_kept_without_the_partition(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Arrivals, "drop", lambda *_: None)


def marks_of_others_not_loaded_again(patch: pytest.MonkeyPatch) -> None:
    begin = Intake._begin

    async def keeping(self: Any, *given: Any) -> None:
        before = set(self._origins)
        await begin(self, *given)
        self._origins |= before

    patch.setattr(Intake, "_begin", keeping)


def a_relay_that_can_not_leave_ends(patch: pytest.MonkeyPatch) -> None:
    async def leave(self: Any) -> None:
        await self._member.leave()

    patch.setattr(Relay, "_leave", leave)


def read_in_parts(patch: pytest.MonkeyPatch) -> None:
    """Whoever takes over looks at the position, then at the numbers, and not whether it still leads."""
    commit = Relay._commit

    async def unless_it_takes_up(self: Any, unit: Unit, upto: int, numbers: dict[int, int]) -> None:
        if self._epoch == self._member.held[0].epoch:
            await commit(self, unit, upto, numbers)

    patch.setattr(Relay, "_commit", unless_it_takes_up)
