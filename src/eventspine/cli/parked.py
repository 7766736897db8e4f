"""`spine parked`: what waits for its next attempt; have it tried now, or skip it."""

from __future__ import annotations

import click

from ..journal.port import Delivery, Drop, Journal, Retry
from ..wording import plural
from .app import Group, Invocation, json_option, pass_invocation
from .choosing import Filter, chosen_by_hand, deliveries, filtered, numbers_of, tried_again
from .dead import show
from .deliveries import Subscriptions, all_subscriptions, lane_of, parked_row, view
from .journals import asynchronous, existing_journal, in_pages
from .output import confirm, say, say_listing

COLUMNS = ("number", "due", "handler", "type", "key", "attempts", "reason")


@click.group(cls=Group)
def command() -> None:
    """Deliveries that wait for their next attempt: list, show, retry, skip."""


command.add_command(show)


@command.command("list")
@filtered
@json_option
@pass_invocation
@asynchronous
async def list_(invocation: Invocation, chosen: Filter, as_json: bool) -> None:
    """List parked deliveries, oldest first.

    Those `behind 17` wait for delivery 17, an earlier one of their key."""
    async with existing_journal(invocation) as journal:
        subscriptions = await all_subscriptions(journal)
        firsts = await _firsts(journal, subscriptions)
        await say_listing(
            deliveries(journal, chosen, ["parked"]),
            as_json=as_json,
            view=lambda delivery: view(delivery, subscriptions),
            columns=COLUMNS,
            row=lambda delivery: parked_row(delivery, subscriptions, firsts),
            none="No delivery is parked." if chosen.empty else "No parked delivery fits.",
        )


async def _firsts(journal: Journal, subscriptions: Subscriptions) -> dict[tuple[object, ...], Delivery]:
    """What each key waits for: its first delivery that is parked, or dead where the key waits for somebody's word."""
    found: dict[tuple[object, ...], Delivery] = {}
    async for delivery in deliveries(journal, Filter(), ["parked", "dead"], records=False):
        row = subscriptions.get(delivery.subscription)
        if delivery.state == "dead" and (row is None or row.on_dead != "waits"):
            continue
        first = found.get(lane_of(delivery))
        if first is None or delivery.position < first.position:
            found[lane_of(delivery)] = delivery
    return found


@command.command()
@chosen_by_hand
@pass_invocation
@asynchronous
async def retry(invocation: Invocation, chosen: Filter) -> None:
    """Try parked deliveries now instead of when they are due. Order per key is kept."""
    async with existing_journal(invocation) as journal:
        numbers = await tried_again(journal, chosen, "parked")
        retried = await in_pages(journal, numbers, Retry)
        say(f"{plural(retried, 'parked delivery', 'parked deliveries')} due now.")


@command.command()
@chosen_by_hand
@click.option("--yes", is_flag=True, help="Don't ask.")
@pass_invocation
@asynchronous
async def skip(invocation: Invocation, chosen: Filter, yes: bool) -> None:
    """Give parked deliveries up for good, unhandled. What waits behind them goes on."""
    async with existing_journal(invocation) as journal:
        numbers = await numbers_of(journal, chosen, ["parked"])
        if numbers:
            confirm(f"Skip {plural(len(numbers), 'parked delivery', 'parked deliveries')} for good?", yes)
        skipped = await in_pages(journal, numbers, Drop)
        say(f"{plural(skipped, 'parked delivery', 'parked deliveries')} skipped.")
