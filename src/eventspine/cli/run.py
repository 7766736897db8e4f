"""`spine run`: services in the foreground, until SIGTERM or Ctrl-C.

One process, unless several are asked for: `serving` is what each of them does, `supervisor` the parent that keeps them
at work, `reload` what has it start them anew in development.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import SettingsError
from ..journal import open_journal
from ..journal.memory import MemoryJournal
from ..journal.sqlite import SQLiteJournal
from ..observe.logs import JsonFormatter, write_to
from ..settings import variable
from ..settings_values import plain
from . import completion
from .app import Command, Invocation, pass_invocation, setting_option
from .exits import Misused, complain, explain, words_of
from .figures import Number
from .modules import services_to_run
from .serving import Parent, Work, ending_early, serve

if TYPE_CHECKING:
    from .supervisor import Plan

log = logging.getLogger("eventspine.run")

LOCK_LIMIT_S = 15.0  # half of what a commit waits for the write lock before it fails
PARENTS_OWN = ("modules", "processes", "health")  # of what flags said: not for the children


@click.command(cls=Command)
@click.argument("modules", nargs=-1, metavar="[MODULE[:NAME]]...", shell_complete=completion.modules)
@setting_option("broker", "URL")
@setting_option("processes", "N")
@click.option("--reload", "reloads", is_flag=True, help="For development: start again when a file changes.")
@click.option(
    "--watch",
    multiple=True,
    metavar="FOLDER",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="With --reload: watch this folder instead of the modules' own. May be repeated.",
)
@setting_option("health", "[HOST:]PORT")
@click.option("--roll-back", is_flag=True, help="This release is older than the stored one and shall lead again.")
@click.option(
    "--retire",
    multiple=True,
    metavar="NAME",
    help="Give up this stored subscription, which is no longer declared. May be repeated.",
)
@click.option(
    "--take-over",
    is_flag=True,
    help="Take the place at the broker of a journal that is gone, or that this one was copied from.",
)
@setting_option("drain_s", "S")
@click.option(
    "--lock-limit-s",
    type=Number(min=0, min_open=True),
    default=LOCK_LIMIT_S,
    show_default=True,
    metavar="S",
    help="With --processes: kill a process that holds the write lock for so long without progress.",
)
@setting_option("log_format", "text|json")
@setting_option("log_level", "debug|info|warning|error")
@click.option(
    "--log-handled/--no-log-handled",
    default=None,
    help="A line for each event that a handler has returned from; with --reload unless told otherwise.",
)
@pass_invocation
def command(
    invocation: Invocation,
    modules: tuple[str, ...],
    reloads: bool,
    watch: tuple[Path, ...],
    roll_back: bool,
    retire: tuple[str, ...],
    take_over: bool,
    lock_limit_s: float,
    log_handled: bool | None,
) -> int:
    """Run the services of one or more modules until told to stop.

    MODULE is one as in an import, looked for in this folder first; all its services run, or the one named after a colon.
    Without any, those of the settings run, looked for beside the settings file first.
    SIGTERM and Ctrl-C drain; a second signal ends at once."""
    click.get_current_context().with_resource(ending_early())
    invocation.said["modules"] = modules
    parent = Parent.of_this_process()
    name = "" if parent is None else parent.number
    invocation.explains = partial(_explain, invocation, name)
    settings = invocation.settings
    if parent is not None:
        # A terminal sends these to children too; they are the parent's business.
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
    write_to(sys.stderr, settings.log_format, logging.getLevelNamesMapping()[settings.log_level.upper()], name)
    _refuse_contradictions(invocation, reloads, watch)
    count = 1 if reloads else settings.processes
    if parent is not None or not (reloads or count > 1):
        work = Work(settings, services_to_run(settings), roll_back, retire, bool(log_handled), take_over)
        asyncio.run(serve(work, parent))
        return 0
    from .supervisor import Plan

    handled = reloads if log_handled is None else log_handled
    once = [
        *(["--roll-back"] if roll_back else []),
        *(["--take-over"] if take_over else []),
        *(word for each in retire for word in ("--retire", each)),
    ]
    plan = Plan(
        command=partial(_child, invocation, once=once, handled=handled, reloads=reloads),
        count=count,
        drain_s=settings.drain_s,
        lock_limit_s=lock_limit_s,
        journal=_file_of(settings.journal),
        health=settings.health,
        reloads=reloads,
    )
    return asyncio.run(_supervise(plan, [path.resolve() for path in watch] or [settings.modules_folder]))


def _explain(invocation: Invocation, process: str, error: Exception, debug: bool) -> None:
    """Who reads JSON of a log reads the last word of a run in it, too: why it did not start, or ended."""
    if _log_format(invocation) == "json":
        complain(JsonFormatter(process).format(_record(error, debug)))
    else:
        explain(error, debug)


def _log_format(invocation: Invocation) -> str:
    try:
        return invocation.settings.log_format
    except SettingsError:  # it may be what is told; whoever collects logs has said so outside the file, as a rule
        return str(invocation.said.get("log_format") or os.environ.get(variable("log_format")))


def _record(error: Exception, debug: bool) -> logging.LogRecord:
    trace = (type(error), error, error.__traceback__) if debug else None
    return log.makeRecord(log.name, logging.ERROR, __file__, 0, words_of(error), (), trace)


def _refuse_contradictions(invocation: Invocation, reloads: bool, watch: Sequence[Path]) -> None:
    if reloads and "processes" in invocation.said:
        raise Misused("--reload is for development, with one process; leave --processes out.")
    if watch and not reloads:
        raise Misused("--watch says what --reload is to watch; add --reload.")


async def _supervise(plan: Plan, folders: Sequence[Path]) -> int:
    from .supervisor import Supervisor

    supervisor = Supervisor(plan)
    if not plan.reloads:
        return await supervisor.run()
    from .reload import follow_changes, require_watchfiles

    require_watchfiles()
    return await supervisor.run(lambda: follow_changes(supervisor, folders))


def _file_of(url: str) -> Path | None:
    """Where the write lock of processes on this host is; None: there is none that one of them could hold for all."""
    if os.name != "posix":
        raise Misused("--processes and --reload need pipes to their children that only POSIX has; run one process.")
    journal = open_journal(url)
    if isinstance(journal, MemoryJournal):
        raise Misused(
            f"{url} lives inside one process, and several can't share it. Use a file: --journal sqlite:///spine.db."
        )
    return journal.path if isinstance(journal, SQLiteJournal) else None


def _child(invocation: Invocation, first: bool, *, once: Sequence[str], handled: bool, reloads: bool) -> list[str]:
    """The command line of a child: what flags said here. The environment and the settings file it reads by itself, so
    that a child that is started later has the settings of that time."""
    from .reload import RELOAD_DRAIN_S

    said = {name: value for name, value in invocation.said.items() if name not in PARENTS_OWN}
    if reloads:
        said["drain_s"] = min(RELOAD_DRAIN_S, invocation.settings.drain_s)
    line = [sys.executable, "-m", "eventspine.cli", "run", *invocation.said["modules"]]
    for name, value in said.items():
        line += [f"--{name.replace('_', '-')}", str(plain(value))]
    if invocation.settings_file:
        line += ["--settings", invocation.settings_file]
    line += ["--debug"] if invocation.debug else []
    line += ["--log-handled"] if handled else []
    # In development older code shall lead at once: it is an edit that was undone.
    return line + (list(once) if first else ["--roll-back"] if reloads else [])
