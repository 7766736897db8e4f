"""`spine top`: services, their processes and subscriptions, on a screen that follows them.

    terminal ──► looks every few seconds until q or Ctrl-C; never busy for more than half of its time
    pipe, --json ──► looks twice, prints once

However it is ended, by a signal too, the terminal is left as it was found.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import click

from ..journal.port import Journal, Process
from ..observe.printable import printable
from ..wording import plural
from . import completion
from .app import Command, Invocation, json_option, pass_invocation
from .choosing import refuse_unknown_service
from .figures import Number
from .journals import asynchronous, existing_journal
from .output import json_document, on_terminal, say, say_table, size
from .snapshots import Seen, Snapshot, lock_of, snapshot, view
from .standings import title
from .times import clock_time, span

if TYPE_CHECKING:
    from rich.console import Console, Group, JustifyMethod
    from rich.table import Table

PROCESSES = ("service", "pid", "state", "up", "leases", "release", "to handle")
SUBSCRIPTIONS = ("subscription", "state", "position", "lag", "rate", "failures", "parked", "dead")
GAP = 2  # between two columns
NAME_LEAST = 20  # of a name, before figures are cut
FRAME = 7  # lines of a screen that are neither a process nor a subscription
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


def headline(seen: Snapshot) -> list[str]:
    facts = seen.facts
    published = "" if seen.published is None else f", {seen.published} published"
    where = printable(facts.get("file") or facts.get("database") or "the journal")
    stored = size(facts.get("file_bytes") or 0)
    if "database" in facts:
        on_disk = f"tables {stored}  held up by {facts['feed_held_up_by'] or 'nobody'}"
    else:
        lock = lock_of(seen, seen.look.at_us) or "free"
        on_disk = f"file {stored}  WAL {size(facts.get('wal_bytes') or 0)}  write lock {lock}"
    return [
        f"{where}  {clock_time(seen.look.at_us)}",
        f"{plural(seen.look.head, 'event')}{published}  {on_disk}",
    ]


def process_rows(seen: Snapshot) -> list[list[object]]:
    found: list[list[object]] = []
    for name in seen.services:
        own = [each for each in seen.processes if each[0].service == name]
        for number, (process, alive, leases) in enumerate(own):
            up = span(seen.look.at_us - process.started_us) if alive else "-"
            to_handle = seen.to_handle(name) if not number else ""  # of the service, so it is told once
            state = _state(process, alive, seen.look.at_us)
            found.append([name, process.pid, state, up, leases, process.release, to_handle])
        if not own:
            found.append([name, "-", "not running", "-", 0, "-", seen.to_handle(name)])
    return found


def _state(process: Process, alive: bool, now_us: int) -> str:
    """As health and doctor see it: who is there and has let its leases run out is stopped, or stuck."""
    if alive and (late := now_us - process.until_us) > 0:
        return f"silent {span(late)}"
    return "alive" if alive else "gone"


def subscription_row(seen: Seen) -> list[object]:
    row, stored = seen.row, seen.row.stored
    rate = "…" if seen.rate is None else str(seen.rate)
    place = [title(row.subscription), row.subscription.state, f"{row.lag.position:,}", row.lag, rate]
    return [*place, seen.failures, stored["parked"], stored["dead"]]


def say_snapshot(seen: Snapshot) -> None:
    for line in headline(seen):
        say(line)
    for columns, rows in (
        (PROCESSES, process_rows(seen)),
        (SUBSCRIPTIONS, [*map(subscription_row, seen.subscriptions)]),
    ):
        if rows:
            say()
            say_table(columns, rows)
    if not seen.services:
        say("No service has registered here.")


# --- on a terminal --------------------------------------------------------------------------------------------------


def frame(seen: Snapshot, console: Console, every_s: float) -> Group:
    """As much of it as the screen has room for."""
    from rich.console import Group
    from rich.text import Text

    room = max(2, console.size.height - FRAME)
    processes, subscriptions = process_rows(seen), [*map(subscription_row, seen.subscriptions)]
    shown = processes[: max(1, room - min(len(subscriptions), room // 2))]
    rest = max(1, room - len(shown))
    cut = len(processes) - len(shown) + max(0, len(subscriptions) - rest)
    more = f"{cut} more: a taller window or --service shows them.  " if cut else ""
    return Group(
        *(Text(line, no_wrap=True, overflow="ellipsis") for line in headline(seen)),
        Text(),
        _table(
            PROCESSES, shown, console.width, {2: lambda cell: "bold red" if cell in ("gone", "not running") else ""}
        ),
        Text(),
        _table(SUBSCRIPTIONS, subscriptions[:rest], console.width, {5: _alarming, 6: _alarming, 7: _alarming}),
        Text(f"{more}q leaves, looks every {every_s:g} s", style="dim", no_wrap=True, overflow="ellipsis"),
    )


def _alarming(cell: str) -> str:
    return "" if cell == "0" else "bold red"


def _table(columns: tuple[str, ...], rows: list[list[object]], width: int, styles: dict[int, object]) -> Table:
    """The first column is names, which take what room the figures leave."""
    from rich.table import Table
    from rich.text import Text

    cells = [[printable(cell) for cell in row] for row in rows]
    figures = [max(map(len, column)) for column in zip(columns, *cells, strict=True)][1:]
    room = max(NAME_LEAST, width - sum(figures) - GAP * len(figures))
    names = told_apart([row[0] for row in cells], room)
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    for index, column in enumerate(columns):
        least = max(map(len, (column, *names))) if index == 0 else None
        justify: JustifyMethod = "left" if index in (0, 1, 2) else "right"
        table.add_column(column, no_wrap=True, overflow="ellipsis", justify=justify, min_width=least)
    for name, row in zip(names, cells, strict=True):
        table.add_row(
            *(
                Text(cell, style=style(cell) if callable(style := styles.get(index)) else "")
                for index, cell in enumerate([name, *row[1:]])
            )
        )
    return table


def told_apart(names: Sequence[str], room: int) -> list[str]:
    """Each in so many letters at most, cut where different ones stay different: nearest to a third, if there is such a place."""
    for head in sorted(range(room), key=lambda head: abs(head - room // 3)):
        found = [_cut(name, room, head) for name in names]
        if len({*found}) == len({*names}):
            return found
    return [_cut(name, room, room // 3) for name in names]


def _cut(name: str, room: int, head: int) -> str:
    return name if len(name) <= room else f"{name[:head]}…{name[len(name) - (room - 1 - head) :]}"


@contextmanager
def keys_to(leave: asyncio.Event) -> Iterator[None]:
    """While inside, a q (or the signals that end a process) sets `leave`; the terminal's mode is put back after."""
    loop = asyncio.get_running_loop()
    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    with suppress(NotImplementedError):  # Windows: Ctrl-C raises KeyboardInterrupt, which ends it as well
        for number in numbers:
            loop.add_signal_handler(number, leave.set)
    try:
        with _single_keys(loop, leave):
            yield
    finally:
        with suppress(NotImplementedError):
            for number in numbers:
                loop.remove_signal_handler(number)


@contextmanager
def _single_keys(loop: asyncio.AbstractEventLoop, leave: asyncio.Event) -> Iterator[None]:
    try:
        import termios
        import tty
    except ImportError:  # Windows
        yield
        return
    if not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def typed() -> None:
        try:
            keys = os.read(descriptor, 64)
        except OSError:
            keys = b""
        if not keys or b"q" in keys or b"Q" in keys:  # none: the terminal is gone
            leave.set()

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, typed)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        with suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


async def live(journal: Journal, service: str | None, every_s: float) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    leave = asyncio.Event()
    with keys_to(leave), Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as screen:
        seen: Snapshot | None = None
        while not leave.is_set():
            began = asyncio.get_running_loop().time()
            seen = await snapshot(journal, service, seen)
            screen.update(frame(seen, console, every_s), refresh=True)
            took = asyncio.get_running_loop().time() - began
            with suppress(TimeoutError):
                await asyncio.wait_for(leave.wait(), max(every_s - took, took))


async def twice(journal: Journal, service: str | None, every_s: float) -> Snapshot:
    before = await snapshot(journal, service, None)
    await asyncio.sleep(every_s)
    return await snapshot(journal, service, before)


@click.command(cls=Command)
@click.option("--service", help="Only this service.", shell_complete=completion.services)
@click.option(
    "--every",
    "every_s",
    type=Number(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="S",
    help="How often to look, in seconds; rates are measured over that time.",
)
@json_option
@pass_invocation
@asynchronous
async def command(invocation: Invocation, service: str | None, every_s: float, as_json: bool) -> None:
    """A live screen of services, subscriptions and what fails.

    q or Ctrl-C leaves. In a pipe, and with --json, it prints once what it sees."""
    async with existing_journal(invocation) as journal:
        await refuse_unknown_service(journal, service)
        if as_json:
            say(json_document(view(await twice(journal, service, every_s))))
        elif on_terminal() and os.environ.get("TERM") != "dumb":
            await live(journal, service, every_s)
        else:
            say_snapshot(await twice(journal, service, every_s))
