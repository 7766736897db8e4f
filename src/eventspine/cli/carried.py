"""Relays and intakes are listed as subscriptions are, and pause as they do. What else is done to those is not always sense."""

from __future__ import annotations

import json

from ..engine import gaps
from ..journal.port import Journal, Subscription
from ..observe.printable import printable
from .at_broker import INTAKE, RELAY, is_carrying
from .at_work import at_work
from .exits import Misused, Refused
from .output import note
from .standings import title


def refuse_rewinding(subscription: Subscription) -> None:
    """An intake has no place in the feed: a rewind would say that it goes on from there, and change nothing."""
    if subscription.service.startswith(INTAKE):
        relay = printable(RELAY + subscription.service.removeprefix(INTAKE))
        raise Misused(
            f"{title(subscription)} begins where the broker has what the journal lacks, and can't be rewound. Rewind the handlers, "
            "which have all in the journal that came. What never came its publisher sends again, on its own journal: "
            f"spine subscriptions rewind {relay} --to PLACE --repeat-effects"
        )


async def forget_gaps(journal: Journal, channel: str) -> int:
    """How many there were."""
    intakes = await journal.subscriptions(INTAKE + channel)
    if not intakes:
        raise Misused(
            f"Nothing on this journal brings {printable(channel)} in from a broker. `spine subscriptions` lists what does."
        )
    return sum([await gaps.forget(journal, row) for row in intakes])


def refuse_renaming(subscription: Subscription) -> None:
    if is_carrying(subscription.service):
        raise Misused(
            f"{title(subscription)} is called after its channel, and no code declares it: it can't be renamed."
        )


async def refuse_retiring(journal: Journal, subscription: Subscription) -> None:
    """Whoever is at work with it would do nothing more, and say nothing of it. Who declares a handler may mean that."""
    alive = await _at_work(journal, subscription)
    if alive and is_carrying(subscription.service):
        raise Refused(
            f"{title(subscription)} is at work ({alive}), and begins anew with the next start that needs it. "
            "Stop who runs with this broker first; nothing was changed."
        )
    if alive and await _is_declared(journal, subscription):
        note(
            f"A process that declares it is at work ({alive}), and is handed nothing more of it. The next start takes it for a new "
            "handler, which begins with what is published from then on unless start= says otherwise."
        )


async def _at_work(journal: Journal, subscription: Subscription) -> str:
    return ", ".join(sorted(f"pid {row.pid}" for row in await at_work(journal) if row.service == subscription.service))


async def _is_declared(journal: Journal, subscription: Subscription) -> bool:
    """By the newest release that was started."""
    declarations = await journal.declarations(subscription.service)
    return any(one["name"] == subscription.name for one in json.loads(declarations[-1][1])) if declarations else False


def repeats(subscription: Subscription) -> str:
    """What a rewind has happen again."""
    if subscription.service.startswith(RELAY):
        return (
            f"{title(subscription)} would send again what the broker has, under new numbers. Journals that have an event drop it; "
            "others who read the channel see it twice, under one id. Say --repeat-effects if that is wanted."
        )
    return (
        f"{title(subscription)} would do again what it does: mails, calls, rows. "
        "Say --repeat-effects if that is wanted, or declare the handler with replayable=True."
    )
