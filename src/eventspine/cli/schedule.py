"""`spine schedule`: what is not due yet, be it an event that was scheduled or the next run of a periodic handler."""

from __future__ import annotations

from collections.abc import AsyncIterator
from heapq import merge
from typing import Any, NamedTuple

import click

from ..errors import SpineError
from ..ids import id_text
from ..journal.port import Append, Journal, Subscription, Timer, Unit
from ..observe.printable import printable
from ..periodic import is_ticks, latest_life, tick
from ..schedules import schedule_of
from ..wording import plural
from .app import Group, Invocation, json_option, pass_invocation
from .choosing import by_name
from .exits import Misused, NothingFound
from .figures import Whole
from .journals import asynchronous, existing_journal
from .output import say, say_listing, shorten
from .records import cloud_event, data_text, known_id
from .standings import title
from .times import clock_time, due_in, iso, now_us, span

COLUMNS = ("due", "in", "type", "key", "service", "id", "data")


@click.group(cls=Group)
def command() -> None:
    """What is not due yet: list, cancel; run a periodic handler now."""


class Run(NamedTuple):
    """The next run of a periodic handler, as its schedule says. Whether it comes then is up to who runs the service."""

    due_us: int
    subscription: Subscription
    words: str
    upto_us: int  # up to when the schedule has been dealt with


async def _runs(journal: Journal) -> list[Run]:
    rows = [row for row in await journal.subscriptions() if _is_periodic(row)]
    return sorted([run for row in rows if (run := await _next_run(journal, row))])


def _is_periodic(row: Subscription) -> bool:
    return any(map(is_ticks, row.channels)) and row.state in ("active", "paused")


async def _next_run(journal: Journal, row: Subscription) -> Run | None:
    """None: its service has not run yet, so its schedule has not begun."""
    life = latest_life(await journal.cursors([row.number]))
    if life is None:
        return None
    schedule = schedule_of(life.spec)
    return Run(schedule.after(life.upto), row, schedule.words, life.upto)


async def soonest(journal: Journal, limit: int) -> AsyncIterator[Timer | Run]:
    found: Any = merge(await journal.timers(limit), await _runs(journal), key=lambda one: one.due_us)
    for _, one in zip(range(limit), found, strict=False):
        yield one


def _row(one: Timer | Run) -> list[object]:
    now = now_us()
    if isinstance(one, Run):
        row = one.subscription
        late = one.due_us < now - 1_000_000
        waits = "paused" if row.state == "paused" else f"{span(now - one.due_us)} ago" if late else None
        return [clock_time(one.due_us), waits or due_in(one.due_us, now), title(row), "", row.service, "", one.words]
    record = one.record
    return [
        clock_time(one.due_us),
        due_in(one.due_us, now),
        record.type,
        record.key or "",
        record.source,
        id_text(record.id),
        shorten(data_text(record.data), 60),
    ]


def _view(one: Timer | Run) -> dict[str, Any]:
    if isinstance(one, Timer):
        return {"due": iso(one.due_us), "event": cloud_event(one.record)}
    row = one.subscription
    told = {"subscription": row.name, "service": row.service, "state": row.state, "schedule": one.words}
    return {"due": iso(one.due_us), "periodic": told | {"since": iso(one.upto_us)}}


@command.command("list")
@click.option("-n", "--limit", type=Whole(1), default=1000, show_default=True, metavar="N", help="The first N.")
@json_option
@pass_invocation
@asynchronous
async def list_(invocation: Invocation, limit: int, as_json: bool) -> None:
    """List scheduled events and runs of periodic handlers, the next one first."""
    async with existing_journal(invocation) as journal:
        await say_listing(
            soonest(journal, limit),
            as_json=as_json,
            view=_view,
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
            periodic = [row.name for row in await journal.subscriptions() if _is_periodic(row) and row.name in missing]
            hint = f" What is periodic is stopped by `spine subscriptions pause {periodic[0]}`." if periodic else ""
            raise NothingFound(f"Not scheduled, or published already: {told}. Nothing was cancelled.{hint}")
        verdict = await _committed(journal, Unit(cancels=list(wanted)))
        say(f"{plural(verdict, 'scheduled event')} cancelled.")


@command.command()
@click.argument("name", metavar="HANDLER")
@pass_invocation
@asynchronous
async def run(invocation: Invocation, name: str) -> None:
    """Have a periodic handler run now, beside its schedule. If its service does not run, it runs when that does."""
    async with existing_journal(invocation) as journal:
        (row,) = by_name(await journal.subscriptions(), name)[:1]
        if not _is_periodic(row):
            raise Misused(f"{title(row)} is not a periodic handler that is active: it has no runs.")
        own = row.name.removeprefix(f"{row.service}.")
        record = tick(row.service, own, row.uid, now_us())
        await _committed(journal, Unit(appends=[Append([record])]))
        say(f"{title(row)} runs now; `spine trace {id_text(record.id)}` shows what comes of it.")


async def _committed(journal: Journal, unit: Unit) -> int:
    """How many timers it has cancelled."""
    (verdict,) = await journal.commit([unit])
    if not verdict.ok:
        raise verdict.error or SpineError(f"The journal answered {verdict.kind}.")
    return verdict.cancelled
