"""`spine audit-trail`: who had what done, when and why, as the feed tells it.

It is read from the feed, a page in memory at a time, so it is as complete as the feed is: nobody keeps it beside the
events, and nobody can forget to. What retention has deleted is not in it any more. `since` and `until` are of when
an event was recorded, which nobody can choose; when it happened, as its publisher says, stands beside it.

A spreadsheet that opens CSV runs a cell that begins with = + - or @ as a formula, and keys and actors may come from
strangers. Such a cell is written with an apostrophe before it, as spreadsheets themselves write text; JSON lines are exact.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import click

from ..clock import us_of
from ..envelope import Envelope
from ..ids import id_text
from ..journal.port import Journal, Record
from ..observe.printable import printable
from ..wording import plural
from .app import Command, Invocation, json_option, pass_invocation
from .exits import Misused
from .journals import asynchronous, existing_journal
from .output import json_line, note, say_listing, shorten
from .records import data_of, data_text, normal_id
from .tail import Wanted, events
from .times import iso, past

COLUMNS = ("recorded", "actor", "why", "type", "key", "service", "position")
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


class Entry(NamedTuple):
    """One line of the trail; the names of the columns of CSV and of the members in JSON."""

    recorded: str
    happened: str
    actor: str | None
    why: str | None
    type: str
    key: str | None
    service: str
    position: int
    id: str
    correlation: str
    causation: str | None


def entry(record: Record) -> Entry:
    envelope = Envelope(record)
    return Entry(
        iso(record.recorded_us), iso(record.time_us), envelope.actor, envelope.why, record.type, record.key, record.source,
        record.position, id_text(record.id), envelope.correlationid, record.causation,
    )  # fmt: skip


async def trail(
    journal: Journal, wanted: Wanted, actors: Sequence[str], since: datetime | None, until: datetime | None
) -> AsyncIterator[Record]:
    """`until` is exclusive."""
    after = 0 if since is None else await journal.position_at(us_of(since))
    end = await journal.head() if until is None else await journal.position_at(us_of(until))
    async for records in events(journal, wanted, after, follow=False):
        for record in records:
            if record.position > end:
                return
            if not actors or Envelope(record).actor in actors:
                yield record


# --- how it is printed ------------------------------------------------------------------------------------------------


async def say_csv(found: AsyncIterator[Record], data: bool) -> None:
    lines = csv.writer(sys.stdout, lineterminator="\r\n")  # as RFC 4180 has it
    lines.writerow([*Entry._fields, "data"] if data else Entry._fields)
    async for record in found:
        cells = [*entry(record), record.data.decode("utf-8", "backslashreplace")] if data else entry(record)
        lines.writerow(map(cell, cells))


def cell(value: object) -> object:
    """Text that no spreadsheet takes for a formula, and no terminal for a command."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if value.startswith(FORMULA) else text


async def say_json_lines(found: AsyncIterator[Record], data: bool) -> None:
    async for record in found:
        shown: dict[str, Any] = entry(record)._asdict()
        sys.stdout.write(json_line(shown | data_of(record.data) if data else shown) + "\n")


async def say_trail(found: AsyncIterator[Record], data: bool) -> None:
    def row(record: Record) -> list[object]:
        one = entry(record)._asdict()
        cells: list[object] = ["" if one[name] is None else one[name] for name in COLUMNS]
        return [*cells, shorten(data_text(record.data), 100)] if data else cells

    columns = (*COLUMNS, "data") if data else COLUMNS
    await say_listing(found, as_json=False, view=entry, columns=columns, row=row, none="Nothing of that is recorded.")


def _printer(as_json: bool, as_csv: bool) -> Callable[[AsyncIterator[Record], bool], Any]:
    if as_json and as_csv:
        raise Misused("Say --json or --csv, not both.")
    return say_json_lines if as_json else say_csv if as_csv else say_trail


@click.command(cls=Command)
@click.option("--key", help="Only events about this key.")
@click.option(
    "--type", "types", multiple=True, metavar="TYPE", help="Only this type, of every context or one. May be repeated."
)
@click.option("--actor", "actors", multiple=True, help="Only what this actor has had done. May be repeated.")
@click.option("--correlation", metavar="ID", help="Only what belongs to this request, or this event.")
@click.option("--since", type=past, metavar="TIME", help="Recorded then or later: a time, or how long ago (2h).")
@click.option("--until", type=past, metavar="TIME", help="Recorded before then.")
@click.option("--data", is_flag=True, help="With the events' data.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, for a spreadsheet.")
@json_option
@pass_invocation
@asynchronous
async def command(
    invocation: Invocation,
    key: str | None,
    types: tuple[str, ...],
    actors: tuple[str, ...],
    correlation: str | None,
    since: datetime | None,
    until: datetime | None,
    data: bool,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Show who had what done, when and why.

    Each event of the journal, those private to a service too, with the actor and the reason that its publisher gave
    (`acting` in code, or --actor and --why of `spine publish`); both are handed on to what comes of it. With --json a
    line is one event."""
    printed = _printer(as_json, as_csv)
    wanted = Wanted(types, key, correlation and normal_id(correlation), private=True, ticks=False)
    async with existing_journal(invocation) as journal:
        await printed(trail(journal, wanted, actors, since, until), data)
        if gone := sum(one.events for one in await journal.deleted()):
            note(f"Retention has deleted {plural(gone, 'older event')}, which can't be in it.")
        if gone := sum(one.events for one in await journal.cut_off()):
            note(f"Of streams that were deleted or truncated, {plural(gone, 'event')} can't be in it.")
