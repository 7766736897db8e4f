"""A place where releases are deployed: the one of tests/faults, which also says how long work has stood still."""

from __future__ import annotations

import signal
import sqlite3
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing

from tests.faults.harness import NOTHING, WAIT_S, Child, Place, Reckoning, until

__all__ = ["LEASE_S", "NOTHING", "STILL_S", "Child", "Deploy", "Reckoning", "until"]

LEASE_S = 1.0
SLACK_S = 3.0  # of a machine that others use too
STILL_S = 2 * LEASE_S + SLACK_S  # work never stands still for longer
PACE = ("--keys", 8, "--pause", 0.05)


class Deploy(Place):
    def start(self, role: str, *more: object, name: str = "", faults: str = "") -> Child:
        name = name or f"{role}-{len(self.children)}"
        line = [sys.executable, "-m", "tests.deploys.child", role, str(self.folder), "--name", name]
        return self.begin(name, [*line, *map(str, more)], faults)

    def load(self, type: str = "Counted", name: str = "p", *more: object) -> Child:
        """Somebody who goes on publishing."""
        return self.start("publish", "--type", type, *(more or PACE), name=name).ready()

    def begins(self, service: str, *more: object, faults: str = "") -> Child:
        """A process that starts; it may be refused."""
        return self.start("consume", "--services", service, "--lease", LEASE_S, *more, faults=faults)

    def release(self, service: str, *more: object, faults: str = "") -> Child:
        return self.begins(service, *more, faults=faults).ready()

    def leads(self, *children: Child, service: str = "desk") -> None:
        """Until these hold all the work."""
        until(lambda: {child.pid for child in children} == self.owners(service), self.told)

    def replace(self, old: Child, new: Child, with_signal: signal.Signals = signal.SIGTERM) -> Child:
        old.signal(with_signal)
        code = old.end()
        assert code == (0 if with_signal == signal.SIGTERM else -with_signal), old.said()
        return new

    # --- what has happened --------------------------------------------------------------------------------------------

    def note_registrations(self) -> None:
        """From now on the file itself remembers where the feed ended when something was declared. A trigger of this test:
        it runs in the very transaction of the registration."""
        head = "select new.name, new.types, coalesce(max(position), 0) from spine_events"
        with closing(sqlite3.connect(self.path, timeout=WAIT_S, isolation_level=None)) as connection:
            connection.execute("create table noted (name text, types text, head integer)")
            for what in ("insert", "update of types"):
                connection.execute(
                    f"create trigger noted_{what[:6]} after {what} on spine_subscriptions begin insert into noted {head}; end"
                )

    def registered_at(self, name: str, type: str = "") -> int:
        sql = "select head from noted where name = ? and types like ? order by rowid limit 1"
        return self.number(sql, name, f"%{type}%")

    def published_after(self, position: int, *kinds: str) -> list[tuple[str, int]]:
        marks = ",".join("?" * len(kinds))
        sql = "select json_extract(data, '$.key'), json_extract(data, '$.number') from spine_events"
        return self.query(f"{sql} where position > ? and type in ({marks})", position, *kinds)

    def handled(self, *handlers: str) -> list[tuple[str, int]]:
        marks = ",".join("?" * len(handlers))
        return self.query(f"select key, number from effects where handler in ({marks}) order by id", *handlers)

    def stood_still_s(self, *handlers: str, keys: str = "") -> float:
        """The longest that an event of a key waited while none of that key was handled. Pauses of who publishes, or of
        an operator, are not counted: an event waits from when it is in the feed."""
        ended: dict[str, list[tuple[float, int]]] = defaultdict(list)
        for at_s, key, number in self._ended(handlers):
            ended[key].append((at_s, number))
        published = {(key, number): at_us / 1e6 for key, number, at_us in self._published()}
        longest = 0.0
        for key, runs in ended.items():
            last = 0.0
            for at_s, number in sorted(runs):
                if key.startswith(keys):
                    longest = max(longest, at_s - max(last, published[key, number]))
                last = at_s
        return longest

    def _ended(self, handlers: Sequence[str]) -> list[tuple[float, str, int]]:
        offset_s = time.time() - time.monotonic()
        words = [line.split() for path in self.folder.glob("log-*") for line in self.lines(path.name)]
        return [(int(w[0]) / 1e9 + offset_s, w[3], int(w[4])) for w in words if w[1] == "end" and w[2] in handlers]

    def _published(self) -> list[tuple[str, int, int]]:
        return self.query(
            "select json_extract(data, '$.key'), json_extract(data, '$.number'), recorded_us from spine_events"
        )

    def forget(self, events: Sequence[tuple[str, int]]) -> None:
        """Take these out of the feed, and out of what was acknowledged: nobody was to handle them."""
        gone = set(events)
        kept = [line for line in self.lines("acknowledged") if (line.split()[0], int(line.split()[1])) not in gone]
        (self.folder / "acknowledged").write_text("".join(f"{line}\n" for line in kept))
        sql = "delete from spine_events where json_extract(data, '$.key') = ? and json_extract(data, '$.number') = ?"
        with closing(sqlite3.connect(self.path, timeout=WAIT_S)) as connection, connection:
            connection.executemany(sql, events)

    def loading(self) -> set[int]:
        """Pids that wait in their lifespan."""
        return {int(line) for line in self.lines("loading")}
