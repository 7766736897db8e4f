"""What the reader's thread has read and the event loop has not fetched yet. Unlike the shelf of brokers that push (shelf.py)
it is filled and emptied in two threads, and knows of each partition where reading goes on and how far it is settled."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence

from .port import FETCH_BYTES, Fetched, weight_of

MESSAGES_MAX = 4000
BYTES_MAX = 8 * 1024 * 1024


class Shelf:
    """Messages between the two threads, and for each partition that was begun how far it is read and settled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: deque[tuple[Fetched, int]] = deque()  # with its weight
        self._bytes = 0
        self._partitions: dict[int, _Partition] = {}

    @property
    def partitions(self) -> list[int]:
        with self._lock:
            return list(self._partitions)

    def begin(self, partition: int, offset: int) -> None:
        with self._lock:
            self._partitions[partition] = _Partition(offset)

    def forget(self, partitions: Iterable[int]) -> None:
        """Nothing of these is handed over any more."""
        with self._lock:
            for partition in partitions:
                self._partitions.pop(partition, None)
            self._messages = deque(one for one in self._messages if one[0].partition in self._partitions)
            self._bytes = sum(weight for _, weight in self._messages)

    @property
    def full(self) -> bool:
        return len(self._messages) >= MESSAGES_MAX or self._bytes >= BYTES_MAX

    def put(self, messages: Iterable[Fetched]) -> bool:
        """Whether somebody may be waiting for that."""
        with self._lock:
            was_empty = not self._messages
            for one in messages:
                partition = self._partitions.get(one.partition)
                if partition is not None and one.position > partition.next:  # else nobody asked for it
                    partition.next = one.position
                    weight = weight_of(one)
                    self._messages.append((one, weight))
                    self._bytes += weight
            return was_empty and bool(self._messages)

    def take(self, most: int) -> Sequence[Fetched]:
        with self._lock:
            messages, found = self._messages, list[Fetched]()
            left = self._bytes - FETCH_BYTES
            while messages and len(found) < most and self._bytes > left:
                one, weight = messages.popleft()
                found.append(one)
                self._bytes -= weight
                self._partitions[one.partition].out.append(one.position)
            return found

    def settle(self, fetched: Iterable[Fetched]) -> None:
        with self._lock:
            for one in fetched:
                if (partition := self._partitions.get(one.partition)) is not None:
                    partition.settle(one.position)

    def next_of(self, partition: int) -> int | None:
        """The offset that is read next; None where nothing was begun."""
        with self._lock:
            found = self._partitions.get(partition)
            return None if found is None else found.next

    def places(self) -> dict[int, int]:
        """The offset of the next message that is not handed over, by partition."""
        with self._lock:
            waiting = {one.partition: one.position - 1 for one, _ in reversed(self._messages)}
            return {number: waiting.get(number, one.next) for number, one in self._partitions.items()}

    def settled(self) -> dict[int, int]:
        """What the group may be shown that it was not shown yet, by partition."""
        with self._lock:
            moved = {number: one for number, one in self._partitions.items() if one.prefix != one.shown}
            for one in moved.values():
                one.shown = one.prefix
            return {number: one.prefix for number, one in moved.items()}


class _Partition:
    __slots__ = ("ahead", "next", "out", "prefix", "shown")

    def __init__(self, offset: int) -> None:
        self.next = offset  # of the next message
        self.out: deque[int] = deque()  # positions that are handed over and not settled, in order
        self.ahead: set[int] = set()  # of these, the settled ones before which others are not
        self.prefix = offset  # up to here all is settled
        self.shown = -1  # of it, what the group was shown

    def settle(self, position: int) -> None:
        if not self.out or position < self.out[0]:
            return  # handed over before the partition was begun anew
        self.ahead.add(position)
        while self.out and self.out[0] in self.ahead:
            self.prefix = self.out.popleft()
            self.ahead.discard(self.prefix)
