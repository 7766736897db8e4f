"""Deliveries that change nothing, so that no unit carries a mark of them: all that finishes them is a range of the cursor.

Several of a key are handled before the first of them is stored. So two things are to be seen on the way: which of them a
commit has finished, and that nothing of a key is ever durable while an earlier one of it is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...journal._memory_tables import Tables
from ...journal.cursors import is_finished
from ...journal.port import OWN_FEED, Done, Record, Unit, Verdict

if TYPE_CHECKING:
    from ...engine.lanes import Item
    from ...engine.subscription import Subscription


class Effect(NamedTuple):
    """A delivery that was finished by its handler; with whatever else was in its unit."""

    subscription: str
    event_id: bytes
    position: int
    key: str | None
    late: bool


class Handled(NamedTuple):
    name: str  # of the subscription
    order: str
    partition: int
    record: Record


Place = tuple[int, int, int]  # subscription, generation of its cursor, position


class Unmarked:
    def __init__(self, effects: list[Effect]) -> None:
        self._effects = effects
        self._looked = 0  # at so many of them
        self._open: dict[Place, Handled] = {}  # handled, and not seen to be finished

    def handled(self, one: Subscription, item: Item) -> None:
        """A handler has returned, and changed nothing."""
        assert item.record is not None
        place = one.number, item.part.generation, item.record.position
        self._open[place] = Handled(one.name, one.handler.order, item.part.number, item.record)

    def look(self, tables: Tables, units: Sequence[Unit], verdicts: Sequence[Verdict]) -> list[str]:
        """After a commit: what is wrong with it."""
        if self._open:
            for unit, verdict in zip(units, verdicts, strict=True):
                if verdict.kind == "done" and unit.done:
                    self._finished(tables, unit.done, by_range=not (unit.statements or unit.puts))
        new, self._looked = self._effects[self._looked :], len(self._effects)
        return [wrong for effect in new if not effect.late for wrong in self._overtaken(tables, effect)]

    def _finished(self, tables: Tables, finished: Sequence[Done], *, by_range: bool) -> None:
        """By nothing but a range, or by a unit that carries a mark, or a row, of its own: another attempt came to that. Where
        there is a row, it says what becomes of the event."""
        for place, one in list(self._open.items()):
            if any(_covers(done, place, one.partition) for done in finished):
                del self._open[place]
                record = one.record
                row = (place[0], OWN_FEED, one.partition, record.position)
                if by_range and row not in tables.delivery_at and not self._known(one.name, record.position):
                    self._effects.append(Effect(one.name, record.id, record.position, record.key, late=False))

    def _known(self, name: str, position: int) -> bool:
        """Whether it was finished before: one that changes nothing may come again, and is stored again."""
        return any((effect.subscription, effect.position) == (name, position) for effect in self._effects)

    def _overtaken(self, tables: Tables, effect: Effect) -> Iterator[str]:
        for place, one in self._open.items():
            if place[2] < effect.position and one.name == effect.subscription and _together(tables, one, effect):
                position, beyond = tables.cursor(place[0], OWN_FEED, one.partition)
                if not is_finished(position, beyond, place[2]):
                    yield f"{one.name} has finished #{effect.position} for good, and not #{place[2]} before it in its key"


def _covers(done: Done, place: Place, partition: int) -> bool:
    return (done.subscription, done.generation, done.partition) == (*place[:2], partition) and any(
        after < place[2] <= upto for after, upto in done.ranges
    )


def _together(tables: Tables, one: Handled, effect: Effect) -> bool:
    """Whether the order of these two is promised."""
    if one.order == "feed":
        return True
    channel = tables.feed[effect.position - 1].channel
    return (
        one.order == "key" and effect.key is not None and (one.record.channel, one.record.key) == (channel, effect.key)
    )
