"""`spine reset`: an empty journal to develop with.

The whole file is moved aside, business tables included. They are what the events did: with the events gone and their
effects still there, handlers would do again what is done already, and nobody could tell which row came from where. The
next start makes a new file, with the services' own tables as at first.

It never happens beside a process at work, nor to a file that another program has open.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NamedTuple

import click

from ..observe.printable import printable
from ..wording import plural
from .app import Command, Invocation, pass_invocation
from .at_work import refuse_beside_others
from .journals import existing_journal, file_of
from .output import confirm, note, say

_TABLES = "select name from sqlite_master where type = 'table' and name not like 'spine\\_%' escape '\\' and name not like 'sqlite\\_%' escape '\\' order by name"


class Contents(NamedTuple):
    path: Path
    events: int
    subscriptions: int
    deliveries: int
    scheduled: int
    tables: tuple[str, ...]  # of services

    def __str__(self) -> str:
        parts = [
            plural(self.events, "event"),
            plural(self.subscriptions, "subscription"),
            plural(self.deliveries, "parked or dead delivery", "parked or dead deliveries"),
            plural(self.scheduled, "scheduled event"),
        ]
        tables = f", and the tables {', '.join(map(printable, self.tables))}" if self.tables else ""
        return f"{self.path}: {', '.join(parts)}{tables}"


async def contents(invocation: Invocation) -> Contents:
    """What would be gone. Refuses beside a living process."""
    async with existing_journal(invocation) as journal:
        path = file_of(journal, "only a file can be reset. In PostgreSQL: drop schema NAME cascade.").path
        await refuse_beside_others(journal)
        return Contents(
            path,
            await journal.head(),
            len([row for row in await journal.subscriptions() if row.state != "retired"]),
            len(await journal.deliveries(states=["parked", "dead", "held"], records=False, limit=100_000)),
            len(await journal.timers(100_000)),
            tuple(str(row["name"]) for row in await journal.query(_TABLES, {})),
        )


@click.command(cls=Command)
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option("--no-backup", is_flag=True, help="Delete the file instead of moving it aside.")
@pass_invocation
def command(invocation: Invocation, yes: bool, no_backup: bool) -> None:
    """Start over with an empty journal, in development.

    Events, subscriptions, deliveries and the tables of services go with the file, which is moved aside to
    FILE.bak. Refused while a process is at work on it."""
    from ..journal._sqlite_aside import free_name, move_aside

    found = asyncio.run(contents(invocation))
    backup = None if no_backup else free_name(found.path)
    note(str(found))
    confirm("Delete all this for good?" if backup is None else f"Move all this aside, to {backup}?", yes)
    move_aside(found.path, backup)
    say(f"{found.path} is gone." if backup is None else f"{found.path} is now {backup}.")
    say("The next `spine run` makes a new journal.")
