"""How far each service has come, asked of its tables while it works."""

from __future__ import annotations

from typing import NamedTuple

from .journals import Journals

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
    def __init__(self, journals: Journals) -> None:
        self._journals = journals

    def read(self) -> Progress:
        return Progress(**{name: self._number(name, sql) for name, sql in _ORDERS.items()})

    def _number(self, name: str, sql: str) -> int:
        found = self._journals.rows("email" if name == "counted" else name, sql)
        return int(found[0][0]) if found else 0  # its table isn't there yet
