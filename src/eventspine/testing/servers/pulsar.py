"""Pulsar standalone: broker, bookie and their metadata (in RocksDB) in one process, from Maven Central.

Ports: clients, administration by HTTP, a proxy's way in, the proxy. A broker tells its clients where to go on, so the proxy has
a listener of its own, which sends them to the proxy again. Topics are made when they are first used, with one partition, and are not deleted when
nobody uses them; deduplication, delayed delivery and acknowledgement within a batch are on. Acknowledged messages are synced.
`Ledger root path: /ledgers already exists` in the log of a second start does no harm. As with Kafka, what Java compiles with
more care after a while is left out: a start takes half as much work."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from . import configuration, maven
from .installing import Tell
from .proxy import Proxy
from .pypi import PINS
from .server import Server, answers

_SMALL_AND_QUICK = {
    "clusterName": "standalone",
    "bindAddress": "127.0.0.1",
    "advertisedAddress": "127.0.0.1",
    "metadataStoreUrl": "",
    "configurationMetadataStoreUrl": "",
    "managedLedgerDefaultEnsembleSize": 1,
    "managedLedgerDefaultWriteQuorum": 1,
    "managedLedgerDefaultAckQuorum": 1,
    "brokerDeleteInactiveTopicsEnabled": "false",
    "allowAutoTopicCreation": "true",
    "allowAutoTopicCreationType": "partitioned",
    "defaultNumPartitions": 1,
    "acknowledgmentAtBatchIndexLevelEnabled": "true",
    "brokerDeduplicationEnabled": "true",
    "delayedDeliveryEnabled": "true",
    "systemTopicEnabled": "true",
    "topicLevelPoliciesEnabled": "true",
    "loadBalancerEnabled": "false",
    "numIOThreads": 2,
    "numHttpServerThreads": 4,
    "numOrderedExecutorThreads": 2,
    "numCacheExecutorThreadPoolSize": 2,
    "managedLedgerNumWorkerThreads": 2,
    "managedLedgerNumSchedulerThreads": 2,
    "managedLedgerCacheSizeMB": 32,
    "allowLoopback": "true",
    "dbStorage_writeCacheMaxSizeMb": 32,
    "dbStorage_readAheadCacheMaxSizeMb": 32,
    "dbStorage_rocksDB_blockCacheSize": 8388608,
    "listeningInterface": "lo0" if sys.platform == "darwin" else "lo",  # the bookie's; else everybody could reach it
    "nettyMaxFrameSizeBytes": 5_253_120,  # the bookie's, as Pulsar ships it: room for a chunk, which fills a message
    "journalSyncData": "true",
    "journalMaxGroupWaitMSec": 1,
}
# What Pulsar's own start script opens to it.
_OPENED = (
    *(f"java.base/{package}" for package in ("java.lang", "java.nio", "java.util", "java.util.zip", "sun.net")),
    *(f"java.base/jdk.internal.{package}" for package in ("misc", "platform")),
    "java.management/sun.management",
    "jdk.management/com.sun.management.internal",
)
_METADATA = "org.apache.pulsar.metadata.bookkeeper.PulsarMetadata"


class Pulsar(Server):
    """`settings`: of standalone.conf."""

    name = "pulsar"
    version = "4.0.7"
    url_form = "pulsar://{address}"
    pins = ("pulsar.pom.xml",)
    port_count = 4
    proxy_ports = 1

    @classmethod
    def _check_needs(cls) -> None:
        maven.java()

    @classmethod
    def _fill(cls, folder: Path, tell: Tell) -> None:
        tell("317 jars from Maven Central; a minute or two")
        maven.jars(cls.name, folder)

    def proxy(self) -> Proxy:
        return Proxy(self.port + 2, self.port + 3, url_form=self.url_form)

    @property
    def broker_url(self) -> str:
        return f"{self.url}/public/default?admin={self.admin_url}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.port + 1}"

    def _prepare(self) -> None:
        ports = {
            "brokerServicePort": self.port,
            "webServicePort": self.port + 1,
            "bindAddresses": f"proxied:pulsar://127.0.0.1:{self.port + 2}",
            "advertisedListeners": f"direct:pulsar://127.0.0.1:{self.port},proxied:pulsar://127.0.0.1:{self.port + 3}",
            "internalListenerName": "direct",
        }
        settings = {**_SMALL_AND_QUICK, **ports, **self.settings}
        (self.folder / "standalone.conf").write_text(configuration.lines(settings), encoding="utf-8")

    def _command(self) -> Sequence[str]:
        return [
            maven.java(),
            *("-cp", f"{self.installed()}/*"),
            *(word for package in _OPENED for word in ("--add-opens", f"{package}=ALL-UNNAMED")),
            f"-Dlog4j2.configurationFile={PINS / 'pulsar.log4j2.yaml'}",
            *("-Xms128m", "-Xmx512m", "-XX:MaxDirectMemorySize=512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
            "-Dio.netty.tryReflectionSetAccessible=true",
            f"-Dbookkeeper.metadata.bookie.drivers={_METADATA}BookieDriver",
            f"-Dbookkeeper.metadata.client.drivers={_METADATA}ClientDriver",
            "org.apache.pulsar.PulsarStandaloneStarter",
            *("--config", str(self.folder / "standalone.conf"), "--no-functions-worker", "--no-stream-storage"),
            *("--advertised-address", "127.0.0.1"),
            *("--metadata-dir", str(self.folder / "data" / "metadata")),
            *("--bookkeeper-dir", str(self.folder / "data" / "bookkeeper")),
        ]

    def _ready(self) -> bool:
        """The broker has published a message to itself and read it."""
        return answers(f"{self.admin_url}/admin/v2/brokers/health", says="ok")


SERVER = Pulsar
