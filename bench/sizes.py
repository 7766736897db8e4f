"""How much of everything: as published, or quick."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    rounds: int = 7  # of legs in turns
    published: int = 30_000  # per leg, in batches of 100
    concurrent: int = 20_000  # per leg, by 100 publishers
    backlog: int = 200_000  # events for one process
    both: int = 30_000  # published and handled
    lanes: int = 4_000
    one_at_a_time: int = 200
    latency_s: float = 15.0
    idle_s: float = 10.0
    busy_s: float = 15.0
    million: int = 1_000_000
    starts: int = 10
    sent: int = 20_000  # to a broker, per leg
    awaited: int = 1_000
    received: int = 50_000  # from a broker, per leg
    saves: int = 2_000  # of aggregates, one by one; a tenth as many of 100 events
    loads: int = 2_000
    feed: int = 100_000  # events that are read, or that a view is made of


QUICK = Sizes(
    rounds=3,
    published=5_000,
    concurrent=4_000,
    backlog=30_000,
    both=6_000,
    lanes=1_000,
    one_at_a_time=60,
    latency_s=3.0,
    idle_s=3.0,
    busy_s=3.0,
    million=60_000,
    starts=3,
    sent=4_000,
    awaited=200,
    received=10_000,
    saves=400,
    loads=200,
    feed=20_000,
)
