"""`spine run`: services in the foreground, until SIGTERM or Ctrl-C.

The first signal drains: nothing new is taken, what is in hand finishes, cursors are stored and leases given back,
within the deadline. The second ends the process at once, which loses nothing either: what was in hand is handled again
by whoever takes over.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import click

from ..observe.logs import write_to
from . import completion
from .app import Command, Invocation, pass_invocation, setting_option
from .journals import asynchronous, place_of
from .modules import services_to_run

log = logging.getLogger("eventspine.run")
SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stopping(stop: Callable[[], None], drain_s: float) -> Iterator[None]:
    """While inside, the first signal calls `stop`; the next one does what it always does: end the process."""
    loop = asyncio.get_running_loop()

    def heard(number: int) -> None:
        for each in SIGNALS:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        log.info("%s: draining for at most %gs; once more to end at once", signal.Signals(number).name, drain_s)
        stop()

    for number in SIGNALS:
        loop.add_signal_handler(number, heard, number)
    try:
        yield
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


@click.command(cls=Command)
@click.argument("modules", nargs=-1, metavar="[MODULE[:NAME]]...", shell_complete=completion.modules)
@click.option("--roll-back", is_flag=True, help="This release is older than the stored one and shall lead again.")
@click.option(
    "--retire",
    multiple=True,
    metavar="NAME",
    help="Give up this stored subscription, which is no longer declared. May be repeated.",
)
@setting_option("drain_s", "S")
@setting_option("log_format", "text|json")
@setting_option("log_level", "debug|info|warning|error")
@pass_invocation
@asynchronous
async def command(
    invocation: Invocation,
    modules: tuple[str, ...],
    roll_back: bool,
    retire: tuple[str, ...],
) -> None:
    """Run the services of one or more modules until told to stop.

    MODULE is one as in an import, looked for in this folder first; all its services run, or the one named after a colon.
    Without any, those of the settings run, looked for beside the settings file first.
    SIGTERM and Ctrl-C drain; a second signal ends at once."""
    invocation.said["modules"] = modules
    settings = invocation.settings
    drain_s = settings.drain_s
    write_to(sys.stderr, settings.log_format, logging.getLevelNamesMapping()[settings.log_level.upper()])
    services = services_to_run(settings)

    from .. import Spine
    from ..engine.runtime import StuckThreads
    from ..observe.handled import LogHandled

    spine = Spine._with(settings, middleware=[LogHandled()] if settings.log_level == "debug" else [])
    log.info("journal %s%s", place_of(spine.journal), "" if spine.journal.exists() else " (new)")
    told_to_stop = asyncio.Event()
    collect_less()
    async with spine:
        try:
            # Signals are heard before the services start: they handle events from their start on, not from "running".
            with stopping(told_to_stop.set, drain_s):
                async with spine.running(*services, roll_back=roll_back, retire=retire, drain_s=drain_s) as running:
                    log.info("running %s as process %d", ", ".join(service.name for service in services), os.getpid())
                    await told_to_stop.wait()
        except StuckThreads as error:
            _end(str(error))
        if running.drained:
            log.info("stopped; everything in hand was finished")
        else:
            log.warning("stopped; what was still in hand after %gs will be handled again", drain_s)
        if running.unfinished_threads:
            _end(f"{running.unfinished_threads} handlers in threads do not return")


def collect_less() -> None:
    """Have Python look for garbage cycles less often than every 700 objects: each event makes a few objects, and hardly
    any of them is in a cycle. Measured: a tenth of the time of a handler that does nothing."""
    gc.collect()
    gc.freeze()  # what the imports made stays
    gc.set_threshold(20_000, 20, 100)


def _end(why: str) -> NoReturn:
    """Nobody can stop a thread, and the interpreter would wait for it: end the process as it is. Nothing is lost by
    that, and the leases that it still holds are free as soon as it is gone."""
    log.error("ending the process: %s", why)
    logging.shutdown()
    os._exit(1)
