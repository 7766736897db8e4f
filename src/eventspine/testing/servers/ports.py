"""Ports of 127.0.0.1 that nobody has at this moment."""

from __future__ import annotations

import random
import socket

# Below where Linux takes the local ends of outgoing connections from (32768), which could have one for a moment.
_LOWEST, _HIGHEST = 20_000, 32_000


def free_ports(count: int = 1) -> int:
    """The first of so many consecutive ports. Drawn by chance, so that two who ask at once hardly get the same."""
    for _ in range(1000):
        first = random.randrange(_LOWEST, _HIGHEST - count)
        if not taken(first, count):
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
