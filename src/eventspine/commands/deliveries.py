"""The delivery that a handler of commands may take: as any other, but that it finishes with an answer.

execute, publish, save ──▶ unit ──▶ + the answer ──▶ one commit
transaction()          ──▶ the same, in the transaction that the handler has held
join(session, result)  ──▶ the same, in a transaction of the caller's, who commits
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeVar

from ..delivery import Delivery
from ..journal.port import Record, Unit
from ..observe.written import Written
from ..publishing import Publisher, Speaker, through
from .answers import Answer, note_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..clock import Clock
    from ..journal.port import Journal
    from ..observe.correlation import Cause
    from ..service import Middleware
    from .handlers import CommandHandler

R = TypeVar("R")
_GIVE_IT = "Write delivery.join(session, result), with what the handler is going to return. "


@dataclass(slots=True)
class Attempt:
    """What a delivery knows as its item: one call of the handler."""

    attempts: int
    same: bytes
    command_id: str
    late: bool = False
    timed_out: bool = False
    started: float = 0.0
    turn: int = 0  # it comes after nothing: it has no key


@dataclass(slots=True)
class Desk:
    """What a delivery asks of its subscription, where a command is handled."""

    handler: CommandHandler
    journal: Journal
    clock: Clock
    publisher: Publisher
    middleware: Sequence[Middleware]
    resources: Any = None
    republish: str = ""
    uid: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.uid = blake2b(f"{self.handler.service} {self.handler.kind.name}".encode(), digest_size=16).digest()

    @property
    def name(self) -> str:
        return self.handler.where

    @property
    def speaker(self) -> Speaker:
        return Speaker(self.publisher, self.middleware)

    def complete(self, item: Attempt, unit: Unit) -> None:
        """Nothing more: the answer is in the unit when a connection is joined."""

    def record_of(self, event: Any, id: bytes, time: datetime | None, cause: Cause) -> Record:
        return through(self.middleware, self.publisher, event, id=id, time=time, cause=cause)


class CommandDelivery(Delivery[R]):
    """`event_id` is the id under which this command was sent, which caused the events that are published here."""

    _subscription: Desk  # type: ignore[assignment]  # it has what a delivery asks for
    _item: Attempt

    @property
    def idempotency_key(self) -> str:
        """The same whenever the same command is sent again under its id."""
        identity = self._subscription.uid + self._item.command_id.encode("utf-8", "surrogatepass")
        return blake2b(identity, digest_size=16).hexdigest()

    def join(self, within: Any, result: Any = None) -> Any:
        """Write this command's events and its answer in a transaction of the caller's: `delivery.join(session, order_id)`,
        with what the handler is going to return. Call it last; then commit, and return."""
        handler = self._subscription.handler
        written = handler.kind.write_result(result, handler.where, "joined a transaction with the result", _GIVE_IT)
        self._finishing(self._changeable(), written)
        return self._joining(within)

    def _check_joining(self) -> None: ...

    def _finishing(self, unit: Unit, result: bytes) -> None:
        desk, item = self._subscription, self._item
        written = Written()
        written.add(record for append in unit.appends for record in append.records)
        answer = Answer(self.record.id, item.same, result, written.ids)
        unit.notes.append(note_of(desk.handler.service, item.command_id, answer, desk.clock.now_us()))
