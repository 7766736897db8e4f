"""The processes of a soak, and what happens to them: a seed says what, and roughly when. What real processes make of it is
never twice the same, so a seed is a kind of weather and no recording."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.harness import Child, Place, until

STANDSTILL_S = 60.0  # nothing acknowledged for so long: it does not go on
END_S = 60.0  # to drain, which takes 20 s at most, on a busy machine
LEASE_S = 1.5
STOPPED_MOST_S = 2.5 * LEASE_S
WHERE = "tests.soak.services"
SUBSCRIPTIONS = 7
CURSOR = (
    "select coalesce(min(position), 0) from spine_cursors c"
    " join spine_subscriptions s on s.number = c.subscription where s.name = ?"
)


Deed = Callable[[], Coroutine[Any, Any, None]]


@dataclass
class Rewind:
    effects_before: int  # the last effect that the view had when it was paused
    position: int  # handled again from here on


@dataclass
class Sizes:
    """Watched while it runs."""

    log_bytes: int = 0  # of the -wal, at most
    memory_bytes: int = 0  # of one process, at most
    steady: list[tuple[float, int]] = field(default_factory=list)  # (second, bytes) of the process that is never killed


class Crowd:
    def __init__(self, place: Place, seed: int, without: tuple[str, ...] = (), only: tuple[str, ...] = ()) -> None:
        self.place, self.chance, self.only = place, random.Random(seed), only
        self.without = ["--without", *without] if without else []
        self.happened: Counter[str] = Counter()
        self.trouble: list[str] = []
        self.rewinds: list[Rewind] = []
        self.sizes = Sizes()
        self.began = time.monotonic()
        self.at_work: dict[str, Child] = {}
        self._stopped: set[int] = set()
        self._expected_to_end: set[int] = set()
        self._operating = asyncio.Lock()

    # --- who there is -----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Once all of them have been there, the weather may begin."""
        for post in ("till p", "till q", "ledger steady", "ledger", "views", "views too", "parcels"):
            self._fill(post)
        until(lambda: self.place.number("select count(*) from spine_subscriptions") == SUBSCRIPTIONS, self.place.told)

    def _fill(self, post: str) -> None:
        kind, _, which = post.partition(" ")
        if kind == "till":
            child = self.place.start("publish", "--keys", 6, "--pause", 0.1, "--lease", LEASE_S, name=which)
        elif kind == "parcels":
            child = self.place.spine("run", f"{WHERE}:parcels", "--processes", "2", "--log-level", "warning")
        else:
            names = [f"{WHERE}:{name}" for name in ([kind] if kind == "ledger" else ["views", "clock"])]
            child = self.place.start("consume", "--lease", LEASE_S, "--services", *names, *self.without)
        self.at_work[post] = child

    def pids(self) -> list[int]:
        """Of all, and of those that they keep at work."""
        of_posts = [child.pid for child in self.at_work.values() if child.alive]
        return of_posts + [pid for parent in of_posts for pid in children_of(parent)]

    # --- what happens to them ---------------------------------------------------------------------------------------

    async def rage(self, seconds: float) -> None:
        deeds: dict[Deed, int] = {
            self.kill: 8, self.terminate: 4, self.stop: 7, self.kill_a_child: 2, self.kill_all_but_one: 1,
            self.pause: 2, self.rewind: 2,
        }  # fmt: skip
        deeds = {deed: count for deed, count in deeds.items() if not self.only or deed.__name__ in self.only}
        to_come: list[Deed] = []  # a pack of cards, so that each comes up again before long
        async with asyncio.TaskGroup() as going:
            watch = going.create_task(self._watch())
            while time.monotonic() < self.began + seconds:
                await asyncio.sleep(self.chance.uniform(0.2, 1.2))  # the weather's pace; nothing is waited for
                if not to_come:
                    to_come = self.chance.sample(list(deeds), sum(deeds.values()), counts=list(deeds.values()))
                going.create_task(to_come.pop()())
            watch.cancel()
        if not self.at_work["parcels"].alive:  # a supervisor whose children are killed as they start gives up
            self._fill("parcels")

    def _somebody(self, among: Callable[[str], bool] = lambda _: True) -> str | None:
        """A post whose process may die now."""
        taken = self._stopped | self._expected_to_end
        free = [
            post for post, child in self.at_work.items()
            if "steady" not in post and child.alive and child.pid not in taken and among(post)
        ]  # fmt: skip
        return self.chance.choice(free) if free else None

    def _hears(self, post: str) -> bool:
        """Whether it knows what to do when it is told to end. On a busy machine, or stopped meanwhile, that takes long."""
        child = self.at_work[post]
        if post == "parcels":
            return bool(children_of(child.pid))  # which it starts when it hears signals
        return str(child.pid) in self.place.lines("ready")

    async def kill(self) -> None:
        if post := self._somebody():
            self._kill(post)
            await asyncio.sleep(self.chance.uniform(0.0, 1.0))  # until somebody has noticed, and starts it anew
            self._fill(post)

    def _kill(self, post: str) -> None:
        child = self.at_work[post]
        self._expected_to_end.add(child.pid)
        child.kill()
        self.happened["killed"] += 1

    async def kill_a_child(self) -> None:
        """Of the supervisor, which starts another."""
        pids = children_of(self.at_work["parcels"].pid)
        if pids:
            send(self.chance.choice(pids), signal.SIGKILL)
            self.happened["killed"] += 1

    async def kill_all_but_one(self) -> None:
        posts = [
            post for post, child in self.at_work.items()
            if "steady" not in post and child.pid not in self._expected_to_end
        ]  # fmt: skip
        for post in posts:
            self._kill(post)
        self.happened["all but one killed at once"] += 1
        for post in posts:
            self._fill(post)

    async def terminate(self) -> None:
        if post := self._somebody(lambda post: "till" not in post and self._hears(post)):  # tills have nothing to drain
            child = self.at_work[post]
            self._expected_to_end.add(child.pid)
            child.signal(signal.SIGTERM)
            self.happened["told to end"] += 1
            self._fill(post)  # beside it, as a deploy does
            await self._ended(child)

    async def stop(self) -> None:
        """Until past its lease, at times; wherever it happens to be."""
        pids = [pid for pid in self.pids() if pid not in self._stopped | self._expected_to_end]
        if not pids:
            return
        pid = self.chance.choice(pids)
        self._stopped.add(pid)
        send(pid, signal.SIGSTOP)
        await asyncio.sleep(self.chance.uniform(0.1, STOPPED_MOST_S))  # for so long it is stopped
        send(pid, signal.SIGCONT)
        self._stopped.discard(pid)
        self.happened["stopped and woken"] += 1

    async def pause(self) -> None:
        name = self.chance.choice(("parcels.send", "ledger.weigh"))
        async with self._operating:
            await self._spine("subscriptions", "pause", name)
            await asyncio.sleep(self.chance.uniform(0.1, 2.0))  # for so long it is paused
            await self._spine("subscriptions", "resume", name)
        self.happened["paused"] += 1

    async def rewind(self) -> None:
        """Once it is paused nothing that was at work counts any more, so it is known what the view had done by then."""
        name = "views.project"
        async with self._operating:
            await self._spine("subscriptions", "pause", name)
            last = self.place.number("select coalesce(max(id), 0) from soak_effects where handler = ?", name)
            place = max(1, self.place.number(CURSOR, name) - self.chance.randrange(500))
            if await self._spine("subscriptions", "rewind", name, "--to", str(place)):
                self.rewinds.append(Rewind(last, place))
                self.happened["rewound"] += 1
            await self._spine("subscriptions", "resume", name)

    async def _spine(self, *words: str) -> bool:
        child = self.place.spine(*words)
        self._expected_to_end.add(child.pid)
        return await self._ended(child)

    async def _ended(self, child: Child) -> bool:
        give_up = time.monotonic() + END_S
        while child.alive and time.monotonic() < give_up:
            await asyncio.sleep(0.05)  # between two looks
        code = child.process.poll()
        if code != 0 and not self._was_killed(child):
            self.trouble.append(f"{child.name} ended with {code}:\n{child.said()[-1500:]}")
        return code == 0

    def _was_killed(self, child: Child) -> bool:
        return child.process.poll() == -signal.SIGKILL

    # --- watching ---------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        known, since, told = -1, time.monotonic(), set[int]()
        while True:
            self._measure()
            for post, child in list(self.at_work.items()):
                if not child.alive and child.pid not in self._expected_to_end | told:
                    told.add(child.pid)
                    self.trouble.append(f"{post} ended by itself:\n{child.said()[-1500:]}")
            if (now := self.place.number("select coalesce(max(position), 0) from spine_events")) != known:
                known, since = now, time.monotonic()
            elif time.monotonic() - since > STANDSTILL_S:
                self.trouble.append(f"nothing has been stored for {STANDSTILL_S:g} s")
                since = time.monotonic()
            await asyncio.sleep(0.5)  # between two looks

    def _measure(self) -> None:
        sizes = self.sizes
        sizes.log_bytes = max(sizes.log_bytes, bytes_of(Path(f"{self.place.path}-wal")))
        sizes.memory_bytes = max([sizes.memory_bytes, *map(memory_of, self.pids())])
        sizes.steady.append((time.monotonic() - self.began, memory_of(self.at_work["ledger steady"].pid)))

    # --- the end ----------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Publishers first, so that what is left to do comes to an end; the others when it has."""
        self.place.touch("stop")
        for post in ("till p", "till q"):
            self._ends_well(post, signal.SIGCONT)

    def end_consumers(self) -> None:
        until(lambda: all(map(self._hears, self.at_work)), self.place.told)
        for child in self.at_work.values():
            child.signal(signal.SIGTERM)
        for post in list(self.at_work):
            self._ends_well(post, signal.SIGTERM)

    def _ends_well(self, post: str, told: signal.Signals) -> None:
        child = self.at_work.pop(post)
        if told == signal.SIGCONT:
            child.signal(told)
        if code := child.end():
            self.trouble.append(f"{post} ended with {code}:\n{child.said()[-1500:]}")


def send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it has just ended


def children_of(pid: int) -> list[int]:
    """Linux says; elsewhere there are none to be had."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def memory_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def bytes_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
