"""`spine views`: which versions of views there are, which one is read, and how far each has come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

import click

from ..journal.port import Delivery, Journal
from ..state import versions
from ..state.dropping import drop as drop_version
from ..state.progress import Progress, held_up_by, progress_of
from .app import Group, Invocation, json_option, pass_invocation
from .at_work import at_work
from .exits import NothingFound, Refused
from .figures import Whole
from .journals import asynchronous, existing_journal
from .output import confirm, say, say_listing

COLUMNS = ("view", "version", "state", "position", "behind", "kept by", "held up by")


class Row(NamedTuple):
    name: str
    number: int
    version: versions.Version
    state: str  # read, kept, building, or kept by nobody
    progress: Progress | None
    behind: int
    held: Delivery | None


@click.group(cls=Group)
def command() -> None:
    """Views: which versions there are, and which one is read."""


async def rows(journal: Journal) -> AsyncIterator[Row]:
    head = await journal.head()
    for name, known in sorted((await versions.every(journal)).items()):
        for number, version in sorted(known.kept.items()):
            progress = await progress_of(journal, known.service, version.subscription)
            held = None if progress is None else await held_up_by(journal, progress.subscription)
            behind = head - (progress.position if progress else 0)
            yield Row(name, number, version, _state(known, number, progress), progress, behind, held)


def _state(known: versions.Known, number: int, progress: Progress | None) -> str:
    if number == known.active:
        return "read"
    if progress is None or progress.subscription.state != "active":
        return "not kept"
    return "building" if number > known.active and number not in known.rolled_back else "kept"


def view(row: Row) -> dict[str, Any]:
    return {
        "view": row.name,
        "version": row.number,
        "state": row.state,
        "subscription": row.version.subscription,
        "position": None if row.progress is None else row.progress.position,
        "behind": row.behind,
        "columns": row.version.columns,
        "held_up_by": None if row.held is None else {"number": row.held.number, "reason": row.held.reason},
    }


def _cells(row: Row) -> list[object]:
    held = "" if row.held is None else f"{row.held.state} {row.held.number}: {row.held.reason}"
    position = "" if row.progress is None else row.progress.position
    return [row.name, row.number, row.state, position, row.behind, row.version.subscription, held]


@command.command("list")
@json_option
@pass_invocation
@asynchronous
async def list_(invocation: Invocation, as_json: bool) -> None:
    """List the views of the journal, with their versions."""
    async with existing_journal(invocation) as journal:
        await say_listing(
            rows(journal), as_json=as_json, view=view, columns=COLUMNS, row=_cells, none="There are no views."
        )


@command.command()
@click.argument("name")
@click.argument("version", type=Whole(1))
@pass_invocation
@asynchronous
async def switch(invocation: Invocation, name: str, version: int) -> None:
    """Have VERSION of the view NAME read from now on."""
    async with existing_journal(invocation) as journal:
        known = await _known(journal, name)
        _refuse_missing(name, version, known.kept, known)
        changed = await versions.change(journal, name, lambda now: now and versions.switched(now, version))
        say(f"{name} is read as version {version}{'' if changed else ', as before'}.")


@command.command("roll-back")
@click.argument("name")
@pass_invocation
@asynchronous
async def roll_back(invocation: Invocation, name: str) -> None:
    """Have the version of the view NAME read again that was read before the last switch."""
    async with existing_journal(invocation) as journal:
        await _known(journal, name)
        changed = await versions.change(journal, name, lambda now: now and versions.rolled_back(now))
        if changed is not None:
            say(f"{name} is read as version {changed.active} again.")


@command.command()
@click.argument("name")
@click.argument("version", type=Whole(1))
@click.option("--yes", is_flag=True, help="Don't ask.")
@pass_invocation
@asynchronous
async def drop(invocation: Invocation, name: str, version: int, yes: bool) -> None:
    """Remove VERSION of the view NAME for good: its rows, and the subscription that kept it."""
    async with existing_journal(invocation) as journal:
        known = await _known(journal, name)
        _refuse_missing(name, version, known.versions, known)  # what was broken off is dropped again
        versions.check_droppable(known, version)
        await _refuse_kept(journal, known, version)
        confirm(f"Remove version {version} of {name} for good?", yes)
        await drop_version(journal, name, version)
        say(f"Version {version} of {name} is removed.")


async def _refuse_kept(journal: Journal, known: versions.Known, version: int) -> None:
    """Whoever has it in his code could not start any more."""
    name = known.versions[version].subscription
    keeping = await progress_of(journal, known.service, name)
    if keeping is None or keeping.subscription.state != "active":
        return
    alive = [one for one in await at_work(journal) if one.service == known.service]
    if alive:
        raise Refused(
            f"Version {version} is kept by {name}, which {known.service} (pid {alive[0].pid}) is at work at. Deploy {known.service} "
            "without that version's class and projection, then drop it; nothing was changed."
        )


def _refuse_missing(name: str, version: int, among: Mapping[int, versions.Version], known: versions.Known) -> None:
    if version not in among:
        there = f"{'is' if len(known.kept) == 1 else 'are'} {', '.join(map(str, sorted(known.kept)))}"
        raise NothingFound(f"There is no version {version} of {name}; there {there}.")


async def _known(journal: Journal, name: str) -> versions.Known:
    known = await versions.known(journal, name)
    if known is None:
        raise NothingFound(f"There is no view {name!r}. `spine views list` shows those that there are.")
    return known
