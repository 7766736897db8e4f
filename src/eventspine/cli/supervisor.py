"""A parent that keeps child processes at work: `spine run --processes N`, and `--reload`.

What it promises:

* Children are spawned, never forked: each imports its modules anew, and no SQLite connection crosses (R7).
* SIGTERM or Ctrl-C drains all children; a second one ends them and the parent at once. A child that is not done in its
  time is killed. When the parent itself is killed, its children notice and drain (see `serving`). No child is left over.
* A child that died is started again, after a pause that grows while it keeps dying. If no child can start at all, several
  times in a row, the parent ends with the child's exit code: somebody has to look at it.
* A child that holds the write lock and makes no progress is killed after `lock_limit_s`: one that was stopped inside a
  commit holds up everybody (R6), and nothing but its end frees the lock. It loses nothing: the commit is undone.

The parent opens no journal. What it decides is in `restarts`; here that is carried out.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..journal._sqlite_locks import holder_seen_from_outside
from ..journal.processes import is_stopped
from ..observe.health_http import LIVE_S, LOOK_EVERY_S, Answer, HealthServer, Pulse
from ..settings_values import Address
from ..wording import plural
from .children import Child
from .restarts import Again, AwaitChange, Ended, GiveUp, LockWatch, after_end
from .serving import GRACE_S, hearing

log = logging.getLogger("eventspine.run")


@dataclass(frozen=True, slots=True)
class Plan:
    command: Callable[[bool], Sequence[str]]  # of a child; True: with what is said once, such as --roll-back
    count: int
    drain_s: float
    lock_limit_s: float
    journal: Path | None  # a file, whose write lock is watched
    health: Address | None = None
    reloads: bool = False


class Supervisor:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.exit_code = 0
        self.over = asyncio.Event()
        self.places = [Place(number, self) for number in range(1, plan.count + 1)]
        self.said_once = False  # what is said once has been heard
        self._pulse = Pulse(self._look)
        self._loop = asyncio.get_running_loop()
        self._has_terminal = _has_terminal()  # now: one that was closed can't be asked for any more
        self._busy: set[asyncio.Task[None]] = set()

    async def run(self, beside: Callable[[], Coroutine[Any, Any, None]] | None = None) -> int:
        """Until told to stop; the exit code. `beside` is run meanwhile."""
        with ExitStack() as stack:
            stack.enter_context(hearing(self._told, self._kill_all))
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
                stack.callback(signal.signal, signal.SIGHUP, signal.signal(signal.SIGHUP, self._hung_up))
            if self.plan.health is not None:
                self._answer(stack, self.plan.health)
            self._start(self._keep_all())
            self._start(self._watch_lock())
            if beside is not None:
                self._start(beside())
            await self.over.wait()
            for task in self._busy:
                task.cancel()
            await asyncio.gather(*self._busy, return_exceptions=True)
            await asyncio.gather(*(place.stop() for place in self.places))
        return self.exit_code or int(any(place.went_wrong for place in self.places))

    def stopping(self) -> bool:
        return self.over.is_set()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._busy.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """These tasks only end when told to; one that fails ends the parent rather than leave its work undone."""
        self._busy.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("ending, by an error of our own", exc_info=error)
            self.give_up(1)

    async def _keep_all(self) -> None:
        """The first starts alone: what it makes (the journal, tables) and what it finds wrong is there once."""
        first, *others = self.places
        first.begin()
        await first.has_started.wait()
        for place in others:
            place.begin()

    # --- signals --------------------------------------------------------------------------------------------------------

    def _told(self, number: signal.Signals) -> None:
        alive = sum(place.child is not None for place in self.places)
        log.info(
            "%s: %s for at most %gs; once more to end at once",
            number.name,
            "one process drains" if alive == 1 else f"{alive} processes drain",
            self.plan.drain_s,
        )
        self.over.set()

    def _kill_all(self) -> None:
        for place in self.places:
            if place.child is not None:
                place.child.kill()

    def _hung_up(self, *_: object) -> None:
        """A terminal that is closed ends what runs in it; elsewhere SIGHUP asks for a rolling restart, as of old."""
        if self._has_terminal:
            self._loop.call_soon_threadsafe(self._told, signal.SIGHUP)
        else:
            self._loop.call_soon_threadsafe(lambda: self._start(self.roll()))

    async def roll(self) -> None:
        """Replace one child after another. Where the new one can't start, the others stay as they are."""
        log.info("SIGHUP: %s replaced, one after another", plural(len(self.places), "process is", "processes are"))
        for place in self.places:
            if not await place.replace(self.plan.drain_s):
                log.error("process %d does not start again; the others are left as they are", place.number)
                return
        log.info("all processes are replaced")

    # --- deciding -------------------------------------------------------------------------------------------------------

    def decide(self, place: Place, ended: Ended) -> Again | GiveUp | AwaitChange:
        others = any(one.at_work for one in self.places if one is not place)
        return after_end(ended, place.troubles, others_at_work=others, reloads=self.plan.reloads)

    def give_up(self, code: int) -> None:
        self.exit_code = self.exit_code or code
        self.over.set()

    # --- the write lock -------------------------------------------------------------------------------------------------

    async def _watch_lock(self) -> None:
        limit_s = self.plan.lock_limit_s
        watch, path = LockWatch(), self.plan.journal
        while path is not None:
            await asyncio.sleep(min(1.0, limit_s / 5))
            pid, since_us = holder_seen_from_outside(path) or (0, 0)
            child = next((one.child for one in self.places if one.child is not None and one.child.pid == pid), None)
            held_s = watch.held_s(time.monotonic(), pid, since_us, _written_ns(path))
            if child is not None and held_s >= limit_s and (is_stopped(pid) or child.started):
                self._free_the_lock(child, held_s)

    def _free_the_lock(self, child: Child, held_s: float) -> None:
        log.error(
            "process %d (pid %d%s) has held the write lock for %.0f s without progress, and nobody else can write: "
            "it is killed, and started again. Nothing is lost.",
            child.number,
            child.pid,
            ", which is stopped" if is_stopped(child.pid) else "",
            held_s,
        )
        child.kill()

    # --- health ---------------------------------------------------------------------------------------------------------

    def _answer(self, stack: ExitStack, address: Address) -> None:
        server = HealthServer(address, self._health)
        stack.callback(server.close)
        self._pulse.start()
        stack.callback(self._pulse.stop)
        log.info("health at http://%s/healthz and /readyz", server.address)

    def _health(self) -> Answer:
        """Live: its own loop turns, and those of its children."""
        answer = self._pulse.answer()
        return answer._replace(live=answer.live and not answer.report.get("stuck"))

    def _look(self) -> dict[str, Any]:
        shown = [place.shown() for place in self.places]
        problems = [f"process {one['number']}: {problem}" for one in shown for problem in one["problems"]]
        return {
            "stuck": any(one["stuck"] for one in shown),
            "ready": not self.stopping() and any(one["ready"] for one in shown),
            "draining": self.stopping(),
            "status": "degraded" if problems else "ok",
            "problems": problems,
            "pid": os.getpid(),
            "processes": shown,
        }


class Place:
    """One of the children that there are to be, whichever process it is now."""

    def __init__(self, number: int, parent: Supervisor) -> None:
        self.number = number
        self.parent = parent
        self.child: Child | None = None
        self.troubles = 0
        self.starts = 0
        self.went_wrong = False  # at the end: it was killed, or said that something went wrong
        self.has_started = asyncio.Event()
        self.changed = asyncio.Event()  # another start may do better
        self._replaced: Child | None = None
        self._beginning = False
        self._keeping: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._keeping = asyncio.ensure_future(self._keep())
        self._keeping.add_done_callback(self.parent._ended)

    async def _keep(self) -> None:
        while not self.parent.stopping():
            child = await self._begin()
            began = time.monotonic()
            code = await child.ended()
            self.child = None
            if self.parent.stopping():
                self._judge(code, child.started)
            elif self._replaced is child:
                self.troubles = 0
            else:
                await self._carry_out(Ended(code, child.started, time.monotonic() - began), child)

    async def _begin(self) -> Child:
        parent = self.parent
        self._beginning = True
        self.changed.clear()
        self.starts += 1
        plan = parent.plan
        self.child = await Child.begin(self.number, plan.command(not parent.said_once), alone=plan.count == 1)
        self._beginning = False
        self.child.when_started(self._started)
        if parent.stopping():  # told to, meanwhile
            self.child.kill()
        return self.child

    def _started(self) -> None:
        self.parent.said_once = True
        self.has_started.set()
        if self.starts > 1:
            log.info("process %d is at work again", self.number)

    async def _carry_out(self, ended: Ended, child: Child) -> None:
        then = self.parent.decide(self, ended)
        how = _in_words(ended.code)
        match then:
            case Again(after_s, troubles):
                self.troubles = troubles
                level = logging.INFO if ended.code == 0 else logging.ERROR
                did = "ended" if ended.started else "could not start"
                log.log(
                    level,
                    "process %d (pid %d) %s: %s; it is started again in %gs",
                    self.number,
                    child.pid,
                    did,
                    how,
                    after_s,
                )
                await self._pause(after_s)
            case AwaitChange():
                log.error("it could not start: %s; waiting for the next change", how)
                await self._pause(None)
            case GiveUp(code):
                log.error("process %d could not start: %s; giving up", self.number, how)
                self.parent.give_up(code)
                await self._pause(None)

    async def _pause(self, most_s: float | None) -> None:
        """Shorter when there is a change, or when all is over."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self.changed, self.parent.over)]
        await asyncio.wait(waits, timeout=most_s, return_when=asyncio.FIRST_COMPLETED)
        for one in waits:
            one.cancel()

    async def restart(self, drain_s: float) -> Child | None:
        """End the process in its place, whatever it is doing, so that another one begins; the one that ended."""
        while self._beginning:  # noqa: ASYNC110 -- some milliseconds, and rare
            await asyncio.sleep(0.01)
        old, self._replaced = self.child, self.child
        self.has_started.clear()
        self.changed.set()
        if old is not None:
            await old.end(drain_s)
        return old

    async def replace(self, drain_s: float) -> bool:
        """Another process in its place; whether it has started."""
        old = await self.restart(drain_s)
        while (new := self._now()) is old or new is None:
            if self.parent.stopping():
                return False
            await asyncio.sleep(0.01)
        waits = [asyncio.ensure_future(self.has_started.wait()), asyncio.ensure_future(new.ended())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for one in waits:
            one.cancel()
        return self.has_started.is_set()

    def _now(self) -> Child | None:
        return self.child

    async def stop(self) -> None:
        if self.child is not None:
            await self.child.end(self.parent.plan.drain_s + GRACE_S)
        if self._keeping is not None:
            await self._keeping

    def _judge(self, code: int, started: bool) -> None:
        """One that was still starting may have died of the signal, and had nothing in hand."""
        self.went_wrong = started and code != 0
        if self.went_wrong:
            log.error("process %d did not end well: %s", self.number, _in_words(code))

    @property
    def at_work(self) -> bool:
        return self.child is not None and self.child.started

    def shown(self) -> dict[str, Any]:
        """For health."""
        child = self.child
        report = {} if child is None else child.report
        silent_s = 0.0 if child is None or not child.started else time.monotonic() - child.heard_at
        problems = list(report.get("problems", ()))
        if child is None or not child.started:
            problems.append(f"is being started (start {self.starts})")
        stuck = silent_s >= LIVE_S + LOOK_EVERY_S or report.get("live") is False
        if stuck:
            problems.append("does not answer: its event loop is stuck, or it is stopped")
        ready = bool(report.get("ready")) and not stuck
        return {
            "number": self.number,
            "pid": None if child is None else child.pid,
            "starts": self.starts,
            "ready": ready,
            "stuck": stuck,
            "problems": problems,
            "services": report.get("services", []),
        }


def _in_words(code: int) -> str:
    try:
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    except ValueError:
        return f"killed by signal {-code}"


def _written_ns(database: Path) -> int:
    try:
        return os.stat(f"{database}-wal").st_mtime_ns
    except OSError:
        return 0


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
