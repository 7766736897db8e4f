"""One process that runs services until it is told to stop: by a signal, or by the end of the process that started it.

The first signal drains: nothing new is taken, what is in hand finishes, cursors are stored and leases given back,
within the deadline. The second ends the process at once, which loses nothing either: what was in hand is handled again
by whoever takes over.

A child of `spine run --processes` or `--reload` knows its parent by two pipes. The parent never writes to the *lifeline*,
so that its end is the parent's, however it came about: the child drains then, and ends in any case. Into the other one
the child writes once a second how it is.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn, Self

from ..engine.health import is_ready
from ..observe.health_http import LOOK_EVERY_S, HealthServer, Pulse
from ..service import Service
from ..settings import Settings
from ..wording import plural
from .journals import place_of
from .waits import telling_of_the_lock

log = logging.getLogger("eventspine.run")

SIGNALS = (signal.SIGTERM, signal.SIGINT)
CHILD_VARIABLE = "SPINE_CHILD"  # set by the parent, for the child alone: number, lifeline, report
GRACE_S = 10.0  # beyond the drain: the last commit, giving back leases, the services' own clearing up


@dataclass(frozen=True, slots=True)
class Work:
    """What this process is to do."""

    settings: Settings
    services: Sequence[Service[Any]]
    roll_back: bool
    retire: Sequence[str]
    log_handled: bool
    take_over: bool = False


@contextmanager
def ending_early() -> Iterator[None]:
    """Until signals are heard nothing is in hand, so who is told to end has nothing to finish, and ends well, at once. The
    import of a module may take its time, and so may a journal that others hold."""
    before = signal.signal(signal.SIGTERM, _end_early)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is _end_early:
            signal.signal(signal.SIGTERM, before)


def _end_early(*_: object) -> NoReturn:
    os._exit(0)


@contextmanager
def hearing(told: Callable[[signal.Signals], None], at_once: Callable[[], None] | None = None) -> Iterator[None]:
    """While inside, the first signal calls `told` on the loop; the next one does what it always does: end the process.
    That holds when the loop is stuck, too. Who has to do something before, says so with `at_once`.

    `told` is called in the context of this block: a signal interrupts anything, and a handler's would name its event in the log."""
    loop, here = asyncio.get_running_loop(), copy_context()

    def first(number: int, _: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL if at_once is None else second)
        loop.call_soon_threadsafe(told, signal.Signals(number), context=here)

    def second(number: int, _: FrameType | None) -> None:
        assert at_once is not None
        at_once()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = {number: signal.signal(number, first) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():  # from here on it is no longer true that nothing was begun
            signal.signal(number, signal.SIG_DFL if handler is _end_early else handler)


@contextmanager
def hearing_parent(told: Callable[[signal.Signals], None]) -> Iterator[None]:
    """The same for a child: Ctrl-C and service managers signal the parent *and* its children, and the parent then signals
    them again. So Ctrl-C is the parent's business, and a second SIGTERM says nothing new."""
    loop, here = asyncio.get_running_loop(), copy_context()

    def heard(number: int, _: FrameType | None) -> None:
        if number == signal.SIGTERM:
            loop.call_soon_threadsafe(told, signal.Signals(number), context=here)

    before = {number: signal.signal(number, heard) for number in SIGNALS}
    try:
        yield
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # it is at its end


class Parent:
    """The process that started this one, as its child sees it."""

    def __init__(self, number: str, lifeline: int, report: int) -> None:
        self.number = number
        self._lifeline, self._report = lifeline, report
        self._now = threading.Event()
        for pipe in (lifeline, report):
            os.set_inheritable(pipe, False)  # programs that handlers start have no part in them

    @classmethod
    def of_this_process(cls) -> Self | None:
        said = os.environ.pop(CHILD_VARIABLE, "")
        if not said:
            return None
        number, lifeline, report = said.split(":")
        return cls(number, int(lifeline), int(report))

    def watch(self, ended: Callable[[], None], drain_s: float) -> None:
        """Have `ended` called when the parent is gone; and whatever becomes of that, end in time."""

        def wait() -> None:
            while os.read(self._lifeline, 1):
                pass
            ended()
            time.sleep(drain_s + GRACE_S)
            os._exit(1)

        threading.Thread(target=wait, name="spine-lifeline", daemon=True).start()

    def tell(self, report: Callable[[], bytes]) -> None:
        """Once a second, from a thread of its own: it says so when the event loop is stuck."""

        def write() -> None:
            while True:
                try:
                    _write(self._report, report())
                except OSError:
                    return  # nobody reads any more
                self._now.wait(LOOK_EVERY_S)
                self._now.clear()

        threading.Thread(target=write, name="spine-report", daemon=True).start()

    def tell_now(self) -> None:
        self._now.set()


def _write(pipe: int, line: bytes) -> None:
    while line:
        line = line[os.write(pipe, line) :]


class _Watched:
    """How this process is, for the parent and for whoever asks over HTTP."""

    def __init__(self, health: Callable[[], dict[str, Any]]) -> None:
        self.started = False
        self.draining = False
        self._health = health
        self.pulse = Pulse(self.look)

    def look(self) -> dict[str, Any]:
        health = self._health()
        ready = self.started and not self.draining and is_ready(health)
        draining = self.draining or health["draining"]
        return {**health, "ready": ready, "started": self.started, "draining": draining, "pid": os.getpid()}


async def serve(work: Work, parent: Parent | None) -> None:
    from .. import Spine
    from ..engine.runtime import StuckThreads

    settings, drain_s = work.settings, work.settings.drain_s
    spine = Spine._with(settings, middleware=_middleware(work), take_over=work.take_over)
    # One that is there is named before others that hold it are waited for, a new one once it could be made.
    if not (new := not spine.journal.exists()):
        log.info("journal %s", place_of(spine.journal))
    if spine.broker is not None:
        log.info("broker %s", spine.broker.url)
    told_to_stop = asyncio.Event()
    collect_less()
    starting = AsyncExitStack()
    await starting.enter_async_context(telling_of_the_lock(spine.journal, log.warning))
    async with starting, spine:
        if new:
            log.info("journal %s (new)", place_of(spine.journal))
        watched = _Watched(spine.health)

        def stop(why: str) -> None:
            if not told_to_stop.is_set():
                more = "" if parent is not None else "; once more to end at once"
                log.info("%s: draining for at most %gs%s", why, drain_s, more)
            watched.draining = True
            told_to_stop.set()

        # Signals are heard before the services start: they handle events from their start on, not from "running".
        hear = hearing if parent is None else hearing_parent
        with hear(lambda number: stop(number.name)), _answering(watched, settings, parent, stop):
            try:
                async with spine.running(
                    *work.services, roll_back=work.roll_back, retire=work.retire, drain_s=drain_s
                ) as running:
                    await starting.aclose()  # from here on its health tells
                    log.info("running %s as process %d", ", ".join(one.name for one in work.services), os.getpid())
                    watched.started = True
                    watched.pulse.look_now()
                    if parent is not None:
                        parent.tell_now()
                    await told_to_stop.wait()
                    watched.pulse.look_now()
            except StuckThreads as error:
                _end(str(error))
            if running.drained:
                log.info("stopped; everything in hand was finished")
            else:
                log.warning("stopped; what was still in hand after %gs will be handled again", drain_s)
            if running.unfinished_threads:
                stuck = "handler in a thread does not return", "handlers in threads do not return"
                _end(plural(running.unfinished_threads, *stuck))


def _middleware(work: Work) -> list[Any]:
    if not (work.log_handled or work.settings.log_level == "debug"):
        return []  # without any, handlers are called the fastest way
    from ..observe.handled import LogHandled

    return [LogHandled(logging.INFO if work.log_handled else logging.DEBUG)]


@contextmanager
def _answering(
    watched: _Watched, settings: Settings, parent: Parent | None, stop: Callable[[str], None]
) -> Iterator[None]:
    """A child tells its parent how it is; any other process answers by itself, if it is to."""
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        if parent is not None or settings.health is not None:
            watched.pulse.start()
            stack.callback(watched.pulse.stop)
        if parent is not None:
            parent.watch(lambda: _call_on(loop, stop, "the process that started this one is gone"), settings.drain_s)
            parent.tell(lambda: watched.pulse.answer().body())
        elif settings.health is not None:
            server = HealthServer(settings.health, watched.pulse.answer)
            log.info("health at http://%s/healthz and /readyz", server.address)
            stack.callback(server.close)
        yield


def _call_on(loop: asyncio.AbstractEventLoop, call: Callable[[str], None], why: str) -> None:
    try:
        loop.call_soon_threadsafe(call, why)
    except RuntimeError:
        pass  # the loop is closed: this process is at its end anyway


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
    sys.stdout.flush()
    os._exit(1)
