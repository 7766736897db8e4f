"""Commands, aggregates and views in Django: always on Django's own connection to the database that has the journal.

    send(PlaceOrder(...))     one transaction.atomic(): the handler's rows, events and aggregates, and the noted answer
    change, save              the same, of one aggregate or several
    load, view                what is committed, and what this transaction has done so far

A command's transaction takes a lock before it looks whether the command was done, so the handler is called once, however many
processes are sent the same: SQLite's write lock, or on PostgreSQL one of this command or aggregate alone. Inside of a transaction of the
caller's it is a savepoint of that one. After a conflict all of it is rolled back, rows too, before the handler is called again.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Literal, NoReturn, ParamSpec, TypeVar, cast

from asgiref.sync import sync_to_async
from django.db import transaction
from django.utils.asyncio import async_unsafe

from ... import sync
from ...commands.on_spine import Commanding
from ...delivery import Delivery
from ...errors import Conflict, DeclarationError, SettingsError, WouldDeadlock
from ...journal.port import Unit, Verdict
from ...observe.correlation import current
from ...publishing import Receipt
from ...service import Service
from ...state.blocking import SyncViewReader
from ...state.on_spine import State
from ...state.reading import ViewReader
from . import discovery, settings
from .connection import OnConnection, now
from .journals import journal_of, wrapper as journal_wrapper
from .publishing import refuse_dual_write, refuse_other_journal, spine_of
from .within import in_transaction

if TYPE_CHECKING:
    from typing import Unpack

    from ...commands.declare import Command, CommandType
    from ...commands.deliveries import CommandDelivery, Desk
    from ...commands.handlers import CommandHandler
    from ...state.aggregate import Aggregate, Identity
    from ...state.as_of import ViewThen
    from ...state.changing import Changed
    from ...state.streams import At
    from ...state.token import Token

    A = TypeVar("A", bound=Aggregate)
else:
    A = TypeVar("A")
T = TypeVar("T")
P = ParamSpec("P")
V = TypeVar("V")

_ASYNC = "This waits for the database, and would hold up the event loop: `await asend(...)`, or `await sync_to_async(...)(...)`."


def _blocking(function: Callable[P, T]) -> Callable[P, T]:
    """Refused in an event loop, which it would hold up."""
    return cast("Callable[P, T]", async_unsafe(_ASYNC)(function))


# --- commands -----------------------------------------------------------------------------------------------------------


def send(command: Command[T], *, command_id: str | None = None) -> T:
    """Have a command done by the one that handles it, and give what it is answered with. The options, and what is raised, are
    those of `Spine.send`; the handler is a `def`, is called here, and may use the ORM: all of it is one commit."""
    done: T = _send(command, command_id)
    return done


async def asend(command: Command[T], *, command_id: str | None = None) -> T:
    """`send` for async views: in the thread in which Django's own async calls use the database."""
    done: T = await sync_to_async(_send)(command, command_id)
    return done


@_blocking
def _send(command: Any, command_id: str | None) -> Any:
    from ...commands import sending

    tries = 0
    while True:
        try:
            with _writing(command_id) as wrapper:
                project = _Sending(wrapper)
                return now(sending.send(project, command, command_id, _Here()))
        except Conflict:
            tries += 1
            if tries >= project.tries:
                raise


class _Here:
    """Calls the handler in this thread, on this thread's connection."""

    async def call(self, desk: Desk, command: Any, delivery: CommandDelivery[Any]) -> Any:
        handler = desk.handler
        if handler.is_async:
            raise DeclarationError(
                f"{handler.where} is `async def`, and Django has no transactions there. Make it `def`: it is called where the "
                "command is sent."
            )
        blocking: sync.Delivery[Any] = _Driven(delivery, None)  # type: ignore[arg-type]  # there is no loop to ask
        return handler.function(*((command, blocking) if handler.wants_delivery else (command,)))

    async def pause(self, _: float) -> None:
        """Not at all: whoever was in the way has committed, or holds the write lock no more."""


class _Driven(sync.Delivery[Any]):
    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return now(coroutine)


# --- aggregates ---------------------------------------------------------------------------------------------------------


@_blocking
def load(aggregate: type[A], id: Identity, /, **at: Unpack[At]) -> A:
    """The aggregate of the project's service. The options are those of `Spine.load`."""
    return now(_speaking().load(aggregate, id, **at))


@_blocking
def load_or_new(aggregate: type[A], id: Identity, /) -> A:
    """The aggregate; new, at version 0, where it has no events."""
    return now(_speaking().load_or_new(aggregate, id))


@_blocking
def save(*aggregates: Aggregate) -> list[Receipt]:
    """Store what these have recorded: all, or nothing; in `transaction.atomic()`, when that commits."""
    cause = current.get()
    if isinstance(cause, Delivery) and cause._open:
        refuse_other_journal(cause, journal_of(journal_wrapper()))
        return cause.save(*aggregates)
    with _writing() as wrapper:
        return now(_Project(wrapper, settings.service()).save(*aggregates))


@_blocking
def change(
    aggregate: type[A],
    id: Identity,
    decide: Callable[[A], Any],
    /,
    *,
    new: bool = False,
    command_id: str | None = None,
) -> Changed[A]:
    """Load the aggregate, have `decide` call its methods, save it: one transaction. The options are those of `Spine.change`."""
    from ...state.changing import Changing

    class Here(Changing[A]):
        async def _pause(self, _: float) -> None:
            """Not at all, as above."""

    with _writing(f"{aggregate.__module__}.{aggregate.__qualname__} {id}") as wrapper:
        changing = Here(_Project(wrapper, settings.service()), aggregate, id, new, command_id)
        while (found := now(changing.load())) is not None:
            if isawaitable(decide(found)):
                raise SettingsError("change() takes a plain function in Django, and this one is `async`.")
            now(changing.save(found))
        return changing.changed


# --- views --------------------------------------------------------------------------------------------------------------


class DjangoView(SyncViewReader[V]):
    """What a projection has made of the events so far. See `ViewReader`."""

    def wait(self, *events: Receipt | str | Token, timeout_s: float = 2.0) -> None:
        from ...state.waiting import Waiting

        wrapper = journal_wrapper()
        waiting = Waiting(OnConnection(wrapper), self._reader._view, events, timeout_s)  # type: ignore[arg-type]  # all that it asks for is there
        while (pause_s := now(waiting.look())) is not None:
            if in_transaction(wrapper):
                raise WouldDeadlock(
                    "Inside of transaction.atomic() the database stands still, and so would the view. Wait before it begins; "
                    "with ATOMIC_REQUESTS, put @transaction.non_atomic_requests above this view. In a test, call self.handle() first."
                )
            time.sleep(pause_s)  # a projection runs in another process, and nothing is held meanwhile

    def as_of(self, *_: Any, by: Literal["happened", "recorded"] = "happened") -> ViewThen[V]:
        raise SettingsError(
            "A view as it was is made from the whole feed, which takes longer than a request. In a command of manage.py: "
            "with eventspine.sync.Spine(url) as spine: spine.view(...).as_of(...)."
        )


@_blocking
def view(view: type[V], *, tenant: Any = None) -> DjangoView[V]:
    """`view(OrdersByCustomer).get("ann")`, `.all(...)`, `.query(sql)`, `.wait(token)`."""
    return DjangoView(ViewReader(_Project(journal_wrapper()), view, tenant), now)


# --- inside -------------------------------------------------------------------------------------------------------------


@contextmanager
def _writing(name: str | None = None) -> Iterator[Any]:
    """The lock, in a transaction of its own or in a savepoint of the caller's."""
    wrapper = journal_wrapper()
    if not in_transaction(wrapper):
        refuse_dual_write(wrapper)
    journal = journal_of(wrapper)
    with transaction.atomic(using=wrapper.alias):
        journal.lock(wrapper, name)
        yield wrapper
        wrapper.validate_no_broken_transaction()  # else Django would roll back without a word
        journal.ring_after_commit(wrapper)


def _speaking() -> _Project:
    return _Project(journal_wrapper(), settings.service())


class _Project(State, Commanding):
    """What a spine is, on Django's connection, for as long as one call takes."""

    middleware = ()
    _carrying = None

    def __init__(self, wrapper: Any, service: Service[Any] | None = None) -> None:
        if service is None and settings.read().service:
            service = settings.service()
        self._made = made = spine_of(service)
        self.clock, self._ids, self._publisher, self._around = made.clock, made._ids, made._publisher, made._around
        self.service = service
        self.journal = OnConnection(wrapper)  # type: ignore[assignment]  # all that is asked for is there
        self._runtimes = []
        self._turns = _NoTurns()  # type: ignore[assignment]  # the write lock is the turn

    @property
    def commands(self) -> Sequence[Service[Any]]:  # type: ignore[override]
        return discovery.all_declared()

    async def _at_first_use(self) -> None:
        pass

    async def _look_soon(self) -> None:
        pass

    async def _committed(self, unit: Unit) -> Verdict:
        return self.journal.write(unit)  # type: ignore[attr-defined, no-any-return]

    def _publisher_of(self, service: Service[Any]) -> Any:
        return self._made._publisher_of(service)

    async def _resources(self, service: Service[Any]) -> Any:
        return None if service.lifespan is None else _NoResources(service.name)


class _Sending(_Project):
    """It lets a conflict through: the rows of the handler are to be rolled back before it is called again."""

    tries = 0  # how often it is called, by its own declaration

    def _handler_of(self, kind: CommandType) -> tuple[CommandHandler, Service[Any]]:
        handler, service = super()._handler_of(kind)
        self.tries = handler.conflict_tries
        return replace(handler, conflict_tries=1), service


class _NoTurns:
    @asynccontextmanager
    async def of(self, _: Any) -> AsyncIterator[None]:
        yield


class _NoResources:
    def __init__(self, service: str) -> None:
        self._service = service

    def __getattr__(self, name: str) -> NoReturn:
        raise SettingsError(
            f"The resources of {self._service} are made by an `async` lifespan, and in Django's process there is no event loop. "
            "Keep what its commands need in a module, or have a handler of an event do it: manage.py spine run."
        )
