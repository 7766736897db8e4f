"""Where servers are installed, and that an installation is whole or not there.

    $EVENTSPINE_SERVERS, or else $XDG_CACHE_HOME/eventspine/servers, or else ~/.cache/eventspine/servers

Each version has a folder of its own. A mark is written into it last, so one that was interrupted is made anew; a lock lets
one of several that want the same do the work and the others wait."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ...errors import SpineError

Tell = Callable[[str], None]
_MARK = ".installed"


class NotInstalled(SpineError):
    """A server, or a program that it needs, is not there; the message says what to install."""


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201  progress, where no answer is expected


def installed_folder() -> Path:
    if chosen := os.environ.get("EVENTSPINE_SERVERS"):
        return Path(chosen).absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "eventspine" / "servers"


def is_installed(folder: Path) -> bool:
    return (folder / _MARK).exists()


def install(folder: Path, fill: Callable[[Path, Tell], None], say: Tell) -> None:
    """Has `fill` fill the folder, unless that is done."""
    if is_installed(folder):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(
        folder.with_name(f"{folder.name}.lock"), lambda: say(f"{folder.name}: somebody else installs it; waiting")
    ):
        if is_installed(folder):
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        began = time.monotonic()
        fill(folder, lambda line: say(f"{folder.name}: {line}"))
        (folder / _MARK).touch()
        say(f"{folder.name}: installed in {time.monotonic() - began:.0f} s, {megabytes(folder):,.0f} MB, in {folder}")


@contextmanager
def _alone(path: Path, told: Callable[[], None]) -> Iterator[None]:
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def megabytes(folder: Path) -> float:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6


def program(name: str, advice: str) -> str:
    """The path of a program that must be there already."""
    found = shutil.which(name)
    if found is None:
        raise NotInstalled(f"{name} is needed and was not found on the PATH. {advice}", program=name)
    return found


def run(command: Sequence[str], doing: str, *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """What it printed; when it fails, the end of that is in the error."""
    done = subprocess.run(  # noqa: S603  commands are made here
        command,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        end = "\n".join(done.stdout.strip().splitlines()[-15:])
        raise NotInstalled(
            f"{doing} failed with exit code {done.returncode}. The end of what it said:\n{end}", command=command
        )
    return done.stdout
