"""What is unhealthy about a journal and who works on it, each with what to do next; and what this set-up promises.

Pure functions of what `spine doctor` has seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from ..engine.upkeep import UPKEEP
from ..journal.port import Process
from ..journal.processes import this_host
from ..observe.printable import printable
from ..wording import plural
from .output import size
from .standings import title
from .times import span

if TYPE_CHECKING:
    from .doctor import Examined

MINUTE_US = 60_000_000
SILENT_US = 20_000_000  # two leases: by then another process has taken over, or nobody has
DEPLOY_US = 10 * MINUTE_US  # releases may run side by side for so long
PAUSED_LONG_US = 60 * MINUTE_US
DISK_LEFT = 0.05
IN_MEMORY = {"tmpfs", "ramfs"}
OF_A_CONTAINER = {"overlay", "aufs"}


class Promise(NamedTuple):
    kept: bool
    says: str


def of_the_disk(seen: Examined) -> Iterator[str]:
    disk = seen.disk
    if disk is None:
        return
    grows = seen.bytes_a_day
    days = disk.free / grows if grows else None
    if disk.free < disk.total * DISK_LEFT or (days is not None and days < 1):
        at_this_rate = f", enough for {span(round(days * 86_400_000_000))} at the last hour's rate" if days else ""
        yield (
            f"The disk has {size(disk.free)} left{at_this_rate}. When it is full nothing can be published or handled. "
            "Make room, or keep less: `spine retention` says what is kept for how long."
        )


def of_the_processes(seen: Examined) -> Iterator[str]:
    yield from _silent(seen)
    yield from _left_behind(seen)


def _silent(seen: Examined) -> Iterator[str]:
    for process, lives in seen.processes:
        late = seen.now - process.until_us
        # Whoever sweeps next takes that of upkeep, once a minute; nobody needs it before.
        held = sum(lease.owner == process.id and lease.name != UPKEEP for lease in seen.leases)
        name = f"Process {process.pid} of {printable(process.service)}"
        if lives and late > 0:
            yield (
                f"{name} is there and has not renewed its leases for {span(late)}: it is stopped, or hangs. "
                f"Let it go on (kill -CONT {process.pid}) or end it; others take its work over."
            )
        elif not lives and held and late > SILENT_US and process.service in seen.alive:
            yield (
                f"{name} is gone, and {plural(held, 'lease is', 'leases are')} still in its name after {span(late)}, "
                "though others run that could take them. Look at their logs, and start them again."
            )


def _left_behind(seen: Examined) -> Iterator[str]:
    """Code that a deployment has forgotten: it does nothing, or keeps an old release's habits."""
    alive = [process for process, lives in seen.processes if lives]
    settled = [process for process in alive if seen.now - process.started_us > DEPLOY_US]
    for process in alive:
        others = [each for each in settled if each.service == process.service]
        newest = max((each.generation for each in others), default=0)
        if 0 < process.generation < newest:  # 0: it is leaving anyway
            yield (
                f"Process {process.pid} of {printable(process.service)} runs older code (generation {process.generation}; "
                f"{newest} leads) and has no work any more. End it."
            )
    releases = sorted({process.release for process in settled})
    if len(releases) > 1:
        yield f"Processes run eventspine {', '.join(map(printable, releases))} side by side. Bring them to one release."


def of_the_waiting(seen: Examined) -> Iterator[str]:
    for row in seen.rows:
        since = seen.oldest.get(row.subscription.number)
        if row.subscription.state == "paused" and since is not None and seen.now - since > PAUSED_LONG_US:
            name = title(row.subscription)
            yield (
                f"{name} is paused with {row.to_handle.in_words} to handle, the oldest {span(seen.now - since)} old; they "
                f"are kept until it has handled them. `spine subscriptions resume {name}`, or retire it."
            )


def of_the_gaps(seen: Examined) -> Iterator[str]:
    for channel, missed in seen.missed.items():
        named = printable(channel)
        yield (
            f"{plural(missed.numbers, 'event')} of {named} never came from the broker, the first noticed {span(seen.now - missed.since_us)} "
            f"ago. Their publisher has them still, and sends them again, on its journal: `spine subscriptions rewind relay:{named} "
            f"--to PLACE --repeat-effects`. When that is done, here: `spine subscriptions forget-gaps {named}`."
        )


def waits_since(seen: Examined, number: int) -> str:
    since = seen.oldest.get(number)
    return "" if since is None else f", the oldest {span(max(0, seen.now - since))} old"


# --- promises -------------------------------------------------------------------------------------------------------


def promises(seen: Examined) -> list[Promise]:
    """What holds of any journal is in docs/why/promises.md; this is what depends on how it is set up."""
    return [*_of_the_place(seen), *_of_the_company(seen)]


def _of_the_place(seen: Examined) -> Iterator[Promise]:
    kind = seen.facts.get("file_system")
    durability = str(seen.facts.get("durability", ""))
    if kind in IN_MEMORY:
        yield Promise(False, f"Survives nothing that the machine does not: its file is in memory ({kind}).")
    elif kind in OF_A_CONTAINER:
        yield Promise(
            False, f"Ends with the container: its file is in the container's own layer ({kind}). Use a volume."
        )
    else:
        yield Promise("power loss;" in durability and "may take" not in durability, f"Survives {durability}.")
    if seen.facts.get("kind") == "postgres":
        yield Promise(True, "Serves other hosts: whoever reaches the database.")
        return
    yield Promise(False, "Survives the loss of the disk: there is no replica. `spine backup` makes copies.")
    yield Promise(False, "Serves other hosts: one file belongs to one host.")


def _of_the_company(seen: Examined) -> Iterator[Promise]:
    for service in sorted({row.subscription.service for row in seen.rows if ":" not in row.subscription.service}):
        alive = [process for process, lives in seen.processes if lives and process.service == service]
        newest = max((process.generation for process in alive), default=0)
        running = len({process.pid for process in alive if process.generation == newest})
        name = printable(service)
        if running > 1:
            yield Promise(True, f"{name}: when one of its {running} processes dies, another goes on at once.")
        elif any(process.generation < newest for process in alive):
            yield Promise(
                False,
                f"{name}: goes on at once when its process dies. One runs its newest code, and an older one waits for two lease "
                "times before it leads again; run two of the newest.",
            )
        elif running:
            yield Promise(False, f"{name}: goes on when its process dies. It has one; run two, or have it restarted.")
        else:
            yield Promise(False, f"{name}: handles anything. No process of it runs.")
    if seen.rows and all(process.host == this_host() for process, lives in _running(seen) if lives):
        yield Promise(True, "Deaths of processes are noticed at once: all of them run where this was asked.")


def _running(seen: Examined) -> list[tuple[Process, bool]]:
    return [each for each in seen.processes if each[1]]
