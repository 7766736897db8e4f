"""Reading a view without `await`: what `eventspine.sync` gives."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from .reading import ViewReader

if TYPE_CHECKING:
    from ..publishing import Receipt
    from .as_of import ViewThen
    from .token import Token

V = TypeVar("V")
Run = Callable[[Coroutine[Any, Any, Any]], Any]


class SyncViewReader(Generic[V]):
    """See `ViewReader`; every name is the same, and blocks."""

    def __init__(self, reader: ViewReader[V], run: Run) -> None:
        self._reader = reader
        self._run = run

    def get(self, *key: Any) -> V | None:
        found: V | None = self._run(self._reader.get(*key))
        return found

    def all(self, *, order_by: str | Sequence[str] = (), limit: int | None = None, **where: Any) -> list[V]:
        found: list[V] = self._run(self._reader.all(order_by=order_by, limit=limit, **where))
        return found

    def query(self, sql: str, /, **parameters: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._run(self._reader.query(sql, **parameters))
        return found

    def wait(self, *events: Receipt | str | Token, timeout_s: float = 2.0) -> None:
        self._run(self._reader.wait(*events, timeout_s=timeout_s))

    def as_of(self, when: datetime | int, *, by: Literal["happened", "recorded"] = "happened") -> ViewThen[V]:
        found: ViewThen[V] = self._run(self._reader.as_of(when, by=by))
        return found
