"""A deterministic event loop with virtual time, for several simulated processes in one real one.

Whose turn it is among the processes is chosen at random, from one seed; inside a process callbacks run in the order in
which they were asked for, as asyncio promises. When nobody has anything to do, time jumps to the next timer. A process
can be killed between any two callbacks, which is at any await of its tasks: it then simply never gets another turn.

Nothing here reads a real clock, waits for anything, or looks at an address or a hash, so the same seed gives the same
history, callback by callback, in any interpreter of the same version."""

from __future__ import annotations

import asyncio
import gc
import heapq
import random
import sys
import threading
import types
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

if TYPE_CHECKING:
    from .threads import Handed

STEPS_MAX = 200_000  # of one process in one history
CLOSE_MAX = 50
IDLE_S = 10.0  # between two looks at whether time may be jumped over


class Stuck(Exception):
    """Nobody has anything to do, now or later, and the history is not at its end."""


class Turn(msgspec.Struct, eq=False):
    """A callback that was asked for: asyncio's Handle, without what it spends on debugging. Histories are made of these."""

    turns: Turns
    context: Context
    call: tuple[Any, ...]  # the callback, and its arguments
    gone: bool = False

    def cancel(self) -> None:
        self.gone = True

    def cancelled(self) -> bool:
        return self.gone


class Timed(Turn, eq=False):
    """One for later: asyncio's TimerHandle."""

    due: float = 0.0

    def when(self) -> float:
        return self.due


@types.coroutine
def others_turn() -> Generator[None, None, None]:
    """`await asyncio.sleep(0)`, cheaper."""
    yield


class Turns:
    """A process as the loop sees it: what it has to do next. The loop itself is one too: it plays the world outside."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.queue: deque[Turn] = deque()
        self.alive = True
        self.stopped = False  # as by SIGSTOP
        self.steps = 0
        self.accidents: dict[int, Callable[[], None]] = {}  # by step
        self.tasks: list[asyncio.Task[Any]] = []
        self.generators: list[AsyncGenerator[Any, Any]] = []


_mine: ContextVar[Turns] = ContextVar("eventspine_simulated")


class Loop(asyncio.BaseEventLoop):
    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance.random
        self._now = 0.0  # what was lived through: it is what asyncio sees
        self.skipped_s = 0  # and what was jumped over (idle.py)
        self.passing: Callable[[], None] | None = None  # asked now and then when nobody has anything to do
        self._passing_at = IDLE_S
        self._timers: list[tuple[float, int, Timed]] = []
        self._asked = 0
        self.world = Turns("world")
        self._ready: list[Turns] = []  # those with something to do
        self._everybody = [self.world]
        self.handed: dict[threading.Thread, Handed] = {}
        self.refused: str | None = None

    # --- what asyncio asks for ----------------------------------------------------------------------------------------

    get_debug = bool  # `False`, without a frame: every task and every future asks

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> Turn:  # type: ignore[override]
        if context is None:
            context = copy_context()
        turns = context.get(_mine, self.world)
        turn = Turn(turns, context, (callback, *args) if args else (callback,))
        if turns.alive:
            if not turns.queue and not turns.stopped:
                self._ready.append(turns)
            turns.queue.append(turn)
        return turn

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> Turn:
        handed = self.handed.get(threading.current_thread())
        if handed is None:
            if threading.get_ident() != self._thread_id:  # type: ignore[attr-defined]
                self.refused = _not_simulated("a thread that is not of this history has answered")
            return self.call_soon(callback, *args, context=context)
        here = context or copy_context()
        handed.ask(partial(here.run, callback, *args))
        return Turn(self.world, here, (callback, *args))

    def run_in_executor(self, *_: Any) -> NoReturn:  # type: ignore[override]
        self.refuse("asyncio.to_thread() and run_in_executor() start threads")

    async def create_connection(self, *_: Any, **__: Any) -> NoReturn:
        self.refuse("a handler or a lifespan has opened a connection")

    async def getaddrinfo(self, *_: Any, **__: Any) -> NoReturn:
        self.refuse("a handler or a lifespan has looked up a host")

    def refuse(self, what: str) -> NoReturn:
        """Real threads and networks take their own time, so no history would be the same twice."""
        self.refused = _not_simulated(what)
        raise RuntimeError(self.refused)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> Timed:
        if context is None:
            context = copy_context()
        timer = Timed(context.get(_mine, self.world), context, (callback, *args), due=when)
        self._asked += 1
        heapq.heappush(self._timers, (when, self._asked, timer))
        return timer

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> Timed:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def create_task(self, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, **options)
        context = options.get("context")
        turns = _mine.get(self.world) if context is None else context.get(_mine, self.world)
        turns.tasks.append(task)
        return task

    def _process_events(self, _: Any) -> None:
        """There is nothing outside."""

    def _asyncgen_firstiter_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        _mine.get(self.world).generators.append(agen)

    def _asyncgen_finalizer_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        """It is kept until its process is buried."""

    # --- turns --------------------------------------------------------------------------------------------------------

    def _run_once(self) -> None:
        """Many turns, until somebody asks the loop to stop. In one piece, since it is what a history costs."""
        ready, chance = self._ready, self._chance
        while not self._stopping:  # type: ignore[attr-defined]
            if not ready:
                self._pass_time()
            many = len(ready)
            turns = ready[int(chance() * many)] if many > 1 else ready[0]
            queue = turns.queue
            turn = queue.popleft()
            if not queue:
                ready.remove(turns)
            if turn.gone:
                continue
            turns.steps = step = turns.steps + 1
            if step in turns.accidents and self._is_kept_from(turns, turn):
                continue
            if step > STEPS_MAX:
                raise Stuck(
                    f"After {STEPS_MAX} turns of {turns.name}, in {self.elapsed_s:.0f} s of virtual time, there is no end of it. A history is to "
                    "be short: publish less in drive, look less often, or sleep for less, unless nothing is to be done meanwhile: that costs nothing."
                )
            try:
                turn.context.run(*turn.call)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 -- as every event loop does
                self.call_exception_handler({"message": f"Exception in callback {turn.call[0]}", "exception": error})

    def _is_kept_from(self, turns: Turns, turn: Turn) -> bool:
        """Let the accident of this turn happen; whether the turn does not, then."""
        turns.accidents.pop(turns.steps)()
        if turns.alive and not turns.stopped:
            return False
        turns.queue.appendleft(turn)  # it is still to come, if it is
        return True

    def _pass_time(self) -> None:
        if self._now >= self._passing_at and self.passing is not None:
            self._passing_at = self._now + IDLE_S
            self.passing()
        while self._timers:
            when, _, timer = heapq.heappop(self._timers)
            turns = timer.turns
            if timer.gone or not turns.alive:
                continue
            self._now = max(self._now, when)
            if not turns.queue and not turns.stopped:
                self._ready.append(turns)
            turns.queue.append(timer)
            if self._ready:
                return
        raise Stuck("Nothing is left to happen.")

    @property
    def elapsed_s(self) -> float:
        """Virtual time since the beginning."""
        return self._now + self.skipped_s

    def timers(self) -> Iterator[tuple[Timed, float]]:
        """Those that will ring, and in how many seconds."""
        return ((timer, when - self._now) for when, _, timer in self._timers if not timer.gone and timer.turns.alive)

    def skip(self, seconds: int, beyond_s: float) -> None:
        """Jump over so much time: timers that are further off than `beyond_s` are that much nearer."""
        self.skipped_s += seconds
        self._timers = [
            (when - seconds if when - self._now > beyond_s else when, number, timer)
            for when, number, timer in self._timers
        ]
        heapq.heapify(self._timers)

    @property
    def steps(self) -> int:
        """Turns taken so far, by all."""
        return sum(turns.steps for turns in self._everybody)

    def whose(self) -> Turns:
        """The process whose turn it is."""
        return _mine.get(self.world)

    # --- what happens to processes ------------------------------------------------------------------------------------

    def process(self, name: str, main: Callable[[], Coroutine[Any, Any, None]]) -> Turns:
        turns = Turns(name)
        self._everybody.append(turns)
        context = Context()
        context.run(_mine.set, turns)
        self.create_task(main(), context=context)
        return turns

    def kill(self, turns: Turns) -> None:
        turns.alive = False
        turns.queue.clear()
        if turns in self._ready:
            self._ready.remove(turns)

    def stop_turns(self, turns: Turns) -> None:
        turns.stopped = True
        if turns in self._ready:
            self._ready.remove(turns)

    def continue_turns(self, turns: Turns) -> None:
        if turns.stopped and turns.queue and turns.alive:
            self._ready.append(turns)
        turns.stopped = False

    def bury(self, turns: Turns) -> None:
        """What a killed process left behind is taken apart here, not by the garbage collector at a time of its own."""
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None  # it is dead: what it says is nobody's business
        asyncio._set_running_loop(
            self
        )  # else a `finally` that asks for one has asyncio make a real one, and leave it open
        try:
            self._take_apart(turns)
        finally:
            asyncio._set_running_loop(None)
            sys.unraisablehook = hook

    def bury_threads(self) -> None:
        """Those of killed processes that wait for an answer which nobody will give."""
        while self.handed:
            next(iter(self.handed.values())).bury()

    def _take_apart(self, turns: Turns) -> None:
        for task in turns.tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            if not task.done():
                _close(task.get_coro())
        for generator in turns.generators:
            _close(generator.aclose())
        turns.tasks.clear()
        turns.generators.clear()


def _not_simulated(what: str) -> str:
    return (
        f"This can't be simulated: {what}, and nothing outside of the history may take part in it. Give the services "
        f"a fake in its place, for example in their lifespan."
    )


def sweep(generation: int = 2) -> None:
    """Have the garbage of histories collected now: what is left of coroutines in it must not run in the middle of something
    else, of which it knows nothing (CPython 3.11's `ast.parse`, for one, then fails)."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        gc.collect(generation)
    finally:
        sys.unraisablehook = hook


def _close(coroutine: Any) -> None:
    """Each `finally` on the way out may want to wait for something once more; none of them gets what it wants."""
    for _ in range(CLOSE_MAX):
        try:
            coroutine.close()
        except BaseException:  # noqa: BLE001, S112 -- whatever it raises, it is dead
            continue
        return
