"""A handler's SQL with its parameters, its own transaction, and what was asked of somebody and not awaited."""

from __future__ import annotations

from collections.abc import Coroutine
from inspect import CORO_CREATED, getcoroutinestate
from typing import Any, TypeVar

from .errors import DeclarationError, UnitFailed
from .journal.port import Statement, Transaction

T = TypeVar("T")


def statement(sql: str, parameters: dict[str, Any], expect_rows: int | None) -> Statement:
    """More parameters than the SQL names are as welcome as in the drivers, but for what was to be `expect_rows`: it would guard
    nothing."""
    for name in parameters:
        if name[:6] == "expect" and f":{name}" not in sql:
            raise DeclarationError(
                f"execute() was given {name}=, and the SQL has no :{name}: {' '.join(sql.split())[:120]}. The number of rows "
                "to expect is expect_rows=."
            )
    return Statement(sql, parameters, expect_rows)


class Asked:
    """Coroutines handed to a caller, who has to await each."""

    def __init__(self) -> None:
        self._handed: list[Coroutine[Any, Any, Any]] = []

    def hand(self, coroutine: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        self._handed.append(coroutine)
        return coroutine

    def forgotten(self) -> list[str]:
        """The names of those that were not awaited. They never will be."""
        found = [one for one in self._handed if getcoroutinestate(one) == CORO_CREATED]
        for one in found:
            one.close()
        return [getattr(one, "__name__", "it").removeprefix("_") for one in found]


class Writing:
    """See `Delivery.transaction`."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._asked = Asked()
        self.closed = False

    def execute(self, sql: str, /, *, expect_rows: int | None = None, **parameters: Any) -> Coroutine[Any, Any, int]:
        """How many rows it changed."""
        return self._asked.hand(self._execute(sql, parameters, expect_rows))

    def query(self, sql: str, /, **parameters: Any) -> Coroutine[Any, Any, list[dict[str, Any]]]:
        return self._asked.hand(self._query(sql, parameters))

    def refuse_unawaited(self, handler: str) -> None:
        """A write whose `await` was forgotten would be lost, and the delivery count as done."""
        if self._asked.forgotten():
            raise DeclarationError(
                f"{handler} did not await all that it asked of delivery.transaction(), so that SQL was not run. Write `await` "
                "before each execute(...) and query(...) of the transaction. Nothing of this delivery is stored."
            )

    async def _execute(self, sql: str, parameters: dict[str, Any], expect_rows: int | None) -> int:
        return await self._now().execute(*statement(sql, parameters, expect_rows))

    async def _query(self, sql: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        return await self._now().query(sql, parameters)

    def _now(self) -> Transaction:
        if self.closed:
            raise UnitFailed("The block of this transaction has been left; nothing can be added to it any more.")
        return self._transaction
