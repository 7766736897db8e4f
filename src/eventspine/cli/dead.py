"""`spine dead`: what was given up, why, and the two ways on: again, or never."""

from __future__ import annotations

import click

from ..journal.port import Drop, Replay
from ..wording import plural
from . import completion
from .app import Group, Invocation, json_option, pass_invocation
from .choosing import Filter, chosen_by_hand, deliveries, filtered, numbers_of, tried_again
from .deliveries import all_subscriptions, dead_row, in_full, view
from .exits import NothingFound
from .figures import DELIVERY
from .journals import asynchronous, existing_journal, in_pages
from .output import confirm, json_document, say, say_listing

COLUMNS = ("number", "died", "handler", "type", "key", "attempts", "reason")


@click.group(cls=Group)
def command() -> None:
    """Deliveries that were given up: list, show, replay, drop."""


@command.command("list")
@filtered
@json_option
@pass_invocation
@asynchronous
async def list_(invocation: Invocation, chosen: Filter, as_json: bool) -> None:
    """List dead deliveries, oldest first."""
    async with existing_journal(invocation) as journal:
        subscriptions = await all_subscriptions(journal)
        await say_listing(
            deliveries(journal, chosen, ["dead"]),
            as_json=as_json,
            view=lambda delivery: view(delivery, subscriptions),
            columns=COLUMNS,
            row=lambda delivery: dead_row(delivery, subscriptions),
            none="No delivery is dead." if chosen.empty else "No dead delivery fits.",
        )


@command.command()
@click.argument("numbers", nargs=-1, required=True, type=DELIVERY, shell_complete=completion.numbers)
@json_option
@pass_invocation
@asynchronous
async def show(invocation: Invocation, numbers: tuple[int, ...], as_json: bool) -> None:
    """Show deliveries in full: reason, traceback, attempts, envelope and data.

    Dead, parked and settled ones."""
    async with existing_journal(invocation) as journal:
        subscriptions = await all_subscriptions(journal)
        found = await journal.deliveries(numbers=numbers, limit=len(numbers))
        if missing := sorted(set(numbers) - {delivery.number for delivery in found}):
            raise NothingFound(
                f"There is no delivery {', '.join(map(str, missing))}. "
                "`spine dead list` and `spine parked list` say their numbers."
            )
        if as_json:
            shown = [view(delivery, subscriptions, full=True) for delivery in found]
            say(json_document(shown[0] if len(numbers) == 1 else shown))
        else:
            say("\n\n".join(in_full(delivery, subscriptions) for delivery in found))


@command.command()
@chosen_by_hand
@pass_invocation
@asynchronous
async def replay(invocation: Invocation, chosen: Filter) -> None:
    """Try dead deliveries again, in the order in which they died.

    They come after what has been handled since, marked as late, unless their handler waits for its dead."""
    async with existing_journal(invocation) as journal:
        numbers = await tried_again(journal, chosen, "dead")
        replayed = await in_pages(journal, numbers, Replay)
        say(f"{plural(replayed, 'dead delivery', 'dead deliveries')} to be tried again.")


@command.command()
@chosen_by_hand
@click.option("--yes", is_flag=True, help="Don't ask.")
@pass_invocation
@asynchronous
async def drop(invocation: Invocation, chosen: Filter, yes: bool) -> None:
    """Give dead deliveries up for good. What waits behind them goes on."""
    async with existing_journal(invocation) as journal:
        numbers = await numbers_of(journal, chosen, ["dead"])
        if numbers:
            confirm(f"Drop {plural(len(numbers), 'dead delivery', 'dead deliveries')} for good?", yes)
        dropped = await in_pages(journal, numbers, Drop)
        say(f"{plural(dropped, 'dead delivery', 'dead deliveries')} dropped.")
