"""`spine backup`: a copy of the live journal, verified, while everybody goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ..errors import SettingsError
from ..journal.port import Backup
from ..observe.printable import printable
from ..wording import plural
from .app import Command, Invocation, json_option, pass_invocation
from .exits import Misused
from .journals import asynchronous, existing_journal
from .output import json_document, say, size
from .times import iso

Progress = Callable[[str, float], None]


def view(made: Backup) -> dict[str, Any]:
    return {
        "target": made.path,
        "bytes": made.bytes,
        "position": made.position,
        "recorded": None if made.recorded_us is None else iso(made.recorded_us),
        "events": made.events,
    }


def in_words(made: Backup) -> str:
    upto = "" if made.recorded_us is None else f", up to position {made.position:,} of {iso(made.recorded_us)}"
    return f"{printable(made.path)}: {size(made.bytes)}, {plural(made.events, 'event')}{upto}. Verified."


@contextmanager
def progress_bar() -> Iterator[Progress | None]:
    """On a terminal, beside the answer; None elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bars

    with Bars(console=Console(stderr=True), transient=True) as bars:
        tasks = {"copying": bars.add_task("copying", total=1.0)}

        def told(stage: str, share: float) -> None:
            if stage not in tasks:
                bars.update(tasks["copying"], completed=1.0)
                tasks[stage] = bars.add_task(stage, total=None)  # how long that takes nobody knows
            bars.update(tasks[stage], completed=share)

        yield told


@click.command(cls=Command)
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace TARGET if it exists.")
@json_option
@pass_invocation
@asynchronous
async def command(invocation: Invocation, target: Path, force: bool, as_json: bool) -> None:
    """Copy the journal while services run, and verify the copy.

    The copy is as of one moment, and is verified before it has its name; a backup that fails leaves nothing there. It
    holds what was committed up to the position that is printed: events, where every subscription stands, deliveries,
    timers, and your own tables in the file."""
    async with existing_journal(invocation) as journal:
        with progress_bar() as progress:
            try:
                made = await journal.backup(target, force=force, progress=progress)
            except SettingsError as error:
                if there := error.details.get("exists"):
                    raise Misused(f"{there} exists. Name another file, or replace it with --force.") from None
                raise
        say(json_document(view(made)) if as_json else in_words(made))
