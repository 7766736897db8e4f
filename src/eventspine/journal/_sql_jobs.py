"""Jobs in the writer's queue, and how each gets its answer: on its event loop, or in the thread that waits.

Answers of one commit reach an event loop in one call, however many units waited there.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol

from .port import Unit, Verdict

if TYPE_CHECKING:
    from ._sqlite_writer import Writer


class Answer(Protocol):
    """Where a job's outcome goes; the loop groups answers of one event loop into one call."""

    loop: asyncio.AbstractEventLoop | None

    def give(self, value: Any, error: BaseException | None) -> None: ...


Given = tuple[Answer, Any, BaseException | None]


class LoopAnswer:
    __slots__ = ("future", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: asyncio.AbstractEventLoop | None = loop
        self.future: asyncio.Future[Any] = loop.create_future()

    def give(self, value: Any, error: BaseException | None) -> None:
        if self.future.done():
            return  # cancelled meanwhile; what was committed stays committed
        if error is None:
            self.future.set_result(value)
        else:
            self.future.set_exception(error)


class ThreadAnswer:
    __slots__ = ("future", "loop")

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.future: Future[Any] = Future()

    def give(self, value: Any, error: BaseException | None) -> None:
        if error is None:
            self.future.set_result(value)
        else:
            self.future.set_exception(error)


@dataclass(slots=True)
class Units:
    units: Sequence[Unit]
    answer: Answer
    weight: int = 0

    def refuse(self, error: Exception) -> None:
        give(self.answer, [Verdict("failed", error=error) for _ in self.units], None)


@dataclass(slots=True)
class Call:
    """A function to run in a transaction of its own. It gives its result, and whether to ring."""

    function: Callable[[sqlite3.Cursor], tuple[Any, bool]]
    answer: Answer

    def refuse(self, error: Exception) -> None:
        give(self.answer, None, error)


class Conversation(Protocol):
    """A transaction that somebody holds open (see _sqlite_interactive)."""

    answer: Answer

    def hold(self, writer: Writer) -> bool: ...
    def refuse(self, error: Exception) -> None: ...


Job = Units | Call | Conversation


def give(answer: Answer, value: Any, error: BaseException | None) -> None:
    if answer.loop is None:
        answer.give(value, error)
    else:
        _give_all(answer.loop, [(answer, value, error)])


def _give_all(loop: asyncio.AbstractEventLoop, answers: list[Given]) -> None:
    def give_each() -> None:
        for answer, value, error in answers:
            answer.give(value, error)

    with contextlib.suppress(RuntimeError):  # the loop was closed; nobody waits any more
        loop.call_soon_threadsafe(give_each)


def weigh(units: Sequence[Unit]) -> int:
    weight = 0
    for unit in units:
        for append in unit.appends:
            weight += 200 * len(append.records) + sum(map(len, map(_data, append.records)))
        for note in unit.notes:
            weight += len(note.value or b"")
    return weight


_data = itemgetter(14)


def deliver(answers: list[Given]) -> None:
    loops: dict[asyncio.AbstractEventLoop, list[Given]] = {}
    for answer, value, error in answers:
        if answer.loop is None:
            answer.give(value, error)
        else:
            loops.setdefault(answer.loop, []).append((answer, value, error))
    for loop, some in loops.items():
        _give_all(loop, some)
