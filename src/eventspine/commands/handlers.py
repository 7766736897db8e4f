"""Who handles a command: one function, in a service that owns the command's context."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, overload

from ..annotations import check_takes_one, positional
from ..declared import check_handler_name, check_options
from ..errors import DeclarationError, SettingsError
from ..policies import is_number, is_whole
from ..wording import plural
from .declare import CommandType, describe_command

if TYPE_CHECKING:
    from typing_extensions import TypeVar as WithDefault

    from ..delivery import Delivery
    from ..service import Service
    from ..sync import Delivery as SyncDelivery
    from .declare import Command

    R = WithDefault("R", default=None)  # a service without a lifespan has no resources
else:
    R = TypeVar("R")
T = TypeVar("T")
C_co = TypeVar("C_co", covariant=True)
TIMEOUT_S = 60.0
TRIES = 10


class CommandOptions(TypedDict, total=False):
    """What `command` takes besides the command; each changes a promise and is named for it."""

    name: str  # of the handler, in logs and traces; by default the function's
    timeout_s: float
    conflict_tries: int  # how often it is called, where others save the same aggregate at the same time


@dataclass(frozen=True)
class CommandHandler:
    name: str
    function: Callable[..., Any]
    kind: CommandType
    service: str
    timeout_s: float
    conflict_tries: int

    @property
    def where(self) -> str:
        return f"{self.service}.{self.name}"

    @cached_property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function)

    @cached_property
    def wants_delivery(self) -> bool:
        return len(positional(self.function)) == 2


class CommandDecorator(Generic[C_co, R]):
    """Takes a handler and gives it back unchanged; checkers see that it returns what the command is answered with.

    No Protocol as the other decorators are: those may not be covariant in what they take, and a command stands here for the
    `Command[T]` that it is."""

    @overload
    def __call__(
        self: CommandDecorator[Command[T], R], handler: Callable[[C_co], Coroutine[Any, Any, T]], /
    ) -> Callable[[C_co], Coroutine[Any, Any, T]]: ...
    @overload
    def __call__(
        self: CommandDecorator[Command[T], R], handler: Callable[[C_co, Delivery[R]], Coroutine[Any, Any, T]], /
    ) -> Callable[[C_co, Delivery[R]], Coroutine[Any, Any, T]]: ...
    @overload
    def __call__(self: CommandDecorator[Command[T], R], handler: Callable[[C_co], T], /) -> Callable[[C_co], T]: ...
    @overload
    def __call__(
        self: CommandDecorator[Command[T], R], handler: Callable[[C_co, SyncDelivery[R]], T], /
    ) -> Callable[[C_co, SyncDelivery[R]], T]: ...

    def __call__(self, handler: Any, /) -> Any:
        raise NotImplementedError  # to checkers alone: `declare` gives a function


def declare(service: Service[Any], command: Any, options: CommandOptions) -> Callable[[Any], Any]:
    """What stands above the handler of a command."""
    kind = _kind(service, command)

    def declaring(function: Callable[..., Any]) -> Callable[..., Any]:
        name = check_handler_name(service.name, options.get("name"), function, "command")
        _check_options(f"{service.name}.{name}", options)
        handler = CommandHandler(
            name,
            function,
            kind,
            service.name,
            options.get("timeout_s", TIMEOUT_S),
            options.get("conflict_tries", TRIES),
        )
        _check_function(handler)
        add(service, handler)
        return function

    return declaring


def add(service: Service[Any], handler: CommandHandler) -> None:
    _check_owned(service, handler.kind)
    known = service.commands.get(handler.kind.name)
    if known is not None:
        raise DeclarationError(
            f"{handler.where} is to handle {handler.kind.name}, and {known.where} handles it already. One function handles a "
            "command; take the line above the other one out.",
            type=handler.kind.name,
        )
    service.refuse_late(f"the handler of {handler.kind.name}")
    service.commands[handler.kind.name] = handler


def check_owners(services: Iterable[Service[Any]]) -> None:
    """That no two of the services of one process handle one command."""
    known: dict[str, CommandHandler] = {}
    for service in services:
        for name, handler in service.commands.items():
            other = known.setdefault(name, handler)
            if other.service != handler.service:
                raise SettingsError(
                    f"{name} is handled by {other.where} and by {handler.where}. One context owns a command, and one service "
                    f"handles it: take the handler out of {handler.service!r} or of {other.service!r}.",
                    type=name,
                )


def _kind(service: Service[Any], command: Any) -> CommandType:
    if not isinstance(command, type):
        raise DeclarationError(
            f"@{service.name}.command needs the command to handle, in parentheses: @{service.name}.command(PlaceOrder)."
        )
    kind = describe_command(command)
    _check_owned(service, kind)
    return kind


def _check_owned(service: Service[Any], kind: CommandType) -> None:
    if kind.context not in service.publishes:
        owned = ", ".join(map(repr, service.publishes)) or "no context"
        raise DeclarationError(
            f"{kind.name} is owned by the context {kind.context!r}, and the service {service.name!r} publishes {owned}. Handle it "
            f"in the service that publishes {kind.context!r}; anybody may send it.",
            type=kind.name,
            service=service.name,
        )


def _check_options(where: str, options: CommandOptions) -> None:
    check_options(where, options, CommandOptions)
    seconds, tries = options.get("timeout_s", TIMEOUT_S), options.get("conflict_tries", TRIES)
    if not is_number(seconds) or seconds <= 0:
        raise DeclarationError(f"{where}: timeout_s={seconds!r}: give a number of seconds above 0.")
    if not is_whole(tries) or tries < 1:
        raise DeclarationError(f"{where}: conflict_tries={tries!r}: give a whole number from 1 on.")


def _check_function(handler: CommandHandler) -> None:
    function = handler.function
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise DeclarationError(
            f"{handler.where} has a yield in it; a handler returns what its command is answered with."
        )
    count = len(positional(function))
    if count not in (1, 2):
        raise DeclarationError(
            f"{handler.where} takes {plural(count, 'argument')}; a handler takes the command, and the delivery if it likes."
        )
    check_takes_one(function, 0, [handler.kind], handler.where, "command")
