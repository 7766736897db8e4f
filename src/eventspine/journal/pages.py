"""Going through a feed without holding all of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from .port import Journal, Record

PAGE = 1000


async def feed(journal: Journal, after: int, upto: int, **filters: Any) -> AsyncIterator[Record]:
    """All wanted records up to `upto`, a page in memory at a time."""
    while after < upto:
        page = await journal.feed(after, limit=PAGE, upto=upto, **filters)
        for record in page.records:
            yield record
        if page.scanned <= after:
            return
        after = page.scanned
