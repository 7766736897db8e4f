"""What goes wrong in a simulated history, and how often. Every fault is drawn from the seed, at a numbered place of its
own, so that one fault can be left out while all others stay as they were: that is how a failing history is shortened."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

from ...errors import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Probabilities are per journal call or per attempt; counts are per history. `Faults.none()` has no faults at all."""

    crashes: int = 1  # processes killed at a random await, and started again
    restarts: int = 1  # processes that are told to end, drain, and are started again
    killed_draining: float = 0.3  # of those, are killed before they have drained
    pauses: int = 1  # processes stopped for longer than their lease, which then go on as if nothing had been
    cuts: int = 1  # times when a process can't reach the journal, for up to `cut_s`
    cut_s: float = 20.0
    clock_jumps: int = 2  # times when a process's wall clock is set, by up to a minute either way; early or late
    lost_requests: float = 0.03  # commits that do not happen, and of which nobody can say so
    lost_answers: float = 0.03  # commits, and all other changes, that happen, and of which nobody can say so
    refused: float = 0.02  # journal calls that fail before anything has happened
    slow: float = 0.1  # journal calls that take up to `slow_s` to get there
    slow_answers: float = 0.05  # journal calls whose answers take up to `slow_s`, and tell what was by then
    slow_s: float = 2.0
    short: float = 0.2  # readings of the feed that give less than there is
    repeated: float = 0.05  # readings of the feed that give again what was given before
    missed_bells: float = 0.3  # wake-ups that arrive only with the next look
    failing: float = 0.1  # attempts that raise, before the handler or after it, or whose unit fails
    slow_handlers: float = 0.1  # attempts that take up to `handler_s` longer
    handler_s: float = 30.0
    # With a broker only:
    broker_cuts: int = 1  # times when a process can't reach the broker, for up to `cut_s`
    broker_stops: int = 1  # times when nobody can
    sends_lost: float = 0.05  # batches of which the broker stores a part, or nothing, and nobody can say so
    sends_unanswered: float = 0.05  # batches that it stores, and of which nobody can say so
    doubled: float = 0.05  # messages that it stores twice
    delayed: float = 0.2  # readings of which a part comes later; message by message where it keeps no order
    settles_lost: float = 0.05  # of what was stored in the journal: the broker sends it again

    @classmethod
    def none(cls) -> Faults:
        return cls(**{name: 0 for name in cls.__dataclass_fields__ if not name.endswith("_s")})

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if value < 0 or (
                type(self.__dataclass_fields__[name].default) is float and value > 1 and name[-2:] != "_s"
            ):
                raise SettingsError(f"Faults({name}={value}): a count is at least 0, a probability between 0 and 1.")


class Place(NamedTuple):
    """Where a fault was injected: the nth decision of this kind at this process."""

    who: str
    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind} #{self.number} at {self.who}"


class Dice:
    """The decisions of one history."""

    def __init__(self, seed: int, left_out: frozenset[Place] = frozenset()) -> None:
        self.seed = seed
        self.left_out = left_out
        self.injected: list[Place] = []
        self._streams: dict[tuple[str, str], tuple[random.Random, list[int]]] = {}

    def stream(self, who: str, kind: str) -> random.Random:
        return self._stream(who, kind)[0]

    def _stream(self, who: str, kind: str) -> tuple[random.Random, list[int]]:
        found = self._streams.get((who, kind))
        if found is None:
            found = self._streams[who, kind] = (random.Random(f"{self.seed}/{who}/{kind}"), [0])
        return found

    def falls(self, who: str, kind: str, probability: float) -> float | None:
        """A number between 0 and 1 if this fault happens here and now, for whatever else is to be chosen about it."""
        if not probability:
            return None
        chance, count = self._stream(who, kind)
        count[0] += 1
        if chance.random() >= probability:
            return None
        amount = chance.random()
        place = Place(who, kind, count[0])
        if place in self.left_out:
            return None
        self.injected.append(place)
        return amount
