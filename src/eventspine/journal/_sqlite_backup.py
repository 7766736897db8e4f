"""A copy of a live file, as of one moment.

    snapshot held ── pages copied ── snapshot let go ── copy verified ── synced ── named
                 into TARGET.part-<pid>                                         TARGET

A read snapshot is all that is held, so nobody waits; the log can't be cut shorter meanwhile, and grows by what is
written during the copying. The target has its name only once the copy is whole, verified and on the disk: whoever is
killed on the way leaves a `.part-` file, which the next backup to that target removes.

The journal itself is only read through SQLite (R7). The copy may be opened to be synced: nobody else knows of it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..errors import JournalCorrupt, JournalError, SettingsError
from . import _sqlite_file as file, forks
from ._sqlite_seal import seal
from ._stopping import Stop, Stopped
from .port import Backup

PAGES = 1_000  # copied in one step
CHECK_EVERY = 100_000  # steps of SQLite's machine between two looks at whether to stop, while the copy is verified
_POSITION = "/*spine*/ select coalesce(max(position), 0), max(recorded_us), count(*) from spine_events"

Progress = Callable[[str, float], None] | None


class _Held(NamedTuple):
    """What a snapshot holds."""

    position: int
    recorded_us: int | None
    events: int


def back_up(source: Path, target: Path, busy_s: float, force: bool, progress: Progress, stop: Stop) -> Backup:
    try:
        target = check_target(source, target, force)
        remove_leftovers(target)
    except OSError as error:
        raise SettingsError(f"No backup can be put at {target}: {error.strerror}. Name another file.") from error
    part = Path(f"{target}.part-{os.getpid()}")
    try:
        with forks.inside_sqlite():
            held = _copy(source, part, busy_s, progress, stop)
            _verify(part, held, progress, stop)
        _sync(part, os.O_RDWR)
        stop.look()
        _name(part, target, force)
    except sqlite3.Error as error:
        if stop.is_set():
            raise Stopped from error
        raise _explain(error, source, target) from error
    except OSError as error:
        raise JournalError(f"{target} can't be written: {error.strerror}. No backup was made.") from error
    finally:
        part.unlink(missing_ok=True)
    return Backup(str(target), file.size(target), *held)


# --- the target -------------------------------------------------------------------------------------------------------


def check_target(source: Path, target: Path, force: bool) -> Path:
    """Where it is, without links; raises SettingsError where no copy should go."""
    target = Path(os.path.realpath(target))
    file.check_kind(target)
    if not target.parent.is_dir():
        raise SettingsError(f"The folder {target.parent} doesn't exist. Create it, then try again.")
    if target in (source, *(Path(f"{source}{end}") for end in ("-wal", "-shm", "-lock"))) or _same(source, target):
        raise SettingsError(f"{target} is the journal itself. Name another file.")
    if target.exists() and not force:
        raise SettingsError(f"{target} exists. Name another file, or replace it: force=True.", exists=str(target))
    for end in ("-wal", "-shm", "-journal"):
        if os.path.exists(f"{target}{end}"):
            # SQLite would take an old log for a part of the new file.
            raise SettingsError(
                f"There is {target}{end}: a program has {target.name} open, or was killed with it. Name another file; or "
                "end that program, and remove what is left of its files."
            )
    return target


def _same(one: Path, other: Path) -> bool:
    return other.exists() and os.path.samestat(os.stat(one), os.stat(other))


def remove_leftovers(target: Path) -> None:
    for left in target.parent.glob(f"{_escaped(target.name)}.part-*"):
        pid = left.name.rpartition("-")[2]
        if pid.isdigit() and not _lives(int(pid)):
            left.unlink(missing_ok=True)


def _escaped(name: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # somebody else's
    return pid != os.getpid()  # of this process, it is from one that had its pid before


# --- copying ----------------------------------------------------------------------------------------------------------


def _copy(source: Path, part: Path, busy_s: float, progress: Progress, stop: Stop) -> _Held:
    def step(_: int, left: int, pages: int) -> None:
        look(stop)
        if progress:
            progress("copying", 1 - left / max(1, pages))

    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, os.stat(source).st_mode & 0o777))
    with closing(file.connect(source, busy_s=busy_s, readonly=True)) as origin, closing(_new(part)) as copy:
        origin.execute("/*spine*/ begin").close()
        held = _Held(*origin.execute(_POSITION).fetchone())  # from here on the snapshot stands still
        origin.backup(copy, pages=PAGES, progress=step)
        origin.execute("/*spine*/ rollback").close()
        _raise_incarnation(copy)
        seal(copy, partial(look, stop))
    return held


def _raise_incarnation(copy: sqlite3.Connection) -> None:
    """Once it is put in place it numbers anew what it sends to a broker, as somebody else: under the numbers of the one that
    it was copied from others have events already, and would drop those of the copy as known (R15)."""
    copy.execute(
        "/*spine*/ update spine_meta set value = max(value + 1, cast(? as integer)) where name = 'incarnation'",
        (time.time_ns() // 1_000_000,),
    ).close()


def _new(part: Path) -> sqlite3.Connection:
    """Nobody needs a log of how a file came to be that has no name yet."""
    copy = sqlite3.connect(part, isolation_level=None, check_same_thread=False)
    copy.execute("pragma journal_mode=off").close()
    copy.execute("pragma synchronous=off").close()
    return copy


def look(stop: Stop) -> None:
    _let_fork()
    stop.look()


def _let_fork() -> None:
    """Now and then: nobody should have to wait for all of it. SQLite holds none of its process's mutexes here."""
    forks.leave()
    forks.enter()


# --- verifying --------------------------------------------------------------------------------------------------------


def _verify(part: Path, held: _Held, progress: Progress, stop: Stop) -> None:
    def stops() -> bool:
        _let_fork()
        return stop.is_set()

    if progress:
        progress("verifying", 0.0)
    with _read_only(part) as copy:
        copy.set_progress_handler(stops, CHECK_EVERY)
        found = [row[0] for row in copy.execute("pragma integrity_check(3)").fetchall()]
        if found != ["ok"]:
            raise JournalCorrupt(
                f"The copy is damaged, so the journal is: {'; '.join(found)}. No backup was made. Keep the ones that you "
                "have, and see `spine doctor`."
            )
        there = _Held(*copy.execute(_POSITION).fetchone())
    if there != held:
        raise JournalError(f"The copy holds {there}, and the journal held {held}. No backup was made; try again.")


@contextlib.contextmanager
def _read_only(part: Path) -> Iterator[sqlite3.Connection]:
    """Without a log or an index of one coming to be beside it."""
    with closing(sqlite3.connect(f"{part.as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)) as copy:
        yield copy


# --- naming -----------------------------------------------------------------------------------------------------------


def _name(part: Path, target: Path, force: bool) -> None:
    if force:
        os.replace(part, target)
    else:
        _link(part, target)
    with contextlib.suppress(OSError):  # a folder can't be synced everywhere
        _sync(target.parent, os.O_RDONLY)


def _link(part: Path, target: Path) -> None:
    """A name that somebody has taken meanwhile stays theirs."""
    try:
        os.link(part, target)
    except FileExistsError:
        raise SettingsError(f"{target} has come to be meanwhile, and was left alone. Name another file.") from None
    except OSError:  # a file system without links
        os.rename(part, target)


def _sync(path: Path, mode: int) -> None:
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain(error: sqlite3.Error, source: Path, target: Path) -> Exception:
    code = getattr(error, "sqlite_errorcode", 0)
    wrote = code & 0xFF == sqlite3.SQLITE_FULL or code in (sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC)
    told = file.translate(error, target if wrote else source)
    return told or JournalError(f"The backup failed: {error}. Nothing is at {target}.")
