"""The doorbell: how other processes on the same journal learn at once that there may be more to read.

Each process that watches has a datagram socket in a folder beside the file. Whoever has committed something of
interest sends a byte to all the others. A bell is only a hint: it may be lost (a full queue, a process that just came),
and a commit on a caller's own connection rings none. So one thread per journal, the lookout, also looks at SQLite's
`data_version` every 250 ms; where there are no such sockets (Windows) it looks every 50 ms instead.

The folder is there while bells hang in it. Who takes the last one down removes it, and bells of killed processes with
it; whoever hangs one at that moment finds it gone and makes it again:

    mkdir ── bind ── done                          unlink own bell ── rmdir ── done
               └── no such folder ──► mkdir                             └── not empty ──► somebody else's turn
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import selectors
import socket
import sqlite3
import stat
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from ..errors import JournalError
from . import _sqlite_file as file
from .forks import inside_sqlite
from .watching import Watchers

HAS_SOCKETS = hasattr(socket, "AF_UNIX") and hasattr(os, "pwrite")
LOOK_EVERY_S = 0.25 if HAS_SOCKETS else 0.05
_HANG_TRIES = 20  # against others that leave at the same moment
_PATH_BYTES_MAX = 100  # of a socket's address: 108 on Linux, 104 on macOS


def bells_of(path: Path) -> Path:
    """The folder of the journal's bells."""
    beside = Path(f"{path}-bells")
    if len(os.fsencode(beside)) + 30 <= _PATH_BYTES_MAX:
        return beside
    # Too long for a socket's address: a folder that every process finds by the file's name.
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:20]
    return Path(tempfile.gettempdir()) / f"spine-bells-{os.getuid()}-{digest}"


class Bells:
    """The bells of all other processes."""

    def __init__(self, path: Path) -> None:
        self.folder = bells_of(path)
        self._folder = str(self.folder)
        self.own = ""
        self._socket: socket.socket | None = None
        self._names: list[str] = []
        self._listed_at = (0, 0)  # the folder's mtime, and when it was listed

    def ring(self) -> None:
        """Ring all others; never waits, never fails."""
        if not HAS_SOCKETS:
            return
        names = self._others()
        if not names:
            return
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        for name in names:
            self._ring_one(self._socket, name)

    def _ring_one(self, sender: socket.socket, name: str) -> None:
        address = str(self.folder / name)
        try:
            sender.sendto(b".", address)
        except (ConnectionRefusedError, FileNotFoundError):
            # Its process is gone and can't take the bell down any more.
            self._listed_at = (0, 0)
            with contextlib.suppress(OSError):
                os.unlink(address)
        except OSError:
            pass  # its queue is full: it has been rung already

    def _others(self) -> list[str]:
        try:
            changed_ns = os.stat(self._folder).st_mtime_ns
        except OSError:
            return []
        # A folder that changed within the clock's grain of its listing may have changed since: list it again.
        if self._listed_at[0] != changed_ns or self._listed_at[1] - changed_ns < 50_000_000:
            with contextlib.suppress(OSError):
                self._names = [name for name in os.listdir(self.folder) if name.endswith(".bell")]
            self._listed_at = (changed_ns, time.time_ns())
        return [name for name in self._names if name != self.own]

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def take_down(self) -> None:
        """Our own bell, and the folder if it was the last: those of processes that were killed don't count."""
        with contextlib.suppress(OSError):
            os.unlink(self.folder / self.own)
        self.own = ""
        self._listed_at = (0, 0)
        self.ring()
        with contextlib.suppress(OSError):
            os.rmdir(self.folder)


class Lookout:
    """One thread that hears the bell, looks at the file now and then, and tells the watchers on their own loops."""

    def __init__(
        self,
        path: Path,
        bells: Bells,
        *,
        busy_s: float,
        look: Callable[[], None],
        others_wrote: Callable[[], None] = lambda: None,
    ) -> None:
        """`others_wrote` is called before the watchers are told of it."""
        self._path, self._bells, self._busy_s, self._look = path, bells, busy_s, look
        self._others_wrote = others_wrote
        self._watchers = Watchers()
        self._lock = threading.Lock()
        self._bell: socket.socket | None = None
        self._ears, self._mouth = socket.socketpair()
        self._ears.setblocking(False)
        self._mouth.setblocking(False)
        self._ended = False
        self._thread = threading.Thread(target=self._listen, name=f"spine lookout {path.name}", daemon=True)
        self._thread.start()

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        stop = self._watchers.watch(changed)
        with self._lock:
            if self._bell is None and HAS_SOCKETS:
                self._bell = self._hang()
        self._nudge()
        return stop

    def tell(self) -> None:
        self._watchers.tell()

    def close(self) -> None:
        self._ended = True
        self._nudge()
        self._thread.join()
        self._ears.close()
        self._mouth.close()
        if self._bell is not None:
            self._bell.close()
            self._bells.take_down()

    # --- on the lookout's thread ------------------------------------------------------------------------------------

    def _listen(self) -> None:
        version = -1
        with selectors.DefaultSelector() as selector, _Version(self._path, self._busy_s) as data_version:
            selector.register(self._ears, selectors.EVENT_READ)
            while not self._ended:
                rung = self._hear(selector)
                self._look()
                if not self._watchers:
                    continue
                seen = data_version.now()
                if rung or seen != version:
                    version = seen
                    self._others_wrote()
                    self.tell()

    def _hear(self, selector: selectors.BaseSelector) -> bool:
        if self._bell is not None and self._bell not in selector.get_map():
            selector.register(self._bell, selectors.EVENT_READ)
        ready = [key.fileobj for key, _ in selector.select(LOOK_EVERY_S)]
        for ear in ready:
            assert isinstance(ear, socket.socket)
            _drain(ear)
        return self._bell in ready

    def _nudge(self) -> None:
        with contextlib.suppress(OSError):
            self._mouth.send(b".")

    def _hang(self) -> socket.socket | None:
        """Hang up our own bell; without one, looking now and then has to do."""
        bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            own = f"{os.getpid()}-{os.urandom(4).hex()}.bell"
            _bind(bell, self._bells.folder, own)
            bell.setblocking(False)
            self._bells.own = own
        except OSError:
            bell.close()
            return None
        return bell


def _bind(bell: socket.socket, folder: Path, own: str) -> None:
    """In the folder, which another process may remove at any moment until something hangs in it. Under its own name only
    when it can be rung: whoever finds a bell that can't takes it for a dead process's and removes it."""
    hanging = folder / f"{own}.new"
    for tries_left in reversed(range(_HANG_TRIES)):
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            _check_owner(folder)
            bell.bind(str(hanging))
            break
        except (FileNotFoundError, FileExistsError):  # the second: removed between mkdir's two looks
            if not tries_left:
                raise
    os.rename(hanging, folder / own)


def _check_owner(folder: Path) -> None:
    """In a folder for all to write, somebody else could have put theirs in this one's place."""
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or (
        found.st_uid != os.getuid() and folder.parent == Path(tempfile.gettempdir())
    ):
        raise PermissionError(folder)


class _Version:
    """A number that SQLite changes with every commit of another connection."""

    def __init__(self, path: Path, busy_s: float) -> None:
        self._path, self._busy_s = path, busy_s
        self._connection: sqlite3.Connection | None = None
        self._last = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            with inside_sqlite():
                self._connection.close()

    def now(self) -> int:
        try:
            with inside_sqlite():
                if self._connection is None:
                    self._connection = file.connect(self._path, busy_s=self._busy_s, readonly=True)
                self._last = int(self._connection.execute("/*spine*/ pragma data_version").fetchone()[0])
        except (sqlite3.Error, JournalError):
            pass  # in trouble for a moment; whoever reads or writes will say so
        return self._last


def _drain(ear: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while ear.recv(64):
            pass
