"""Which subscriptions and deliveries a command is about, from what was typed.

A name that does not exist is an error (nothing found), since it is a misspelling more often than not; a filter that
fits no delivery is an answer: none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import wraps
from typing import Any, Literal, TypeVar, cast

import click

from ..journal.port import Delivery, Journal, State, Subscription
from ..wording import plural
from . import completion
from .exits import Misused, NothingFound
from .figures import DELIVERY
from .output import note
from .standings import title
from .tail import named

F = TypeVar("F", bound=Callable[..., Any])
DELIVERIES = {"dead": ("dead delivery", "dead deliveries"), "parked": ("parked delivery", "parked deliveries")}
PAGE = 200  # with their records, which may be large


@dataclass(frozen=True, slots=True)
class Filter:
    numbers: tuple[int, ...] = ()
    service: str | None = None
    handlers: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    key: str | None = None

    @property
    def empty(self) -> bool:
        return self == Filter()

    def fits(self, delivery: Delivery) -> bool:
        return (
            (not self.reasons or delivery.reason in self.reasons)
            and (self.key is None or delivery.key == self.key)
            and (not self.types or any(named(type_of(delivery), type) for type in self.types))
        )


def filtered(command: F) -> F:
    """Gives the command the options that filter deliveries, as `chosen: Filter`."""

    @wraps(command)
    def call(
        *args: Any, service: str | None, handlers: Any, reasons: Any, types: Any, key: str | None, **more: Any
    ) -> Any:
        return command(*args, chosen=Filter((), service, handlers, reasons, types, key), **more)

    for option in reversed(_FILTERS):
        option(call)
    return cast(F, call)


def chosen_by_hand(command: F) -> F:
    """The same for a command that changes what it is given: numbers too, and `--all` where nothing else is said."""

    @wraps(command)
    def call(*args: Any, chosen: Filter, numbers: tuple[int, ...], everything: bool, **more: Any) -> Any:
        chosen = replace(chosen, numbers=numbers)
        if everything != chosen.empty:
            verb = click.get_current_context().info_name
            raise Misused(
                "Say --all, or which; not both."
                if everything
                else f"Say which to {verb}: numbers, filters such as --reason undecodable, or --all."
            )
        return command(*args, chosen=chosen, **more)

    click.option("--all", "everything", is_flag=True, help="All of them.")(call)
    call = filtered(call)
    click.argument("numbers", nargs=-1, type=DELIVERY, shell_complete=completion.numbers)(call)
    return cast(F, call)


_FILTERS = (
    click.option("--service", help="Only of this service.", shell_complete=completion.services),
    click.option(
        "--handler",
        "handlers",
        multiple=True,
        metavar="NAME",
        shell_complete=completion.subscriptions,
        help="Only of this handler: reserve, or inventory.reserve. May be repeated.",
    ),
    click.option(
        "--reason",
        "reasons",
        multiple=True,
        help="Only with this reason, such as SmtpDown or undecodable. May be repeated.",
    ),
    click.option("--type", "types", multiple=True, help="Only events of this type. May be repeated."),
    click.option("--key", help="Only events about this key."),
)


def type_of(delivery: Delivery) -> str:
    return delivery.record.type if delivery.record is not None else ""


async def deliveries(
    journal: Journal, chosen: Filter, states: Sequence[State], *, records: bool = True
) -> AsyncIterator[Delivery]:
    """Those that fit, in order of number, a page in memory at a time."""
    subscriptions = await _subscriptions(journal, chosen)
    after = 0
    while page := await journal.deliveries(
        subscriptions=subscriptions,
        states=states,
        numbers=chosen.numbers or None,
        after=after,
        limit=PAGE,
        records=records or bool(chosen.types),
    ):
        for delivery in page:
            if chosen.fits(delivery):
                yield delivery
        after = page[-1].number


async def numbers_of(journal: Journal, chosen: Filter, states: Sequence[State]) -> list[int]:
    """The numbers of those that fit. Numbers that were named one by one must exist in such a state."""
    found = [delivery.number async for delivery in deliveries(journal, chosen, states, records=False)]
    if missing := sorted(set(chosen.numbers) - set(found)):
        told = " or ".join(map(str, missing))
        raise NothingFound(f"No {' or '.join(states)} delivery that fits has the number {told}. Nothing was changed.")
    return found


async def tried_again(journal: Journal, chosen: Filter, state: Literal["dead", "parked"]) -> list[int]:
    """As `numbers_of`, without those of retired handlers: nobody would ever try them, and nobody would say so."""
    numbers = await numbers_of(journal, chosen, [state])
    retired = {row.number: row for row in await journal.subscriptions() if row.state == "retired"}
    if not retired:
        return numbers
    left = {
        one.number: one.subscription
        async for one in deliveries(journal, chosen, [state], records=False)
        if one.subscription in retired
    }
    if not left:
        return numbers
    way = "dead drop" if state == "dead" else "parked skip"
    told = (
        f"{', '.join(sorted({title(retired[number]) for number in left.values()}))} is retired, and tries nothing again: "
        f"{plural(len(left), *DELIVERIES[state])} of it, such as {min(left)}. `spine {way}` gives them up."
    )
    if chosen.numbers:
        raise Misused(f"{told} Nothing was changed.")
    note(told)
    return [number for number in numbers if number not in left]


async def _subscriptions(journal: Journal, chosen: Filter) -> list[int] | None:
    if chosen.service is None and not chosen.handlers:
        return None
    stored = await journal.subscriptions()
    if chosen.service is not None:
        await refuse_unknown_service(journal, chosen.service)
        stored = [row for row in stored if row.service == chosen.service]
    if chosen.handlers:
        stored = [row for name in chosen.handlers for row in by_name(stored, name, retired=True)]
    return [row.number for row in stored]


async def refuse_unknown_service(journal: Journal, name: str | None) -> None:
    """Raises NothingFound for a name that no service here has ever had. One without handlers, which only publishes, is known
    by what it declared, by how long it keeps its events, or by its streams."""
    if name is None or await journal.subscriptions(name) or await journal.declarations(name):
        return
    if await journal.streams(name, ("", ""), 1) or any(row.service == name for row in await journal.keeps()):
        return
    services = {row.service for row in await journal.subscriptions()}
    services |= {row.service for row in await journal.processes()}
    raise NothingFound(f"No service {name!r} has registered here.{_or(name, sorted(services))}")


def by_name(stored: Sequence[Subscription], name: str, *, retired: bool = False) -> list[Subscription]:
    """Subscriptions of this name: as stored, as `service/name`, or as the handler's own name in code where only one
    service has such a handler."""
    known = [row for row in stored if retired or row.state != "retired"]
    found = [row for row in known if name in (row.name, f"{row.service}/{row.name}")]
    if not found:
        found = [row for row in known if name in (_bare(row), f"{row.service}/{_bare(row)}")]
        if len({row.service for row in found}) > 1:
            told = ", ".join(sorted({row.name for row in found}))
            raise Misused(f"Several services have a handler {name!r}. Say which: {told}.")
    if not found:
        names = sorted({row.name for row in known})
        bare = {_bare(row): row.name for row in known}
        close = get_close_matches(name, bare, n=1)
        meant = f" Did you mean {bare[close[0]]}?" if close else _or(name, names)
        raise NothingFound(f"There is no subscription {name!r}.{meant}")
    return found


def _bare(row: Subscription) -> str:
    return row.name.removeprefix(f"{row.service}.")


async def one_subscription(journal: Journal, name: str) -> Subscription:
    found = by_name(await journal.subscriptions(), name)
    if len(found) > 1:
        told = ", ".join(f"{row.service}/{row.name}" for row in found)
        raise Misused(f"Several services have a subscription {name!r}. Say which: {told}.")
    return found[0]


def _or(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=1)
    if close:
        return f" Did you mean {close[0]}?"
    if known and len(known) <= 20:
        return f" There is {', '.join(known)}."
    return " `spine subscriptions` lists them." if known else ""
