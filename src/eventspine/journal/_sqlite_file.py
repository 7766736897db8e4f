"""Opening the journal's file: where it may be, how connections are set, and what SQLite's errors mean to us.

Only the interpreter's own `sqlite3` opens the file (R7). Every connection writes with `synchronous=FULL` into a WAL:
NORMAL loses acknowledged commits on power loss.
"""

from __future__ import annotations

import importlib.util
import os
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path

from ..errors import JournalBusy, JournalCorrupt, JournalError, JournalFull, SettingsError
from . import without_password
from ._sqlite_rows import Connection
from .lockfile import Turn

# WAL needs memory shared between processes; these file systems have none, or only pretend.
_NETWORK = frozenset(
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "ncpfs",
        "afs",
        "coda",
        "ceph",
        "glusterfs",
        "fuse.glusterfs",
        "fuse.sshfs",
        "lustre",
        "beegfs",
        "gfs2",
        "ocfs2",
        "davfs",
        "fuse.s3fs",
        "fuse.rclone",
        "fuse.gcsfuse",
    ]
)
SQLITE_OLDEST = (3, 35, 0)  # the first with `returning`
_WRITER_S = 1.0  # for one that was just writing to a file of somebody's, the first time that a journal is opened in it
MOUNTS = Path("/proc/mounts")


def path_of(url: str) -> Path:
    """The file of a sqlite:/// URL: absolute, so that a later change of folder doesn't matter, and without links, so that
    two names of one file share its lock and its bells."""
    text = url.removeprefix("sqlite:///")
    if text == url or not text:
        shown = without_password(url)
        raise SettingsError(
            f"{shown!r} names no SQLite file. Write sqlite:///spine.db for a file in this folder, "
            "or sqlite:////var/lib/shop/spine.db with four slashes for an absolute path.",
            url=shown,
        )
    if "?" in text:  # as SQLAlchemy has them: taken for a name, it would be another file, unnoticed
        shown = without_password(url.partition("?")[0])
        raise SettingsError(
            f"The URL of a journal has no options: leave out the ? and what follows, {shown}", url=shown
        )
    if text.startswith(":memory:"):
        raise SettingsError(
            "A SQLite journal needs a file. In a test, give it one in a temporary folder, such as "
            'f"sqlite:///{tmp_path}/spine.db"; memory:// is for services that use no SQL.',
            url=url,
        )
    try:
        path = Path(os.path.realpath(text))
        path.is_dir()
    except (ValueError, OSError) as error:
        raise SettingsError(f"{url[:100]!r} can't be the name of a file: {error}.", url=url) from error
    return path


def check_kind(path: Path) -> None:
    if path.is_dir():
        raise SettingsError(
            f"{path} is a folder. Name a file in it, such as sqlite:///{path}/spine.db.", path=str(path)
        )
    if path.exists() and not path.is_file():
        raise SettingsError(f"{path} is a device, a pipe or a socket. Name a file.", path=str(path))


def restoring_of(path: Path) -> Path:
    """What a restored file is called until it takes its place."""
    return Path(f"{path}.restoring")


def check_restored(path: Path) -> None:
    """Nobody begins an empty journal where a restore was killed between the old file's leaving and the new one's coming."""
    restoring = restoring_of(path)
    if restoring.exists() and not path.exists():
        raise SettingsError(
            f"A restore is under way, or was interrupted: there is {restoring}, and no {path}. Say `spine restore` with the "
            f"backup again; or, for an empty journal, remove {restoring.name}.",
            path=str(path),
        )


def check_path(path: Path) -> None:
    """Refuse, in clear words, places where SQLite would fail obscurely or lose data."""
    check_version()
    check_kind(path)
    check_restored(path)
    if not path.parent.is_dir():
        raise SettingsError(f"The folder {path.parent} doesn't exist. Create it, then start again.", path=str(path))
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise SettingsError(
            f"This user can't write to the folder {path.parent}, where the journal's -wal, lock and bells go."
        )
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise SettingsError(
            f"This user can't write to {path}. Give the file read and write permission.", path=str(path)
        )
    kind = file_system(path.parent)
    if kind in _NETWORK:
        raise SettingsError(
            f"{path} is on a network file system ({kind}), where SQLite's WAL loses data. Put the file on a local disk, "
            "or use a PostgreSQL journal for services on several hosts.",
            path=str(path),
            file_system=kind,
        )


def file_system(folder: Path) -> str:
    try:
        mounts = MOUNTS.read_text().splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    real = os.path.join(os.path.realpath(folder), "")
    for line in mounts:
        fields = line.split()
        point = os.path.join(fields[1].replace("\\040", " "), "")
        if real.startswith(point) and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind


def check_version() -> None:
    found = sqlite3.sqlite_version_info
    if found < SQLITE_OLDEST:
        raise SettingsError(
            f"This Python carries SQLite {'.'.join(map(str, found))}; {'.'.join(map(str, SQLITE_OLDEST))} or newer is "
            "needed. Use a Python that was built with a newer one.",
        )


def connect(path: Path, *, busy_s: float, readonly: bool = False) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=512,
        timeout=busy_s,
        factory=Connection,
    )
    try:
        # WAL first: it also tells, in words of SQLite, that a file is no database.
        if not readonly:
            _use_wal(connection, path)
            connection.execute("/*spine*/ pragma wal_autocheckpoint=1000").close()
        for setting in ("synchronous=full", "foreign_keys=on", "fullfsync=on", "checkpoint_fullfsync=on"):
            connection.execute(f"/*spine*/ pragma {setting}").close()
        if readonly:
            connection.execute("/*spine*/ pragma query_only=on").close()
    except SettingsError:
        connection.close()
        raise
    except UnicodeDecodeError as error:  # SQLite's own words on a damaged schema, which quote it
        connection.close()
        raise corrupt(path, "its schema can't be read") from error
    except sqlite3.Error as error:
        connection.close()
        if trouble := translate(error, path):
            raise trouble from error
        raise
    return connection


def _use_wal(connection: sqlite3.Connection, path: Path) -> None:
    mode = _wal_of(connection)
    if mode != "wal":
        raise SettingsError(f"SQLite can't keep a WAL for {path} (it offers {mode!r}). Put the file on a local disk.")


def _wal_of(connection: sqlite3.Connection) -> str:
    """SQLite itself does not wait for a writer here, however long its timeout."""
    until = time.monotonic() + _WRITER_S
    while True:
        try:
            return str(connection.execute("/*spine*/ pragma journal_mode=wal").fetchone()[0])
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > until:
                raise
        time.sleep(0.01)


def status(path: Path | str) -> os.stat_result | None:
    """None: there is no such file."""
    try:
        return os.stat(path)
    except OSError:
        return None


def identity(path: Path | str) -> tuple[int, int] | None:
    """Which file has this name now."""
    return identity_of(status(path))


def identity_of(found: os.stat_result | None) -> tuple[int, int] | None:
    return None if found is None else (found.st_dev, found.st_ino)


def size(path: Path) -> int:
    """Of a file that is never opened: closing a descriptor of it would drop SQLite's locks (R7)."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def vanished(path: Path) -> JournalError:
    return JournalError(
        f"{path} was deleted, moved or replaced while it was open. Nothing more is stored: it would be in a file without "
        f"a name. Put the file back where it was (until this process ends, its content is in /proc/{os.getpid()}/fd) or "
        f"restore a copy; then start again."
    )


def log_vanished(path: Path) -> JournalError:
    return JournalError(
        f"{path}-wal was deleted, moved or replaced while it was open; it is a part of the database. Nothing more is "
        f"stored. Start nothing new on this file, and end every process that has it open with SIGTERM, never SIGKILL: "
        f"the last one brings what it still holds of the log (/proc/{os.getpid()}/fd) into {path.name}. Then start again."
    )


def _primary(error: BaseException) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_busy(error: BaseException) -> bool:
    """Also when others were in SQLite's own way for as long as it tries ("locking protocol")."""
    return _primary(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)


def is_io_error(error: BaseException) -> bool:
    return isinstance(error, sqlite3.Error) and _primary(error) == sqlite3.SQLITE_IOERR


def translate(error: BaseException, path: Path, turn: Turn | None = None) -> JournalError | None:
    """The journal's trouble behind an error of SQLite; None when a statement is to blame."""
    if not isinstance(error, sqlite3.Error):
        return None
    code = _primary(error)
    if is_busy(error):
        return busy(path, turn)
    if code == sqlite3.SQLITE_FULL or _met_size_limit(error):
        return JournalFull(f"There is no space left to write {path}. Nothing of this was stored; free some and go on.")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return corrupt(path, error)
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return JournalError(
            f"{path} can't be written ({error}). Check its permissions, its folder and that it still exists."
        )
    if not code and "decode to UTF-8" in str(error):  # by Python, of a text of which bytes have turned
        return corrupt(path, error)
    if code == sqlite3.SQLITE_IOERR:
        return JournalError(f"The disk of {path} failed: {error}. Nothing of this was stored.")
    return None


def corrupt(path: Path, why: object) -> JournalCorrupt:
    return JournalCorrupt(
        f"{path} is damaged or no SQLite database ({why}). Stop what runs on it, keep the file with its -wal, and put a "
        "backup in its place or recover what can be read (how-to/recovery.md); or name another file. SQLite says the same "
        "where the disk could not be read: see what the system says of it (dmesg).",
        path=str(path),
    )


def _met_size_limit(error: sqlite3.Error) -> bool:
    """SQLite calls it an I/O error when a process may not write larger files."""
    if (
        getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_IOERR_WRITE
        or importlib.util.find_spec("resource") is None
    ):
        return False
    import resource

    return resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY


def busy(path: Path, turn: Turn | None, pid: int | None = None) -> JournalBusy:
    """`turn`: of another process, which may wait itself; `pid`: who holds SQLite's lock, where the system tells."""
    whose, way_out = "a connection that is not the spine's", "otherwise end that transaction or that process"
    if pid == os.getpid():
        whose = f"this very process ({pid}), in a transaction on {whose}"
        way_out = "or commit it before; if another thread holds it, end it sooner or publish again"
    elif turn and not turn.waits:
        pid, whose = turn.pid, f"process {turn.pid}, since {utc(turn.since_us)}"
    elif pid:
        whose = f"process {pid}, through {whose}"
    return JournalBusy(
        f"{path} is locked for writing by {whose}. If your own code holds a transaction on this file, publish inside it "
        f"with within=<session or connection>; {way_out}.",
        path=str(path),
        holder=turn,
        pid=pid,
    )


def utc(us: int) -> str:
    """For people."""
    return f"{datetime.fromtimestamp(us // 1_000_000, UTC):%Y-%m-%dT%H:%M:%SZ}"
