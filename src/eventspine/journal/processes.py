"""Who a process is, and whether it is gone.

A lease may be taken at once from a process that is known to be dead; otherwise one waits until its time has passed.
Pids only compare on the same machine, boot and pid namespace, and a pid may be used again, so its start time counts
too. A killed process that nobody has waited for yet (a zombie) is gone: it will never run again.
"""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path

from .port import Process


@cache
def this_host() -> str:
    """The identity of this machine, boot and pid namespace."""
    boot, namespace = "", ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        pass  # not Linux: the name has to do
    return "/".join(part for part in (socket.gethostname(), boot, namespace) if part)


def pid_start(pid: int) -> str:
    """When the pid's process started, as the system tells it; "" where it doesn't, or when there is none."""
    state = _stat(pid)
    return state[1] if state and state[0] not in "ZX" else ""


def is_stopped(pid: int) -> bool:
    """By SIGSTOP or a debugger: it runs again when somebody lets it. False where the system doesn't tell."""
    state = _stat(pid)
    return state is not None and state[0] in "Tt"


def is_gone(process: Process) -> bool:
    """Whether the process is known to be dead. False means: can't be told from here, or alive."""
    if process.host != this_host():
        return False
    if Path("/proc/self/stat").exists():
        return pid_start(process.pid) != process.pid_started if process.pid_started else not _stat(process.pid)
    return not _signals(process.pid)


def _stat(pid: int) -> tuple[str, str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before may contain anything
    return fields[0], fields[19]


def _signals(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
