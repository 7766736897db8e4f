"""Whether a backup is whole and what it lacks; and putting it in place.

A backup is sealed when it is made: a digest of all its events is stored in it. So a letter that became another inside an
event's data, which SQLite's own check can't see, is found before the backup takes anybody's place.

    the backup verified ── copied to TARGET.restoring, another incarnation, verified, synced ── the old file moved aside ── named

Nothing of TARGET is touched before its successor is whole. Whoever is killed before the last step has the old file under
its new name, and the copy as TARGET.restoring; until it is restored again, no start begins an empty journal there."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ..errors import JournalCorrupt, SettingsError
from . import _sql_read as read, _sqlite_file as file, forks
from ._sqlite_aside import move_aside
from ._sqlite_backup import Progress, _sync, back_up, check_target
from ._sqlite_check import check
from ._sqlite_seal import SEAL, Seal, digest
from ._stopping import Stop
from .lockfile import alone
from .notes import SCRATCH

PAGE = 2_000
ENDED = "spine.StreamEnded"  # of state/ended.py, which a journal knows nothing of
_OVER = (
    "/*spine*/ select s.service, s.name from spine_streams s join spine_stream_events v on v.stream = s.number and"
    " v.version = s.version join spine_events e on e.position = v.position where e.type = ?"
)


class Verified(NamedTuple):
    path: str
    bytes: int
    id: str
    position: int
    recorded_us: int | None
    events: int
    streams: int
    subscriptions: int
    deliveries: int
    scratch: bool  # made by `spine replay`: chosen history, and nobody's backup
    seal: str  # "holds"; "broken"; "none": `spine backup` seals, a plain copy has none; "written since" it was sealed
    damaged: tuple[str, ...]


class Newer(NamedTuple):
    """What the journal in place has and the backup lacks."""

    events: int  # from where the two differ, else from beyond the backup's last
    first_us: int | None  # when the first of them was recorded
    last_us: int | None
    differs_at: int | None  # the first position at which the two hold different events
    same: bool  # whether it is one journal, by its identity
    deleted: tuple[tuple[str, str], ...]  # streams, by service and name, that are over there, and not in the backup


def verify(path: Path, *, busy_s: float = 30.0, progress: Progress = None) -> Verified:
    if not path.is_file():
        raise SettingsError(f"There is no file {path}.")
    if progress:
        progress("verifying", 0.0)
    with forks.inside_sqlite(), closing(_open(path, busy_s)) as connection:
        cursor = connection.cursor()
        if not _is_journal(cursor):
            raise SettingsError(f"{path} is a database, and no journal: it has no spine_events.")
        damaged = check(cursor)
        try:
            return _verified(path, cursor, tuple(damaged))
        except (sqlite3.Error, msgspec.MsgspecError, ValueError, TypeError) as error:
            damaged = damaged or [f"it can't be read: {error}"]
            return Verified(str(path), file.size(path), "", 0, None, 0, 0, 0, 0, False, "broken", tuple(damaged))


def _open(backup: Path, busy_s: float) -> sqlite3.Connection:
    """A file that nobody has open is read as it lies there: nothing comes to be beside it, and the disk may be read-only."""
    if Path(f"{backup}-wal").exists():
        return file.connect(backup, busy_s=busy_s, readonly=True)
    uri = f"{backup.resolve().as_uri()}?mode=ro&immutable=1"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)


def _is_journal(cursor: sqlite3.Cursor) -> bool:
    try:
        query = "/*spine*/ select count(*) from sqlite_master where name in ('spine_meta', 'spine_events')"
        return bool(cursor.execute(query).fetchone()[0] == 2)
    except sqlite3.Error as error:
        raise JournalCorrupt(f"It is damaged or no SQLite database: {error}. Take another backup.") from error


def _verified(path: Path, cursor: sqlite3.Cursor, damaged: tuple[str, ...]) -> Verified:
    def count(what: str) -> int:
        return int(cursor.execute(f"/*spine*/ select count(*) from {what}").fetchone()[0])

    meta: dict[str, str] = dict(cursor.execute("/*spine*/ select name, value from spine_meta").fetchall())
    recorded = cursor.execute("/*spine*/ select max(recorded_us) from spine_events").fetchone()[0]
    return Verified(
        str(path), file.size(path), meta["id"], read.head(cursor), recorded, count("spine_events"), count("spine_streams"),
        count("spine_subscriptions where state <> 'retired'"), count("spine_deliveries where state <> 'settled'"),
        count(f"spine_notes where kind = '{SCRATCH}'") > 0, _seal_of(cursor, meta.get(SEAL)), damaged,
    )  # fmt: skip


def _seal_of(cursor: sqlite3.Cursor, stored: str | None) -> str:
    if stored is None:
        return "none"
    seal = Seal(*json.loads(stored))
    if read.head(cursor) != seal.position:
        return "written since"
    return "holds" if digest(cursor) == (seal.digest, seal.events) else "broken"


# --- what is newer elsewhere ------------------------------------------------------------------------------------------


def newer(backup: Path, place: Path, *, busy_s: float = 30.0) -> Newer:
    """Read side by side, a page in memory: positions and ids alone."""
    with (
        forks.inside_sqlite(),
        closing(_open(backup, busy_s)) as one,
        closing(file.connect(place, busy_s=busy_s, readonly=True)) as other,
    ):
        differs_at = _differ(one, other)
        beyond = read.head(one.cursor()) + 1
        query = "/*spine*/ select count(*), min(recorded_us), max(recorded_us) from spine_events where position >= ?"
        count, first, last = other.execute(query, (beyond if differs_at is None else differs_at,)).fetchone()
        return Newer(count, first, last, differs_at, _id(one) == _id(other), tuple(_deleted_since(one, other)))


def _deleted_since(one: sqlite3.Connection, other: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    there = "/*spine*/ select count(*) from spine_streams where service = ? and name = ? and version > 0"
    over = f"{_OVER} order by s.service, s.name"
    for service, name in other.execute(over, (ENDED,)).fetchall():
        known = one.execute(there, (service, name)).fetchone()[0]
        if known and not one.execute(f"{_OVER} and s.service = ? and s.name = ?", (ENDED, service, name)).fetchall():
            yield service, name


def _id(connection: sqlite3.Connection) -> Any:
    return connection.execute("/*spine*/ select value from spine_meta where name = 'id'").fetchone()[0]


def _differ(one: sqlite3.Connection, other: sqlite3.Connection) -> int | None:
    """Positions that only one of them has are no difference: retention may have been there."""
    ours, theirs = _ids(one), _ids(other)
    mine, yours = next(ours, None), next(theirs, None)
    while mine is not None and yours is not None:
        if mine[0] == yours[0]:
            if mine[1] != yours[1]:
                return mine[0]
            mine, yours = next(ours, None), next(theirs, None)
        elif mine[0] < yours[0]:
            mine = next(ours, None)
        else:
            yours = next(theirs, None)
    return None


def _ids(connection: sqlite3.Connection) -> Iterator[tuple[int, bytes]]:
    with closing(connection.execute("/*spine*/ select position, id from spine_events order by position")) as rows:
        while page := rows.fetchmany(PAGE):
            yield from page


# --- putting it in place ----------------------------------------------------------------------------------------------


def put_in_place(
    backup: Path, place: Path, aside: Path | None, *, busy_s: float = 30.0, progress: Progress = None
) -> None:
    """`aside`: what the file that is there is called from now on; None: there is none. The journal must not be open here."""
    with alone(
        Path(f"{file.restoring_of(place)}.lock"),
        f"Another restore of {place} is at work. Nothing was changed; wait for its end, and look whether this one is still needed.",
    ):
        _put_in_place(backup, place, aside, busy_s, progress)


def _put_in_place(backup: Path, place: Path, aside: Path | None, busy_s: float, progress: Progress) -> None:
    restoring = file.restoring_of(place)
    if aside is None:
        check_target(backup, place, force=False)
    back_up(backup, restoring, busy_s, True, progress, Stop())
    try:
        if aside is not None:
            move_aside(place, aside)
        check_target(backup, place, force=False)  # an old log that was left beside it would be taken for a part of it
        restoring.rename(place)
    finally:
        if aside is None or place.exists():  # else it stays: nobody is to begin an empty journal
            restoring.unlink(missing_ok=True)
    with suppress(OSError):  # a folder can't be synced everywhere
        _sync(place.parent, 0)
