"""Services at work in this process: begun together, drained together, and ended by a failure of the engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    from .engine.runtime import Runtime
    from .service import Service
    from .spine import Spine


class Running:
    """Services at work in this process."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.drained: bool | None = None  # after the block: whether everything at work finished in time
        from asyncio import Event

        self._stop: asyncio.Event = Event()

    def stop(self) -> None:
        """Let `wait` return, so that the block is left and the drain begins. Safe from a signal handler."""
        self._stop.set()

    async def wait(self) -> None:
        """Until `stop()`."""
        await self._stop.wait()

    @property
    def unfinished_threads(self) -> int:
        """`def` handlers that have not returned. The interpreter waits for them at exit; `os._exit` does not."""
        return self.runtime.unfinished_threads

    async def guard(self, task: asyncio.Task[Any] | None) -> None:
        await self.runtime.stopped.wait()
        if self.runtime.failure is not None and task is not None:
            task.cancel()


async def _both(stopping: Coroutine[Any, Any, bool], bringing_in: Coroutine[Any, Any, None]) -> bool:
    import asyncio

    drained: tuple[bool, None] = await asyncio.gather(stopping, bringing_in)
    return drained[0]


@asynccontextmanager
async def at_work(
    spine: Spine, services: Sequence[Service[Any]], roll_back: bool, retire: Sequence[str], drain_s: float
) -> AsyncIterator[Running]:
    """`Spine.running`, of a spine that is open."""
    import asyncio  # here, since who only publishes may do without

    runtime = spine._runtime()
    spine._runtimes = [*(one for one in spine._runtimes if one.failure is None), runtime]
    carrying, brought = spine._carrying, []
    try:
        if carrying is not None:
            await carrying.publish([channel for service in services for channel in service.publishes])
            brought = await carrying.consume(services)
        await runtime.start(services, roll_back=roll_back, retire=retire)
    except BaseException:
        spine._runtimes.remove(runtime)
        if carrying is not None:
            await carrying.stop_intakes(brought)
        raise
    running = Running(runtime)
    guard = asyncio.create_task(running.guard(asyncio.current_task()))
    try:
        yield running
    except asyncio.CancelledError:
        if runtime.failure is None:
            raise
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
    finally:
        guard.cancel()
        await asyncio.gather(guard, return_exceptions=True)
        stopping = runtime.stop(0.0 if runtime.failure else drain_s)
        if carrying is not None:
            stopping = _both(stopping, carrying.stop_intakes(brought))
        try:
            running.drained = await asyncio.shield(stopping)
        finally:
            if runtime.failure is None:  # else health goes on telling of it, until something runs again
                spine._runtimes.remove(runtime)
    if runtime.failure is not None:
        raise runtime.failure
