"""`spine streams`: the events of one entity, in order of version."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

import click

from ..clock import us_of
from ..journal.port import Journal, Record
from .app import Group, Invocation, json_option, pass_invocation
from .exits import NothingFound
from .journals import PAGE, asynchronous, existing_journal
from .output import say_listing, shorten
from .records import cloud_event, data_text
from .times import clock_time, moment

COLUMNS = ("version", "recorded", "type", "position", "data")


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
            raise NothingFound(f"{service} has no stream {stream!r}.")
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
