"""What must hold at the end of every history, whatever went wrong in it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

from ...ids import id_text
from ...journal.cursors import is_finished
from ...journal.port import OWN_FEED, PARTITIONS, WHOLE_FEED, Record, Subscription
from .world import World

Invariant = Callable[[World], "str | None"]


def nothing_acknowledged_is_lost(world: World) -> str | None:
    stored = {record.id for record in world.records} | set(world.journal._tables.timers)
    for id in world.acknowledged:
        if id not in stored:
            return f"{id_text(id)} was acknowledged, and is not in the feed"
    return None


def everything_is_handled_or_dead(world: World) -> str | None:
    handled = {(effect.subscription, effect.position) for effect in world.effects}
    rows = {(row.subscription, row.position): row.state for row in world.journal._tables.deliveries.values()}
    for subscription, record in wanted(world):
        if (subscription.name, record.position) in handled:
            continue
        if rows.get((subscription.number, record.position)) not in ("dead", "parked", "settled"):
            return f"{subscription.name} never handled #{record.position} {record.type}, and it is not dead either"
    return None


def effects_happen_once(world: World) -> str | None:
    counted = Counter((effect.subscription, effect.position) for effect in world.effects)
    for (name, position), times in counted.items():
        if times > 1:
            return f"{name} handled #{position} {times} times"
    return None


def a_key_is_handled_in_order(world: World) -> str | None:
    orders = {row.name: row.order for row in world.journal._tables.subscriptions.values()}
    channels = {record.position: record.channel for record in world.records}
    last: dict[tuple[str, str | None, str], int] = defaultdict(int)
    for effect in world.effects:
        if effect.key is None or effect.late or orders[effect.subscription] == "none":
            continue
        channel = channels[effect.position]
        place = (effect.subscription, channel, effect.key)
        if effect.position < last[place]:
            return f"{effect.subscription} handled #{effect.position} of key {effect.key!r} after #{last[place]}"
        last[place] = effect.position
    return None


def no_cursor_passes_what_is_unfinished(world: World) -> str | None:
    handled = {(effect.subscription, effect.position) for effect in world.effects}
    tables = world.journal._tables
    rows = {(row.subscription, row.position) for row in tables.deliveries.values()}
    for subscription, record in wanted(world):
        partition = WHOLE_FEED if subscription.order == "feed" else record.slot % PARTITIONS
        position, beyond = tables.cursor(subscription.number, OWN_FEED, partition)
        finished = (subscription.name, record.position) in handled or (subscription.number, record.position) in rows
        if is_finished(position, beyond, record.position) and not finished:
            return f"the cursor of {subscription.name} is past #{record.position}, which nobody has finished"
    return None


def nothing_is_left_behind(world: World) -> str | None:
    tables = world.journal._tables
    for process in world.processes:
        tasks = [task.get_name() for task in process.turns.tasks if not task.done()]
        if tasks:
            return f"{process.name} has ended and left tasks: {', '.join(tasks)}"
    held = [name for name, lease in tables.leases.items() if lease.owner]
    dead = {row.id for row in tables.processes.values()}
    if held and not dead:
        return f"leases that nobody gave back: {', '.join(sorted(held))}"
    if any(marks for marks in tables.starts.values()) and not world.dead:
        return "start marks of processes that ended well"
    return None


def wanted(world: World) -> Iterator[tuple[Subscription, Record]]:
    for row in world.journal._tables.subscriptions.values():
        channels, types = set(row.channels), {type for type, _ in row.types}
        for record in world.records:
            if record.channel in channels and record.type in types:
                yield row, record


ALWAYS: tuple[Invariant, ...] = (
    nothing_acknowledged_is_lost,
    everything_is_handled_or_dead,
    effects_happen_once,
    a_key_is_handled_in_order,
    no_cursor_passes_what_is_unfinished,
    nothing_is_left_behind,
)
