"""Those who want to hear that there may be more to read, each on an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable


class Watchers:
    """Told from any thread."""

    def __init__(self) -> None:
        self._watchers: dict[object, tuple[asyncio.AbstractEventLoop, Callable[[], None]]] = {}
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._watchers)

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        key, loop = object(), asyncio.get_running_loop()
        with self._lock:
            self._watchers = {**self._watchers, key: (loop, changed)}
        return lambda: self._forget(key)

    def tell(self) -> None:
        """There may be more to read: say so on every watcher's loop."""
        for key, (loop, _) in self._watchers.items():
            try:
                loop.call_soon_threadsafe(self._wake, key)
            except RuntimeError:  # the loop is closed, and its watcher never said goodbye
                self._forget(key)

    def _forget(self, key: object) -> None:
        with self._lock:
            self._watchers = {other: watcher for other, watcher in self._watchers.items() if other is not key}

    def _wake(self, key: object) -> None:
        if watcher := self._watchers.get(key):
            watcher[1]()
