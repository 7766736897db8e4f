"""Letters as `.eml` files: an effect outside of any transaction.

A handler that was killed between writing and committing runs again, with the same idempotency key. The key names the
file, so the second letter takes the place of the first, whole: nobody gets two, nobody gets half of one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path
from urllib.parse import quote

MAIL = Path("mail")  # in this folder

LETTER = """\
From: shop@example.com
To: {customer}@customers.example.com
Message-ID: <{key}@example.com>
Subject: Your {ordinal} order
X-Order: {order_id}
Content-Type: text/plain; charset=us-ascii

Dear customer {customer},

{news}
{extra}
Your shop
"""


class Mailbox:
    """A folder of letters for each day."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._made: set[date] = set()

    def send(self, letter: str, *, day: date, key: str) -> None:
        folder = self._root / day.isoformat()
        if day not in self._made:
            folder.mkdir(parents=True, exist_ok=True)
            self._made.add(day)
        draft = folder / f"{key}.draft"
        draft.write_text(letter, encoding="ascii")
        draft.replace(folder / f"{key}.eml")


@asynccontextmanager
async def mailbox() -> AsyncIterator[Mailbox]:
    yield Mailbox(MAIL)


def letter(customer_id: str, order_id: int, *, nth: int, reserved: bool, extra: str, key: str) -> str:
    """The same words for the same delivery, however often it is written."""
    news = "is on its way" if reserved else "is more than we can send you within 30 days"
    return LETTER.format(
        customer=quote(customer_id, safe=""),
        key=key,
        ordinal=ordinal(nth),
        order_id=order_id,
        news=f"Order {order_id} {news}.",
        extra=f"\n{extra}\n" if extra else "",
    )


def ordinal(n: int) -> str:
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"
