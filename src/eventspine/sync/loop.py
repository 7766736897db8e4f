"""The loop in a background thread that all calls wait for."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import Any, TypeVar
from weakref import WeakSet

from ..errors import SpineClosed, WouldDeadlock
from ..observe.correlation import current

T = TypeVar("T")
FINISH_S = 5.0


_loops: WeakSet[Loop] = WeakSet()


def _renew_locks() -> None:
    """In a forked child: the thread of the parent that may hold one is not here to give it back."""
    for loop in _loops:
        loop._lock, loop.counting = threading.Lock(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


class Loop:
    """An event loop in a thread of its own; made anew in a forked child."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._stopped_in = 0  # the process in which it was stopped
        self._lock = threading.Lock()
        self.counting = threading.Lock()  # who enters and leaves `with spine:`
        _loops.add(self)

    def run(self, coroutine: Coroutine[Any, Any, T], *, again: bool = False) -> T:
        """What it returns. Once stopped, a loop is only started `again` for who says so."""
        future = self.submit(coroutine, again=again)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def submit(self, coroutine: Coroutine[Any, Any, T], *, again: bool = False) -> Future[T]:
        with self._lock:  # so that `stop` finds everything that was ever handed to its loop
            if self._stopped_in == os.getpid() and not again:
                coroutine.close()
                raise SpineClosed(
                    "This spine is closed. Publish before it is, or open it again: spine.open(), or with spine."
                )
            self._stopped_in = 0
            loop = self._running()
            if inside(loop):
                coroutine.close()
                raise WouldDeadlock("This is the loop that would have to answer; use eventspine.Spine with await here.")
            return asyncio.run_coroutine_threadsafe(with_context(coroutine), loop)

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None or self._pid != os.getpid():
            self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
            self._thread = threading.Thread(target=_serve, args=(self._loop,), name="eventspine", daemon=True)
            self._thread.start()
        return self._loop

    def stop(self) -> None:
        with self._lock:
            loop, self._loop = self._loop, None
            self._stopped_in = os.getpid()
        if loop is not None and self._pid == os.getpid():
            loop.call_soon_threadsafe(loop.stop)
            if self._thread is not None:
                self._thread.join()


class Here:
    """The thread that waits for an answer, and does meanwhile what the loop asks of it: so what a program keeps by thread
    (a scoped session, a locale) is at hand for its own functions."""

    def __init__(self) -> None:
        self._asked: SimpleQueue[tuple[Context, Callable[[], Any], Future[Any]] | None] = SimpleQueue()

    async def run(self, function: Callable[[], Any]) -> Any:
        """On the loop. Whoever stops waiting for it still waits for its end."""
        done: Future[Any] = Future()
        self._asked.put((copy_context(), function, done))
        waiting = asyncio.wrap_future(done)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            await asyncio.wait([waiting])
            raise

    def serve(self, answer: Future[T]) -> T:
        """In the thread."""
        answer.add_done_callback(lambda _: self._asked.put(None))
        try:
            while (asked := self._asked.get()) is not None:
                _do(*asked)
            return answer.result()
        except BaseException:
            answer.cancel()
            raise


def _do(context: Context, function: Callable[[], Any], done: Future[Any]) -> None:
    try:
        done.set_result(context.run(function))
    except StopIteration:  # it can't cross to an event loop
        done.set_exception(RuntimeError("the handler raised StopIteration"))
    except Exception as error:  # noqa: BLE001 -- it is the answer
        done.set_exception(error)
    except BaseException:  # a signal, in the main thread: of the program, and not of what is asked
        done.set_exception(RuntimeError("the thread that sent this was interrupted"))
        raise


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.run_until_complete(_finish())  # what other threads still wait for
    loop.close()


async def _finish() -> None:
    """Let what is under way have its answer; what takes too long is cancelled, and whoever waits for it is told so."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=FINISH_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


def inside(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def with_context(coroutine: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    """Run it with the caller's context variables: correlation flows into the loop's thread."""
    cause = current.get()

    async def inner() -> T:
        current.set(cause)
        return await coroutine

    return inner()
