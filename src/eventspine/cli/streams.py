"""`spine streams`: the events of one entity, in order of version."""

from __future__ import annotations

from collections.abc import AsyncIterator

import click

from ..journal.port import Journal, Record
from .app import Group, Invocation, json_option, pass_invocation
from .exits import NothingFound
from .journals import PAGE, asynchronous, existing_journal
from .output import say_listing, shorten
from .records import cloud_event, data_text
from .times import clock_time

COLUMNS = ("version", "recorded", "type", "position", "data")


@click.group(cls=Group)
def command() -> None:
    """The events of one entity."""


async def versions(journal: Journal, service: str, stream: str, after: int) -> AsyncIterator[tuple[int, Record]]:
    while page := await journal.stream(service, stream, after=after, limit=PAGE):
        for record in page:
            after += 1
            yield after, record


@command.command()
@click.argument("service")
@click.argument("stream")
@click.option("--after", type=click.IntRange(0), default=0, metavar="VERSION", help="Only those after this version.")
@json_option
@pass_invocation
@asynchronous
async def show(invocation: Invocation, service: str, stream: str, after: int, as_json: bool) -> None:
    """Show the events of STREAM, which belongs to SERVICE."""
    async with existing_journal(invocation) as journal:
        if not await journal.stream_version(service, stream):
            raise NothingFound(f"{service} has no stream {stream!r}.")
        await say_listing(
            versions(journal, service, stream, after),
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
            none=f"Nothing after version {after}.",
        )
