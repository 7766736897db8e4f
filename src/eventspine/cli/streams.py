"""`spine streams`: the events of one entity, in order of version."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from difflib import get_close_matches

import click

from ..clock import us_of
from ..journal.port import Journal, Record
from ..journal.sqlite import SQLiteJournal
from . import completion
from .app import Group, Invocation, json_option, pass_invocation
from .exits import NothingFound
from .journals import PAGE, asynchronous, existing_journal, file_of
from .output import say_listing, shorten
from .records import cloud_event, data_text
from .times import clock_time, moment

COLUMNS = ("version", "recorded", "type", "position", "data")
IN_SQL = "select service, name, version from spine_streams order by service, name"


@click.group(cls=Group)
def command() -> None:
    """The events of one entity."""


async def versions(journal: Journal, service: str, stream: str, after: int) -> AsyncIterator[tuple[int, Record]]:
    while page := await journal.stream(service, stream, after=after, limit=PAGE):
        for record in page:
            after += 1
            yield after, record


async def by_then(events: AsyncIterator[tuple[int, Record]], at: datetime | None) -> AsyncIterator[tuple[int, Record]]:
    """Up to the first that happened later: what an aggregate loaded with `at=` is made of."""
    until_us = None if at is None else us_of(at)
    async for version, record in events:
        if until_us is not None and record.time_us > until_us:
            return
        yield version, record


async def _later_than(after: int, events: AsyncIterator[tuple[int, Record]]) -> AsyncIterator[tuple[int, Record]]:
    async for version, record in events:
        if version > after:
            yield version, record


async def named(file: SQLiteJournal, service: str | None) -> AsyncIterator[tuple[str, str, int]]:
    """Each stream: its service, its name and its version."""
    after = ("", "")
    while page := await file.streams(service, after, PAGE):
        for one in page:
            yield one
        after = page[-1][:2]


async def _no_such(journal: Journal, service: str, stream: str) -> str:
    """An aggregate's streams are called by its name and its id, and people know the id."""
    if not isinstance(journal, SQLiteJournal):
        return f"{service} has no stream {stream!r}."
    names = [name async for _, name, _ in named(journal, service)]
    if not names:
        others = sorted({of async for of, _, _ in named(journal, None)})
        whose = f" There are some of {', '.join(others)}." if others else " Nobody has any."
        return f"{service} has no streams.{whose}"
    meant = [name for name in names if name.endswith(f"-{stream}")] or get_close_matches(stream, names, n=1)
    if meant:
        return f"{service} has no stream {stream!r}. Did you mean {' or '.join(meant[:3])}?"
    return f"{service} has no stream {stream!r}, among {len(names):,}. `spine streams list --service {service}` shows them."


@command.command("list")
@click.option("--service", help="Only of this service.", shell_complete=completion.services)
@click.option("--prefix", default="", metavar="TEXT", help="Only those whose name begins so: account-.")
@json_option
@pass_invocation
@asynchronous
async def list_(invocation: Invocation, service: str | None, prefix: str, as_json: bool) -> None:
    """List streams, by their names."""
    async with existing_journal(invocation) as journal:
        file = file_of(journal, f"only the streams of one can be listed. In PostgreSQL: {IN_SQL}.")
        await say_listing(
            (one async for one in named(file, service) if one[1].startswith(prefix)),
            as_json=as_json,
            view=lambda one: {"service": one[0], "stream": one[1], "version": one[2]},
            columns=("service", "stream", "version"),
            row=lambda one: one,
            none="There are no streams.",
        )


@command.command()
@click.argument("service")
@click.argument("stream")
@click.option("--after", type=click.IntRange(0), default=0, metavar="VERSION", help="Only those after this version.")
@click.option("--at", type=moment, metavar="TIME", help="As it was then: without what happened later.")
@json_option
@pass_invocation
@asynchronous
async def show(
    invocation: Invocation, service: str, stream: str, after: int, at: datetime | None, as_json: bool
) -> None:
    """Show the events of STREAM, which belongs to SERVICE."""
    async with existing_journal(invocation) as journal:
        if not await journal.stream_version(service, stream):
            raise NothingFound(await _no_such(journal, service, stream))
        await say_listing(
            _later_than(after, by_then(versions(journal, service, stream, 0 if at else after), at)),
            as_json=as_json,
            view=lambda item: {"version": item[0], "event": cloud_event(item[1])},
            columns=COLUMNS,
            row=lambda item: [
                item[0],
                clock_time(item[1].recorded_us),
                item[1].type,
                item[1].position,
                shorten(data_text(item[1].data), 100),
            ],
            none=f"Nothing after version {after}{f' by {at.isoformat()}' if at else ''}.",
        )
