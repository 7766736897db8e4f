"""What `spine doctor` tells, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..journal.port import Process
from ..observe.printable import printable
from ..wording import plural
from .at_broker import AtBroker
from .findings import Promise
from .output import LABEL, say, size
from .promised import DOES_NOT_ARISE, Cell
from .times import iso, span

if TYPE_CHECKING:
    from .doctor import Examined

COUNTED_MOST = 100_000  # rows of a table, as the journal counts them; more are told as so many and more


def report(
    seen: Examined, promised: Sequence[Promise], wrong: Sequence[str], tested: Sequence[Cell], there: AtBroker | None
) -> None:
    """On a terminal."""
    for name, value in _facts(seen):
        say(f"{name:<{LABEL}} {printable(value)}")
    for told in process_lines(seen):
        say(f"{'process':<{LABEL}} {told}")
    say()
    if there is not None:
        there.report()
    for promise in promised:
        say(f"{'promised' if promise.kept else 'not promised':<{LABEL}} {promise.says}")
    say()
    _report_tested(tested)
    say()
    for number, finding in enumerate(wrong, 1):
        say(f"{number}. {finding}")
    if not wrong:
        say("Nothing is wrong.")


def process_lines(seen: Examined) -> Iterator[str]:
    """A line each; those of one service that are gone and have nothing in their name share one, or they would bury the
    others after a night of crashes."""
    bare = [process for process, alive in seen.processes if not alive and not _held_by(seen, process)]
    many = {service for service, count in Counter(process.service for process in bare).items() if count > 1}
    for process, alive in seen.processes:
        if process not in bare or process.service not in many:
            yield _process_line(seen, process, alive)
    for service in sorted(many):
        yield _gone_line(seen, [process for process in bare if process.service == service])


def _held_by(seen: Examined, process: Process) -> int:
    return sum(lease.owner == process.id for lease in seen.leases)


def _process_line(seen: Examined, process: Process, alive: bool) -> str:
    release = f"  eventspine {printable(process.release)}" if process.release else ""
    told = f"{printable(process.service)}  pid {process.pid}{release}  {_condition(seen, process, alive)}"
    return f"{told}  {plural(_held_by(seen, process), 'lease')}"


def _gone_line(seen: Examined, gone: Sequence[Process]) -> str:
    """When the last of them was heard of, as far as is known: until then its leases held."""
    service = printable(gone[0].service)
    last = span(max(0, seen.now - max(process.until_us for process in gone)))
    taken = (
        "others take their work over"
        if gone[0].service in seen.alive
        else f"their work waits for a process of {service}"
    )
    return f"{service}  {plural(len(gone), 'process', 'processes')} gone without leaving, the last {last} ago; {taken}  0 leases"


def _report_tested(tested: Sequence[Cell]) -> None:
    for setup in dict.fromkeys(cell.setup for cell in tested):
        say(f"Tested on {setup}:")
        for cell in tested:
            if cell.setup == setup and cell.verdict != DOES_NOT_ARISE:
                lost = f"; lost is {cell.why}" if cell.why else ""
                say(f"{cell.verdict:<{LABEL}} {cell.fault}{lost}")


def _condition(seen: Examined, process: Process, lives: bool) -> str:
    overdue = seen.now - process.until_us
    if lives:
        late = f", its leases ran out {span(overdue)} ago" if overdue > 0 else ""
        return f"up {span(seen.now - process.started_us)}{late}"
    if process.service in seen.alive:
        return "gone without leaving; others take its work over"
    return f"gone without leaving; its work waits for a process of {printable(process.service)}"


def _facts(seen: Examined) -> list[tuple[str, object]]:
    shown: list[tuple[str, object]] = []
    for name, value in seen.facts.items():
        if value is None or name == "lock_since_us" or name.endswith("_rows"):
            continue
        label = name.replace("_bytes", "_size").replace("_", " ")
        shown.append((label.removesuffix(" us"), _fact(name, value)))
    stored = seen.stored
    shown += [
        ("events", f"{seen.head:,}, {seen.last_hour:,} of them in the last hour"),
        ("growth", _growth(seen)),
        ("rows", ", ".join(f"{_counted(rows)} {table.replace('_', ' ')}" for table, rows in seen.sizes.items())),
        ("disk", "unknown" if seen.disk is None else f"{size(seen.disk.free)} free"),
        ("deliveries", f"{stored['parked']:,} parked, {stored['dead']:,} dead"),
        ("timers", f"{seen.timers:,}{'+' if seen.timers == 1000 else ''}"),
    ]
    return shown


def _fact(name: str, value: object) -> object:
    if isinstance(value, int) and name.endswith("_bytes"):
        return size(value)
    return iso(value) if isinstance(value, int) and name.endswith("_us") else value


def _growth(seen: Examined) -> str:
    file_bytes, events = seen.facts.get("file_bytes"), seen.sizes.get("events") or seen.head
    if not isinstance(file_bytes, int) or not events:
        return "unknown"
    each = size(round(file_bytes / events))
    return f"{each} an event, {size(round(seen.bytes_a_day))} a day at the last hour's rate"


def _counted(rows: int) -> str:
    return f"{COUNTED_MOST:,}+" if rows >= COUNTED_MOST else f"{rows:,}"
