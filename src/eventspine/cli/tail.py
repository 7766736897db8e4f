"""`spine tail`: events as they are published, one line each.

It reads the feed as any subscription does, from its own place, without a cursor: it disturbs nobody and leaves nothing
behind. It holds one page of events, and waits when its reader does, so memory stays flat however far it lags.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from difflib import get_close_matches
from typing import NamedTuple

import click

from ..ids import id_text
from ..journal.pages import feed
from ..journal.port import PARTITIONS, Journal, Page, Record
from ..keys import slot_of_key
from ..observe.printable import printable
from ..periodic import is_ticks
from .app import Command, Invocation, json_option, pass_invocation
from .exits import Misused
from .figures import Whole
from .journals import asynchronous, existing_journal, position_of
from .output import json_line, note
from .records import cloud_event, line, normal_id
from .times import place

PAGE = 500
LOOK_BACK = 10_000  # events, for the types that there are
LAST_MAX = 100_000


class Wanted(NamedTuple):
    """What to show. The journal filters by channel, partition and full type name; the rest is looked at here."""

    types: Sequence[str] = ()
    key: str | None = None
    correlation: str | None = None
    channels: Sequence[str] = ()
    private: bool = False
    ticks: bool | None = None  # None: to who asks for more than what happens

    def shows(self, record: Record) -> bool:
        return (
            (not is_ticks(record.channel) or self.asks_for_ticks)
            and (self.key is None or record.key == self.key)
            and (not self.types or any(named(record.type, type) for type in self.types))
            and (self.correlation is None or self.correlation in (record.correlation, id_text(record.id)))
        )

    @property
    def asks_for_ticks(self) -> bool:
        """They are nobody's facts."""
        if self.ticks is not None:
            return self.ticks
        return bool(self.private or self.types or self.channels or self.correlation)

    async def page(self, journal: Journal, after: int) -> Page:
        full_names = bool(self.types) and all("." in type for type in self.types)
        return await journal.feed(
            after,
            limit=PAGE,
            channels=self.channels or None,
            types=self.types if full_names else None,
            partitions=None if self.key is None else [slot_of_key(self.key) % PARTITIONS],
            private=self.private,
        )


def named(type: str, asked: str) -> bool:
    """`OrderPlaced` means that of every context; `orders.OrderPlaced` one."""
    return type == asked or ("." not in asked and type.rpartition(".")[2] == asked)


async def events(journal: Journal, wanted: Wanted, after: int, follow: bool) -> AsyncIterator[Sequence[Record]]:
    """Pages of what is wanted. With `follow` it never ends, and sleeps until the journal says that there may be more."""
    more = asyncio.Event()
    stop = journal.watch(more.set) if follow else lambda: None
    try:
        while True:
            more.clear()  # before looking, so that what is appended while we look wakes us
            page = await wanted.page(journal, after)
            if shown := [record for record in page.records if wanted.shows(record)]:
                yield shown
            if page.scanned > after:
                after = page.scanned
            elif follow:
                await more.wait()
            else:
                return
    finally:
        stop()


async def before_last(journal: Journal, wanted: Wanted, count: int) -> int:
    """The position after which the last `count` of what is wanted lie; 0 when there are no more. It looks back twice as far
    each time, so a rare event in a long feed costs at most two readings of it."""
    head = await journal.head()
    back = max(PAGE, 2 * count)
    while True:
        found: deque[int] = deque(maxlen=count)
        start = max(0, head - back)
        async for records in events(journal, wanted, start, follow=False):
            found.extend(record.position for record in records)
        if len(found) == count:
            return found[0] - 1
        if not start:
            return 0
        back *= 2


@click.command(cls=Command)
@click.option(
    "--type",
    "types",
    multiple=True,
    metavar="TYPE",
    help="Only this type: orders.OrderPlaced, or OrderPlaced of any context. May be repeated.",
)
@click.option("--key", help="Only events about this key.")
@click.option("--correlation", metavar="ID", help="Only this correlation.")
@click.option("--channel", "channels", multiple=True, help="Only this channel (a context's name). May be repeated.")
@click.option("--private", is_flag=True, help="Also events that are private to their service, and ticks.")
@click.option(
    "--from",
    "start",
    type=place,
    metavar="PLACE",
    help="earliest, now, a position, a time, or how long ago (10m). [default: now; earliest with --no-follow]",
)
@click.option("--follow/--no-follow", default=True, help="Wait for more at the end. [default: follow]")
@click.option("--last", type=Whole(1, LAST_MAX), metavar="N", help="Begin with the last N events.")
@click.option("-n", "--limit", type=Whole(1), metavar="N", help="Stop after N events.")
@json_option
@pass_invocation
@asynchronous
async def command(
    invocation: Invocation,
    types: tuple[str, ...],
    key: str | None,
    correlation: str | None,
    channels: tuple[str, ...],
    private: bool,
    start: str | int | datetime | None,
    follow: bool,
    last: int | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Print events as they are published.

    One line each, until interrupted. With --json a line is the event as CloudEvents JSON."""
    if start is not None and last is not None:
        raise Misused("--from and --last both say where to begin. Give one of them.")
    wanted = Wanted(types, key, correlation and normal_id(correlation), channels, private)
    shown: Callable[[Record], str] = (lambda record: json_line(cloud_event(record))) if as_json else line
    async with existing_journal(invocation) as journal:
        if last is not None:
            after = await before_last(journal, wanted, last)
        else:
            after = await position_of(journal, start if start is not None else "now" if follow else "earliest")
        if follow and sys.stderr.isatty():
            click.echo(f"following {journal.url} from position {after:,}; Ctrl-C ends it", err=True)
        if follow and (unknown := await _unknown(journal, types)):
            note(unknown)  # before it waits, perhaps for ever
        left = limit if limit is not None else -1
        found = False
        async for records in events(journal, wanted, after, follow):
            found = True
            for record in records[:left] if left >= 0 else records:
                sys.stdout.write(shown(record) + "\n")
            sys.stdout.flush()
            left -= len(records)
            if limit is not None and left <= 0:
                return
        if not found:
            note(_nothing(after, await journal.head()))
            if unknown := await _unknown(journal, types):
                note(unknown)


def _nothing(after: int, head: int) -> str:
    """Lest a mistyped word look like a feed in which nothing happens."""
    if head and after >= head:
        return f"Nothing is recorded from position {after + 1:,} on: the last is {head:,}."
    return "Nothing of that is recorded."


async def _unknown(journal: Journal, types: Sequence[str]) -> str:
    """Of types that no handler wants and no event of late has, which may be meant; "" where all of them are known."""
    if not types:
        return ""
    known = await _known_types(journal)
    return " ".join(
        f"No event of the type {asked!r} is known here: it is not among the last {LOOK_BACK:,} events, and no handler wants it."
        f"{meant(asked, known)}"
        for asked in dict.fromkeys(types)
        if not any(named(type, asked) for type in known)
    )


async def _known_types(journal: Journal) -> list[str]:
    head = await journal.head()
    known = {type for row in await journal.subscriptions() for type, _ in row.types}
    known |= {record.type async for record in feed(journal, max(0, head - LOOK_BACK), head, private=True)}
    return sorted(known)


def meant(asked: str, known: Sequence[str]) -> str:
    """A type whose name is spelt nearly so, as a question; "" where there is none."""
    by_word = {word.lower(): type for type in known for word in (type.rpartition(".")[2], type)}
    close = get_close_matches(asked.lower(), by_word, n=1)
    return f" Did you mean {printable(by_word[close[0]])}?" if close else ""
