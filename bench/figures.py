"""Figures: what was measured, what it stands beside, and what it should reach."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

Leg = Callable[[], Awaitable[float]]  # runs once, gives a rate


@dataclass
class Figure:
    """One line of the table. All but `values` is text for the reader."""

    work: str
    measured: str
    to_reach: str = ""
    ratio: str = ""
    beside: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Rounds:
    """The rates of legs that ran in turns; round n of one leg ran beside round n of the others."""

    rates: dict[str, list[float]]

    def rate(self, leg: str) -> float:
        return median(self.rates[leg])

    def ratios(self, leg: str, twin: str) -> list[float]:
        return [mine / its for mine, its in zip(self.rates[leg], self.rates[twin], strict=True)]

    def ratio(self, leg: str, twin: str) -> float:
        return median(self.ratios(leg, twin))

    def spread(self, leg: str, twin: str) -> str:
        ratios = self.ratios(leg, twin)
        return f"{_times(self.ratio(leg, twin))} ({_times(min(ratios))} to {_times(max(ratios))})"


async def in_turns(legs: Mapping[str, Leg], rounds: int) -> Rounds:
    """Run the legs `rounds` times, forwards and backwards by turns, so that none always runs after the same other."""
    rates: dict[str, list[float]] = {name: [] for name in legs}
    order = list(legs)
    for _ in range(rounds):
        for name in order:
            gc.collect()
            gc.freeze()  # what earlier legs left in memory is not this one's to look through
            rates[name].append(await legs[name]())
        order.reverse()
    gc.unfreeze()
    return Rounds(rates)


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _times(ratio: float) -> str:
    return f"{ratio:.2f}×" if ratio >= 0.1 else f"{ratio:.4f}×"


def per_second(rate: float) -> str:
    return f"{rate:,.0f}/s"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
