"""What a relay can't send: rows of the journal, one for each event that the broker refused, and for those of its key that
wait behind it until it is replayed or dropped."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ..ids import id_text
from ..journal.port import BEHIND, WHOLE_FEED, Change, Delivery, Journal, Put, Record, Unit
from ..wording import storable
from .membership import Membership
from .numbering import Numbering

log = logging.getLogger("eventspine.broker")
AT_ONCE = 1000


class Aside:
    def __init__(self, channel: str, journal: Journal, member: Membership, numbering: Numbering) -> None:
        self.channel = channel
        self.journal = journal
        self.positions: set[int] = set()  # that have a row
        self.due: list[int] = []  # rows that were replayed, or have nothing before them any more
        self._member = member
        self._numbering = numbering
        self._waiting: dict[str, list[int]] = {}  # rows of a key, in order; the first is why it waits

    async def look(self) -> None:
        rows = await self._rows()
        self._waiting, self.positions = {}, {row.position for row in rows}
        for row in rows:
            self._waiting.setdefault(_lane(row.key, row.position), []).append(row.number)
        first = {numbers[0] for numbers in self._waiting.values()}
        self.due = [row.number for row in rows if row.number in first and row.state == "parked"]

    async def _rows(self) -> list[Delivery]:
        rows: list[Delivery] = []
        while True:
            page = await self.journal.deliveries(
                subscriptions=[self._member.row.number],
                states=["parked", "dead"],
                after=rows[-1].number if rows else 0,
                limit=AT_ONCE,
                records=False,
            )
            rows += page
            if len(page) < AT_ONCE:
                return rows

    def waits(self, record: Record) -> bool:
        """Whether something of its key can't be sent."""
        return bool(self._waiting) and _lane(record.key, record.position) in self._waiting

    def behind(self, record: Record) -> Put:
        return self._put(record, "parked", BEHIND, "")

    def dead(self, record: Record, reason: str, error: str) -> Put:
        """Those after it wait from now on."""
        self._waiting.setdefault(_lane(record.key, record.position), [])
        return self._put(record, "dead", reason, error)

    def _put(self, record: Record, state: str, reason: str, error: str) -> Put:
        attempts = 0 if reason == BEHIND else 1
        return Put(self._member.row.number, WHOLE_FEED, record, state, attempts, None, reason, storable(error))  # type: ignore[arg-type]

    async def store(self, puts: Sequence[Put]) -> None:
        """Before their tombstones are sent, so that what is decided is decided."""
        for put in puts:
            if put.state == "dead":
                log.error(
                    "%s of %s can't be sent and is a dead delivery of %s: %s",
                    id_text(put.record.id), self.channel, self._member.row.name, put.error,
                )  # fmt: skip
        numbers = await self._numbering.write(Unit(puts=list(puts)))
        for put, number in zip(puts, numbers, strict=True):
            self.positions.add(put.record.position)
            self._waiting.setdefault(_lane(put.record.key, put.record.position), []).append(number)

    async def change(self, number: int, **changed: Any) -> None:
        await self._numbering.write(changing(number, **changed))


def changing(number: int, **changed: Any) -> Unit:
    return Unit(changes=[Change(number, while_state=("parked",), **changed)])


def _lane(key: str | None, position: int) -> str:
    return f"k{key}" if key is not None else f"p{position}"
