"""Ports of 127.0.0.1 that nobody has at this moment, and that nobody else who asks here is given.

Between being drawn and being listened on a port is free for all to see, and so it is while the server whose it is has been
killed. So who draws one keeps it, until its process ends: a byte of a file in the folder for temporary files stands for
each port, and is locked. Other programs know nothing of that; they rarely listen here by themselves."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import socket
import tempfile
import threading
from functools import cache
from pathlib import Path

if importlib.util.find_spec("fcntl") is not None:  # not on Windows
    import fcntl

# Below where Linux takes the local ends of outgoing connections from (32768), which could have one for a moment.
_LOWEST, _HIGHEST = 20_000, 32_000
_drawing = threading.Lock()
_ours: set[int] = set()  # a lock keeps other processes out, and not the one that has it


def free_ports(count: int = 1) -> int:
    """The first of so many consecutive ports, which are this process's from now on."""
    with _drawing:
        for _ in range(1000):
            first = random.randrange(_LOWEST, _HIGHEST - count)
            if _reserved(range(first, first + count)) and taken(first, count) is None:
                return first
    raise OSError(f"No {count} consecutive ports between {_LOWEST} and {_HIGHEST} of 127.0.0.1 are free.")


def taken(first: int, count: int = 1) -> int | None:
    """The first of these ports that somebody has."""
    return next((port for port in range(first, first + count) if not _free(port)), None)


def _free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: connections of one that is gone, still in TIME_WAIT, are no reason to refuse its port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _reserved(ports: range) -> bool:
    """All of them; those that could be had beside one that could not stay ours."""
    if not _ours.isdisjoint(ports):
        return False
    for port in ports:
        if not _lock(port):
            return False
        _ours.add(port)
    return True


def _lock(port: int) -> bool:
    if "fcntl" not in globals():
        return True
    try:
        fcntl.lockf(_file(os.getpid()), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


@cache
def _file(_: int) -> int:
    """Never closed: a process that closes such a file lets go of all its locks. A child that was forked opens its own, as it
    has none of its parent's locks."""
    _ours.clear()
    path = Path(tempfile.gettempdir()) / f"eventspine-ports-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        path.touch(0o600, exist_ok=False)
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)
