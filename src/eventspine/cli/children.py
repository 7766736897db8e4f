"""A child process, as its parent sees it: begun with two pipes (see `serving.Parent`), told to end, waited for."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from asyncio.subprocess import DEVNULL, Process, create_subprocess_exec
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from .serving import CHILD_VARIABLE

REPORT_BYTES_MAX = 16_000_000


class Child:
    def __init__(self, number: int, process: Process, lifeline: int, reports: asyncio.StreamReader) -> None:
        self.number = number
        self.pid = process.pid
        self.report: dict[str, Any] = {}
        self.heard_at = time.monotonic()
        self._process = process
        self._lifeline = lifeline
        self._started: Callable[[], None] = lambda: None
        self._listening = asyncio.ensure_future(self._listen(reports))
        self._end = asyncio.ensure_future(self._wait())

    @classmethod
    async def begin(cls, number: int, command: Sequence[str], *, alone: bool) -> Child:
        """One that is alone has the terminal's input, which a debugger wants, and needs no name in its log."""
        lifeline, ours = os.pipe()
        read, report = os.pipe()
        try:
            process = await create_subprocess_exec(
                *command,
                stdin=None if alone else DEVNULL,
                pass_fds=(lifeline, report),
                env={**os.environ, CHILD_VARIABLE: f"{'' if alone else number}:{lifeline}:{report}"},
            )
        except BaseException:
            os.close(ours)
            os.close(read)
            raise
        finally:
            os.close(lifeline)
            os.close(report)
        return cls(number, process, ours, await _reader(read))

    async def _listen(self, reports: asyncio.StreamReader) -> None:
        while line := await reports.readline():
            with suppress(ValueError):
                self.report = json.loads(line)
            self.heard_at = time.monotonic()
            if self.started:
                self._started()
                self._started = lambda: None

    def when_started(self, call: Callable[[], None]) -> None:
        self._started = call

    @property
    def started(self) -> bool:
        """Whether it has come so far as to handle events."""
        return bool(self.report.get("started"))

    async def ended(self) -> int:
        """Its exit code, when it has ended and all that it said was heard."""
        return await asyncio.shield(self._end)

    async def _wait(self) -> int:
        code = await self._process.wait()
        await asyncio.wait([self._listening], timeout=1.0)  # a program that a handler started may keep the pipe
        self._listening.cancel()
        os.close(self._lifeline)
        return code

    async def end(self, within_s: float) -> int:
        """Have it drain; killed if that takes longer."""
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(within_s):
                return await self.ended()
        except TimeoutError:
            self.kill()
            return await self.ended()

    def kill(self) -> None:
        """At once. SIGKILL reaches a process that is stopped, too."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        """Not by asyncio's own method, which may wait for the process behind the back of who else does."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


async def _reader(pipe: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=REPORT_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb", buffering=0)
    )
    return reader
