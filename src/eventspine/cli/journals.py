"""Reaching the journal. A command that reads never makes one: it says that there is none, and how to get one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from ..clock import us_of
from ..errors import SettingsError
from ..journal import open_journal, without_password
from ..journal.port import Drop, Journal, Replay, Retry
from .app import Invocation
from .exits import Misused, NothingFound
from .inside import inside
from .progress import progress
from .waits import telling_of_the_lock

if TYPE_CHECKING:
    from ..journal.sqlite import SQLiteJournal

P = ParamSpec("P")
PAGE = 1000
_HOW = (
    "`spine run MODULE` makes one with the first service that it runs; "
    "name another with --journal sqlite:///path/to/file, --journal postgresql://host/database or SPINE_JOURNAL."
)


def asynchronous(command: Callable[P, Coroutine[Any, Any, int | None]]) -> Callable[P, int | None]:
    """Have click call a coroutine function."""

    @wraps(command)
    def call(*args: P.args, **kwargs: P.kwargs) -> int | None:
        return asyncio.run(command(*args, **kwargs))

    return call


@asynccontextmanager
async def existing_journal(invocation: Invocation, url: str | None = None) -> AsyncIterator[Journal]:
    """The journal that was asked for, opened; refused when it does not exist yet."""
    url = invocation.url if url is None else url
    journal = open_journal(url)
    if url.startswith("memory:"):
        raise SettingsError(
            "A memory:// journal lives inside the process that uses it; there is nothing to read from here."
        )
    if not journal.exists():
        host = inside.get()
        how = _HOW if host is None else host.no_journal
        raise NothingFound(f"There is no journal at {place_of(journal)}.\n{how}")
    async with telling_of_the_lock(journal):
        await journal.open()
        try:
            yield journal
        finally:
            await journal.close()


def place_of(journal: Journal) -> str:
    """Where it is, in full: the path of a file, else its URL."""
    return str(getattr(journal, "path", journal.url))


def file_of(journal: Journal, why: str) -> SQLiteJournal:
    """For what only a file can do, which `why` says."""
    from ..journal.sqlite import SQLiteJournal

    if not isinstance(journal, SQLiteJournal):
        raise Misused(f"{without_password(journal.url)} is no SQLite file; {why}")
    return journal


def existing_file(path: Path) -> Path:
    if not path.is_file():
        raise NothingFound(f"There is no file {path}.")
    return path


async def position_of(journal: Journal, place: str | int | datetime) -> int:
    """The position after which a place in the feed begins (see times.place)."""
    if isinstance(place, int):
        return max(0, place - 1)
    if isinstance(place, str):
        return 0 if place == "earliest" else await journal.head()
    return await journal.position_at(us_of(place))


async def in_pages(journal: Journal, numbers: list[int], control: type[Drop | Replay | Retry]) -> int:
    """One control operation per page of numbers, lest a long list hold the write lock; how many rows it changed."""
    changed = 0
    with progress(control.__name__.lower(), len(numbers)) as done:
        for start in range(0, len(numbers), PAGE):
            changed += await journal.control([control(numbers[start : start + PAGE])])
            done(start + PAGE)
    return changed
