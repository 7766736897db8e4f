"""The reference names every option of every command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from eventspine.cli.app import COMMANDS, spine

COMMON = {"--help", "--debug", "--journal"}


def options(name: str, command: click.Command) -> Iterator[tuple[str, str]]:
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield name, max(parameter.opts, key=len)
    if isinstance(command, click.Group):
        for below, child in command.commands.items():
            yield from options(f"{name} {below}", child)


def test_every_option_is_in_the_reference():
    page = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    context = click.Context(spine)
    every = [pair for name in COMMANDS for pair in options(name, spine.get_command(context, name) or spine)]

    assert [(command, option) for command, option in every if option not in page and option not in COMMON] == []
