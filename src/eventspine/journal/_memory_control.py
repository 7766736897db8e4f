"""What operators, registrations and leases do to the tables. Everything that can be refused is asked first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import SettingsError
from ._memory_tables import Tables
from .cursors import only
from .port import (
    OWN_FEED,
    WHOLE_FEED,
    Control,
    Delivery,
    Drop,
    Lease,
    Process,
    Registered,
    Registration,
    Rename,
    Replay,
    Retry,
    Rewind,
    SetState,
    Subscription,
)
from .registry import Create, StoredService, partitions_of, passes, plan

_new_lease = tuple.__new__  # every beat renews all of them
FORGET_AFTER_US = 3_600_000_000  # a process that died without a word is listed this long


def carry_out(tables: Tables, operations: Sequence[Control], now_us: int) -> int:
    _check_names(tables, operations)
    changed = sum(_operate(tables, operation, now_us) for operation in operations)
    tables.control += changed > 0
    return changed


def register(tables: Tables, registration: Registration, now_us: int, entropy: Callable[[int], bytes]) -> Registered:
    service = registration.service
    live = [row.generation for row in tables.processes.values() if row.service == service and row.until_us > now_us]
    planned = plan(
        registration,
        StoredService(tables.generations.get(service, ()), max(live, default=0)),
        _of_service(tables, service),
        len(tables.feed),
        lambda subscription: backlog(tables, subscription),
    )
    if planned.first_seen:
        tables.generations.setdefault(service, []).append((planned.generation, planned.declaration))
    for row in planned.updates:
        tables.subscriptions[row.number] = row
    passed = passes(planned.given_up, lambda row: _unfinished(tables, row))
    numbers = [
        _create(tables, service, member, entropy, now_us) if isinstance(member, Create) else member
        for member in planned.members
    ]
    tables.control += planned.changes
    members = tuple(tables.subscriptions[number] for number in numbers)
    return Registered(planned.generation, members, planned.newest, passed)


def lease(tables: Tables, process: Process, take: Sequence[str], release: Sequence[str], now_us: int) -> bool:
    """`process` says with its own `until_us` how long it lives. Whether something was given back."""
    tables.processes[process.id] = process
    released = [name for name in release if name in tables.leases and tables.leases[name].owner == process.id]
    for name in released:
        tables.leases[name] = tables.leases[name]._replace(owner="", until_us=0, unclean=False)
    for name, held in tables.leases.items():
        if held.owner == process.id:
            tables.leases[name] = _new_lease(Lease, (name, held.epoch, held.owner, process.until_us, held.unclean))
    for name in take:
        _take(tables, process, name, now_us)
    _forget(tables, now_us)
    return bool(released)


def leave(tables: Tables, process: Process) -> None:
    for name, held in tables.leases.items():
        if held.owner == process.id:
            tables.leases[name] = _new_lease(Lease, (name, held.epoch, "", 0, False))
    tables.processes.pop(process.id, None)


def backlog(tables: Tables, subscription: Subscription) -> int:
    """Wanted events that it has not finished, and deliveries that it still owes."""
    owed = sum(row.subscription == subscription.number and row.state != "settled" for row in tables.deliveries.values())
    return owed + _unfinished(tables, subscription)


def _unfinished(tables: Tables, subscription: Subscription) -> int:
    stored = tables.cursors.get(subscription.number, {})
    cursors = {
        partition: stored.get((OWN_FEED, partition)) or (0, []) for partition in partitions_of(subscription.order)
    }
    first = min([position for position, _ in cursors.values()])
    if first >= len(tables.feed):
        return 0
    channels, types = set(subscription.channels), {type for type, _ in subscription.types}
    whole = subscription.order == "feed"
    waiting = 0
    for record in tables.feed[first:]:
        if record.channel in channels and (not types or record.type in types):
            position, beyond = cursors[-1 if whole else record.slot % len(cursors)]
            waiting += record.position > position and not any(a < record.position <= b for a, b in beyond)
    return waiting


# --- operations -----------------------------------------------------------------------------------------------------


def _check_names(tables: Tables, operations: Sequence[Control]) -> None:
    rows = dict(tables.subscriptions)
    for operation in operations:
        if not isinstance(operation, Rename | SetState) or operation.subscription not in rows:
            continue
        row = rows[operation.subscription]
        row = (
            row._replace(name=operation.name) if isinstance(operation, Rename) else row._replace(state=operation.state)
        )
        rows[row.number] = row
        alive = [(other.service, other.name) for other in rows.values() if other.state != "retired"]
        if row.state != "retired" and alive.count((row.service, row.name)) > 1:
            raise SettingsError(
                f"{row.service} has a subscription named {row.name!r} already. "
                "Choose another name, or retire that one first.",
                service=row.service,
                name=row.name,
            )


def _operate(tables: Tables, operation: Control, now_us: int) -> int:
    match operation:
        case Rewind():
            return _rewind(tables, operation)
        case SetState(number, state):
            return _change_subscription(tables, number, state=state)
        case Rename(number, name):
            return _change_subscription(tables, number, name=name)
        case Replay(numbers):
            return len(_change_deliveries(tables, numbers, ("dead",), now_us, state="parked", due_us=now_us, late=True))
        case Drop(numbers):
            return _drop(tables, numbers, now_us)
        case Retry(numbers):
            return len(_change_deliveries(tables, numbers, ("parked",), now_us, due_us=now_us))


def _rewind(tables: Tables, rewind: Rewind) -> int:
    row = tables.subscriptions.get(rewind.subscription)
    if row is None:
        return 0
    discarded = [
        delivery.number
        for delivery in tables.deliveries.values()
        if delivery.subscription == row.number
        and delivery.position > rewind.position
        and delivery.feed == OWN_FEED
        and delivery.state != "settled"
    ]
    for number in discarded:
        tables.remove_delivery(number)
    partitions = partitions_of(row.order)
    tables.cursors[row.number].update({(OWN_FEED, partition): (rewind.position, []) for partition in partitions})
    for partition in partitions:
        starts = tables.starts.get((row.number, OWN_FEED, partition), {})
        for position in [position for position in starts if position > rewind.position]:
            del starts[position]
    tables.subscriptions[row.number] = row._replace(
        generation=row.generation + 1, republish=rewind.republish or row.republish
    )
    return len(partitions) + len(discarded) + _forget_marks(tables, rewind)


def _forget_marks(tables: Tables, rewind: Rewind) -> int:
    named = [place for place in tables.marks if place[0] == rewind.subscription and place[1] in rewind.origins]
    return sum(len(tables.marks.pop(place)) for place in named)


def _change_subscription(tables: Tables, number: int, **changes: str) -> int:
    row = tables.subscriptions.get(number)
    if row is None or row._replace(**changes) == row:  # type: ignore[arg-type]
        return 0
    tables.subscriptions[number] = row._replace(generation=row.generation + 1, **changes)  # type: ignore[arg-type]
    return 1


def _drop(tables: Tables, numbers: Sequence[int], now_us: int) -> int:
    dropped = _change_deliveries(
        tables, numbers, ("dead", "parked"), now_us, state="settled", due_us=None, reason="dropped"
    )
    for row in dropped:
        whole = (row.feed, row.partition) == (OWN_FEED, WHOLE_FEED)  # its cursor may stand before it
        if whole and (OWN_FEED, WHOLE_FEED) in tables.cursors.get(row.subscription, ()):
            tables.fold(row.subscription, OWN_FEED, WHOLE_FEED, [only(row.position)])
    return len(dropped)


def _change_deliveries(
    tables: Tables, numbers: Sequence[int], states: Sequence[str], now_us: int, **changes: object
) -> list[Delivery]:
    """Those that were in one of these states, as they were."""
    rows: list[Delivery] = [
        tables.deliveries[number] for number in dict.fromkeys(numbers) if number in tables.deliveries
    ]
    rows = [row for row in rows if row.state in states]
    for row in rows:
        tables.deliveries[row.number] = row._replace(last_us=now_us, **changes)  # type: ignore[arg-type]
    return rows


# --- registration and leases ----------------------------------------------------------------------------------------


def _of_service(tables: Tables, service: str) -> list[Subscription]:
    return [row for row in tables.subscriptions.values() if row.service == service]


def _create(tables: Tables, service: str, create: Create, entropy: Callable[[int], bytes], now_us: int) -> int:
    number = len(tables.subscriptions) + 1
    declared = create.declaration
    tables.subscriptions[number] = Subscription(
        number,
        entropy(16),
        service,
        declared.name,
        "active",
        1,
        declared.channels,
        declared.types,
        declared.order,
        declared.on_dead,
        created_us=now_us,
    )
    tables.cursors[number] = {(OWN_FEED, partition): (create.position, []) for partition in create.partitions}
    return number


def _take(tables: Tables, process: Process, name: str, now_us: int) -> None:
    held = tables.leases.get(name)
    if held is None:
        tables.leases[name] = Lease(name, 1, process.id, process.until_us, False)
        return
    if held.owner == process.id:
        return
    owner = tables.processes.get(held.owner)
    if held.owner and owner and owner.until_us > now_us:
        return
    tables.leases[name] = Lease(name, held.epoch + 1, process.id, process.until_us, bool(held.owner))


def _forget(tables: Tables, now_us: int) -> None:
    """Processes that are long dead and hold nothing."""
    dead = [row.id for row in tables.processes.values() if row.until_us + FORGET_AFTER_US < now_us]
    if dead:
        owners = {held.owner for held in tables.leases.values()}
        for id in dead:
            if id not in owners:
                del tables.processes[id]
