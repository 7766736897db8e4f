"""The reference names every option of every command, and every field of what they print as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from eventspine.cli.app import COMMANDS, spine

COMMON = {"--help", "--debug", "--journal", "--settings"}


PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def options(name: str, command: click.Command) -> Iterator[tuple[str, str]]:
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield name, max(parameter.opts, key=len)
    if isinstance(command, click.Group):
        for below, child in command.commands.items():
            yield from options(f"{name} {below}", child)


def test_every_option_is_in_the_reference():
    page = PAGE.read_text(encoding="utf-8")
    context = click.Context(spine)
    every = [pair for name in COMMANDS for pair in options(name, spine.get_command(context, name) or spine)]

    assert [(command, option) for command, option in every if option not in page and option not in COMMON] == []


def test_every_command_that_prints_json_is_in_the_list_of_those():
    told = (
        PAGE.read_text(encoding="utf-8").partition("`--json` is there for ")[2].partition("; commands that change")[0]
    )
    named = set(re.findall(r"`([a-z -]+)`", told))
    context = click.Context(spine)
    every = [pair for name in COMMANDS for pair in options(name, spine.get_command(context, name) or spine)]
    printing = {command for command, option in every if option == "--json"}

    assert {name for name in printing if not {name, f"{name} list", name.partition(" ")[0]} & named} == set()
    assert {name for name in named if not {name, f"{name} plan"} & printing} == set()


def fields(shown: Any) -> set[str]:
    """All names, at any depth; not those of an event, or in its data."""
    if isinstance(shown, list):
        return {name for one in shown for name in fields(one)}
    if not isinstance(shown, dict) or "specversion" in shown:
        return set()
    return set(shown).union(*map(fields, shown.values()))


def test_the_json_of_the_commands_is_as_the_reference_shows_it(say, story):
    section = PAGE.read_text(encoding="utf-8").partition("\n## JSON\n")[2]
    blocks = re.findall(r"```json\n(.*?)```", section.replace("{…}", "{}"), re.DOTALL)
    event, publish, trail, subscriptions, dead, listed, _views, replay, restore, traced, doctor, top, shown_settings = (
        blocks  # of views: test_views.py
    )
    schedule, streams, heads = map(json.loads, listed.splitlines())

    def printed(*command: str) -> set[str]:
        return fields(json.loads(say(*command, "--json").stdout))

    assert {"id", "type", "key", "position"} == fields(json.loads(publish))
    assert {"version", "event"} == fields(streams)
    assert {"service", "stream", "version", "last_type", "deleted"} == fields(heads)
    audit = json.loads(say("audit-trail", "--json").stdout.splitlines()[0])
    assert fields(audit) == fields(json.loads(trail))
    assert printed("subscriptions") == fields(json.loads(subscriptions))
    assert printed("dead", "list") == printed("parked", "list") == fields(json.loads(dead))
    assert printed("dead", "show", "1") == fields(json.loads(dead)) | {"traceback"}
    assert printed("schedule", "list") == fields(schedule)
    assert printed("trace", story.order) == fields(json.loads(traced))
    assert printed("doctor") <= fields(json.loads(doctor))
    assert printed("top", "--every", "0.1") <= fields(json.loads(top)) | fields(json.loads(subscriptions))
    assert fields(json.loads(shown_settings)) <= printed("settings")
    assert printed("replay", "--into", "scratch.db") == fields(json.loads(replay))
    say("backup", "copy.db")
    newer = fields(json.loads(restore))
    assert printed("restore", "copy.db", "--verify") == newer
    shown = set(json.loads(say("tail", "--no-follow", "--json", "-n", "1").stdout.splitlines()[0]))
    assert shown - {"causationid"} <= set(json.loads(event))
