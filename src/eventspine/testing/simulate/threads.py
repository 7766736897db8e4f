"""`def` handlers in a simulated process: each runs while the loop stands still, so there is never more than one of all of
them at work. One that has a delivery may ask it something and wait for the answer; so it has a thread of its own, which
hands the turn back to the loop when it asks, and is handed it again with the answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from .loop import Loop

_WITH_DELIVERY = 4  # arguments of the engine's call: a context, the handler, its event, its delivery


class Buried(BaseException):
    """The process of this thread was killed while it waited."""


class Threads:
    """The engine's pool, as far as it is used."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        asks = isinstance(call, partial) and len(call.args) >= _WITH_DELIVERY
        self._loop.call_soon(Handed(self._loop, future, call).go_on if asks else partial(_run, future, call))
        return future

    def shutdown(self, *, wait: bool = False, cancel_futures: bool = False) -> None:
        """There are none that outlive what they run."""


def _run(future: Future[Any], call: Callable[[], Any]) -> None:
    if future.cancelled():
        return
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001 -- whatever it is, it is the answer
        future.set_exception(error)


class Handed:
    """A thread and the loop, of which one stands still at any time."""

    def __init__(self, loop: Loop, future: Future[Any], call: Callable[[], Any]) -> None:
        self._loop = loop
        self._future = future
        self._call = call
        self._mine = threading.Semaphore(0)
        self._loops = threading.Semaphore(0)
        self._buried = False
        self._asked: Callable[[], None] | None = None
        self._thread: threading.Thread | None = None
        self._result: tuple[Any, BaseException | None] = (None, None)

    def go_on(self) -> None:
        """The loop's side: let the thread run until it asks or returns."""
        if self._thread is None:
            if self._future.cancelled():
                return
            self._thread = threading.Thread(target=self._main, name="spine-simulated", daemon=True)
            self._loop.handed[self._thread] = self
            self._thread.start()
        else:
            self._mine.release()
        self._loops.acquire()
        if self._asked is not None:
            self._answer(self._asked)
            return
        del self._loop.handed[self._thread]
        self._thread.join()
        result, error = self._result
        if self._future.cancelled():  # who waited for it has gone
            return
        if error is None:
            self._future.set_result(result)
        else:
            self._future.set_exception(error)

    def _answer(self, asked: Callable[[], None]) -> None:
        """What it has asked becomes a task; when that is done, and has told its future, the thread goes on."""
        self._asked = None
        tasks = self._loop.whose().tasks
        before = len(tasks)
        asked()
        for task in tasks[before:]:
            task.add_done_callback(self._answered)
            return
        self.go_on()

    def _answered(self, _: asyncio.Task[Any]) -> None:
        self.go_on()

    def ask(self, call: Callable[[], None]) -> None:
        """The thread's side."""
        if self._buried:
            raise Buried
        self._asked = call
        self._loops.release()
        self._mine.acquire()
        if self._buried:
            raise Buried

    def bury(self) -> None:
        self._buried = True
        self.go_on()

    def _main(self) -> None:
        try:
            self._result = (self._call(), None)
        except BaseException as error:  # noqa: BLE001 -- whatever it is, it is the answer
            self._result = (None, error)
        self._loops.release()
