"""Registering: what a service declares is said to the journal, and what that means is said to whoever reads the log (R8)."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from datetime import datetime
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING

from ..ids import id_text
from ..journal.port import Process, Registered, Registration
from ..journal.processes import pid_start, this_host
from ..wording import plural
from .subscription import WINDOW

if TYPE_CHECKING:
    from .host import Host

log = logging.getLogger("eventspine.engine")


async def register(host: Host) -> Registered:
    service = host.service
    declarations = []
    for handler in service.handlers.values():
        start = handler.start
        at = await host.journal.position_at(round(start.timestamp() * 1e6)) if isinstance(start, datetime) else start
        declarations.append(handler.declaration(service.name, at))
    retire = tuple(_as_stored(name, service.name) for name in host.retire)
    registration = Registration(service.name, service.publishes, tuple(declarations), host.roll_back, retire)
    return await host.journal.register(registration, host.clock.now_us())


def process_of(host: Host) -> Process:
    pid = os.getpid()
    machine, started = _identity(pid)
    return Process(
        id=id_text(host.runtime.ids.one()),
        service=host.service.name,
        generation=host.registered.generation,
        pid=pid,
        host=machine,
        started_us=host.clock.now_us(),
        window=WINDOW,
        release=host.runtime.release,
        pid_started=started,
    )


@cache
def _identity(pid: int) -> tuple[str, str]:
    """Of this very process, which does not change; one that was forked has another pid."""
    return this_host(), pid_start(pid)


def say_what_it_passes(host: Host) -> None:
    """Of code that is older than what has led."""
    if host.registered.generation < host.newest:
        log.warning(
            "%s: a newer release has led (generation %d, this one is %d); this one leads when none has been live "
            "for %g s, or at once with --roll-back",
            host.service.name, host.newest, host.registered.generation, 2 * host.runtime.lease_s,
        )  # fmt: skip
    for name, type, events in host.registered.passes:
        log.warning(
            "%s: this release does not know %s: %s, and all that are published while it leads, are passed",
            name, type, plural(events, "event of it that is not finished", "events of it that are not finished"),
        )  # fmt: skip


async def say_what_nobody_had(hosts: Sequence[Host], retire: Sequence[str]) -> None:
    """A misspelled name gives nothing up. It is no reason to stay away: a command line that retires a handler may be kept for
    good, and start a journal that never had it."""
    if not retire:
        return
    services = {host.service.name for host in hosts}
    stored = [row for row in await hosts[0].journal.subscriptions() if row.service in services]
    known = {(row.service, row.name) for row in stored}
    for name in retire:
        if not known & {(service, _as_stored(name, service)) for service in services}:
            close = get_close_matches(name, [row.name for row in stored if row.state == "suspended"], n=1)
            log.warning(
                "nothing was retired for %r: no service that runs here has ever had such a subscription%s",
                name, f"; did you mean {close[0]!r}?" if close else "",
            )  # fmt: skip


def _as_stored(name: str, service: str) -> str:
    """In code, a handler is named without its service."""
    return name if "." in name else f"{service}.{name}"
