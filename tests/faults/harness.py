"""Processes that can be killed, stopped and continued; waiting for what the file says; and the reckoning at the end."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from eventspine.journal.lockfile import read_holder

ROOT = Path(__file__).parents[2]
WAIT_S = 60.0  # the longest that a test waits for a condition; nothing waits that long unless it fails
T = TypeVar("T")


def until(condition: Callable[[], T], what: str | Callable[[], str], limit_s: float = WAIT_S) -> T:
    """Wait for a condition, and give back what it said."""
    give_up = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < give_up, f"waited {limit_s:g} s in vain: {what() if callable(what) else what}"
        time.sleep(0.01)  # between two looks
    return value


class Child:
    def __init__(self, place: Place, name: str, line: Sequence[str], faults: str) -> None:
        self.place, self.name = place, name
        self.errors = place.folder / f"{name}.err"
        self.began_us = time.time_ns() // 1000
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                line, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True,
                env={**os.environ, "FAULTS_FOLDER": str(place.folder), "FAULTS": faults, "FAULTS_JOURNAL": place.url},
            )  # fmt: skip
        self.pid = self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        if self.alive:
            self.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait(WAIT_S)

    def stop(self) -> None:
        """SIGSTOP, and wait until it has stopped."""
        self.signal(signal.SIGSTOP)
        until(lambda: self.stopped, f"{self.name} to stop")

    def stop_outside_a_commit(self) -> None:
        """Stopped while it holds no lock that others wait for."""

        def outside() -> bool:
            self.stop()
            holder = read_holder(Path(f"{self.place.path}-lock"))
            if holder is None or holder[0] != self.pid:
                return True
            self.go_on()
            return False

        until(outside, f"{self.name} to stop outside a commit")

    @property
    def stopped(self) -> bool:
        state = subprocess.run(["ps", "-o", "state=", "-p", str(self.pid)], capture_output=True, text=True, check=False)
        return state.stdout.startswith("T")

    def go_on(self) -> None:
        self.signal(signal.SIGCONT)

    def terminate(self) -> int:
        self.signal(signal.SIGTERM)
        return self.end()

    def end(self) -> int:
        return self.process.wait(WAIT_S)

    def ready(self) -> Child:
        def at_work() -> bool:
            assert self.alive, self.said()
            return str(self.pid) in self.place.lines("ready")

        until(at_work, f"{self.name} to be ready")
        return self

    def health(self) -> dict[str, Any]:
        answer = next(iter(self.place.folder.glob(f"*-{self.pid}.health")), None)
        if answer:
            answer.unlink()
        self.signal(signal.SIGUSR1)
        found = until(lambda: next(self.place.folder.glob(f"*-{self.pid}.health"), None), f"the health of {self.name}")
        health: dict[str, Any] = json.loads(found.read_text())
        return health

    def said(self) -> str:
        return self.errors.read_text()[-4000:]

    def clear_away(self) -> None:
        """It, while it is there, and whatever it has started."""
        if self.alive:
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(WAIT_S)


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []  # it has just ended, or is somebody else's


@dataclass
class Reckoning:
    """What is wrong; all empty when nothing is."""

    unstored: list[str] = field(default_factory=list)  # acknowledged, and not in the feed
    stored_twice: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)  # in the feed, without an effect
    twice: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)  # idempotency keys that differ by attempt, or don't by event

    def __bool__(self) -> bool:
        return any(vars(self).values())


NOTHING = Reckoning()
HANDLERS = {"books.book": "till.Counted", "mail.tell": "books.Booked"}


class Place:
    """A folder with a journal, and the processes that share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "spine.db"
        self.url = f"sqlite:///{self.path}"
        self.children: list[Child] = []

    # --- processes ----------------------------------------------------------------------------------------------

    def start(self, role: str, *more: object, name: str = "", faults: str = "") -> Child:
        name = name or ("p" if role == "publish" else f"{role}-{len(self.children)}")
        line = [sys.executable, "-m", "tests.faults.child", role, str(self.folder), "--name", name]
        return self.begin(name, [*line, *map(str, more)], faults)

    def spine(self, *words: str, faults: str = "") -> Child:
        """The command line."""
        line = [sys.executable, "-m", "eventspine.cli", *words, "--journal", self.url]
        return self.begin(f"spine-{len(self.children)}", line, faults)

    def begin(self, name: str, line: Sequence[str], faults: str) -> Child:
        child = Child(self, name, line, faults)
        self.children.append(child)
        return child

    def end(self) -> None:
        for child in self.children:
            child.clear_away()
        for pid in self.outlived():
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, signal.SIGKILL)

    def outlived(self) -> list[int]:
        """What our processes have started, and is there without them. By its folder, since by now others may have their pids, on
        a busy machine within minutes. Linux says; elsewhere nobody is found."""
        said = f"FAULTS_FOLDER={self.folder}".encode()
        alive = {child.pid for child in self.children if child.alive}
        pids = {int(process.name) for process in Path("/proc").glob("[0-9]*")}
        return [pid for pid in pids - alive if said in _environment(pid)]

    def told(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.err")))

    def limit_files(self, size: int, *children: Child) -> None:
        """From now on they fail to write beyond this size; 0: no limit any more."""
        part = self.folder / "limit.part"
        part.write_text(str(size))
        part.rename(self.folder / "limit")
        for child in children:
            child.signal(signal.SIGUSR2)

    def set_clock(self, child: Child, seconds: float) -> None:
        """So much from the time that it is, of a child that was started with `--clock`."""
        part = self.folder / "clock.part"
        part.write_text(str(seconds))
        part.rename(self.folder / f"clock-{child.name}")

    # --- files ------------------------------------------------------------------------------------------------------

    def touch(self, name: str) -> None:
        (self.folder / name).touch()

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def acknowledged(self) -> list[tuple[str, int]]:
        return [(key, int(number)) for key, number in (line.split() for line in self.lines("acknowledged"))]

    def log(self, word: str = "start") -> list[tuple[str, str, int, str, int]]:
        """(handler, key, number, idempotency key, pid), as it happened; the clock is the same for all processes."""
        words = [line.split() for path in self.folder.glob("log-*") for line in self.lines(path.name)]
        words.sort(key=lambda w: int(w[0]))
        return [(w[2], w[3], int(w[4]), w[5], int(w[6])) for w in words if w[1] == word]

    # --- the journal ------------------------------------------------------------------------------------------------

    def query(self, sql: str, *values: object) -> list[Any]:
        """As another program would read it."""
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=WAIT_S)) as connection:
            return connection.execute(sql, values).fetchall()

    def number(self, sql: str, *values: object) -> int:
        try:
            ((number,),) = self.query(sql, *values)
        except sqlite3.OperationalError as error:
            if "no such table" in str(error) or "unable to open" in str(error):
                return 0  # nobody has made it yet
            raise
        return int(number)

    def effects(self, handler: str = "books.book") -> int:
        return self.number("select count(*) from effects where handler = ?", handler)

    def dead(self) -> list[tuple[str, str, int]]:
        """(key, reason, deaths)"""
        return self.query("select key, reason, deaths from spine_deliveries where state = 'dead' order by number")

    def unfinished(self) -> int:
        """Wanted events beyond cursors, and parked rows, of all active subscriptions."""
        return self.number(
            "select (select count(*) from spine_subscriptions s cross join json_each(s.types) t cross join spine_events e"
            "  left join spine_cursors c on c.subscription = s.number and c.partition in (-1, e.slot % 16)"
            "  where s.state = 'active' and e.type = json_extract(t.value, '$[0]') and e.position > coalesce(c.position, 0))"
            " + (select count(*) from spine_deliveries where state = 'parked')"
            " + (select count(*) from spine_timers)"
        )

    def settle(self, *handlers: str) -> None:
        """Until nothing is left to do for these; for books and mail unless said."""

        def settled() -> bool:
            known = {name for (name,) in self.query("select name from spine_subscriptions where state = 'active'")}
            return known >= set(handlers or HANDLERS) and not self.unfinished()

        until(settled, self.told)

    def owners(self, service: str = "books") -> set[int]:
        """Pids that hold its leases."""
        sql = "select p.pid from spine_leases l left join spine_processes p on p.id = l.owner where l.name like ?"
        return {pid for (pid,) in self.query(sql, f"{service}/%")}

    def leases_ran_out(self) -> bool:
        return not self.number("select count(*) from spine_leases where until_us > ?", time.time_ns() // 1000)

    def receipts(self, more: int) -> None:
        """Until so many more events have been acknowledged."""
        before = len(self.acknowledged())
        until(lambda: len(self.acknowledged()) >= before + more, self.told)

    def progress(self, more: int, handler: str = "books.book") -> None:
        """Until this handler has had so many more effects."""
        before = self.effects(handler)
        until(lambda: self.effects(handler) >= before + more, self.told)

    def stop_publishing(self, *publishers: Child) -> None:
        self.touch("stop")
        for publisher in publishers:
            assert publisher.end() == 0, publisher.said()

    # --- the reckoning --------------------------------------------------------------------------------------------------

    def reckon(self, handlers: dict[str, str] = HANDLERS) -> Reckoning:
        """Each handler with what it handles, against the feed: every event has its effect, once, in order."""
        found = Reckoning()
        till = Counter(self.of_feed("till.Counted", "till.Refunded", "till.Painted", "till.Carved"))
        found.stored_twice += [f"{one}" for one, count in till.items() if count > 1]
        found.unstored += [f"{one}" for one in self.acknowledged() if one not in till]
        for handler, kinds in handlers.items():
            self._of_handler(found, handler, Counter(self.of_feed(*kinds.split("|"))))
        return found

    def of_feed(self, *kinds: str) -> list[tuple[str, int]]:
        marks = ",".join("?" * len(kinds))
        sql = f"select json_extract(data, '$.key'), json_extract(data, '$.number') from spine_events where type in ({marks})"
        return [tuple(row) for row in self.query(f"{sql} order by position", *kinds)]

    def _of_handler(self, found: Reckoning, handler: str, stored: Counter[tuple[str, int]]) -> None:
        names = handler.split("|")  # a subscription that has been renamed
        marks = ",".join("?" * len(names))
        rows = self.query(f"select key, number, idem from effects where handler in ({marks}) order by id", *names)
        effects = Counter((key, number) for key, number, _ in rows)
        dead = {
            (key, number)
            for key, number in self.query(
                "select json_extract(e.data, '$.key'), json_extract(e.data, '$.number') from spine_deliveries d"
                " join spine_events e on e.position = d.position join spine_subscriptions s on s.number = d.subscription"
                " where d.state = 'dead' and s.name = ?",
                names[-1],
            )
        }
        found.stored_twice += [f"for {handler} {one}" for one, count in stored.items() if count > 1]
        found.lost += [f"{handler} {one}" for one in stored if one not in effects and one not in dead]
        found.twice += [f"{handler} {one}" for one, count in effects.items() if count > 1 or one not in stored]
        found.out_of_order += _out_of_order(handler, [(key, number) for key, number, _ in rows])
        ended = {run[1:3] for run in self.log("end") if run[0] in names}
        found.lost += [f"{handler} {one}, outside" for one in effects if one not in ended]
        runs = [run for run in self.log() if run[0] in names]
        found.out_of_order += _out_of_order(f"{handler}, begun", list(dict.fromkeys((run[1], run[2]) for run in runs)))
        idems: dict[tuple[str, int], set[str]] = {}
        for _, key, number, idem, _ in runs:
            idems.setdefault((key, number), set()).add(idem)
        found.keys += [f"{handler} {one}" for one, used in idems.items() if len(used) > 1]
        if len({idem for used in idems.values() for idem in used}) < len(idems):
            found.keys.append(f"{handler}: two events have one key")


def _out_of_order(name: str, rows: Sequence[tuple[str, int]]) -> list[str]:
    found, last = [], dict[str, int]()
    for key, number in rows:
        if number < last.get(key, 0):
            found.append(f"{name} {key} {number} after {last[key]}")
        last[key] = number
    return found


@contextmanager
def locked(path: Path) -> Iterator[sqlite3.Connection]:
    """The write lock, in the hands of another program."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=WAIT_S)) as connection:
        connection.execute("begin immediate")
        yield connection
        connection.execute("rollback")
