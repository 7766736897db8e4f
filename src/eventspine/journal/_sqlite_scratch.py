"""A scratch journal: chosen history of a journal in a file of its own, for services to run on beside nobody.

    snapshot held ── positions chosen ── streams made whole ── events copied ── synced ── named
                                        into TARGET.part-<pid>                           TARGET

Events keep id, position, times and cause, so that a handler sees what it saw. Subscriptions come along with their
identity, from which the ids of what handlers publish derive: what is handled again publishes what is there already,
and nothing stands there twice. They begin anew, before the first chosen event. A stream of which an event was chosen is
there from its first version on: an aggregate is nothing without its past.

The target has its name only once the copy is whole and on the disk. Whoever is killed on the way leaves a `.part-` file, which
the next copy to that target removes; whoever is interrupted leaves nothing.

What else the file holds stays behind: services' own tables, views, deliveries, timers, snapshots, leases. The tables are
as of now, the events as of then; services make theirs anew. The copy is another journal by its identity, and has a note
that says what it is: who opens it carries nothing to or from a broker."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ..clock import SystemClock
from ..errors import JournalError, JournalFull, SettingsError
from . import _sql_read as read, _sqlite_file as file, forks, migrations
from ._sqlite_backup import _name, _new, _sync, check_target, look, remove_leftovers
from ._stopping import Stop, Stopped
from .notes import SCRATCH
from .port import OWN_FEED
from .registry import partitions_of

PAGE = 500  # events, or as many as come to PAGE_BYTES_MAX
POSITIONS = 10_000  # numbers that are read at once
_OF_ANY_CONTEXT = "(type = ? or substr(type, length(type) - ?) = ?)"
_COLUMNS = "number, uid, service, name, channels, types, ordering, on_dead, republish, created_us"


class Chosen(NamedTuple):
    """Which events: after one position up to another, and of these kinds. What is empty chooses all."""

    after: int
    upto: int
    keys: Sequence[str] = ()
    types: Sequence[str] = ()  # orders.OrderPlaced, or OrderPlaced of any context
    channels: Sequence[str] = ()
    correlation: str | None = None
    id: bytes = b""  # of the event that this correlation began with


class Scratch(NamedTuple):
    path: str
    events: int
    first: int  # position
    last: int
    streams: int
    earlier: int  # events of these streams that were not chosen, and came along


class History(Protocol):
    """A journal as of one moment, for as long as it is held."""

    def execute(self, sql: str, values: Sequence[Any] = ..., /) -> Any:
        """Rows, in SQL that both databases have."""
        ...

    def interrupt(self) -> None:
        """In another thread: what runs just now ends with an error."""
        ...


class Source(Protocol):
    """A journal whose history can be taken."""

    id: str

    def history(self) -> AbstractContextManager[History]: ...


def copy_history(source: Source, target: Path, chosen: Chosen, stop: Stop) -> Scratch | None:
    """None, and no file, when nothing fits."""
    if os.path.lexists(target):
        raise SettingsError(f"{target} exists, and was left alone. Name another file for the scratch journal.")
    file_of_source: Path | None = getattr(source, "path", None)
    target = check_target(file_of_source or Path(os.devnull), target, force=False)
    part = Path(f"{target}.part-{os.getpid()}")
    try:
        remove_leftovers(target)
        mode = 0o600 if file_of_source is None else os.stat(file_of_source).st_mode & 0o777
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
        with forks.inside_sqlite():
            made = _copy(source, part, chosen, stop)
        if made is None:
            return None
        _sync(part, os.O_RDWR)
        stop.look()
        _name(part, target, force=False)
    except (sqlite3.Error, JournalError) as error:
        if stop.is_set():
            raise Stopped from error
        if isinstance(error, JournalError):
            raise
        # Nothing is written but the part.
        told = file.translate(error, target if file_of_source is None or _is_full(error) else file_of_source)
        raise told or JournalError(f"History can't be copied: {error}. Nothing is at {target}.") from error
    except OSError as error:
        raise JournalError(f"{target} can't be written: {error.strerror}. There is no scratch journal.") from error
    finally:
        part.unlink(missing_ok=True)
    return made._replace(path=str(target))


def _is_full(error: sqlite3.Error) -> bool:
    return isinstance(file.translate(error, Path()), JournalFull)


@contextmanager
def held(path: Path, busy_s: float) -> Iterator[sqlite3.Connection]:
    """The history of a file."""
    with closing(file.connect(path, busy_s=busy_s, readonly=True)) as history:
        history.execute("/*spine*/ begin").close()
        try:
            yield history
        finally:
            history.execute("/*spine*/ rollback").close()


class _Stoppable:
    """The same history, until nobody waits for it any more."""

    def __init__(self, history: History, stop: Stop) -> None:
        self._history, self._stop = history, stop
        stop.interrupt = history.interrupt

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        look(self._stop)
        with closing(self._history.execute(sql, values)) as found:
            rows: list[Any] = found.fetchall()
        return rows


def _copy(source: Source, part: Path, chosen: Chosen, stop: Stop) -> Scratch | None:
    with source.history() as held_now, closing(_new(part)) as scratch:
        history = _Stoppable(held_now, stop)
        scratch.execute("begin immediate").close()
        migrations.prepare(scratch, SystemClock().now_us())
        scratch.execute("create temp table wanted (position integer primary key)").close()
        events = _choose(history, scratch, chosen)
        if not events:
            return None
        streams = _complete_streams(history, scratch, chosen.upto)
        first, last, count = _copy_events(history, scratch)
        _copy_subscriptions(history, scratch, chosen.after)
        _say_what_it_is(scratch, source.id, chosen)
        scratch.execute("commit").close()
    return Scratch("", count, first, last, streams, count - events)


def _choose(history: _Stoppable, scratch: sqlite3.Connection, chosen: Chosen) -> int:
    filters, values = _filters(chosen)
    where = " and ".join(["position > ? and position <= ?", *filters])
    sql = f"/*spine*/ select position from spine_events where {where} order by position limit ?"
    after = chosen.after
    while found := history.rows(sql, (after, chosen.upto, *values, POSITIONS)):
        scratch.executemany("insert into wanted values (?)", found).close()
        after = found[-1][0]
    return int(scratch.execute("select count(*) from wanted").fetchone()[0])


def _filters(chosen: Chosen) -> tuple[list[str], list[Any]]:
    where: list[str] = []
    values: list[Any] = []
    for column, some in (("key", chosen.keys), ("channel", chosen.channels)):
        if some:
            where.append(f"{column} in (select value from json_each(?))")
            values.append(json.dumps(some))
    if chosen.types:
        where.append(f"({' or '.join('type = ?' if '.' in name else _OF_ANY_CONTEXT for name in chosen.types)})")
        for name in chosen.types:
            values += [name] if "." in name else [name, len(name), f".{name}"]
    if chosen.correlation is not None:
        where.append("(correlation = ? or id = ?)")
        values += [chosen.correlation, chosen.id]
    return where, values


def _complete_streams(history: _Stoppable, scratch: sqlite3.Connection, upto: int) -> int:
    """How many there are."""
    count = 0
    for number, versions in _streams(history, upto):
        positions = json.dumps([position for _, position in versions])
        among = "select 1 from wanted where position in (select value from json_each(?)) limit 1"
        if scratch.execute(among, (positions,)).fetchone() is None:
            continue
        count += 1
        names = "/*spine*/ select service, name from spine_streams where number = ?"
        ((service, name),) = history.rows(names, (number,))
        scratch.execute("insert or ignore into wanted select value from json_each(?)", (positions,)).close()
        scratch.execute("insert into spine_streams values (?,?,?,?)", (number, service, name, versions[-1][0])).close()
        scratch.executemany(
            "insert into spine_stream_events values (?,?,?)", ((number, *version) for version in versions)
        ).close()
    return count


def _streams(history: _Stoppable, upto: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Each with its versions and their positions, one stream in memory at a time."""
    number, versions, after = 0, list[tuple[int, int]](), (0, 0)
    query = (
        "/*spine*/ select stream, version, position from spine_stream_events where position <= ? and (stream, version) > (?, ?)"
        " order by stream, version limit ?"
    )
    while rows := history.rows(query, (upto, *after, POSITIONS)):
        for stream, version, position in rows:
            if stream != number:
                if versions:
                    yield number, versions
                number, versions = stream, []
            versions.append((version, position))
        after = (stream, version)
    if versions:
        yield number, versions


def _copy_events(history: _Stoppable, scratch: sqlite3.Connection) -> tuple[int, int, int]:
    """The first position, the last one, and how many."""
    some = f"/*spine*/ select {read.RECORD} from spine_events where position in (select value from json_each(?))"
    first, after, count = 0, 0, 0
    marks = ",".join("?" * len(read.RECORD.split(",")))
    page = "select position from wanted where position > ? order by position limit ?"
    while positions := [row[0] for row in scratch.execute(page, (after, PAGE)).fetchall()]:
        positions = _fitting(history, positions)
        rows = history.rows(f"{some} order by position", (json.dumps(positions),))
        scratch.executemany(f"insert into spine_events ({read.RECORD}) values ({marks})", rows).close()
        first, after, count = first or positions[0], positions[-1], count + len(rows)
    return first, after, count


def _fitting(history: _Stoppable, positions: list[int]) -> list[int]:
    """As many of them as memory should hold at once, the first in any case."""
    query = (
        "/*spine*/ select position, length(data) + coalesce(length(meta), 0) from spine_events"
        " where position in (select value from json_each(?)) order by position"
    )
    sizes = history.rows(query, (json.dumps(positions),))
    for (position, _), upto in zip(sizes[1:], accumulate(size for _, size in sizes), strict=False):
        if upto >= read.PAGE_BYTES_MAX:
            return [each for each in positions if each < position]
    return positions


def _copy_subscriptions(history: _Stoppable, scratch: sqlite3.Connection, after: int) -> None:
    """Without those of relays and intakes (a colon is in their services' names): they have a broker to do with."""
    query = f"/*spine*/ select {_COLUMNS} from spine_subscriptions where state <> 'retired' and service not like '%:%'"
    for row in history.rows(query):
        scratch.execute(
            f"insert into spine_subscriptions ({_COLUMNS}, state, generation) values (?,?,?,?,?,?,?,?,?,?,'active',1)",
            row,
        ).close()
        scratch.executemany(
            "insert into spine_cursors (subscription, feed, partition, position) values (?,?,?,?)",
            [(row[0], OWN_FEED, partition, after) for partition in partitions_of(row[6])],
        ).close()


def _say_what_it_is(scratch: sqlite3.Connection, origin: str, chosen: Chosen) -> None:
    said = json.dumps({"journal": origin, "after": chosen.after, "upto": chosen.upto}).encode()
    scratch.execute(
        "insert into spine_notes (service, kind, key, version, value) values ('', ?, 'of', 1, ?)", (SCRATCH, said)
    ).close()
