"""How far each service has come, asked of its tables while it works."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NamedTuple

_ORDERS = {
    "storefront": "select coalesce(max(number), 0) from storefront_orders",
    "inventory": "select coalesce(max(number), 0) from inventory_answers",
    "email": "select coalesce(max(number), 0) from email_letters",
    "analytics": "select coalesce(sum(orders), 0) from analytics_days",
    "counted": "select coalesce(sum(orders), 0) from email_counts",
}


class Progress(NamedTuple):
    """Orders that a service is done with; `counted` are those of e-mail's second handler."""

    storefront: int = 0
    inventory: int = 0
    email: int = 0
    analytics: int = 0
    counted: int = 0

    def of(self, service: str) -> int:
        return int(getattr(self, service))


class Gauge:
    def __init__(self, folder: Path) -> None:
        self._path = (folder / "spine.db").resolve()
        self._connection: sqlite3.Connection | None = None

    def read(self) -> Progress:
        if self._connection is None:
            if not self._path.exists():
                return Progress()
            self._connection = sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, timeout=10)
        return Progress(**{name: self._number(self._connection, sql) for name, sql in _ORDERS.items()})

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    @staticmethod
    def _number(connection: sqlite3.Connection, sql: str) -> int:
        try:
            return int(connection.execute(sql).fetchone()[0])
        except sqlite3.OperationalError:
            return 0  # its table isn't there yet
