"""The shop with a journal for each of its services, and a broker between them; and what keeps that whole, turned off."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from eventspine.brokers.port import Start
from eventspine.engine.arrivals import Arrivals
from eventspine.engine.carrying import Carrying
from eventspine.engine.intake import Intake
from eventspine.engine.numbering import Numbering
from eventspine.engine.relay import Relay
from eventspine.journal import _memory_tables
from eventspine.journal.port import Unit
from eventspine.testing.simulate import Faults, World
from eventspine.testing.simulate.history import Setup
from tests.simulate.shop import OrderPlaced, books, each_order_takes_stock_once, orders, stock

INVARIANTS = (each_order_takes_stock_once,)
SETTLED_S = 600.0  # what is lost never comes: no need to look for an hour
LOG = Setup((stock, books), orders, INVARIANTS, 2, Faults(), None, "log", SETTLED_S)
QUEUE = Setup((stock, books), orders, INVARIANTS, 2, Faults(), None, "queue", SETTLED_S)
UNORDERED = Setup((stock, books), orders, INVARIANTS, 2, Faults(), None, "unordered", SETTLED_S)
CARRIED = {"log": LOG, "queue": QUEUE, "unordered": UNORDERED}
LONG_ORDERS = 24


async def orders_for_a_minute(world: World) -> None:
    """Longer than a lease, so that there is still something to send, and to bring in, when another has taken over."""
    for number in range(LONG_ORDERS):
        await world.publish(OrderPlaced(customer=f"c{number % 3}", number=number))
        await world.sleep(seconds=2.5)


TAKING_OVER = replace(Faults.none(), clock_jumps=8, pauses=4, slow=0.4, restarts=2)
LEASES_LOST = Setup((stock, books), orders_for_a_minute, (), 2, TAKING_OVER, None, "queue", SETTLED_S)


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


def marks_not_kept(patch: pytest.MonkeyPatch) -> None:
    """Neither asked nor stored: ids alone. Nothing comes twice, but nobody knows after a restart what is next."""
    marks_not_looked_at(patch)
    made = Intake._unit

    def unmarked(self: Any, *given: Any) -> Unit:
        unit = made(self, *given)
        unit.marks.clear()
        return unit

    patch.setattr(Intake, "_unit", unmarked)


def neither_numbers_nor_ids_known(patch: pytest.MonkeyPatch) -> None:
    """Two nets: with either of them alone the same histories are whole."""
    marks_not_looked_at(patch)
    ids_not_looked_at(patch)


def numbers_not_stored(patch: pytest.MonkeyPatch) -> None:
    commit = Numbering._commit
    patch.setattr(Numbering, "_commit", lambda self, unit, upto, _: commit(self, unit, upto, {}))


def cursor_before_the_broker_has_it(patch: pytest.MonkeyPatch) -> None:
    deliver, send = Relay._deliver, Relay._send_page

    async def later(self: Any, batch: Any) -> None:
        self._batch = batch

    async def first(self: Any, records: Any, scanned: int) -> None:
        await send(self, records, scanned)
        await self._numbering.store()
        await deliver(self, self._batch)

    patch.setattr(Relay, "_deliver", later)
    patch.setattr(Relay, "_send_page", first)


def no_answer_taken_for_yes(patch: pytest.MonkeyPatch) -> None:
    async def hopeful(self: Any, messages: Any) -> Any:
        await answers(self, messages)
        return [None] * len(messages)

    answers = Relay._answers
    patch.setattr(Relay, "_answers", hopeful)


def relays_not_fenced(patch: pytest.MonkeyPatch) -> None:
    write = Numbering.write

    async def unfenced(self: Any, unit: Unit) -> list[int]:
        self._fences = []
        return await write(self, unit)

    patch.setattr(Numbering, "write", unfenced)


def intakes_not_fenced(patch: pytest.MonkeyPatch) -> None:
    made = Intake._unit

    def unfenced(self: Any, *given: Any) -> Unit:
        unit = made(self, *given)
        unit.fences.clear()
        return unit

    patch.setattr(Intake, "_unit", unfenced)


def copies_of_what_is_held_settled_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Intake, "_came_while_held", lambda self, landing, held, item: landing.done(item.fetched, item.after))


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
