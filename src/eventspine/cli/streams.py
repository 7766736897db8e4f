"""`spine streams`: the events of one entity, in order of version; and the end of it, when it is over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import nullcontext
from datetime import datetime
from difflib import get_close_matches

import click

from ..clock import SystemClock, us_of
from ..errors import VersionsDeleted
from ..journal.port import Journal, Record, StreamHead
from ..observe.acting import acting
from ..observe.printable import printable
from ..wording import plural
from . import completion
from .app import Group, Invocation, json_option, pass_invocation
from .choosing import refuse_unknown_service
from .exits import Misused, NothingFound
from .figures import Whole
from .journals import PAGE, asynchronous, existing_journal
from .output import confirm, note, say, say_listing, shorten
from .records import cloud_event, data_text
from .times import clock_time, past

COLUMNS = ("version", "recorded", "type", "position", "data")


@click.group(cls=Group)
def command() -> None:
    """The events of one entity."""


async def versions(journal: Journal, service: str, stream: str, after: int) -> AsyncIterator[tuple[int, Record]]:
    """Those after this one; of a stream that was cut off, from the first that there is."""
    try:
        await journal.stream(service, stream, after=after, limit=1)
    except VersionsDeleted as gone:
        after = gone.details["first"] - 1
        note(await _how_it_begins(journal, service, stream, after))
    while page := await journal.stream(service, stream, after=after, limit=PAGE):
        for record in page:
            after += 1
            yield after, record


async def _how_it_begins(journal: Journal, service: str, stream: str, after: int) -> str:
    """Of one that was cut off: truncated, or over."""
    from ..state.ended import ENDED, how_it_ended

    (first,) = await journal.stream(service, stream, after=after, limit=1)
    if first.type == ENDED:
        return f"{printable(stream)} was {printable(how_it_ended(first))}. What is left is the event that says so."
    return f"{printable(stream)} begins with version {after + 1:,}: those before were deleted."


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


async def named(journal: Journal, service: str | None) -> AsyncIterator[StreamHead]:
    """Each stream: its service, its name and its version."""
    after = ("", "")
    while page := await journal.streams(service, after, PAGE):
        for one in page:
            yield one
        after = page[-1][:2]


async def _no_such(journal: Journal, service: str, stream: str) -> str:
    """An aggregate's streams are called by its name and its id, and people know the id."""
    names = [one.stream async for one in named(journal, service)]
    if not names:
        others = sorted({one.service async for one in named(journal, None)})
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
    """List streams, by their names; one that was deleted has a mark, and the version of the event that says so."""
    from ..state.ended import ENDED

    async with existing_journal(invocation) as journal:
        await refuse_unknown_service(journal, service)
        await say_listing(
            (one async for one in named(journal, service) if one[1].startswith(prefix)),
            as_json=as_json,
            view=lambda one: one._asdict() | {"deleted": one.last_type == ENDED},
            columns=("service", "stream", "version", ""),
            row=lambda one: [*one[:3], "deleted" if one.last_type == ENDED else ""],
            none="There are no streams.",
        )


@command.command()
@click.argument("service")
@click.argument("stream")
@click.option("--after", type=Whole(0), default=0, metavar="VERSION", help="Only those after this version.")
@click.option(
    "--at", type=past, metavar="TIME", help="As it was then, or so long ago (2h): without what happened later."
)
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


@command.command()
@click.argument("service")
@click.argument("stream")
@click.option("--actor", help="Who has it done: user:42. Whoever comes to it later is told.")
@click.option("--why", help="Why: ticket 811.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@pass_invocation
@asynchronous
async def delete(
    invocation: Invocation, service: str, stream: str, actor: str | None, why: str | None, yes: bool
) -> None:
    """Delete all events of STREAM for good, of an entity that is over.

    One private event stays, that says so: its id is not used again, and loading it is an error that tells when it was
    deleted. Refused while a subscription or view has not come past it, or a delivery of it is parked, dead or held."""
    from ..state.deleting import delete_stream, ending, look_who_needs

    said = nullcontext() if actor is None and why is None else acting(actor, why=why)
    async with existing_journal(invocation) as journal:
        if not await journal.stream_version(service, stream):
            raise NothingFound(await _no_such(journal, service, stream))
        events, over = await look_who_needs(journal, service, stream), await ending(journal, service, stream)
        if over is not None and events == 1:
            _say_that_it_was(stream, service, over, told=actor is not None or why is not None)
            return
        confirm(f"Delete the {plural(events - (over is not None), 'event')} of {printable(stream)} for good?", yes)
        with said:
            done = await delete_stream(journal, SystemClock(), service, stream)
        say(f"{printable(stream)} of {printable(service)}: {plural(done.events, 'event')} deleted.")


def _say_that_it_was(stream: str, service: str, over: Record, *, told: bool) -> None:
    from ..state.ended import how_it_ended

    kept = " What was said then, by --actor and --why, stays." if told else ""
    say(f"{printable(stream)} of {printable(service)} was {printable(how_it_ended(over))} already.{kept}")


@command.command()
@click.argument("service")
@click.argument("stream")
@click.option("--before", type=Whole(1), required=True, metavar="VERSION", help="The first version that stays.")
@click.option(
    "--aggregate",
    metavar="MODULE:CLASS",
    help="The class whose state is compared: as all events make it, and as the one at VERSION makes it alone.",
)
@click.option("--unchecked", is_flag=True, help="You know that the event at VERSION restates what came before it.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@pass_invocation
@asynchronous
async def truncate(
    invocation: Invocation,
    service: str,
    stream: str,
    before: int,
    aggregate: str | None,
    unchecked: bool,
    yes: bool,
) -> None:
    """Delete the events of STREAM before VERSION, whose event says all that they had come to.

    Versions go on; the past before it can't be told any more. Refused as `streams delete` is."""
    from ..state.deleting import refuse_over

    if unchecked == (aggregate is not None):
        raise Misused("Say --aggregate MODULE:CLASS, so that its state can be compared; or --unchecked. One of them.")
    async with existing_journal(invocation) as journal:
        if not await journal.stream_version(service, stream):
            raise NothingFound(await _no_such(journal, service, stream))
        await refuse_over(journal, service, stream)
        if aggregate is not None:
            await _check(journal, service, stream, before, aggregate)
        confirm(f"Delete the versions of {printable(stream)} before {before:,} for good?", yes)
        done = await journal.cut(service, stream, before=before)
        say(
            f"{printable(stream)} of {printable(service)}: {plural(done.events, 'event')} deleted; it begins with version {done.first:,}."
        )


async def _check(journal: Journal, service: str, stream: str, before: int, aggregate: str) -> None:
    from ..state.deleting import check_restates
    from ..state.shapes import shape_of
    from .modules import named_aggregate

    cls = named_aggregate(aggregate)
    prefix = shape_of(cls).stream("")
    if not stream.startswith(prefix):
        raise Misused(f"The streams of {cls.__name__} begin with {prefix}, and {stream} does not.")
    await check_restates(journal, service, cls, stream.removeprefix(prefix), before)
