"""`spine completion`: the script that has a shell complete commands, options, and names that are stored in the journal.

Completing reads; it says nothing when something is wrong, since there is nowhere to say it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .app import Command, Invocation
from .output import say

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ..journal.port import Journal

DEAD_MOST = 50
_INSTALL = {
    "bash": ('eval "$(spine completion bash)"', "~/.bashrc"),
    "zsh": ('eval "$(spine completion zsh)"', "~/.zshrc, after compinit"),
    "fish": ("spine completion fish | source", "~/.config/fish/config.fish"),
}

Complete = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]


def from_journal(find: Callable[[Journal], Awaitable[Sequence[tuple[str, str]]]]) -> Complete:
    """Completes with the (word, help) that `find` gives, where there is a journal."""

    def complete(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        found: Sequence[tuple[str, str]] = ()
        with suppress(Exception):
            found = asyncio.run(_ask(context.ensure_object(Invocation), find))
        return [CompletionItem(word, help=help) for word, help in found if word.startswith(typed)]

    return complete


async def _ask(
    invocation: Invocation, find: Callable[[Journal], Awaitable[Sequence[tuple[str, str]]]]
) -> Sequence[tuple[str, str]]:
    from .journals import existing_journal

    async with existing_journal(invocation) as journal:
        return await find(journal)


async def _subscriptions(journal: Journal) -> list[tuple[str, str]]:
    rows = [row for row in await journal.subscriptions() if row.state != "retired"]
    return [(row.name, row.state) for row in sorted(rows, key=lambda row: row.name)]


async def _services(journal: Journal) -> list[tuple[str, str]]:
    return [(name, "") for name in sorted({row.service for row in await journal.subscriptions()})]


async def _dead(journal: Journal) -> list[tuple[str, str]]:
    rows = await journal.deliveries(states=["dead"], limit=DEAD_MOST, records=False)
    return [(str(row.number), row.reason) for row in rows]


async def _parked(journal: Journal) -> list[tuple[str, str]]:
    rows = await journal.deliveries(states=["parked"], limit=DEAD_MOST, records=False)
    return [(str(row.number), row.reason) for row in rows]


subscriptions = from_journal(_subscriptions)
services = from_journal(_services)
_STATES = {"dead": from_journal(_dead), "parked": from_journal(_parked)}


def numbers(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """Of what the command is about: `spine dead …`, `spine parked …`."""
    about = context.parent.info_name if context.parent is not None else None
    complete = _STATES.get(about or "")
    return complete(context, parameter, typed) if complete else []


def modules(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """Python files and packages of this folder, and below what has been typed."""
    from click.shell_completion import CompletionItem

    above, dot, _ = typed.rpartition(".")
    folder = Path(*above.split(".")) if above else Path()
    found = [path.stem for path in folder.glob("[a-z_]*.py") if not path.stem.startswith("__")]
    found += [path.parent.name for path in folder.glob("*/__init__.py")]
    return [CompletionItem(word) for name in sorted(found) if (word := f"{above}{dot}{name}").startswith(typed)]


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(list(_INSTALL)))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the script that completes commands, options and names in a shell.

    Its first lines say where it goes."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    line, file = _INSTALL[shell]
    root = context.find_root()
    script = kind(root.command, {}, "spine", "_SPINE_COMPLETE")
    say(f"# To have it in every new shell, put this line into {file}:")
    say(f"#   {line}")
    say(script.source_template % script.source_vars())  # `source()` would ask the shell for its version first
