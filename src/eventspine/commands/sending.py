"""One command on its way, in the process that sends it.

    send ──▶ in turn ──▶ noted before? ──▶ handler ──▶ commit ──▶ the result
                 ▲            │               │           ├── conflict: somebody saved the same aggregate, or did the same
                 │            │               │           │   command; from the beginning, as often as the handler says
                 │            │               │           └── a unique key was taken: by somebody at the same moment, perhaps;
                 │            │               │               from the beginning, once, so that the handler sees what there is
                 │            │               └── it raises: nothing has happened, and the caller hears it
                 └────────────┘

In one process the commands of one id wait for each other, so that the handler is called once. Two processes may both call it;
both expect that nothing is noted, one commits, and the other answers with what that one noted. Where COMMIT itself can't say
whether it happened, the note says it.

What calls the handler is a `Caller`: on the loop, in the thread that sends, or on a framework's own connection. A command that
goes to its owner over a broker, and comes back as a reply, would be one more way between `admit` and the result.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ..errors import Conflict, HandlerTimeout, JournalError, OutcomeUnknown, SpineError, UnitFailed
from ..events import EventType
from ..ids import id_text
from ..journal.port import Record, Unit
from ..observe.correlation import current
from ..observe.written import collected, wrote
from ..publishing import Publisher, through
from ..state.changing import checked_command_id, pause_s
from . import answers
from .answers import Answer
from .declare import CommandType, describe_command
from .deliveries import Attempt, CommandDelivery, Desk

if TYPE_CHECKING:
    from .declare import Command
    from .on_spine import Commanding

T = TypeVar("T")


class Caller(Protocol):
    """Calls the handler as it was written, and says when the next try is due."""

    async def call(self, desk: Desk, command: Any, delivery: CommandDelivery[Any]) -> Any: ...
    async def pause(self, seconds: float) -> None: ...


class Sender(Publisher):
    """Makes the record of a command: anybody may send it, and it is stored nowhere."""

    def mine(self, event: Any) -> EventType:
        return describe_command(type(event))


log = logging.getLogger("eventspine.commands")


@dataclass
class Sending:
    spine: Commanding
    kind: CommandType
    desk: Desk
    command: Any
    record: Record
    same: bytes
    command_id: str
    named: bool  # the sender gave it its id, so it may have been sent before
    caller: Caller

    async def answer(self) -> bytes:
        """The result, as it is noted."""
        spine, handler = self.spine, self.desk.handler
        raced = False
        async with spine._turns.of((handler.service, self.command_id)):
            for attempt in range(handler.conflict_tries):
                if (self.named or attempt) and (noted := await self._noted()) is not None:
                    return _again(noted)
                try:
                    return await self._attempt(attempt)
                except Conflict as error:
                    conflict: SpineError = error
                except UnitFailed as error:
                    if raced or not _was_taken(error):
                        raise
                    conflict, raced = error, True
                await self.caller.pause(pause_s(attempt + 1))
            if (noted := await self._noted()) is not None:
                return _again(noted)
            raise conflict

    async def _noted(self) -> Answer | None:
        noted = await answers.find(self.desk.journal, self.desk.handler.service, self.command_id)
        if noted is not None:
            answers.check_same(noted, self.same, self.kind.name, self.command_id)
        return noted

    # --- one attempt --------------------------------------------------------------------------------------------------

    async def _attempt(self, attempt: int) -> bytes:
        handler = self.desk.handler
        item = Attempt(attempt, self.same, self.command_id)
        delivery: CommandDelivery[Any] = CommandDelivery(self.desk, item, self.record)  # type: ignore[arg-type]  # see Desk
        token = current.set(delivery)
        try:
            result = await self._through(delivery)()
            if delivery._aggregates:
                delivery._refuse_unsaved()
            written = handler.kind.write_result(result, handler.where)
        except BaseException as error:
            await delivery._abandon()
            # Who is ended from outside ends: asked for again, the command answers with what it has done.
            ended = not isinstance(error, Exception)
            if ended or not delivery._joined or (noted := await self._ours()) is None:
                raise
            log.exception(
                "%s is done, since the transaction that it joined had committed when it raised, and the sender has its answer. What "
                "the handler still had to do is not done.", self.desk.name,
            )  # fmt: skip
            return _again(noted)
        finally:
            current.reset(token)
        return await self._close(delivery, written)

    def _through(self, delivery: CommandDelivery[Any]) -> Callable[[], Awaitable[Any]]:
        call: Callable[[], Awaitable[Any]] = partial(self.caller.call, self.desk, self.command, delivery)
        for one in reversed(self.desk.middleware):
            call = partial(one.handle, self.command, delivery, call)
        return call

    async def _close(self, delivery: CommandDelivery[Any], result: bytes) -> bytes:
        unit = delivery._close()
        if delivery._joined:
            return await self._joined(delivery, result)
        if unit is None and delivery._transaction is None and not self.named:
            return result  # it has changed nothing, and nobody can ask again
        unit = unit or Unit()
        delivery._finishing(unit, result)
        try:
            await self._commit(delivery, unit)
        except (OutcomeUnknown, JournalError) as error:
            return await self._after(error)
        wrote(record for append in unit.appends for record in append.records)
        return result

    async def _commit(self, delivery: CommandDelivery[Any], unit: Unit) -> None:
        transaction = delivery._transaction
        if transaction is None:
            await self.spine._store(unit)
            return
        verdict = await transaction.commit(unit)
        if not verdict.ok:
            raise verdict.error or SpineError(f"The journal answered {verdict.kind}.")

    async def _after(self, error: SpineError) -> bytes:
        """The commit failed, or its outcome is unknown. What is noted, if that can be read, says which of the two."""
        try:
            noted = await self._ours()
        except SpineError:
            noted, error = None, error if isinstance(error, OutcomeUnknown) else _unknown(error)
        if noted is not None:
            return _again(noted)
        if isinstance(error, OutcomeUnknown):
            raise OutcomeUnknown(
                f"The journal can't say whether {self.kind.name} was done. Send it again with command_id={self.command_id!r}: "
                "if it was, that answers with its result.",
                command_id=self.command_id,
                type=self.kind.name,
            ) from error
        raise error

    async def _joined(self, delivery: CommandDelivery[Any], result: bytes) -> bytes:
        """The handler's own transaction carries the unit: has it committed?"""
        noted = None if delivery._unawaited else await self._ours()
        if noted is None:
            raise UnitFailed(
                f"{self.desk.name} has returned, but the transaction that it joined has not committed. Commit it before "
                "returning, and await join() of an asynchronous session. A savepoint that is rolled back takes a join() in it along."
            )
        if noted.result != result:
            log.error(
                "%s returned %s, and had joined a transaction with %s, which is the answer. Write delivery.join(session, result), with "
                "what it is going to return.", self.desk.name, _shown(result), _shown(noted.result),
            )  # fmt: skip
        return _again(noted)

    async def _ours(self) -> Answer | None:
        noted = await answers.find(self.desk.journal, self.desk.handler.service, self.command_id)
        return noted if noted is not None and noted.sent == self.record.id else None


def _was_taken(error: UnitFailed) -> bool:
    """It broke a unique key, in the words of either database."""
    broken = error.__cause__
    return getattr(broken, "sqlstate", None) == "23505" or getattr(broken, "sqlite_errorname", None) in _UNIQUE


_UNIQUE = ("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_ROWID")


def _again(noted: Answer) -> bytes:
    if (written := collected.get()) is not None:
        written.add_ids(noted.events)
    return noted.result


def _shown(result: bytes) -> str:
    return result.decode()[:100]


def _unknown(error: SpineError) -> OutcomeUnknown:
    unknown = OutcomeUnknown(str(error))
    unknown.__cause__ = error
    return unknown


async def send(spine: Commanding, command: Command[T], command_id: str | None, caller: Caller | None = None) -> T:
    """Have the command handled here, and give what its class says that it is answered with."""
    if isinstance(command, type):
        raise SpineError(
            f"send() was given the class {command.__name__}, and takes a command: {command.__name__}(...)."
        )
    kind = describe_command(type(command))
    _refuse_in_handlers(kind)
    data, read = kind.admit(command)
    id = None if command_id is None else checked_command_id(command_id)
    handler, service = spine._handler_of(kind)
    await spine._at_first_use()
    record = through(spine._around, spine._sender, command, cause=current.get())
    if handler.kind is not kind:
        read = handler.kind.admitted(data)
    desk = await spine._desk(handler, service)
    given = id or id_text(record.id)
    sending = Sending(
        spine, handler.kind, desk, read, record, handler.kind.same(read), given, id is not None, caller or OnLoop()
    )
    result: T = kind.read_result(await sending.answer())
    return result


def _refuse_in_handlers(kind: CommandType) -> None:
    from ..delivery import Delivery
    from ..runs import BatchDelivery

    cause = current.get()
    if isinstance(cause, (Delivery, BatchDelivery)) and cause._open:
        raise SpineError(
            f"{cause.handler} sends {kind.name}, which would commit apart from what it handles. Publish an event that the "
            "command's owner handles, or load and save the aggregate here: delivery.load(...), delivery.save(...)."
        )


# --- turns ------------------------------------------------------------------------------------------------------------


class Turns:
    """One at a time of each id, on each event loop."""

    def __init__(self) -> None:
        self._locks: dict[Any, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def of(self, place: tuple[str, str]) -> AsyncIterator[None]:
        key = (asyncio.get_running_loop(), *place)
        lock, wanted = self._locks.get(key, (None, 0))
        lock = lock or asyncio.Lock()
        self._locks[key] = lock, wanted + 1
        try:
            async with lock:
                yield
        finally:
            lock, wanted = self._locks.pop(key)
            if wanted > 1:
                self._locks[key] = lock, wanted - 1


# --- calling ----------------------------------------------------------------------------------------------------------

Run = Callable[[Callable[[], Any]], Awaitable[Any]]


class OnLoop:
    """`async def` handlers here, `def` ones in a thread; or in the thread that sends, where `run` is a way there."""

    def __init__(self, run: Run | None = None) -> None:
        self._run = run or _in_thread

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def call(self, desk: Desk, command: Any, delivery: CommandDelivery[Any]) -> Any:
        handler = desk.handler
        if handler.is_async:
            return await self._in_time(desk, command, delivery)
        from ..sync.delivery import in_thread

        blocking = in_thread(delivery, asyncio.get_running_loop())
        arguments = (command, blocking) if handler.wants_delivery else (command,)
        began = desk.clock.monotonic()
        result = await self._run(partial(handler.function, *arguments))
        if desk.clock.monotonic() - began > handler.timeout_s:  # a thread can't be stopped, but what it did is dropped
            raise _too_slow(desk)
        return result

    async def _in_time(self, desk: Desk, command: Any, delivery: CommandDelivery[Any]) -> Any:
        handler = desk.handler
        arguments = (command, delivery) if handler.wants_delivery else (command,)
        timeout = asyncio.timeout(handler.timeout_s)
        try:
            async with timeout:
                return await handler.function(*arguments)
        except TimeoutError as error:
            if timeout.expired():
                raise _too_slow(desk) from error
            raise


async def _in_thread(function: Callable[[], Any]) -> Any:
    """Whoever stops waiting for it still waits for its end: nobody else is called for the same command meanwhile."""
    import contextvars

    from ..engine.calls import returning

    context = contextvars.copy_context()
    work = asyncio.get_running_loop().run_in_executor(None, partial(returning, context, function))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise


def _too_slow(desk: Desk) -> HandlerTimeout:
    return HandlerTimeout(
        f"{desk.name} did not return within {desk.handler.timeout_s:g} s. Raise its timeout_s=, or make it give up earlier."
    )
