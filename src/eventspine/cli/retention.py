"""`spine retention`: how long each channel is kept, what has been deleted, who holds it back; and deleting by hand.

The times are declared in code, on the service that publishes; see retention.py of the journal for what several come to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import click

from ..clock import SystemClock
from ..journal.port import ChannelSize, Deleted, Journal
from ..journal.retention import HeldBack, deleted_after, duration, held_back, kept
from ..observe.printable import printable
from ..wording import plural
from .app import Group, Invocation, json_option, pass_invocation
from .journals import asynchronous, existing_journal
from .output import note, say, say_listing
from .standings import title
from .times import clock_time, iso, now_us

COLUMNS = ("channel", "kept", "events", "deleted", "up to", "held by")


class Row(NamedTuple):
    channel: str
    keep_us: int | None
    services: Sequence[str]  # that have said so
    size: ChannelSize
    deleted: Deleted | None
    held: HeldBack | None


async def rows(journal: Journal) -> AsyncIterator[Row]:
    now, said = now_us(), await journal.keeps()
    keeps = kept(said, now)
    sizes = {size.channel: size for size in await journal.channel_sizes() if size.channel is not None}
    deleted = {row.channel: row for row in await journal.deleted()}
    held = {row.channel: row for row in await _held(journal, keeps, now)}
    for channel in sorted(sizes.keys() | deleted.keys() | {row.channel for row in said}):
        services = sorted({row.service for row in said if row.channel == channel and row.keep_us == keeps.get(channel)})
        size = sizes.get(channel, ChannelSize(channel, 0, True))
        yield Row(channel, keeps.get(channel), services, size, deleted.get(channel), held.get(channel))


async def _held(journal: Journal, keeps: dict[str, int], now: int) -> list[HeldBack]:
    due = {channel: await journal.position_at(now - keep_us) for channel, keep_us in keeps.items()}
    subscriptions = await journal.subscriptions()
    return held_back(due, subscriptions, await journal.cursors([row.number for row in subscriptions]))


def view(row: Row) -> dict[str, Any]:
    return {
        "channel": row.channel,
        "kept_s": None if row.keep_us is None else row.keep_us / 1e6,
        "said_by": row.services,
        "events": row.size.events,
        "events_are_exact": row.size.exact,
        "deleted": row.deleted.events if row.deleted else 0,
        "deleted_upto": row.deleted.position if row.deleted else None,
        "deleted_upto_time": iso(row.deleted.recorded_us) if row.deleted else None,
        "held_by": None
        if row.held is None
        else {
            "service": row.held.subscription.service,
            "subscription": row.held.subscription.name,
            "state": row.held.subscription.state,
            "position": row.held.position,
            "due": row.held.upto,
        },
    }


def table_row(row: Row) -> list[object]:
    return [
        row.channel,
        "for ever" if row.keep_us is None else duration(row.keep_us),
        f"{'' if row.size.exact else '~'}{row.size.events:,}",
        f"{row.deleted.events:,}" if row.deleted else "0",
        clock_time(row.deleted.recorded_us) if row.deleted else "-",
        "-" if row.held is None else f"{title(row.held.subscription)} ({row.held.subscription.state})",
    ]


async def _list(invocation: Invocation, as_json: bool) -> None:
    async with existing_journal(invocation) as journal:
        await say_listing(
            rows(journal), as_json=as_json, view=view, columns=COLUMNS, row=table_row, none="There are no events yet."
        )


async def note_what_is_gone(journal: Journal, channels: Sequence[str], position: int) -> None:
    """To whoever wants to go back to this position, and reads these channels."""
    deleted = await journal.deleted()
    for row in deleted_after(deleted, channels, position):
        note(
            f"Events of {printable(row.channel)} up to position {row.position:,} ({clock_time(row.recorded_us)}) were deleted "
            "by retention. It goes on with what is left."
        )
    for row in deleted_after(await journal.cut_off(), channels, position):
        note(
            f"Streams of {printable(row.channel)} were deleted or truncated: {plural(row.events, 'event')} up to position "
            f"{row.position:,}. It goes on with what is left."
        )
    others = [row.channel for row in deleted if row.position > position and row.channel not in channels]
    if others:
        note(
            f"Events of {', '.join(map(printable, others))} published since then were deleted too: what this handler "
            "publishes there is published again."
        )


@click.group(cls=Group, invoke_without_command=True)
@json_option
@click.pass_context
@asynchronous
async def command(context: click.Context, as_json: bool) -> None:
    """For how long events are kept; what was deleted, and what holds it back.

    It is declared in code: Service("shop", retention=timedelta(days=90)). EVENTS are counted, or estimated (~) where that
    takes long. HELD BY names a subscription that has not read what is old enough to be deleted."""
    if context.invoked_subcommand is None:
        await _list(context.ensure_object(Invocation), as_json)


@command.command("list")
@json_option
@pass_invocation
@asynchronous
async def list_(invocation: Invocation, as_json: bool) -> None:
    """List them; the same as `spine retention` alone."""
    await _list(invocation, as_json)


@command.command()
@pass_invocation
@asynchronous
async def run(invocation: Invocation) -> None:
    """Delete now what is old enough, instead of waiting for a running service to do it.

    It may run beside them: it deletes what they would."""
    async with existing_journal(invocation) as journal:
        now = now_us()
        keeps = kept(await journal.keeps(), now)
        from ..engine.upkeep import sweep  # here, since nothing else in this module needs the engine

        for channel, keep_us in sorted(keeps.items()):
            upto = await journal.position_at(now - keep_us)
            swept = await sweep(journal, SystemClock(), channel, upto=upto)
            say(f"{printable(channel)}: {plural(swept.deleted, 'event')} deleted, older than {duration(keep_us)}.")
        for row in await _held(journal, keeps, now):
            note(f"{printable(str(row))}.")
        if not keeps:
            note("Every channel is kept for ever.")
