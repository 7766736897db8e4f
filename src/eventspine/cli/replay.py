"""`spine replay`: chosen history in a scratch journal, for a service to handle again under a debugger, beside nobody.

Three commands have what happened handled again, and each says where: `dead replay` here and for real, `topology replay`
from a broker's archive, and this one in a file of its own."""

from __future__ import annotations

import shlex
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import click

from ..journal._sqlite_scratch import Chosen, Scratch, Source, copy_history
from ..journal._stopping import stoppable
from ..journal.port import Journal
from ..observe.printable import printable
from ..wording import plural
from .app import Command, Invocation, json_option, pass_invocation
from .exits import NothingFound
from .journals import asynchronous, existing_journal, position_of
from .output import json_document, note, say
from .records import known_id, normal_id
from .times import place


def in_words(made: Scratch) -> str:
    whole = f" and {plural(made.earlier, 'earlier event')} of their streams" if made.earlier else ""
    return (
        f"{printable(made.path)}: {plural(made.events - made.earlier, 'event')}{whole}, positions {made.first:,} to "
        f"{made.last:,}, {plural(made.streams, 'stream')}."
    )


def how_to_run(made: Scratch, modules: tuple[str, ...]) -> str:
    services = " ".join(map(shlex.quote, modules)) or "MODULE:NAME"
    journal = f"--journal {shlex.quote(f'sqlite:///{made.path}')}"
    return (
        "Run the service on it, with a breakpoint() in the handler; or from the first line on:\n"
        f"  spine run {services} {journal}\n"
        f"  python -m pdb -m eventspine.cli run {services} {journal}\n"
        "Nothing of it reaches this journal or a broker. What a handler does elsewhere (mail, HTTP) it does: give it "
        "test credentials."
    )


def view(made: Scratch) -> dict[str, Any]:
    return {
        "journal": f"sqlite:///{made.path}",
        "events": made.events,
        "earlier": made.earlier,
        "first": made.first,
        "last": made.last,
        "streams": made.streams,
    }


async def _upto(journal: Journal, to: str | int | datetime | None) -> int:
    """A position, itself included; or a time, and what was recorded before it."""
    head = await journal.head()
    if to is None or to == "now":
        return head
    return min(head, to) if isinstance(to, int) else await position_of(journal, to)


@click.command(cls=Command)
@click.option(
    "--into", type=click.Path(path_type=Path), required=True, metavar="FILE", help="The scratch journal to make."
)
@click.option(
    "--from",
    "start",
    type=place,
    default="earliest",
    metavar="PLACE",
    help="From here on: earliest, a position, a time, or how long ago (2h). [default: earliest]",
)
@click.option("--to", type=place, metavar="PLACE", help="Up to this position, or what was recorded before this time.")
@click.option("--key", "keys", multiple=True, help="Only events about this key. May be repeated.")
@click.option("--type", "types", multiple=True, metavar="TYPE", help="Only events of this type. May be repeated.")
@click.option("--channel", "channels", multiple=True, metavar="NAME", help="Only of this channel. May be repeated.")
@click.option("--correlation", metavar="ID", help="Only what belongs to this request, or this event.")
@click.argument("modules", nargs=-1, metavar="[MODULE[:NAME]]...")
@json_option
@pass_invocation
@asynchronous
async def command(
    invocation: Invocation,
    into: Path,
    start: str | int | datetime,
    to: str | int | datetime | None,
    keys: tuple[str, ...],
    types: tuple[str, ...],
    channels: tuple[str, ...],
    correlation: str | None,
    modules: tuple[str, ...],
    as_json: bool,
) -> None:
    """Copy chosen history into a scratch journal, to reproduce a bug with a debugger attached.

    Events keep their ids, positions and times; a stream of which any is chosen comes along from its beginning. Subscriptions
    begin before the first chosen event, and services make their tables anew. MODULE is only for the commands that it
    prints."""
    async with existing_journal(invocation) as journal:
        source = cast("Source", journal)  # those of all URLs are one; in memory there is no existing journal
        upto = await _upto(journal, to)
        chosen = Chosen(
            min(await position_of(journal, start), upto), upto, keys, types, channels,
            correlation and normal_id(correlation), known_id(correlation or ""),
        )  # fmt: skip
        made = await stoppable(partial(copy_history, source, into, chosen))
    if made is None:
        raise NothingFound("No event fits; no file was made. `spine tail --no-follow` shows what there is.")
    say(json_document(view(made)) if as_json else in_words(made))
    if not as_json:
        note(how_to_run(made, modules))
