"""Kafka in KRaft mode: broker and controller in one process, from Maven Central.

Ports: clients, controller, a proxy's way in, the proxy. A broker tells its clients where to go on, so the proxy has a listener
of its own, which sends them to the proxy again. Topics are not made by accident: a test that forgets to make its topic fails. One replica of
everything; short group timeouts, so that a rebalance or a crash takes seconds. After kill() the broker is let back in
when its old session is over, which takes two seconds here.

Half of the time that it takes to start is Java's own compiling; what makes it faster after minutes of load only is left out,
which halves the work of a start."""

from __future__ import annotations

import base64
import socket
import struct
import uuid
from collections.abc import Sequence
from pathlib import Path

from . import configuration, maven
from .installing import Tell, run
from .proxy import Proxy
from .pypi import PINS
from .server import Server

_SMALL_AND_QUICK = {
    "process.roles": "broker,controller",
    "node.id": 1,
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    "controller.listener.names": "CONTROLLER",
    "default.replication.factor": 1,
    "min.insync.replicas": 1,
    "offsets.topic.replication.factor": 1,
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.num.partitions": 4,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    "share.coordinator.state.topic.num.partitions": 4,
    "num.partitions": 3,
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": 0,
    "group.min.session.timeout.ms": 1000,
    "group.consumer.min.session.timeout.ms": 1000,
    "group.consumer.min.heartbeat.interval.ms": 100,
    "group.consumer.session.timeout.ms": 6000,
    "group.consumer.heartbeat.interval.ms": 500,
    "group.share.min.session.timeout.ms": 1000,
    "group.share.min.heartbeat.interval.ms": 100,
    "group.share.session.timeout.ms": 6000,
    "group.share.heartbeat.interval.ms": 500,
    "num.network.threads": 2,
    "num.io.threads": 4,
    "num.recovery.threads.per.data.dir": 1,
    "log.cleaner.dedupe.buffer.size": 4194304,
    "log.retention.hours": -1,
    "log.segment.bytes": 67108864,
    "telemetry.max.bytes": 65536,
    "broker.session.timeout.ms": 2000,
    "broker.heartbeat.interval.ms": 400,
}


class Kafka(Server):
    """`settings`: of server.properties. More listeners (TLS, SASL) may be added; keep those that are there."""

    name = "kafka"
    version = "4.3.1"
    url_form = "kafka://{address}"
    pins = ("kafka.pom.xml",)
    port_count = 4
    proxy_ports = 1

    @classmethod
    def _check_needs(cls) -> None:
        maven.java()

    @classmethod
    def _fill(cls, folder: Path, tell: Tell) -> None:
        tell("46 jars from Maven Central")
        maven.jars(cls.name, folder)

    def proxy(self) -> Proxy:
        return Proxy(self.port + 2, self.port + 3, url_form=self.url_form)

    def _prepare(self) -> None:
        listeners = f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.port + 1}"
        proxied = "PROXIED://127.0.0.1:{}"
        settings = {
            **_SMALL_AND_QUICK,
            "listeners": f"{listeners},{proxied.format(self.port + 2)}",
            "advertised.listeners": f"{listeners},{proxied.format(self.port + 3)}",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{self.port + 1}",
            "log.dirs": self.folder / "data",
            **self.settings,
        }
        self._properties.write_text(configuration.lines(settings), encoding="utf-8")
        if not (self.folder / "data" / "meta.properties").exists():
            self._format()

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    def _format(self) -> None:
        # A leading dash would be taken for an option.
        cluster = "E" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]
        words = ["kafka.tools.StorageTool", "format", "--standalone", "-t", cluster, "-c", str(self._properties)]
        run([*self._java(), *words], "Formatting Kafka's data folder")

    def _java(self, *options: str) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={PINS / 'kafka.log4j2.yaml'}"
        small = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        return [maven.java(), "-cp", f"{self.installed()}/*", logging, *small, *options]

    def _command(self) -> Sequence[str]:
        return [
            *self._java("-Xms128m", "-Xmx512m", "-XX:+ExitOnOutOfMemoryError"),
            "kafka.Kafka",
            str(self._properties),
        ]

    def _ready(self) -> bool:
        """It lists a broker, which is itself, once the controller has let it in."""
        return bool(_brokers_listed(self.port))


def _brokers_listed(port: int) -> int:
    """The answer to a Metadata request, version 1, for no topic; asked by hand, so that no client library is needed."""
    header = struct.pack(">hhih", 3, 1, 1, 10) + b"eventspine"
    request = header + struct.pack(">i", 0)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer = connection.makefile("rb").read(12)
    except OSError:
        return 0
    if len(answer) < 12:
        return 0
    _, _, brokers = struct.unpack(">iii", answer)
    return int(brokers)


SERVER = Kafka
