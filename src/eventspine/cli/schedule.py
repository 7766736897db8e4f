"""`spine schedule`: events that are not due yet."""

from __future__ import annotations

from collections.abc import AsyncIterator

import click

from ..errors import SpineError
from ..ids import id_text
from ..journal.port import Journal, Timer, Unit
from ..observe.printable import printable
from .app import Group, Invocation, json_option, pass_invocation
from .exits import NothingFound
from .journals import asynchronous, existing_journal
from .output import plural, say, say_listing, shorten
from .records import cloud_event, data_text, known_id
from .times import clock_time, due_in, iso, now_us

COLUMNS = ("due", "in", "type", "key", "service", "id", "data")


@click.group(cls=Group)
def command() -> None:
    """Events that are not due yet: list, cancel."""


async def soonest(journal: Journal, limit: int) -> AsyncIterator[Timer]:
    for timer in await journal.timers(limit):
        yield timer


def _row(timer: Timer) -> list[object]:
    record = timer.record
    when = [clock_time(timer.due_us), due_in(timer.due_us, now_us())]
    return [
        *when,
        record.type,
        record.key or "",
        record.source,
        id_text(record.id),
        shorten(data_text(record.data), 60),
    ]


@command.command("list")
@click.option(
    "-n", "--limit", type=click.IntRange(1), default=1000, show_default=True, metavar="N", help="The first N."
)
@json_option
@pass_invocation
@asynchronous
async def list_(invocation: Invocation, limit: int, as_json: bool) -> None:
    """List them, the next one first."""
    async with existing_journal(invocation) as journal:
        await say_listing(
            soonest(journal, limit),
            as_json=as_json,
            view=lambda timer: {"due": iso(timer.due_us), "event": cloud_event(timer.record)},
            columns=COLUMNS,
            row=_row,
            none="Nothing is scheduled.",
        )


@command.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@pass_invocation
@asynchronous
async def cancel(invocation: Invocation, ids: tuple[str, ...]) -> None:
    """Cancel scheduled events: all that are named, or none."""
    wanted = {known_id(id): id for id in ids}
    async with existing_journal(invocation) as journal:
        scheduled = {timer.record.id for timer in await journal.timers(1_000_000)}
        if missing := [text for id, text in wanted.items() if id not in scheduled]:
            told = ", ".join(map(printable, missing))
            raise NothingFound(f"Not scheduled, or published already: {told}. Nothing was cancelled.")
        (verdict,) = await journal.commit([Unit(cancels=list(wanted))])
        if not verdict.ok:
            raise verdict.error or SpineError(f"The journal answered {verdict.kind}.")
        say(f"{plural(verdict.cancelled, 'scheduled event')} cancelled.")
