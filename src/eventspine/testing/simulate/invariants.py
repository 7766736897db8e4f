"""What must hold at the end of every history, whatever went wrong in it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import wraps

from ...ids import id_text
from ...journal.cursors import is_finished
from ...journal.port import OWN_FEED, PARTITIONS, WHOLE_FEED, Record, Subscription
from .process import Process
from .site import Site
from .world import World

Invariant = Callable[[World], "str | None"]


def on_each_site(holds: Callable[[Site], str | None]) -> Invariant:
    """An invariant of every journal, for a history in which there may be several."""

    @wraps(holds)
    def on_all(world: World) -> str | None:
        for site in world.sites:
            if broken := holds(site):
                return f"{broken}, at {site.name}" if site.name else broken
        return None

    return on_all


def nothing_acknowledged_is_lost(world: World) -> str | None:
    timers = {id for site in world.sites for id in site.journal._tables.timers}
    stored = {record.id for record in world.records} | timers
    for id in world.acknowledged:
        if id not in stored:
            return f"{id_text(id)} was acknowledged, and is not in the feed"
    return None


@on_each_site
def everything_is_handled_or_dead(site: Site) -> str | None:
    handled = {(effect.subscription, effect.position) for effect in site.tables.effects}
    rows = {(row.subscription, row.position): row.state for row in site.journal._tables.deliveries.values()}
    for subscription, record in wanted(site):
        if record.position > site.head or (subscription.name, record.position) in handled:
            continue
        if rows.get((subscription.number, record.position)) in ("dead", "settled") or _waits(
            site, subscription, record
        ):
            continue
        return f"{subscription.name} never handled #{record.position} {record.type}, and it is not dead either"
    return None


def _waits(site: Site, subscription: Subscription, record: Record) -> bool:
    """Whether it is behind a dead delivery that keeps its key, or the whole feed, waiting."""
    return subscription.on_dead == "waits" and any(
        (row.subscription, row.state) == (subscription.number, "dead")
        and row.position < record.position
        and (subscription.order == "feed" or row.key == record.key)
        for row in site.journal._tables.deliveries.values()
    )


@on_each_site
def what_was_dropped_is_not_handled(site: Site) -> str | None:
    rows, names = site.journal._tables.deliveries, {row.number: row.name for row in site.subscriptions}
    handled = {(effect.subscription, effect.position) for effect in site.tables.effects}
    for was in site.dropped:
        name, now = names[was.subscription], rows.get(was.number)
        if (name, was.position) in handled:
            return f"{name} handled #{was.position} of key {was.key!r}, which was dropped"
        if now is not None and now.state != "settled":
            return f"#{was.position} of key {was.key!r} was dropped for {name}, and is {now.state}"
    return None


@on_each_site
def effects_happen_once(site: Site) -> str | None:
    counted = Counter((effect.subscription, effect.position) for effect in site.tables.effects)
    for (name, position), times in counted.items():
        if times > 1:
            return f"{name} handled #{position} {times} times"
    return None


@on_each_site
def a_key_is_handled_in_order(site: Site) -> str | None:
    orders = {row.name: row.order for row in site.subscriptions}
    channels = {record.position: record.channel for record in site.records}
    last: dict[tuple[str, str | None, str], int] = defaultdict(int)
    for effect in site.tables.effects:
        if effect.key is None or effect.late or orders[effect.subscription] == "none":
            continue
        channel = channels[effect.position]
        place = (effect.subscription, channel, effect.key)
        if effect.position < last[place]:
            return f"{effect.subscription} handled #{effect.position} of key {effect.key!r} after #{last[place]}"
        last[place] = effect.position
    return None


@on_each_site
def nothing_is_durable_before_what_it_follows(site: Site) -> str | None:
    return site.tables.wrong[0] if site.tables.wrong else None


@on_each_site
def no_cursor_passes_what_is_unfinished(site: Site) -> str | None:
    handled = {(effect.subscription, effect.position) for effect in site.tables.effects}
    tables = site.journal._tables
    rows = {(row.subscription, row.position) for row in tables.deliveries.values()}
    for subscription, record in wanted(site):
        partition = WHOLE_FEED if subscription.order == "feed" else record.slot % PARTITIONS
        position, beyond = tables.cursor(subscription.number, OWN_FEED, partition)
        finished = (subscription.name, record.position) in handled or (subscription.number, record.position) in rows
        if is_finished(position, beyond, record.position) and not finished:
            return f"the cursor of {subscription.name} is past #{record.position}, which nobody has finished"
    return None


def nothing_is_left_behind(world: World) -> str | None:
    """Of processes that ended in order: tasks, deliveries in memory, leases, rows. Of all: start marks of what is done."""
    for process in (*world.processes, *world.ended):
        tasks = [task.get_name() for task in process.turns.tasks if not task.done()]
        if tasks:
            return f"{process.name} has ended and left tasks: {', '.join(tasks)}"
        if process.drained and (kept := _in_memory(process)):
            return f"{process.name} has ended and kept {kept}"
    for site in world.sites:
        held = [name for name, lease in site.journal._tables.leases.items() if lease.owner]
        if held and not site.journal._tables.processes:
            return f"leases that nobody gave back: {', '.join(sorted(held))}"
        if broken := _marks_of_what_is_done(site):
            return broken
    return None


def _in_memory(process: Process) -> str | None:
    """What it has read and not begun is nobody's; but it must know of all of it, and no more."""
    for host in process.runtime.hosts if process.runtime is not None else ():
        for one in host.subscriptions:
            lanes = one.lanes
            if lanes.taken:
                return f"{lanes.taken} deliveries of {one.name} as if they were at work"
            if any(lane.pending for lane in lanes.lanes.values()):
                continue  # it ended before the journal had told it that they are stored behind
            queued = [item for lane in lanes.lanes.values() for item in (*lane.queue, lane.next) if item is not None]
            size, bytes = len(queued), sum(len(item.record.data) for item in queued if item.record is not None)
            if (size, bytes) != (lanes.size, one.bytes):
                return f"{size} deliveries of {one.name} ({bytes} bytes) and counted {lanes.size} ({one.bytes} bytes)"
    return None


def _marks_of_what_is_done(site: Site) -> str | None:
    tables = site.journal._tables
    for (subscription, feed, partition), marks in tables.starts.items():
        position, beyond = tables.cursor(subscription, feed, partition)
        for at in marks:
            if is_finished(position, beyond, at) and at <= site.head:
                return f"a start mark of #{at}, which {tables.subscriptions[subscription].name} has finished"
    return None


def the_engine_never_stumbles(world: World) -> str | None:
    """Errors of its own, which it would survive."""
    return world.wrong[0] if world.wrong else None


def nothing_is_dead(world: World) -> str | None:
    """Not among those that always hold: pass it where no event should ever be given up."""
    for dead in world.dead:
        return f"{dead.handler} gave up an event of key {dead.key!r} after {dead.attempts} attempts: {dead.error}"
    return None


def everything_arrives_once_and_in_order(world: World) -> str | None:
    """What a broker carries between journals."""
    for origin, site, channel in world.ways():
        sent = [record for record in origin.records[: origin.head] if record.channel == channel]
        arrived = Counter(record.id for record in site.records if record.channel == channel)
        twice = [id for id, times in arrived.items() if times > 1]
        if twice:
            return f"{id_text(twice[0])} of {channel} is in the feed of {site.name} {arrived[twice[0]]} times"
        for record in sent:
            if record.id not in arrived:
                return f"#{record.position} of {origin.name} never arrived in the feed of {site.name}"
        if broken := _out_of_order(sent, site, channel):
            return broken
    return None


def _out_of_order(sent: Sequence[Record], site: Site, channel: str) -> str | None:
    positions = {record.id: record.position for record in sent}
    last: dict[str, int] = defaultdict(int)
    for record in site.records:
        position = positions.get(record.id)
        if record.channel != channel or record.key is None or position is None:
            continue
        if position < last[record.key]:
            return f"{channel} #{position} of key {record.key!r} arrived at {site.name} after #{last[record.key]}"
        last[record.key] = position
    return None


def wanted(site: Site) -> Iterator[tuple[Subscription, Record]]:
    for row in site.subscriptions:
        channels, types = set(row.channels), {type for type, _ in row.types}
        for record in site.records:
            if record.channel in channels and record.type in types:
                yield row, record


ALWAYS: tuple[Invariant, ...] = (
    nothing_acknowledged_is_lost,
    everything_is_handled_or_dead,
    what_was_dropped_is_not_handled,
    effects_happen_once,
    a_key_is_handled_in_order,
    nothing_is_durable_before_what_it_follows,
    no_cursor_passes_what_is_unfinished,
    nothing_is_left_behind,
    the_engine_never_stumbles,
    everything_arrives_once_and_in_order,
)
