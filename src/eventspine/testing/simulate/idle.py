"""Idle time is jumped over: where nothing is to be done before a time that is far off, it comes soon.

What jumps is the wall clock of all processes, and with it whatever is to happen at a time: scheduled events, retries that are
due, periodic runs, and whoever sleeps for long. What is measured in between goes on as if nothing had been: the turns of the
processes, their beats and looks, and how long a lease still holds. So nobody finds a lease lost by a jump, and an hour costs
no more than the minutes before its end. As long as anything else is under way, no time is jumped over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...journal import _memory_control
from ...journal.port import Cursor, Delivery, Subscription
from ...periodic import latest_life
from .site import Site

if TYPE_CHECKING:
    from .world import World

MARGIN_S = 150.0  # lived through before what is due: clocks are up to a minute ahead, alarms and looks are up to a minute apart


class Busy(Exception):
    """Something is under way."""


class Idle:
    def __init__(self, world: World) -> None:
        self.world = world
        self.loop = world.loop

    def jump(self) -> None:
        """Unless something is under way, or soon."""
        world = self.world
        if world.calm or world.accidents.to_come:
            return
        try:
            away_s = min(self._away_s(), default=0.0)
        except Busy:
            return
        jump_s = int(away_s - MARGIN_S)
        if jump_s < MARGIN_S:
            return
        self.loop.skip(jump_s, MARGIN_S)
        for site in world.sites:
            _prolong(site, jump_s * 1_000_000)

    def _away_s(self) -> Iterator[float]:
        """How far off each thing is that is to happen. Cheap questions come first."""
        for timer, away_s in self.loop.timers():
            if away_s > MARGIN_S:
                yield away_s
            elif timer.turns is self.loop.world and timer is not self.world.looking:
                raise Busy
        if any(True for _ in self.world.on_their_way()):
            raise Busy
        now_us = self.world.clock.now_us()
        for site in self.world.sites:
            for due_us in dues(site, now_us):
                if due_us <= now_us:
                    raise Busy
                yield (due_us - now_us) / 1e6


def dues(site: Site, now_us: int) -> Iterator[int]:
    """When each thing that is to be done here is due."""
    yield from site.dues()
    for one in site.subscriptions:
        rows = [row for row in site.rows("parked", "held", "dead") if row.subscription == one.number]
        if not _stands(one, rows, now_us) and (_unread(site, one) or _goes_on(one, rows, now_us)):
            yield now_us
    yield from _ticks(site)


def _unread(site: Site, one: Subscription) -> bool:
    return _memory_control._unfinished(site.journal._tables, one) > 0


def _stands(one: Subscription, rows: list[Delivery], now_us: int) -> bool:
    """A feed, at a delivery that is not to be handled yet."""
    return one.order == "feed" and any(_keeps_waiting(one, row, now_us) for row in rows)


def _goes_on(one: Subscription, rows: list[Delivery], now_us: int) -> bool:
    """Whether one that waits behind another waits no more."""
    waiting = {row.key for row in rows if _keeps_waiting(one, row, now_us)}
    return any(row.state == "parked" and row.due_us is None and row.key not in waiting for row in rows)


def _keeps_waiting(one: Subscription, row: Delivery, now_us: int) -> bool:
    if row.state == "parked":
        return row.due_us is not None and row.due_us > now_us
    return row.state == "held" or one.on_dead == "waits"


def _ticks(site: Site) -> Iterator[int]:
    """The next of each periodic handler; its time is past until it is brought in."""
    schedules = {
        f"{service.name}.{handler.name}": handler.schedule
        for service in site.services
        for handler in service.handlers.values()
        if handler.schedule is not None
    }
    for one in site.subscriptions:
        if (schedule := schedules.get(one.name)) is not None:
            stored = site.journal._tables.cursors.get(one.number, {})
            life = latest_life(Cursor(one.number, at, upto, [], feed) for (feed, at), (upto, _) in stored.items())
            yield 0 if life is None else schedule.after(life.upto)


def _prolong(site: Site, by_us: int) -> None:
    """What processes have said of themselves holds for as long as it did."""
    tables = site.journal._tables
    for id, process in tables.processes.items():
        tables.processes[id] = process._replace(until_us=process.until_us + by_us)
    for name, lease in tables.leases.items():
        if lease.owner:
            tables.leases[name] = lease._replace(until_us=lease.until_us + by_us)
