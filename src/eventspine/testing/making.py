"""Making a spine under test: its journal, its clock, its seed, and fakes in place of resources."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, nullcontext
from copy import copy
from datetime import datetime
from typing import Any, TypeVar

from ..errors import SettingsError
from ..journal import without_password
from ..journal.memory import MemoryJournal
from ..journal.port import Journal
from ..journal.sqlite import SQLiteJournal
from ..service import Middleware, Service
from .clock import VirtualClock
from .switches import Failures, Switches
from .virtual import HANG_S, SEED, VirtualSpine

T = TypeVar("T")


class _SQLite(SQLiteJournal):
    """Reads on the loop's own thread, so that looking at it takes no waiting."""

    async def _read(self, function: Callable[[Any], T]) -> T:
        return self._here().readers.read(function)


def spine(
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
) -> VirtualSpine:
    """The engine with these services, for `async with`: in memory, or on a SQLite file in a temporary folder as soon as
    one of them has `tables=` (or with `sql=True`, or on the file that `url` names).

    `service`: whom the test publishes for; without it, for any context. `resources`: objects in place of lifespans.
    `failures`: whether `idle` and `advance` raise what handlers raise, or leave it to retries. `seed`: of all chance, of
    which `interleave` is one: channels mixed at random. `start`: the time at the beginning. `hang_s`: after so much real
    time `advance` takes handlers at work for hanging, and lets time pass over them."""
    every = [*services, *([service] if service else [])]
    for one in every:
        if not isinstance(one, Service):
            raise SettingsError(f"testing.spine() takes services, one by one, and {one!r} is none.")
    if failures not in ("raise", "retry"):
        raise SettingsError(f"failures={failures!r} is neither 'raise' nor 'retry'.")
    if start is not None and start.tzinfo is None:
        raise SettingsError(f"start={start.isoformat()} has no time zone; pass an aware datetime, e.g. tzinfo=UTC.")
    chosen = _seed(seed)
    clock = VirtualClock(start, seed=chosen, unique_ids=url is not None)
    stack = AsyncExitStack()
    journal = _journal(url, clock, stack, sql or any(one.tables is not None for one in every))
    return VirtualSpine(
        journal,
        _with_resources(services, resources or {}),
        clock=clock,
        service=service,
        middleware=middleware,
        switches=Switches(failures),
        seed=chosen,
        interleave=interleave,
        hang_s=hang_s,
        stack=stack,
    )


def _seed(given: int | None) -> int:
    if given is not None:
        return given
    text = os.environ.get(SEED)
    if text is None:
        return random.SystemRandom().randrange(1_000_000)
    try:
        return int(text)
    except ValueError:
        raise SettingsError(f"{SEED}={text!r} is not a whole number.") from None


def _journal(url: str | None, clock: VirtualClock, stack: AsyncExitStack, sql: bool) -> Journal:
    if url is not None and "://" in url and not url.startswith(("memory://", "sqlite://")):
        raise SettingsError(
            f"testing.spine() runs on a journal in memory or a SQLite file, sqlite:///{{tmp_path}}/spine.db, and not on "
            f"{without_password(url)!r}: no other stands still with its clock. Services with SQL of another database's are tested with a "
            "Spine on such a one, which `spine servers up postgres` starts."
        )
    if url is not None and not url.startswith("memory://"):
        return _SQLite(url, clock)
    if not sql:
        return MemoryJournal(clock)
    folder = tempfile.TemporaryDirectory(prefix="eventspine-", dir=_quick_folder())
    stack.callback(folder.cleanup)
    return _SQLite(f"sqlite:///{folder.name}/spine.db", clock)


def _quick_folder() -> str | None:
    """In memory, where the system has a file system for that."""
    usable = os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK | os.X_OK)  # noqa: S108 -- private folders in it
    return "/dev/shm" if usable else None  # noqa: S108


def _with_resources(services: Sequence[Service[Any]], resources: Mapping[Service[Any], Any]) -> list[Service[Any]]:
    """Services with these objects in place of what their lifespans would yield; the services themselves stay."""
    one: Any
    for one in resources:
        if not isinstance(one, Service):
            raise SettingsError(
                f"resources= is by service, and {one!r} is none. Write resources={{email: ...}}, the object."
            )
        if one not in services:
            name = one.name
            raise SettingsError(f"resources= names {name!r}, which is not run here. Give it to testing.spine() too.")
    return [_with_resource(one, resources[one]) if one in resources else one for one in services]


def _with_resource(one: Service[Any], given: Any) -> Service[Any]:
    made = copy(one)
    made.lifespan = lambda: nullcontext(given)
    return made
