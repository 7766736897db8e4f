"""Careful mode: an event that kills its process must not kill the next one for ever, nor take innocents along (R16).

After an unclean take-over, what the dead process may have had in hand is suspect. A suspect gets a start mark,
committed before it runs; those of a batch handler get theirs run by run. If the process dies again, those that carry a
mark run alone, and only a death alone counts: at `DEATHS_MAX` the delivery is dead. Random kills don't make an innocent
event dead, since one that runs alone and returns is cleared, and the next attempt after a death alone waits a moment, in
which a process that dies of something else does so. A process that ends in order takes its own marks back; the
deaths before stay counted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..journal.port import Fence, StartMark, Unit, Verdict
from .failures import record_of

if TYPE_CHECKING:
    from .lanes import Item
    from .subscription import Subscription

DEATHS_MAX = 3
PAUSE_S = 0.5  # times the deaths alone, before the next attempt: what kills processes as they start does so meanwhile
SUSPECTS_AT_ONCE = 64  # of a batch handler, in all its runs: so few run alone if one of them kills again


def withdrawing(subscription: Subscription) -> list[Unit]:
    """Units that take back the marks of what is being cancelled: a process that ends in order has not died of it."""
    return [
        Unit(fences=[Fence(item.part.lease, item.part.epoch)], starts=[item.mark])
        for item in subscription.workers.in_hand()
        if item.mark is not None
    ]


async def run_marked(subscription: Subscription, item: Item) -> None:
    times, alone = subscription.marks.get((item.part.number, record_of(item).position), (0, 0))
    if alone >= DEATHS_MAX:
        item.deaths = alone
        subscription.waiting.killed(item, f"the process died {alone} times while this ran alone")
    elif times == 0:
        await _run(subscription, item, alone=False)
    else:
        await subscription.clock.sleep(alone * PAUSE_S)
        async with subscription.host.alone(subscription.workers):
            item.deaths = alone
            await _run(subscription, item, alone=True)


async def _run(subscription: Subscription, item: Item, *, alone: bool) -> None:
    if not item.part.alive:  # while it waited for its turn; whoever has loaded it since handles it
        subscription.release(item)
    elif await marked(subscription, [item], alone=alone):
        await subscription.call(item)
    else:
        subscription.fenced(item)


async def marked(subscription: Subscription, items: Sequence[Item], *, alone: bool = False) -> bool:
    """Whether these, in hand together, carry a start mark now and may begin; else they are somebody else's."""
    before = [_before(subscription, item) for item in items]
    marks = [mark._replace(times=mark.times + 1, alone=mark.alone + alone) for mark in before]
    fences = dict.fromkeys(Fence(item.part.lease, item.part.epoch) for item in items)
    verdict = await _committed(subscription, Unit(fences=list(fences), starts=marks))
    if not verdict.ok:
        return False
    for item, mark in zip(items, before, strict=True):
        item.mark = mark
        subscription.marks.pop((item.part.number, mark.position), None)
    if not alone:
        await subscription.host.runtime.gate.opened()  # else a killer may start beside one that runs alone by now
    return True


def _before(subscription: Subscription, item: Item) -> StartMark:
    number, position = item.part.number, record_of(item).position
    times, alone = subscription.marks.get((number, position), (0, 0))
    return StartMark(subscription.number, number, position, times, alone)


async def _committed(subscription: Subscription, unit: Unit) -> Verdict:
    told: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
    subscription.committer.submit(unit, lambda verdict: None if told.done() else told.set_result(verdict))
    return await told
