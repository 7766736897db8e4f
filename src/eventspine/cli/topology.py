"""`spine topology`: what services need on the broker, what is there, and making what is missing.

It only ever adds. What would move keys away from their past, or take something from somebody, is reported and left to
whoever knows: docs/how-to/brokers.md has the procedures."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import click

from ..brokers import open_broker
from ..brokers.port import Broker, Difference, Finding, Needs, Replaying
from ..service import Service
from ..wording import plural
from . import completion
from .app import Group, Invocation, json_option, pass_invocation, setting_option
from .exits import FAILED, Failed, Misused
from .journals import asynchronous
from .modules import services_of, services_to_run
from .output import json_document, note, say, say_table
from .times import past

DIFFERENCES = ("what", "wanted", "found", "apply")
MODULES = click.argument("modules", nargs=-1, metavar="[MODULE[:NAME]]...", shell_complete=completion.modules)


@asynccontextmanager
async def connected(invocation: Invocation) -> AsyncIterator[Broker]:
    url = invocation.settings.broker
    if url is None:
        raise Misused(
            "Name the broker: --broker kafka://localhost:9092, SPINE_BROKER, or broker = in the settings file."
        )
    broker = open_broker(url)
    await broker.open()
    try:
        yield broker
    finally:
        await broker.close()


def needs(invocation: Invocation, modules: Sequence[str]) -> Needs:
    from ..engine.carrying import needs_of

    services = services_of(modules) if modules else services_to_run(invocation.settings)
    for read, publisher, channel in _left_out(services):
        note(
            f"{read} reads {channel}, which {publisher} publishes: named together they are taken to be on one journal, and nothing at "
            f"the broker is for {read} to read {channel} from. Where they have journals of their own, give each a command of its own."
        )
    return needs_of(services)


def _left_out(services: Sequence[Service[Any]]) -> list[tuple[str, str, str]]:
    """Who reads what another one publishes, as it would on one journal, without the broker."""
    publisher = {channel: service.name for service in services for channel in service.publishes}
    found = {
        (service.name, publisher[kind.context], kind.context)
        for service in services
        for handler in service.handlers.values()
        for kind in handler.types
        if publisher.get(kind.context, service.name) != service.name
    }
    return sorted(found)


def _view(difference: Difference) -> dict[str, Any]:
    return {"what": difference.what, "wanted": difference.wanted, "found": difference.found, "safe": difference.safe}


def _say_differences(differences: Sequence[Difference]) -> None:
    rows = [
        (one.what, one.wanted, one.found or "nothing", "by itself" if one.safe else "by hand") for one in differences
    ]
    say_table(DIFFERENCES, rows)


@click.group(cls=Group)
def command() -> None:
    """What services need on the broker: plan, apply, verify; and replay, of a broker with an archive."""


@command.command()
@MODULES
@setting_option("broker", "URL")
@json_option
@pass_invocation
@asynchronous
async def plan(invocation: Invocation, modules: tuple[str, ...], as_json: bool) -> None:
    """Show what `apply` would make, and what it would leave to you. Changes nothing."""
    async with connected(invocation) as broker:
        differences = await broker.differences(needs(invocation, modules))
    if as_json:
        say(json_document([_view(one) for one in differences]))
    elif differences:
        _say_differences(differences)
    else:
        note("Everything is there.")


@command.command()
@MODULES
@setting_option("broker", "URL")
@json_option
@pass_invocation
@asynchronous
async def apply(invocation: Invocation, modules: tuple[str, ...], as_json: bool) -> int:
    """Make what is missing. It deletes nothing, and changes nothing that others may rely on; what is then still
    different is shown, and makes the exit code 1."""
    async with connected(invocation) as broker:
        wanted = needs(invocation, modules)
        made = await broker.apply(wanted)
        left = await broker.differences(wanted)
    if as_json:
        say(json_document({"made": [_view(one) for one in made], "left": [_view(one) for one in left]}))
    else:
        for one in made:
            say(f"made {one.what}: {one.wanted}")
        if not made:
            note("Nothing was missing.")
        if left:
            _say_differences(left)
            note("These are left as they are: the page on brokers says how to change them without losing the order.")
    return FAILED if left else 0


@command.command()
@MODULES
@setting_option("broker", "URL")
@json_option
@pass_invocation
@asynchronous
async def verify(invocation: Invocation, modules: tuple[str, ...], as_json: bool) -> int:
    """Compare, and look at what the live broker survives: replication, limits, retention. The exit code is 1 when
    something is missing, different or dangerous, so that a deployment may call this."""
    async with connected(invocation) as broker:
        wanted = needs(invocation, modules)
        differences = await broker.differences(wanted)
        findings = [] if any(one.safe for one in differences) else await broker.findings(wanted)
    if as_json:
        found = [one._asdict() for one in findings]
        say(json_document({"differences": [_view(one) for one in differences], "findings": found}))
    else:
        say_findings(findings)
        if differences:
            _say_differences(differences)
        note(f"{plural(len(differences), 'difference')}.")
    return FAILED if differences or any(one.level == "danger" for one in findings) else 0


@command.command()
@MODULES
@setting_option("broker", "URL")
@click.option("--since", type=past, required=True, metavar="TIME", help="A time, or how long ago (2h): from then on.")
@click.option("--until", type=past, metavar="TIME", help="Until then. [default: now]")
@click.option("--channel", metavar="NAME", help="Of this channel alone. [default: all that they subscribe to]")
@json_option
@pass_invocation
@asynchronous
async def replay(
    invocation: Invocation,
    modules: tuple[str, ...],
    since: datetime,
    until: datetime | None,
    channel: str | None,
    as_json: bool,
) -> None:
    """Have the broker's archive send once more what services subscribe to, as far as the broker had it in this time. What
    their journal has is known there and passed over: this mends a gap, where `spine subscriptions rewind` has a handler
    handle again what the journal has."""
    async with connected(invocation) as broker:
        if not isinstance(broker, Replaying):
            raise Failed(
                f"{broker.features.name} has no archive that it could send from. What a journal has is handled again by "
                "`spine subscriptions rewind`."
            )
        begun = [
            {"channel": of, "consumer": consumer, "replay": await broker.replay(of, consumer, since, until or _now())}
            for of, consumer in _consumed(needs(invocation, modules), channel)
        ]
    if as_json:
        say(json_document(begun))
    else:
        for one in begun:
            say(f"{one['channel']} is sent to {one['consumer']} again: replay {one['replay']}")


def _now() -> datetime:
    return datetime.now(UTC)


def _consumed(wanted: Needs, channel: str | None) -> Sequence[tuple[str, str]]:
    consumes = [one for one in wanted.consumes if channel in (None, one[0])]
    if not consumes:
        what = "anything that they don't publish themselves" if channel is None else repr(channel)
        raise Misused(
            f"None of these services subscribes to {what}. Name those that do: spine topology replay MODULE:NAME"
        )
    return consumes


def say_findings(findings: Sequence[Finding]) -> None:
    for one in findings:
        say(f"{one.level:8} {one.what}: {one.says}")
