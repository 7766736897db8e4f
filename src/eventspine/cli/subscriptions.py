"""`spine subscriptions`: what each service reads and how far it has come; hold it, move it, name it anew, give it up.

Each change raises the cursor's generation in the same commit, so that a process at work with the old cursor is fenced
and never folds it over the new one (R13)."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import Counter
from contextlib import suppress
from datetime import datetime
from typing import Literal, NamedTuple

import click

from ..declared import HANDLER
from ..journal.cursors import is_finished
from ..journal.port import Control, Journal, Rename, Rewind, SetState, Subscription
from ..journal.processes import is_gone
from ..observe.printable import printable
from ..state import versions
from ..wording import plural
from . import carried, completion
from .app import Group, Invocation, json_option, pass_invocation
from .at_broker import INTAKE
from .choosing import Filter, deliveries, one_subscription, refuse_unknown_service
from .exits import Failed, Misused
from .figures import Number
from .journals import asynchronous, existing_journal, position_of
from .lags import Lag, any_finished, lag, positions
from .output import confirm, note, say, say_listing
from .progress import progress
from .rates import Rate, measured
from .retention import note_what_is_gone
from .rows import Row, counts, rows, view
from .standings import cursors_of, title
from .times import place

LOOK_EVERY_S = 0.5
COLUMNS = ("service", "subscription", "state", "position", "lag", "rate", "parked", "dead", "order", "reads")


def table_row(row: Row, rate: Rate | None) -> list[object]:
    subscription, stored = row.subscription, row.stored
    reads = ", ".join([type for type, _ in subscription.types] or [f"{channel}.*" for channel in subscription.channels])
    brought_in = subscription.service.startswith(INTAKE)  # its positions are the broker's
    if brought_in:
        reads = f"{subscription.service.removeprefix(INTAKE)}.* at the broker"
    figures = [
        "-" if brought_in else row.lag.position,
        row.lag,
        "-" if rate is None else rate,
        stored["parked"],
        stored["dead"],
    ]
    return [subscription.service, subscription.name, subscription.state, *figures, subscription.order, reads]


async def _list(invocation: Invocation, service: str | None, retired: bool, window_s: float, as_json: bool) -> None:
    async with existing_journal(invocation) as journal:
        await refuse_unknown_service(journal, service)
        stored = [row for row in await journal.subscriptions(service) if retired or row.state != "retired"]
        stored.sort(key=lambda row: (row.service, row.name, row.number))
        rates = await measured(journal, [row for row in stored if row.state != "retired"], window_s) or {}
        await say_listing(
            rows(journal, stored),
            as_json=as_json,
            view=lambda row: view(row, rates.get(row.subscription.number)),
            columns=COLUMNS,
            row=lambda row: table_row(row, rates.get(row.subscription.number)),
            none="No service has registered here."
            if service is None
            else f"{printable(service)} has no handlers here.",
        )


SERVICE = click.option("--service", help="Only of this service.", shell_complete=completion.services)
WINDOW = click.option(
    "--window",
    "window_s",
    type=Number(0, 60),
    default=1.0,
    show_default=True,
    metavar="S",
    help="For how many seconds to watch, to measure RATE; 0 leaves it out.",
)
RETIRED = click.option("--retired", is_flag=True, help="Also those that were given up.")


@click.group(cls=Group, invoke_without_command=True)
@SERVICE
@RETIRED
@WINDOW
@json_option
@click.pass_context
@asynchronous
async def command(context: click.Context, service: str | None, retired: bool, window_s: float, as_json: bool) -> None:
    """What each service reads and how far it has come.

    A subscription has come to all that it wants up to POSITION; beyond the first that it has not come to, others may be
    handled already. LAG counts the events that it wants and has not come to yet; those that failed are PARKED or DEAD. What
    it has not finished is all three. RATE is how many it gets through in a second now. Subscriptions are named as they are
    stored, such as inventory.reserve_stock; service/name where two services use one name."""
    if context.invoked_subcommand is None:
        await _list(context.ensure_object(Invocation), service, retired, window_s, as_json)


@command.command("list")
@SERVICE
@RETIRED
@WINDOW
@json_option
@pass_invocation
@asynchronous
async def list_(invocation: Invocation, service: str | None, retired: bool, window_s: float, as_json: bool) -> None:
    """List them; the same as `spine subscriptions` alone."""
    await _list(invocation, service, retired, window_s, as_json)


NAME = click.argument("name", shell_complete=completion.subscriptions)


@command.command()
@NAME
@pass_invocation
@asynchronous
async def pause(invocation: Invocation, name: str) -> None:
    """Hand nothing more to this handler until it is resumed. What is at work finishes or is fenced."""
    async with existing_journal(invocation) as journal:
        await _set_state(journal, name, "paused", {"active"})


@command.command()
@NAME
@pass_invocation
@asynchronous
async def resume(invocation: Invocation, name: str) -> None:
    """Let a paused handler go on from where it stood."""
    async with existing_journal(invocation) as journal:
        await _set_state(journal, name, "active", {"paused"})


async def _set_state(
    journal: Journal, name: str, state: Literal["active", "paused", "retired"], before: set[str]
) -> None:
    subscription = await one_subscription(journal, name)
    if subscription.state == state:
        say(f"{title(subscription)} is {state} already.")
        return
    if subscription.state not in before:
        raise Failed(
            f"{title(subscription)} is {subscription.state}: no running release of {subscription.service} declares it. "
            "Run a release that does, or retire it."
        )
    await _control(journal, SetState(subscription.number, state))
    say(f"{title(subscription)} is {state}.")


async def _control(journal: Journal, operation: Control) -> None:
    if not await journal.control([operation]):
        raise Failed(
            "Somebody else changed this subscription meanwhile; nothing was done. Look at `spine subscriptions`."
        )


@command.command()
@NAME
@click.argument("new_name")
@pass_invocation
@asynchronous
async def rename(invocation: Invocation, name: str, new_name: str) -> None:
    """Give a subscription another name; its place, its parked and dead deliveries and its keys for effects stay.

    NEW_NAME is the handler's, as name= in code says it, with or without its service before it. The code must then declare
    that name, else its next start is taken for a new handler."""
    async with existing_journal(invocation) as journal:
        subscription = await one_subscription(journal, name)
        carried.refuse_renaming(subscription)
        new_name = _stored_name(subscription.service, new_name)
        others = await journal.subscriptions(subscription.service)
        if any(row.name == new_name and row.state != "retired" for row in others):
            raise Misused(f"{subscription.service} has a subscription {new_name!r} already.")
        await _control(journal, Rename(subscription.number, new_name))
        say(f"{title(subscription)} is now {title(subscription._replace(name=new_name))}.")


def _stored_name(service: str, name: str) -> str:
    """As a handler of this service would be stored that code gives this name."""
    bare = name.removeprefix(f"{service}.")
    if not HANDLER.match(bare):
        raise Misused(
            f"{name!r} can't name a handler of {service}, so no code could declare it. Give a name of letters, digits, _ and -; "
            f"the service is added by itself."
        )
    return f"{service}.{bare}"


@command.command("forget-gaps")
@click.argument("channel")
@pass_invocation
@asynchronous
async def forget_gaps(invocation: Invocation, channel: str) -> None:
    """Have `spine doctor` tell no more of what of CHANNEL never came from the broker: it was sent again, or nobody wants it."""
    async with existing_journal(invocation) as journal:
        say(f"{plural(await carried.forget_gaps(journal, channel), 'gap')} of {printable(channel)} forgotten.")


@command.command()
@NAME
@click.option("--yes", is_flag=True, help="Don't ask.")
@pass_invocation
@asynchronous
async def retire(invocation: Invocation, name: str, yes: bool) -> None:
    """Give a subscription up for good, with all that it has not finished."""
    async with existing_journal(invocation) as journal:
        subscription = await one_subscription(journal, name)
        await carried.refuse_retiring(journal, subscription)
        if subscription.state in ("active", "paused") and (kept := await _kept(journal, subscription)):
            raise Misused(
                f"{title(subscription)} keeps {kept}. Deploy {printable(subscription.service)} without its class and projection "
                "first, and retire it then; or raise the version, and `spine views drop` this one when it is not read any more."
            )
        cursors = await cursors_of(journal, [subscription])
        behind = await lag(journal, subscription, cursors, await journal.head())
        stored = await counts(journal, subscription)
        lost = f"{behind} unhandled, {stored['parked']} parked and {stored['dead']} dead"
        confirm(f"Retire {title(subscription)} for good, with {lost}?", yes)
        await _set_state(journal, name, "retired", {"active", "paused", "suspended"})


async def _kept(journal: Journal, subscription: Subscription) -> str:
    """The version of a view that it keeps, in words; "" where it keeps none."""
    found = await versions.kept_by(journal, subscription.service, subscription.name)
    return f"version {found[1]} of the view {printable(found[0])}" if found else ""


class Plan(NamedTuple):
    """What a rewind would do; asked for before it is done."""

    position: int  # where the cursors go: everything after it is handled again
    skipped: Lag  # events not finished that lie at or before it
    discarded: Counter[str]
    dead: int  # of those skipped: a feed stands at it, and has not finished it


@command.command()
@NAME
@click.option(
    "--to",
    "start",
    type=place,
    required=True,
    metavar="PLACE",
    help="earliest, now, a position (handled again too), a time, or how long ago (2h).",
)
@click.option(
    "--repeat-effects",
    is_flag=True,
    help="The handler's effects may happen again. Not needed where none would, or it declares replayable=True.",
)
@click.option(
    "--publish-again",
    is_flag=True,
    help="Publish what the handler publishes again, under new ids. Without it, what was published stays as it was.",
)
@click.option("--skip-unhandled", is_flag=True, help="The new place is ahead: pass what has not been handled.")
@click.option(
    "--wait", is_flag=True, help="Wait until it has come to where the feed ends now; Ctrl-C leaves it at work."
)
@pass_invocation
@asynchronous
async def rewind(
    invocation: Invocation,
    name: str,
    start: str | int | datetime,
    repeat_effects: bool,
    publish_again: bool,
    skip_unhandled: bool,
    wait: bool,
) -> None:
    """Have one handler handle events again, from an earlier place on; the others go on as they are."""
    async with existing_journal(invocation) as journal:
        subscription = await one_subscription(journal, name)
        carried.refuse_rewinding(subscription)
        if kept := await _kept(journal, subscription):
            raise Misused(
                f"{title(subscription)} keeps {kept}, whose rows would count once more what it is handed again. Raise the version "
                "of the view, to have it built anew beside this one."
            )
        plan = await _plan(journal, subscription, start)
        # Asked last: a handler at work may have come further meanwhile, and what it has handled would be repeated.
        repeats = not repeat_effects and await _repeats(journal, subscription, plan.position)
        if refused := _refused(subscription, plan, repeats, skip_unhandled):
            raise Misused(refused)
        if isinstance(start, int) and start > plan.position + 1:
            note(f"The feed ends at position {plan.position:,}: there is nothing yet at {start:,}.")
        _announce(subscription, plan)
        await note_what_is_gone(journal, subscription.channels, plan.position)
        republish = secrets.token_hex(8) if publish_again else ""
        await _control(journal, Rewind(subscription.number, plan.position, republish))
        say(f"{title(subscription)} goes on from position {plan.position + 1}.")
        if wait:
            await _wait(journal, subscription, plan.position)


async def _repeats(journal: Journal, subscription: Subscription, position: int) -> bool:
    """Whether effects of it would happen again: anything after this position that it is through with, or has tried."""
    if await replayable(journal, subscription):
        return False
    cursors = await cursors_of(journal, [subscription])
    return await any_finished(journal, subscription, cursors, position, await journal.head())


def _refused(subscription: Subscription, plan: Plan, repeats: bool, skip_unhandled: bool) -> str:
    """Why this has to be meant; "" where it is."""
    why = []
    if repeats:
        why.append(carried.repeats(subscription))
    if plan.skipped.events and not skip_unhandled:
        why.append(
            f"{title(subscription)} has not handled {plan.skipped.in_words} before that place{_dead_of(plan)}, which would be passed. "
            "Name an earlier place, or say --skip-unhandled."
        )
    return " ".join(why)


async def _wait(journal: Journal, subscription: Subscription, start: int) -> None:
    """Until its hindmost cursor has come to what is the end of the feed now."""
    end = await journal.head()
    if all(is_gone(process) for process in await journal.processes() if process.service == subscription.service):
        note(f"No process of {printable(subscription.service)} runs; it begins when one does.")
    if subscription.state != "active":
        note(f"{title(subscription)} is {subscription.state}; it begins when it is resumed.")
    more = asyncio.Event()
    stop = journal.watch(more.set)
    try:
        with progress(f"{title(subscription)} handles again", end - start) as done:
            while (position := min(positions(subscription, await cursors_of(journal, [subscription])))) < end:
                done(position - start)
                more.clear()
                with suppress(TimeoutError):  # cursors of what was only passed are stored without a sound
                    await asyncio.wait_for(more.wait(), LOOK_EVERY_S)
    finally:
        stop()
    stored = await counts(journal, subscription)
    say(f"{title(subscription)} has come to position {end}, with {stored['parked']} parked and {stored['dead']} dead.")


async def _plan(journal: Journal, subscription: Subscription, start: str | int | datetime) -> Plan:
    head = await journal.head()
    position = min(await position_of(journal, start), head)
    cursors = await cursors_of(journal, [subscription])
    skipped = await lag(journal, subscription, cursors, position)
    chosen = Filter(service=subscription.service, handlers=(subscription.name,))
    stored = deliveries(journal, chosen, ["parked", "dead", "held", "settled"], records=False)
    discarded, dead = Counter[str](), 0
    async for row in stored:
        if row.position > position:
            discarded[row.state] += 1
        elif row.state == "dead":
            cursor = cursors.get((subscription.number, row.partition))
            dead += cursor is None or not is_finished(cursor.position, cursor.beyond, row.position)
    return Plan(position, skipped, discarded, dead)


def _dead_of(plan: Plan) -> str:
    return f", {plan.dead:,} of them dead" if plan.dead else ""


def _announce(subscription: Subscription, plan: Plan) -> None:
    open_ones = [f"{plan.discarded[state]} {state}" for state in ("parked", "dead", "held") if plan.discarded[state]]
    if open_ones:
        note(f"Discarding {' and '.join(open_ones)} from there on; their events are handled again.")
    if plan.skipped.events:
        note(f"Passing {plan.skipped.in_words} not handled{_dead_of(plan)}.")
    if plan.dead:
        note("What is dead stays so, and is handled, late, when it is replayed: `spine dead list`.")


async def replayable(journal: Journal, subscription: Subscription) -> bool:
    """Whether the newest declaration that names this handler says that running it again is harmless (R19)."""
    for _, declaration in reversed(await journal.declarations(subscription.service)):
        for declared in json.loads(declaration):
            if declared["name"] == subscription.name:
                return "replayable" in declared["extra"].split()
    return False
