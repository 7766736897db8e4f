"""Registration: what a starting service declares meets what is stored (R8). A pure function; both journals execute it.

* What a service declares has a generation, given when it is first seen. The same declaration always gets the same
  one, so a restart changes nothing; `roll_back` alone gives an old declaration a new, leading generation.
* Only the newest generation that has a live process changes what is stored. An older process that starts beside it
  finds its subscriptions, under later names too, and changes nothing. When no newer one is live, it leads again.
* A subscription keeps its number, uid and cursors through renames, suspension and reactivation.
* Whoever runs a subscription when its filter is widened is fenced from that commit on: it would pass what it doesn't
  know. Code that is older than what led before passes it by intention, and is told how much that is.
* A start never loses work silently: a new handler beside a stored subscription that nobody declares any more may be a
  rename, and is refused until somebody says which it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from ..errors import RegistrationRefused
from ..wording import plural
from .port import PARTITIONS, WHOLE_FEED, Passed, Registration, Subscription, SubscriptionDeclaration

Backlog = Callable[[Subscription], int]  # how many events it has not finished; asked only for a refusal's message


class StoredService(NamedTuple):
    generations: Sequence[tuple[int, str]] = ()  # (generation, declaration), ascending, of every one ever seen
    newest_live: int = 0  # the newest generation of the service that has a live process; 0: none


class Create(NamedTuple):
    """A subscription to store, with a cursor at `position` for each of `partitions`."""

    declaration: SubscriptionDeclaration
    position: int
    partitions: Sequence[int]


class Plan(NamedTuple):
    """What to store. Execute `updates` before `members`, since a retired name may be taken again at once."""

    generation: int
    newest: int  # the newest generation of this service, this one included
    declaration: str  # canonical JSON
    first_seen: bool  # store (service, generation, declaration)
    updates: Sequence[Subscription]  # stored rows to overwrite, by number
    members: Sequence[int | Create]  # in the order of the registration: the number of a stored one, or one to create
    given_up: Sequence[Subscription] = ()  # stored ones with only the types that this older code does not know

    @property
    def changes(self) -> bool:
        """Whether `control` is to be raised: running processes must load their subscriptions again."""
        return bool(self.updates) or any(isinstance(member, Create) for member in self.members)


def plan(
    registration: Registration,
    service: StoredService,
    subscriptions: Sequence[Subscription],
    head: int,
    backlog: Backlog,
) -> Plan:
    """`subscriptions`: all that the service has stored, retired ones included. Raises RegistrationRefused."""
    _check_names(registration)
    declaration = canonical(registration)
    known = max((number for number, stored in service.generations if stored == declaration), default=0)
    newest = max((number for number, _ in service.generations), default=0)
    first_seen = not known or (registration.roll_back and known < newest)
    generation = newest + 1 if first_seen else known
    later = [stored for number, stored in service.generations if known and number > known]
    found = _find(registration, subscriptions, later)
    if generation < service.newest_live:
        return Plan(generation, newest, declaration, False, (), _join(registration, found, subscriptions, later))
    _refuse_possible_rename(registration, found, subscriptions, backlog)
    first_of_service = not subscriptions
    members: list[int | Create] = [
        stored.number if (stored := found.get(declared.name)) else _create(declared, first_of_service, head)
        for declared in registration.subscriptions
    ]
    updates = _updates(registration, found, subscriptions)
    given_up = _given_up(registration, found) if known and known < newest else []
    return Plan(generation, max(newest, generation), declaration, first_seen, updates, members, given_up)


def passes(given_up: Sequence[Subscription], unfinished: Backlog) -> tuple[Passed, ...]:
    """How much of each type. `unfinished` counts wanted events."""
    return tuple(
        Passed(row.name, type, unfinished(row._replace(types=((type, None),))))
        for row in given_up
        for type, _ in row.types
    )


@lru_cache(maxsize=64)  # of the services of this process, each of which registers more than once
def canonical(registration: Registration) -> str:
    """What makes one generation differ from another. Where a start begins is not part of it: that is resolved once."""
    return json.dumps(
        [
            {
                "name": declared.name,
                "channels": declared.channels,
                "types": declared.types,
                "order": declared.order,
                "on_dead": declared.on_dead,
                "renamed_from": declared.renamed_from,
                "extra": declared.extra,
            }
            for declared in sorted(registration.subscriptions, key=lambda declared: declared.name)
        ],
        separators=(",", ":"),
        sort_keys=True,
    )


def partitions_of(order: str) -> Sequence[int]:
    return (WHOLE_FEED,) if order == "feed" else range(PARTITIONS)


def _check_names(registration: Registration) -> None:
    names = [declared.name for declared in registration.subscriptions]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RegistrationRefused(
            f"{registration.service} declares {_list(twice)} more than once. Give each handler a name of its own: name=...",
            service=registration.service,
            names=twice,
        )
    if both := sorted(set(names) & set(registration.retire)):
        raise RegistrationRefused(
            f"{registration.service} declares {_list(both)} and is told to retire it. Remove the handler, or don't retire it.",
            service=registration.service,
            names=both,
        )


def _find(
    registration: Registration, subscriptions: Sequence[Subscription], later: Sequence[str]
) -> dict[str, Subscription]:
    """Stored subscriptions by the name that they are declared under now."""
    stored = {row.name: row for row in subscriptions if row.state != "retired"}
    own = {declared.name for declared in registration.subscriptions}
    found: dict[str, Subscription] = {}
    for declared in registration.subscriptions:
        row = stored.get(_later_name(declared.name, later)) or stored.get(declared.name)
        if row is None and declared.renamed_from not in own:
            row = stored.get(declared.renamed_from or "")
        if row is not None and row not in found.values():
            found[declared.name] = row
    return found


def _later_name(name: str, later: Sequence[str]) -> str:
    """What generations since have renamed it to."""
    for declaration in later:
        for declared in json.loads(declaration):
            if declared["renamed_from"] == name:
                name = declared["name"]
                break
    return name


def _join(
    registration: Registration,
    found: Mapping[str, Subscription],
    subscriptions: Sequence[Subscription],
    later: Sequence[str],
) -> list[int]:
    """The members of a process that is older than the one that leads: as they are, retired ones included."""
    retired = {row.name: row for row in subscriptions if row.state == "retired"}
    members = []
    for declared in registration.subscriptions:
        row = found.get(declared.name) or retired.get(_later_name(declared.name, later)) or retired.get(declared.name)
        if row is None:
            raise RegistrationRefused(
                f"A newer release of {registration.service} is running, and the subscription {declared.name!r} of this older "
                "one is not stored any more. Start the newer release, or start this one with --roll-back.",
                service=registration.service,
                names=[declared.name],
            )
        members.append(row.number)
    return members


def _refuse_possible_rename(
    registration: Registration,
    found: Mapping[str, Subscription],
    subscriptions: Sequence[Subscription],
    backlog: Backlog,
) -> None:
    new = [declared.name for declared in registration.subscriptions if declared.name not in found]
    undeclared = [row for row in _undeclared(found, subscriptions) if row.name not in registration.retire]
    if not new or not undeclared:
        return
    waiting = {row.name: backlog(row) for row in undeclared}
    old = undeclared[0].name
    own = f"{registration.service}."  # in code, a handler is named without its service
    raise RegistrationRefused(
        f"{registration.service} brings {_list(new)}, and no longer declares "
        + ", ".join(f"{name!r} ({plural(count, 'event')} not finished)" for name, count in waiting.items())
        + f", so this may be a rename. If it is, say so: @{registration.service}.on(..., "
        f"name={new[0].removeprefix(own)!r}, renamed_from={old.removeprefix(own)!r}). "
        f"If {old!r} is given up, with what it has not finished, retire it: --retire {old}.",
        service=registration.service,
        new=new,
        backlog=waiting,
    )


def _undeclared(found: Mapping[str, Subscription], subscriptions: Sequence[Subscription]) -> list[Subscription]:
    declared = {row.number for row in found.values()}
    return [row for row in subscriptions if row.state != "retired" and row.number not in declared]


def _create(declared: SubscriptionDeclaration, first_of_service: bool, head: int) -> Create:
    start = ("earliest" if first_of_service else "now") if declared.start is None else declared.start
    position = start if isinstance(start, int) else 0 if start == "earliest" else head
    if not 0 <= position <= head:
        raise RegistrationRefused(
            f"{declared.name!r} is to start after position {position:,}, and the feed ends at {head:,}. "
            'Give a position of the feed, or start="now".',
            position=position,
            head=head,
        )
    return Create(declared, position, partitions_of(declared.order))


def _updates(
    registration: Registration, found: Mapping[str, Subscription], subscriptions: Sequence[Subscription]
) -> list[Subscription]:
    """Retired and suspended ones first, then those that this start declares."""
    rows = [
        _changed(row, state="retired" if row.name in registration.retire else "suspended")
        for row in _undeclared(found, subscriptions)
    ]
    retired = {row.number for row in rows if row.state == "retired"}
    taken = {row.name for row in subscriptions if row.state != "retired" and row.number not in retired}
    rows += [
        _redeclared(row, declared, row.name if declared.name in taken else declared.name)
        for declared in registration.subscriptions
        if (row := found.get(declared.name))
    ]
    stored = {row.number: row for row in subscriptions}
    return [row for row in rows if row != stored[row.number]]


def _redeclared(row: Subscription, declared: SubscriptionDeclaration, name: str) -> Subscription:
    if partitions_of(row.order) != partitions_of(declared.order):
        raise RegistrationRefused(
            f"{declared.name!r} was order={row.order!r} and is now order={declared.order!r}: its cursors can't be carried over. "
            "Declare it under a new name, with start= the position to begin after, and retire the old one: "
            f"--retire {row.name}.",
            subscription=row.number,
        )
    widened = _widened(row, declared)
    row = row._replace(channels=declared.channels, types=declared.types, order=declared.order, on_dead=declared.on_dead)
    return _changed(row, name=name, state="active" if row.state == "suspended" else row.state, widened=widened)


def _given_up(registration: Registration, found: Mapping[str, Subscription]) -> list[Subscription]:
    return [
        row._replace(name=declared.name, types=tuple((type, None) for type in types))
        for declared in registration.subscriptions
        if (row := found.get(declared.name)) and (types := unknown(row, dict(declared.types)))
    ]


def unknown(stored: Subscription, types: Container[str]) -> list[str]:
    """What it subscribes to as stored, and code that knows these types does not."""
    return [type for type, _ in stored.types if type not in types]


def _widened(row: Subscription, declared: SubscriptionDeclaration) -> bool:
    return any(type not in dict(row.types) for type, _ in declared.types)


def _changed(
    row: Subscription, name: str | None = None, state: str | None = None, *, widened: bool = False
) -> Subscription:
    """A new name, a new state or a wider filter raises the cursor's generation, so that whoever runs the old one is
    fenced (R8, R13)."""
    changed = row._replace(name=name or row.name, state=state or row.state)  # type: ignore[arg-type]
    return changed if changed[:5] == row[:5] and not widened else changed._replace(generation=row.generation + 1)


def _list(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)
