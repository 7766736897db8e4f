"""Commands to one aggregate: load, decide, save; again after a conflict; once, whoever asks again.

    load ──▶ decide ──▶ save ──▶ changed
      ▲                  │
      └──── conflict ────┘   as often as the class says, and then Conflict is raised

A command with an id leaves a note of what it did in the unit that did it. Who sends it again finds the note, changes
nothing, and is given the aggregate as it was when the command had been done, and the receipts of then. Two that are sent
at once are two units that expect there to be no such note: one commits, and the other finds it."""

from __future__ import annotations

from asyncio import sleep
from dataclasses import MISSING
from datetime import timedelta
from random import uniform
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

import msgspec

from ..errors import CommandReused, Conflict, SettingsError, SpineError, VersionsDeleted
from ..journal.notes import KEY_BYTES_MAX
from ..journal.port import Note
from ..observe.correlation import current
from ..publishing import Receipt
from .aggregate import Aggregate, Identity, id_of
from .shapes import shape_of
from .streams import AsOf, load, load_or_new

if TYPE_CHECKING:
    from .on_spine import State

A = TypeVar("A", bound=Aggregate)
KIND = "command"
ANSWERS_KEPT = timedelta(days=7)
PAUSE_S = 0.01  # at most, before the second try after a conflict: about what a commit takes; doubled with each
PAUSE_MOST_S = 0.5


def pause_s(tries: int) -> float:
    """How long to wait after so many tries: not at all after the first, which is mostly the last; then by chance, over a time in
    which all of a dozen who want the same aggregate can have their turn. Over a shorter one they are in each other's way until
    their tries are used up."""
    return uniform(0, min(PAUSE_MOST_S, PAUSE_S * (2 ** min(tries - 1, 30) - 1)))


class Changed(NamedTuple, Generic[A]):
    """What became of a command."""

    aggregate: A  # as it was when the command had been done
    receipts: list[Receipt]  # of the events that it recorded
    repeated: bool  # it had been done before, under this id, and nothing has changed now


class Done(msgspec.Struct, array_like=True, frozen=True):
    """What a command did, as it is noted."""

    stream: str
    before: int
    after: int


class Changing(Generic[A]):
    """One command on its way. `load` gives what is to be decided on, until there is nothing left to do."""

    changed: Changed[A]

    def __init__(self, spine: State, cls: type[A], id: Identity, new: bool, command_id: str | None) -> None:
        self._spine = spine
        self._cls = cls
        self._id = id_of(id)
        self._new = new
        self._command_id = None if command_id is None else checked_command_id(command_id)
        self._shape = shape_of(cls)
        self._service = spine._speaker().service
        self._stream = self._shape.stream(self._id)
        self._tries = 0
        self._over = False
        _refuse_in_handlers()

    async def load(self) -> A | None:
        """What to decide on; None: it is done."""
        if self._over:
            return None
        await self._spine._at_first_use()
        if (done := await self._done_before()) is not None:
            try:
                self.changed = Changed(*await self._answer(done), repeated=True)
            except VersionsDeleted as gone:
                raise self._no_answer(done, gone) from gone
            return None
        reading = load_or_new if self._new else load
        found = cast("A", await reading(self._spine.journal, self._service, self._cls, self._id))
        self._loaded = dict(vars(found))
        return found

    async def save(self, found: A) -> None:
        """Store what was decided, or get ready to decide again."""
        if not found._spine.pending and not found._spine.broken:
            self._refuse_unrecorded(found)
        self._tries += 1
        before = found.version - len(found._spine.pending)
        try:
            made = await self._spine._save([found], current.get(), self._notes(before, found.version))
        except Conflict:
            if self._tries >= self._shape.options.conflict_tries:
                raise
            await self._pause(pause_s(self._tries))
            return
        self.changed = Changed(found, made, repeated=False)
        self._over = True

    def _refuse_unrecorded(self, found: A) -> None:
        """A state that was changed without an event is lost with the object. What was changed inside of a list or dict is not
        seen: for that the stream would have to be read once more."""
        now, then = vars(found), self._loaded
        for name in self._shape.annotated:
            if now.get(name, MISSING) is not then.get(name, MISSING):
                here, there = getattr(found, name, None), then.get(name, getattr(self._cls, name, None))
                if here != there:
                    raise SpineError(
                        f"change() set {name} of {self._cls.__name__} {found.id!r} to {here!r:.100}, where it was {there!r:.100}, and no "
                        "event was recorded: nothing would be stored. Record an event, and change it in the method that @applies it."
                    )

    async def _pause(self, seconds: float) -> None:
        await sleep(seconds)

    def _notes(self, before: int, after: int) -> list[Note]:
        if self._command_id is None:
            return []
        value = msgspec.msgpack.encode(Done(self._stream, before, after))
        until_us = self._spine.clock.now_us() + ANSWERS_KEPT // timedelta(microseconds=1)
        return [Note(self._service, KIND, self._command_id, value, expected=0, until_us=until_us)]

    async def _done_before(self) -> Done | None:
        if self._command_id is None:
            return None
        noted = await self._spine.journal.notes(self._service, KIND, [self._command_id])
        if not noted:
            return None
        done = msgspec.msgpack.decode(noted[0].value, type=Done)
        if done.stream != self._stream:
            raise CommandReused(
                f"The command id {self._command_id!r} was given to a command to {done.stream} before, and now to one to "
                f"{self._stream}. Make a new id for each command, and use it again only to send the same one again.",
                command_id=self._command_id,
                stream=done.stream,
            )
        return done

    async def _answer(self, done: Done) -> tuple[A, list[Receipt]]:
        journal = self._spine.journal
        found = await load_or_new(journal, self._service, self._cls, self._id, AsOf(version=done.after))
        recorded = done.after - done.before
        records = (
            await journal.stream(self._service, self._stream, after=done.before, limit=recorded) if recorded else []
        )
        return found, [Receipt(record.id, record.position, True, None) for record in records]

    def _no_answer(self, done: Done, gone: VersionsDeleted) -> VersionsDeleted:
        return VersionsDeleted(
            f"The command {self._command_id!r} has been done, and brought {self._stream} from version {done.before:,} to "
            f"{done.after:,}; nothing has changed now. What it was then can't be told any more: the stream begins with version "
            f"{gone.details['first']:,}. Load it as it is.",
            service=self._service,
            stream=self._stream,
            first=gone.details["first"],
            command_id=self._command_id,
        )


def checked_command_id(command_id: Any) -> str:
    size = len(command_id.encode("utf-8", "surrogatepass")) if isinstance(command_id, str) else 0
    if not 0 < size <= KEY_BYTES_MAX or not command_id.isprintable():
        raise SettingsError(
            f"command_id={command_id!r:.100}: pass 1 to {KEY_BYTES_MAX} bytes of printable text that the sender made for this "
            "command, such as a UUID."
        )
    return cast("str", command_id)


def _refuse_in_handlers() -> None:
    from ..delivery import Delivery
    from ..runs import BatchDelivery

    cause = current.get()
    if isinstance(cause, (Delivery, BatchDelivery)) and cause._open:
        raise SpineError(
            f"{cause.handler} calls spine.change(...), which would commit apart from what it handles. Use "
            "await delivery.load(...) and delivery.save(...): they belong to the delivery, which happens once by itself."
        )
