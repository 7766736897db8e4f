"""`spine health`: one answer for a monitor or a container's health check, and an exit code.

Asks the journal (who is at work for each service, whether they renew their leases, how far behind they are), or the
HTTP address of a `spine run --health`. Reads only, and waits for no lock; where leases have run out it looks for a
second whether somebody keeps it. Dead deliveries and pauses are told and do not count: no restart mends them; that is
what `spine doctor` is for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click

from ..journal.port import Journal, Process
from ..journal.processes import is_gone, this_host
from ..observe.printable import printable
from ..settings_values import Refused, address
from ..wording import plural
from .app import Command, Invocation, json_option, pass_invocation
from .at_broker import nobody_at_work
from .choosing import refuse_unknown_service
from .exits import FAILED, Misused
from .figures import Whole
from .journals import asynchronous, existing_journal
from .output import json_document, say, say_table
from .rows import Row, rows
from .standings import title
from .times import now_us, span
from .write_lock import facts_with_lock

ASK_S = 5.0
ANSWER_BYTES_MAX = 10_000_000
HELD_LONG_US = 5_000_000  # as in spine.health()
WATCH_US = 1_000_000  # what doctor takes for long


class Seen(NamedTuple):
    service: str
    processes: Sequence[tuple[Process, int]]  # those that are not gone, and for how long their leases have run out
    rows: Sequence[Row]  # active and paused
    needed: bool  # it was asked for, or has something that is not paused

    @property
    def paused(self) -> list[Row]:
        return [row for row in self.rows if row.subscription.state == "paused"]

    @property
    def at_work(self) -> int:
        return sum(late_us <= 0 for _, late_us in self.processes)

    @property
    def lag(self) -> int:
        return sum(row.lag.events for row in self.rows)

    def stored(self, state: str) -> int:
        return sum(row.stored[state] for row in self.rows)


async def look(journal: Journal, asked: Sequence[str]) -> list[Seen]:
    now = now_us()
    stored = [row for row in await journal.subscriptions() if row.state in ("active", "paused")]
    active = {row.service for row in stored if row.state == "active"}
    processes = [one for one in await journal.processes() if not is_gone(one)]
    names = asked or sorted({row.service for row in stored} | {one.service for one in processes})
    told = [row async for row in rows(journal, [row for row in stored if row.service in names])]
    return [
        Seen(
            name,
            [
                (one, now - one.until_us)
                for one in processes
                # Of another host nobody can tell that a process is gone but by its leases.
                if one.service == name and (one.host == this_host() or one.until_us > now)
            ],
            [row for row in told if row.subscription.service == name],
            needed=name in active or name in asked or any(one.service == name for one in processes),
        )
        for name in names
    ]


def problems(seen: Sequence[Seen], lag_max: int | None, lock: tuple[int, int] | None) -> list[str]:
    found = [] if seen else ["No service has been run on this journal yet."]
    if lock is not None:
        found.append(
            f"Process {lock[0]} has held the write lock for {span(lock[1])}, and nobody else can write. `spine doctor`."
        )
    why = "it is stopped, or stuck" if lock is None else f"it can't while process {lock[0]} keeps the write lock"
    for one in seen:
        name = printable(one.service)
        found += [
            f"Process {process.pid} of {name} has not renewed its leases for {span(late_us)}: {why}."
            for process, late_us in one.processes
            if late_us > 0
        ]
        if not one.at_work and one.needed:
            found.append(nobody_at_work(one.service))
        if lag_max is not None and one.lag > lag_max:
            found.append(f"{name} is {plural(one.lag, 'event')} behind; {lag_max:,} are allowed.")
    return found


async def _lock(journal: Journal, seen: Sequence[Seen]) -> tuple[int, int] | None:
    """Who keeps the write lock, and for how long by now; None while nobody does for long enough to be worth a word. Watched
    only where leases have run out: a lock that is kept may be why."""
    late = any(late_us > 0 for one in seen for _, late_us in one.processes)
    long_us = WATCH_US if late else HELD_LONG_US
    facts = await (facts_with_lock(journal, long_us) if late else journal.describe())
    since, pid = facts.get("lock_since_us"), facts.get("lock_pid")
    if not isinstance(pid, int) or not isinstance(since, int) or (held_us := now_us() - since) < long_us:
        return None
    return pid, held_us


def _view(seen: Sequence[Seen], wrong: Sequence[str]) -> dict[str, Any]:
    return {
        "healthy": not wrong,
        "problems": list(wrong),
        "services": [
            {
                "service": one.service,
                "processes": [
                    {"pid": process.pid, "at_work": late_us <= 0, "generation": process.generation}
                    for process, late_us in one.processes
                ],
                "lag": one.lag,
                "lag_is_bound": any(row.lag.more for row in one.rows),
                "parked": one.stored("parked"),
                "dead": one.stored("dead"),
                "paused": [row.subscription.name for row in one.paused],
            }
            for one in seen
        ],
    }


def _report(seen: Sequence[Seen], wrong: Sequence[str]) -> None:
    lines = [
        (printable(one.service), one.at_work, f"{one.lag:,}", one.stored("parked"), one.stored("dead")) for one in seen
    ]
    if lines:
        say_table(("service", "at work", "lag", "parked", "dead"), lines)
    for row in [row for one in seen for row in one.paused]:
        name = title(row.subscription)
        say(f"{name} is paused, with {row.to_handle.in_words} to handle. `spine subscriptions resume {name}`")
    for problem in wrong:
        say(problem)
    if not wrong:
        say("healthy")


def ask(url: str) -> tuple[bool, dict[str, Any]]:
    """What the endpoint at this address answers, and whether that is yes."""
    host, port, path = _parts(url)
    connection = HTTPConnection(host, port, timeout=ASK_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(ANSWER_BYTES_MAX)
    except (OSError, HTTPException) as error:
        return False, {"problems": [f"http://{host}:{port}{path} does not answer: {error}"]}
    finally:
        connection.close()
    try:
        report = json.loads(body)
    except ValueError:
        report = None
    if not isinstance(report, dict):
        return False, {"problems": [f"http://{host}:{port}{path} is no health endpoint (status {response.status})."]}
    return response.status == 200, report


def _parts(url: str) -> tuple[str, int, str]:
    if "://" not in url:
        try:
            host, port = address(url)
        except Refused as refused:
            raise Misused(f"--url {url!r} can't be used; it is to be {refused}, or a URL.") from None
        return host, port, "/readyz"
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise Misused(f"--url {url!r} can't be asked; give http://HOST:PORT, as `spine run --health` answers there.")
    return parts.hostname, parts.port or 80, parts.path if parts.path not in ("", "/") else "/readyz"


def _tell(yes: bool, report: dict[str, Any], as_json: bool) -> int:
    if as_json:
        say(json_document(report))
    else:
        for problem in report.get("problems", ()):
            say(printable(problem))
        said = "ready" if report.get("ready") else "not ready: it drains" if report.get("draining") else "not ready"
        say(said if "ready" in report else "no answer")
    return 0 if yes else FAILED


@click.command(cls=Command)
@click.option("--service", "asked", multiple=True, metavar="NAME", help="Only this service; may be repeated.")
@click.option("--lag-max", type=Whole(0), metavar="N", help="Being further behind is unhealthy, too.")
@click.option("--url", metavar="[HOST:]PORT", help="Ask the address of a `spine run --health`, and not the journal.")
@json_option
@pass_invocation
@asynchronous
async def command(
    invocation: Invocation, asked: tuple[str, ...], lag_max: int | None, url: str | None, as_json: bool
) -> int:
    """Whether the services are at work. Exits with 0 when they are, and with 1 when not."""
    if url is not None:
        if asked or lag_max is not None:
            raise Misused("--url asks one process about itself; --service and --lag-max are for the journal.")
        return _tell(*ask(url), as_json)
    async with existing_journal(invocation) as journal:
        for name in asked:
            await refuse_unknown_service(journal, name)
        seen = await look(journal, asked)
        wrong = problems(seen, lag_max, await _lock(journal, seen))
        if as_json:
            say(json_document(_view(seen, wrong)))
        else:
            _report(seen, wrong)
        return FAILED if wrong else 0
