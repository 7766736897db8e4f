"""`spine settings`: each setting and where it came from; passwords are not shown. Opens nothing."""

from __future__ import annotations

import os

import click
import msgspec

from ..settings import Origin, Settings, misspelt
from .app import Command, Invocation, json_option, pass_invocation
from .inside import inside
from .output import json_document, note, say, say_table


def _text(value: object) -> str:
    if value in (None, [], {}):
        return "-"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def origin_of(found: Settings, name: str) -> Origin:
    """In another program it is that which has named the journal."""
    host = inside.get()
    return found.origins[name] if host is None or name != "journal" else Origin("project", host.journal_from)


def view(found: Settings) -> dict[str, object]:
    return {
        "file": None if found.file is None else str(found.file),
        "settings": {
            name: {"value": value, "from": origin_of(found, name).kind, "where": origin_of(found, name).where or None}
            for name, value in found.shown().items()
        },
    }


@click.command(cls=Command)
@json_option
@pass_invocation
def command(invocation: Invocation, as_json: bool) -> None:
    """Show each setting and where it came from."""
    found = invocation.settings
    if as_json:
        say(json_document(view(found)))
        return
    rows = [(name, _text(value), str(origin_of(found, name))) for name, value in found.shown().items()]
    say_table(("setting", "value", "from"), rows)
    if found.file is None:
        note("There is no settings file, neither here nor in a folder above.")
    for name, meant in misspelt(os.environ):
        note(f"The variable {name} is none of these and was not read. Is {meant} meant?")
