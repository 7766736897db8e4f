"""The spine under test for tests without an event loop: the same names, and every call waits.

One loop in one background thread does the work, as in `eventspine.sync`; nothing is written twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Self, TypeVar, overload

from .. import sync
from ..envelope import Envelope
from ..service import Middleware, Service
from .making import spine
from .switches import Failures
from .virtual import HANG_S, LIMIT_S, Kept, VirtualSpine

E = TypeVar("E")
E2 = TypeVar("E2")
T = TypeVar("T")


def sync_spine(
    *services: Service[Any],
    service: Service[Any] | None = None,
    resources: Mapping[Service[Any], Any] | None = None,
    failures: Failures = "raise",
    seed: int | None = None,
    interleave: bool = True,
    sql: bool = False,
    url: str | None = None,
    start: datetime | None = None,
    middleware: Sequence[Middleware] = (),
    hang_s: float = HANG_S,
) -> SyncVirtualSpine:
    """`testing.spine` for `with`; see there."""
    made = spine(
        *services,
        service=service,
        resources=resources,
        failures=failures,
        seed=seed,
        interleave=interleave,
        sql=sql,
        url=url,
        start=start,
        middleware=middleware,
        hang_s=hang_s,
    )
    return SyncVirtualSpine(made)


class SyncVirtualSpine(sync.Spine):
    """What `testing.sync_spine(...)` gives; see `VirtualSpine`."""

    _spine: VirtualSpine

    def __init__(self, inner: VirtualSpine) -> None:
        self._begin(lambda: inner)

    def __enter__(self) -> Self:
        try:
            self._loop.run(self._spine.__aenter__())
        except BaseException:
            self._loop.stop()
            raise
        return self

    def __exit__(self, *exit: object) -> None:
        try:
            self._loop.run(self._spine.__aexit__(*exit))
        finally:
            self._loop.stop()

    @property
    def seed(self) -> int:
        return self._spine.seed

    @property
    def now(self) -> datetime:
        return self._spine.now

    def idle(self, limit_s: float = LIMIT_S) -> None:
        self._loop.run(self._spine.idle(limit_s))

    def advance(
        self,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
        milliseconds: float = 0,
        limit_s: float = LIMIT_S,
    ) -> None:
        self._loop.run(
            self._spine.advance(
                days=days, hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds, limit_s=limit_s
            )
        )

    def fail_next(
        self, handler: Callable[..., Any] | str, error: BaseException | type[BaseException], times: int = 1
    ) -> None:
        self._ask(lambda: self._spine.fail_next(handler, error, times))

    def deliver_twice(self, handler: Callable[..., Any] | str | None = None, times: int | None = None) -> None:
        self._ask(lambda: self._spine.deliver_twice(handler, times))

    @overload
    def published(self, first: type[E], /) -> list[E]: ...
    @overload
    def published(self, first: type[E], second: type[E2], /) -> list[E | E2]: ...
    @overload
    def published(self, first: type[Any], /, *classes: type[Any]) -> list[Any]: ...

    def published(self, first: type[Any], /, *classes: type[Any]) -> list[Any]:
        return self._ask(lambda: self._spine.published(first, *classes))

    def envelopes(self, *classes: type[Any]) -> list[Envelope]:
        return self._ask(lambda: self._spine.envelopes(*classes))

    def parked(self, handler: Callable[..., Any] | str | None = None) -> list[Kept]:
        return self._ask(lambda: self._spine.parked(handler))

    def dead(self, handler: Callable[..., Any] | str | None = None) -> list[Kept]:
        return self._ask(lambda: self._spine.dead(handler))

    def query(self, sql: str, /, **parameters: Any) -> list[dict[str, Any]]:
        return self._ask(lambda: self._spine.query(sql, **parameters))

    def replay(self, *dead: Kept) -> int:
        return self._loop.run(self._spine.replay(*dead))

    def _ask(self, look: Callable[[], T]) -> T:
        """On the loop's thread, where nothing moves meanwhile."""
        return self._loop.run(_asked(look))


async def _asked(look: Callable[[], T]) -> T:
    return look()
