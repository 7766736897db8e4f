"""`spine trace`: everything that one event caused, across services, and what became of each event where it is wanted.

The tree is made of `causation`; what is scheduled stands below what scheduled it. A chain may be thousands deep, so nothing here recurses, and JSON is written as it goes.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import click

from ..ids import id_text
from ..journal.port import Journal, Record, Timer
from ..observe.printable import printable
from .app import Command, Invocation, json_option, pass_invocation
from .exits import NothingFound
from .journals import asynchronous, existing_journal
from .output import json_line, note, plural, say
from .records import cloud_event, known_id, normal_id
from .standings import Standing, in_words, standings, title, view
from .times import clock_time, due_in, iso, now_us, span

LIMIT = 10_000
TIMERS_LOOKED_AT = 10_000  # the soonest: there is no index of what else is to come
INDENTS_MAX = 40  # deeper events stand at this indent, and say how deep they are


class Step(NamedTuple):
    record: Record
    depth: int
    siblings: tuple[bool, ...]  # for each level shown, whether more of it follows
    causes: bool  # whether it caused others


class Trace(NamedTuple):
    correlation: str
    roots: Sequence[Record]
    caused: Mapping[str, Sequence[Record]]  # by the id of the cause
    standings: Mapping[int, Sequence[Standing]]  # by position
    scheduled: Mapping[str | None, Sequence[Timer]]  # not due yet, by the id of the cause; None: it is not in the tree
    size: int
    begins_later: bool = False  # retention has deleted what it began with

    def steps(self) -> Iterator[Step]:
        """Each event before what it caused, in order of position."""
        stack: list[tuple[Record, int, tuple[bool, ...]]] = [(root, 0, ()) for root in reversed(self.roots)]
        while stack:
            record, depth, siblings = stack.pop()
            caused = self.caused.get(id_text(record.id), ())
            yield Step(record, depth, siblings, bool(caused))
            for index in range(len(caused) - 1, -1, -1):
                shown = (*siblings, index < len(caused) - 1) if depth < INDENTS_MAX else siblings
                stack.append((caused[index], depth + 1, shown))


async def find(journal: Journal, asked: str) -> list[Record]:
    """All events of the correlation that `asked` names, or that the event with this id is in."""
    event = await journal.event(known_id(asked))
    if event is not None:
        return await journal.correlated(event.correlation or id_text(event.id), LIMIT) or [event]
    return await journal.correlated(normal_id(asked), LIMIT) or await journal.correlated(asked, LIMIT)


async def trace(journal: Journal, asked: str) -> Trace | None:
    records = await find(journal, asked)
    timers = await journal.timers(TIMERS_LOOKED_AT)
    correlation = _correlation(records[0]) if records else _to_come(timers, asked)
    if correlation is None:
        return None
    by_id = {id_text(record.id): record.position for record in records}
    roots, caused = [], defaultdict(list)
    for record in records:
        # A cause stands before its effect in the feed. Foreign events may claim otherwise, and never make a circle here.
        if record.causation is not None and by_id.get(record.causation, record.position) < record.position:
            caused[record.causation].append(record)
        else:
            roots.append(record)
    scheduled = defaultdict(list)
    for timer in timers:
        if _correlation(timer.record) == correlation:
            cause = timer.record.causation
            scheduled[cause if cause in by_id else None].append(timer)
    orphan = any(root.causation is not None and root.causation not in by_id for root in roots)
    begins_later = orphan and bool(await journal.deleted())
    return Trace(correlation, roots, caused, await standings(journal, records), scheduled, len(records), begins_later)


def _correlation(record: Record) -> str:
    return record.correlation or id_text(record.id)


def _to_come(timers: Sequence[Timer], asked: str) -> str | None:
    """The correlation that is asked for, of which nothing has been published yet."""
    for timer in timers:
        if asked == timer.record.correlation or normal_id(asked) in (
            _correlation(timer.record),
            id_text(timer.record.id),
        ):
            return _correlation(timer.record)
    return None


def write_json(found: Trace) -> None:
    """`{"correlation", "events", "truncated", "begins_later", "scheduled", "roots": [{"event", "deliveries", "children": [...]}]}`"""
    timers = sorted((timer for some in found.scheduled.values() for timer in some), key=lambda timer: timer.due_us)
    head = json_line(
        {
            "correlation": found.correlation,
            "events": found.size,
            "truncated": found.size >= LIMIT,
            "begins_later": found.begins_later,
            "scheduled": [{"due": iso(timer.due_us), "event": cloud_event(timer.record)} for timer in timers],
        }
    )
    sys.stdout.write(f'{head[:-1]},"roots":[')
    open_nodes = 0
    for step in found.steps():
        if step.depth < open_nodes:
            sys.stdout.write("]}" * (open_nodes - step.depth) + ",")
        deliveries = [view(standing) for standing in found.standings[step.record.position]]
        node = json_line({"event": cloud_event(step.record), "deliveries": deliveries})
        sys.stdout.write(f'\n{node[:-1]},"children":[')
        open_nodes = step.depth + 1
    sys.stdout.write("]}" * open_nodes + "]}\n")


def write_tree(found: Trace) -> None:
    began = found.roots[0].recorded_us if found.roots else 0
    say(f"correlation {printable(found.correlation)}: {_extent(found, began)}")
    lines = _Lines()
    for step in found.steps():
        first, below = lines.before(step)
        say(f"{first}{_event_line(step, began)}")
        for standing in found.standings[step.record.position]:
            say(f"{below}{title(standing.subscription)}  {in_words(standing)}")
        for timer in found.scheduled.get(id_text(step.record.id), ()):
            say(f"{below}{_timer_line(timer)}")
    for timer in found.scheduled.get(None, ()):
        say(_timer_line(timer))
    if found.begins_later:
        note("It began earlier: older events were deleted by retention.")
    if found.size >= LIMIT:
        note(f"Only the first {LIMIT:,} events are shown.")


def _extent(found: Trace, began: int) -> str:
    if not found.roots:
        return "nothing of it has been published yet"
    services = {step.record.source for step in found.steps()}
    took = max(step.record.recorded_us for step in found.steps()) - began
    return f"{plural(found.size, 'event')} from {plural(len(services), 'service')} in {span(took)}, from {clock_time(began)}"


def _timer_line(timer: Timer) -> str:
    record = timer.record
    key = [] if record.key is None else [f"key={record.key}"]
    parts = [
        record.type,
        f"scheduled, due {due_in(timer.due_us, now_us())}",
        *key,
        f"by {record.source}",
        id_text(record.id),
    ]
    return "  ".join(map(printable, parts))


def _event_line(step: Step, began: int) -> str:
    record = step.record
    parts = [printable(record.type), f"+{span(record.recorded_us - began)}"]
    if record.key is not None:
        parts.append(f"key={printable(record.key)}")
    parts += [f"by {printable(record.source)}", f"#{record.position}", id_text(record.id)]
    if step.depth > INDENTS_MAX:
        parts.append(f"depth {step.depth}")
    return "  ".join(map(printable, parts))


class _Lines:
    """The branches to the left of a step: before its event, and before what stands below it."""

    def __init__(self) -> None:
        drawn = _can_draw("├└│·")
        self.more, self.last, self.through = ("├─ ", "└─ ", "│  ") if drawn else ("|- ", "`- ", "|  ")
        self.dot = "· " if drawn else "- "

    def before(self, step: Step) -> tuple[str, str]:
        above = "".join(self.through if more else "   " for more in step.siblings[:-1])
        branch = (self.more if step.siblings[-1] else self.last) if step.siblings else ""
        beside = (self.through if step.siblings[-1] else "   ") if step.siblings else ""
        return above + branch, above + beside + (self.through if step.causes else "   ") + self.dot


def _can_draw(characters: str) -> bool:
    try:
        characters.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


@click.command(cls=Command)
@click.argument("id")
@json_option
@pass_invocation
@asynchronous
async def command(invocation: Invocation, id: str, as_json: bool) -> None:
    """Show all that one event caused, as a tree.

    ID is that of any event of the tree, or of the correlation. Each event is followed by the subscriptions that want it,
    and how it stands with them: done, waiting, parked, dead, or settled after failures; then by what it has scheduled and
    is not due yet."""
    async with existing_journal(invocation) as journal:
        found = await trace(journal, id)
        if found is None:
            gone = " Older events were deleted by retention." if await journal.deleted() else ""
            raise NothingFound(f"No event and no correlation has the id {id!r} in {journal.url}.{gone}")
        if as_json:
            write_json(found)
        else:
            write_tree(found)
