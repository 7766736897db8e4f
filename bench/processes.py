"""Children, from the side of who starts them; none outlives the measurement."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

LINE_MAX = 256 * 1024 * 1024
HERE = Path(__file__).parent.parent


class Child:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        return self.process.pid

    async def ready(self) -> None:
        if (line := await self._line()) != "ready":
            raise RuntimeError(f"a child said {line!r} instead of ready")

    async def tell(self, text: str = "go") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n".encode())
        await self.process.stdin.drain()

    async def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self._line())
        await self.process.wait()
        return found

    async def _line(self) -> str:
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a child ended with {await self.process.wait()}; its words are above")
        return line.decode().strip()


@asynccontextmanager
async def child(role: str, *arguments: object) -> AsyncIterator[Child]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.children", role, *map(str, arguments),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=LINE_MAX, cwd=HERE,
    )  # fmt: skip
    try:
        yield Child(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def children(role: str, arguments: list[tuple[object, ...]]) -> AsyncIterator[list[Child]]:
    """All of them, ready."""
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(child(role, *some)) for some in arguments]
        for one in started:
            await one.ready()
        yield started
