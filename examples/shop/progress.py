"""How far each service has come, asked of its tables while it works."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NamedTuple

from . import places

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
        self._folder = folder
        self._connections: dict[Path, sqlite3.Connection] = {}

    def read(self) -> Progress:
        return Progress(**{name: self._number(name, sql) for name, sql in _ORDERS.items()})

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()

    def _number(self, name: str, sql: str) -> int:
        path = places.journal(self._folder, "email" if name == "counted" else name).resolve()
        if path not in self._connections:
            if not path.exists():
                return 0
            self._connections[path] = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=10)
        try:
            return int(self._connections[path].execute(sql).fetchone()[0])
        except sqlite3.OperationalError:
            return 0  # its table isn't there yet
