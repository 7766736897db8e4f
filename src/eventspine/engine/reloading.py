"""Reloading: subscriptions that were changed from outside are loaded again, and those that lack something get that.

What stays as it was keeps what it has in hand: nothing that an operator, a deploy or a fault does to one subscription
makes the handler of another run again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .loading import adopt, look_at_rows

if TYPE_CHECKING:
    from .host import Host
    from .subscription import Subscription


class Reloads:
    def __init__(self, host: Host) -> None:
        self.host = host
        self.whole: set[Subscription] = set()  # from the ground up
        self.missing: set[Subscription] = set()  # only partitions that they don't have
        self.rows: set[Subscription] = set()  # only what others have made of their rows

    @property
    def asked(self) -> bool:
        return bool(self.whole or self.missing or self.rows)

    async def follow_control(self, version: int) -> None:
        host = self.host
        await self._look_again()
        if version == host.control:
            return
        stored = {row.number: row for row in await host.journal.subscriptions(host.service.name)}
        for one in host.subscriptions:
            row = stored.get(one.number)
            if row is None or (row.generation, row.state) != (one.generation, one.state):
                self.whole.add(one)
            else:
                await look_at_rows(one)
        host.control = version  # not before: what could not be looked at is still to be followed

    async def _look_again(self) -> None:
        rows, self.rows = self.rows, set()
        try:
            for one in self._in_order(rows):
                await look_at_rows(one)
        except BaseException:
            self.rows |= rows
            raise

    async def carry_out(self) -> None:
        whole, self.whole = self.whole, set()
        missing, self.missing = self.missing, set()
        if not whole and not missing:
            return
        await self.host.readers.stop()
        try:
            await self._load_again(self._in_order(whole))
            for one in self._in_order(missing - whole):
                await self.load_missing(one)
        except BaseException:
            self.whole |= whole
            self.missing |= missing
            raise
        await self.host.readers.rebuild(self.host.active)

    def _in_order(self, some: set[Subscription]) -> list[Subscription]:
        """As they were declared, so that the same seed gives the same history."""
        return [one for one in self.host.subscriptions if one in some]

    async def _load_again(self, whole: Iterable[Subscription]) -> None:
        host = self.host
        stored = {row.number: row for row in await host.journal.subscriptions(host.service.name)}
        for one in whole:
            for number in list(one.parts):
                one.drop(number)
            one.waiting.rows.clear()
            if one.number in stored:
                one.update(stored[one.number])
            if one.outdated:
                host.step_back()
            await self.load_missing(one)

    async def load_missing(self, one: Subscription) -> None:
        if one.active:
            await adopt([one], [lease for number, lease in self.host.held.items() if number not in one.parts])
