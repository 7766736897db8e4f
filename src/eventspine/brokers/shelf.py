"""What came from a broker that pushes, or is polled in the background, until the intake fetches it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from ..errors import BrokerError
from .port import FETCH_BYTES, Fetched, weight_of


class Shelf:
    """`moved` is called when there is less or more on it, or it is paused or goes on: whoever fills it may look for room.

    Paused it gives out nothing, and a failure ends it: what is on it then comes again, to the intake that is made anew."""

    def __init__(self, moved: Callable[[], None] = lambda: None) -> None:
        self.bytes = 0  # of data and headers
        self.paused = False
        self._moved = moved
        self._fetched: deque[tuple[Fetched, int]] = deque()  # with its weight
        self._failure: BrokerError | None = None
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._fetched)

    def put(self, fetched: Iterable[Fetched]) -> None:
        before = len(self._fetched)
        for one in fetched:
            weight = weight_of(one)
            self._fetched.append((one, weight))
            self.bytes += weight
        if len(self._fetched) > before:
            self._news.set()
        self._moved()

    def keep(self, wanted: Callable[[Fetched], bool]) -> None:
        """The others are dropped."""
        self._fetched = deque(one for one in self._fetched if wanted(one[0]))
        self.bytes = sum(weight for _, weight in self._fetched)
        self._moved()

    @property
    def failed(self) -> bool:
        return self._failure is not None

    def fail(self, error: BrokerError) -> None:
        self._failure = self._failure or error
        self._news.set()

    def wake(self) -> None:
        """Whoever waits goes on with what there is: there may be something else to do."""
        self._news.set()

    def pause(self) -> None:
        self.paused = True
        self._moved()

    def resume(self) -> None:
        self.paused = False
        self._moved()
        self._news.set()

    async def fetch(self, most: int, wait_s: float) -> Sequence[Fetched]:
        """As `BrokerIntake.fetch`."""
        if (not self._fetched or self.paused) and self._failure is None and wait_s > 0:
            self._news.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._news.wait()
            except TimeoutError:
                pass
        if self._failure is not None:
            raise self._failure
        if self.paused:
            return []
        taken = self._take(most)
        self._moved()
        return taken

    def _take(self, most: int) -> list[Fetched]:
        taken: list[Fetched] = []
        left = self.bytes - FETCH_BYTES
        while self._fetched and len(taken) < most and self.bytes > left:
            one, weight = self._fetched.popleft()
            self.bytes -= weight
            taken.append(one)
        return taken
