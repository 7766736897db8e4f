"""What the services keep, read from their tables and from the letters on disk, once they have stopped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from . import places
from .journals import InFiles, Journals

_LETTER = re.compile(r"^Subject: Your (\d+)(?:st|nd|rd|th) order\nX-Order: (\d+)$", re.ASCII | re.MULTILINE)


class Letter(NamedTuple):
    order_id: int
    nth: int


class Sum(NamedTuple):
    orders: int
    units: int
    cents: int


@dataclass(frozen=True, slots=True)
class Kept:
    """Lists are in the order in which the service recorded."""

    storefront: list[tuple[int, str, int, int]]  # order, customer, units, cents
    inventory: list[tuple[int, str, int, bool]]  # order, customer, units, reserved
    email: list[tuple[int, str, int, bool]]  # order, customer, nth of the customer's, reserved
    letters: list[Letter]  # on disk, as read there
    counted: dict[str, int]  # orders by answer
    by_day: dict[str, Sum]
    by_customer: dict[str, Sum]


def kept_in(folder: Path) -> Kept:
    with closing(InFiles(folder)) as journals:
        return kept_by(folder, journals)


def kept_by(folder: Path, journals: Journals) -> Kept:
    rows = journals.rows
    return Kept(
        storefront=rows(
            "storefront", "select order_id, customer_id, units, cents from storefront_orders order by number"
        ),
        inventory=rows(
            "inventory", "select order_id, customer_id, units, reserved from inventory_answers order by number"
        ),
        email=rows("email", "select order_id, customer_id, nth, reserved from email_letters order by number"),
        letters=list(_letters(places.home(folder, "email") / "mail")),
        counted=dict(rows("email", "select answer, orders from email_counts")),
        by_day=_sums(rows("analytics", "select day, orders, units, cents from analytics_days")),
        by_customer=_sums(rows("analytics", "select customer_id, orders, units, cents from analytics_customers")),
    )


def _sums(rows: list[Any]) -> dict[str, Sum]:
    return {str(name): Sum(*sums) for name, *sums in rows}


def _letters(mail: Path) -> Iterator[Letter]:
    """A file that is no letter counts as one about order 0, which nobody placed."""
    for path in mail.glob("*/*.eml"):
        found = _LETTER.search(path.read_text(encoding="utf-8", errors="replace"))
        yield Letter(int(found[2]), int(found[1])) if found else Letter(0, 0)
