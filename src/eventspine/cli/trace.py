"""`spine trace`: everything that one event caused, across services, and what became of each event where it is wanted.

The tree is made of `causation`; what is scheduled stands below what scheduled it. A chain may be thousands deep, so nothing here recurses, and JSON is written as it goes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import click

from ..ids import id_text
from ..journal import without_password
from ..journal.port import Timer
from ..observe.printable import printable
from ..wording import plural
from .app import Command, Invocation, json_option, pass_invocation
from .causes import INDENTS_MAX, LIMIT, Copy, Step, Trace, trace
from .exits import NothingFound
from .journals import asynchronous, existing_journal
from .output import json_line, note, say
from .records import cloud_event
from .standings import in_words, title, view
from .times import clock_time, due_in, iso, now_us, span


def write_json(found: Trace, *, several: bool = False) -> None:
    """`{"correlation", "events", "truncated", "begins_later", "scheduled", "roots": [{"event", "deliveries", "children": [...]}]}`; of several journals each
    event has its `copies`, too, and each delivery its `journal`."""
    timers = sorted((timer for some in found.scheduled.values() for timer in some), key=lambda timer: timer.due_us)
    head = json_line(
        {
            "correlation": found.correlation,
            "events": found.size,
            "truncated": found.truncated,
            "begins_later": found.begins_later,
            "scheduled": [{"due": iso(timer.due_us), "event": cloud_event(timer.record)} for timer in timers],
        }
    )
    sys.stdout.write(f'{head[:-1]},"roots":[')
    open_nodes = 0
    for step in found.steps():
        if step.depth < open_nodes:
            sys.stdout.write("]}" * (open_nodes - step.depth) + ",")
        node = json_line({"event": cloud_event(step.record), **_node(found.copies[step.record.id], several=several)})
        sys.stdout.write(f'\n{node[:-1]},"children":[')
        open_nodes = step.depth + 1
    sys.stdout.write("]}" * open_nodes + "]}\n")


def _node(copies: Sequence[Copy], *, several: bool) -> dict[str, Any]:
    if not several:
        return {"deliveries": [view(standing) for standing in copies[0].standings]}
    where = [
        {"journal": copy.journal, "position": copy.record.position, "recorded": iso(copy.record.recorded_us)}
        for copy in copies
    ]
    deliveries = [{"journal": copy.journal, **view(standing)} for copy in copies for standing in copy.standings]
    return {"copies": where, "deliveries": deliveries}


def write_tree(found: Trace) -> None:
    began = found.roots[0].recorded_us if found.roots else 0
    say(f"correlation {printable(found.correlation)}: {_extent(found, began)}")
    lines = _Lines()
    for step in found.steps():
        first, below = lines.before(step)
        say(f"{first}{_event_line(step, began)}")
        for number, copy in enumerate(found.copies[step.record.id]):
            if number:
                say(f"{below}{_arrival_line(copy, began)}")
            for standing in copy.standings:
                say(f"{below}{title(standing.subscription)}  {in_words(standing)}")
        for timer in found.scheduled.get(id_text(step.record.id), ()):
            say(f"{below}{_timer_line(timer)}")
    for timer in found.scheduled.get(None, ()):
        say(_timer_line(timer))
    if found.begins_later:
        note("It began earlier: older events were deleted.")
    if found.truncated:
        note(f"Only the first {LIMIT:,} events are shown.")


def _extent(found: Trace, began: int) -> str:
    if not found.roots:
        return "nothing of it has been published yet"
    services = {step.record.source for step in found.steps()}
    took = max(step.record.recorded_us for step in found.steps()) - began
    return f"{plural(found.size, 'event')} from {plural(len(services), 'service')} in {span(took)}, from {clock_time(began)}"


def _arrival_line(copy: Copy, began: int) -> str:
    passed = span(max(0, copy.record.recorded_us - began))
    return f"+{passed}  brought into {printable(copy.journal)}  #{copy.record.position}"


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


@click.command(cls=Command, several_journals=True)
@click.argument("id")
@json_option
@pass_invocation
@asynchronous
async def command(invocation: Invocation, id: str, as_json: bool) -> None:
    """Show all that one event caused, as a tree.

    ID is that of any event of the tree, or of the correlation. Each event is followed by the subscriptions that want it,
    and how it stands with them: done, waiting, parked, dead, or settled after failures; then by what it has scheduled and
    is not due yet. With --journal for each of several journals that a broker lies between, the tree goes on from one to
    the next."""
    async with AsyncExitStack() as stack:
        urls = list(dict.fromkeys(invocation.journals)) or [invocation.url]
        journals = [await stack.enter_async_context(existing_journal(invocation, url)) for url in urls]
        found = await trace(journals, id)
        if found is None:
            gone = any([await journal.deleted() or await journal.cut_off() for journal in journals])
            where = ", ".join(without_password(journal.url) for journal in journals)
            raise NothingFound(
                f"No event and no correlation has the id {id!r} in {where}."
                + (" Older events were deleted." if gone else "")
            )
        if as_json:
            write_json(found, several=len(urls) > 1)
        else:
            write_tree(found)
