"""The services of the supervisor's tests, run by `spine run tests.faults.supervised`. What no product code has is here:
files in FAULTS_FOLDER have a process die, stop inside a commit, or hold up its event loop."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

from eventspine import Delivery, Event, Service
from eventspine.cli import serving
from eventspine.journal import _sqlite_writer

FOLDER = Path(os.environ["FAULTS_FOLDER"])


def asked(name: str) -> bool:
    """Once, by one process."""
    try:
        (FOLDER / name).unlink()
    except FileNotFoundError:
        return False
    return True


if (FOLDER / "broken").exists():
    raise RuntimeError("this module can't be imported")
if asked("broken-once"):
    raise RuntimeError("this module can't be imported just now")


class Counted(Event, context="counter", key="key"):
    key: str
    number: int


counter = Service("counter")
books = Service("books", tables="supervised.sql")


@books.on(Counted)
async def book(event: Counted, delivery: Delivery) -> None:
    if asked("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if asked("block"):
        time.sleep(3600)
    while (FOLDER / "wait").exists():
        (FOLDER / f"waits-{os.getpid()}").touch()
        await asyncio.sleep(0.01)
    delivery.execute(
        "insert into books (key, number, pid) values (:key, :number, :pid)",
        key=event.key,
        number=event.number,
        pid=os.getpid(),
    )


def applied(self: Any, units: Any, now_us: int, *, apply: Any = _sqlite_writer.Applier.apply, **how: bool) -> Any:
    answer = apply(self, units, now_us, **how)
    if any(unit.statements for unit in units) and asked("stop-inside"):
        (FOLDER / "stopped").write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
    return answer


if (FOLDER / "no-lifeline").exists():
    serving.Parent.watch = lambda *_: None  # type: ignore[method-assign]

_sqlite_writer.Applier.apply = applied  # type: ignore[method-assign]
