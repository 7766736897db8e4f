"""Who should hold which partition: a pure decision that every process of a service takes alike.

Every process sees the same list of live processes and computes the same targets, so nobody has to lead. Partitions go
to processes by rendezvous hashing with equal shares (Thaler and Ravishankar, 1998; capacity bound added), so that a
process that joins or leaves moves few of the others' partitions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b

from ..journal.port import Process


def leaders(processes: Iterable[Process]) -> list[Process]:
    """The live processes of the newest generation: the ones that may hold partitions (R8)."""
    known = sorted(processes, key=lambda process: process.id)
    newest = max((process.generation for process in known), default=0)
    return [process for process in known if process.generation == newest]


@lru_cache(maxsize=64)  # the same again with every beat
def targets(partitions: tuple[int, ...], processes: tuple[str, ...]) -> Mapping[int, str]:
    """The process each partition should be with. Shares differ by at most one."""
    if len(processes) <= 1:  # most set-ups, and every simulated history with one process
        return {partition: process for process in processes for partition in partitions}
    most = -(-len(partitions) // len(processes))
    full = len(partitions) - (most - 1) * len(processes)  # this many may have `most`, the others one less
    load = dict.fromkeys(processes, 0)
    chosen: dict[int, str] = {}
    for partition in sorted(partitions):
        for process in sorted(processes, key=lambda process: _weight(process, partition)):
            if load[process] < most - 1 or (load[process] < most and full > 0):
                load[process] += 1
                full -= load[process] == most
                chosen[partition] = process
                break
    return chosen


@lru_cache(maxsize=64)
def share(partitions: tuple[int, ...], processes: tuple[str, ...], process: str) -> frozenset[int]:
    """The partitions that this process should have."""
    return frozenset(partition for partition, one in targets(partitions, processes).items() if one == process)


def _weight(process: str, partition: int) -> bytes:
    return blake2b(f"{process}/{partition}".encode(), digest_size=8).digest()
