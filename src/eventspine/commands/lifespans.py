"""Lifespans of services that handle commands here and don't run here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..service import Service


class Lifespans:
    """Resources of services that handle commands here and don't run here; from the first command to the spine's end."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}

    async def of(self, service: Service[Any]) -> Any:
        held = self._held.get(service.name)
        if held is None or held.failed:
            held = self._held[service.name] = _Held(service)
        return await held.resources()

    async def close(self) -> None:
        held, self._held = self._held, {}
        for one in held.values():
            await one.close()


class _Held:
    """A lifespan is entered and left by one task."""

    def __init__(self, service: Service[Any]) -> None:
        loop = asyncio.get_running_loop()
        self._entered: asyncio.Future[Any] = loop.create_future()
        self._stop = asyncio.Event()
        self._task = loop.create_task(self._hold(service), name=f"spine resources {service.name}")

    @property
    def failed(self) -> bool:
        return self._task.done()

    async def resources(self) -> Any:
        await asyncio.wait([self._entered, self._task], return_when=asyncio.FIRST_COMPLETED)
        if not self._entered.done():
            await self._task  # raises why
        return self._entered.result()

    async def _hold(self, service: Service[Any]) -> None:
        assert service.lifespan is not None
        async with service.lifespan() as resources:
            self._entered.set_result(resources)
            await self._stop.wait()

    async def close(self) -> None:
        self._stop.set()
        await asyncio.wait([self._task])
        if not self._task.cancelled() and (error := self._task.exception()) is not None and self._entered.done():
            raise error
