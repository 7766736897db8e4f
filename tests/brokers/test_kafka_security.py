"""Who may do what on a Kafka that asks: TLS, logging in, permissions, and what is said of them. A server of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from eventspine.brokers import open_broker
from eventspine.brokers.port import Broker, Message, Needs
from eventspine.errors import BrokerError
from eventspine.testing import servers
from eventspine.testing.servers import Server

NEEDS = Needs(["orders"], [("orders", "stock.orders")])
SECRET = "s3cret of alice"
MESSAGE = Message("orders", 0, "ann", "1", {"ce_id": "1"}, "application/json", b"{}")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate that is its own authority, of 127.0.0.1."""
    if shutil.which("openssl") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", folder / "certificate.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    both = (folder / "key.pem").read_text() + (folder / "certificate.pem").read_text()
    (folder / "server.pem").write_text(both)
    return folder / "certificate.pem"


@pytest.fixture(scope="module")
def secured(certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Nobody in particular may do everything on its first port; on its fourth one logs in over TLS."""
    kind = servers.named("kafka")
    if not kind.is_installed():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("kafka is not installed: spine servers install kafka")
    port = servers.free_ports(4)
    listeners = f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{port + 1},SECURE://127.0.0.1:{port + 3}"
    users = "".join(f' user_{name}="{SECRET}"' for name in ("alice", "bob"))
    plain = f"org.apache.kafka.common.security.plain.PlainLoginModule required{users};"
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    settings = {
        "listeners": listeners,
        "advertised.listeners": listeners,
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
        "listener.name.secure.plain.sasl.jaas.config": plain,
        "listener.name.secure.scram-sha-512.sasl.jaas.config": scram,
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificate.parent / "server.pem"),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    with kind(tmp_path_factory.mktemp("kafka"), port, settings=settings) as server:
        yield server


class Access:
    def __init__(self, server: Server, certificate: Path) -> None:
        self.server = server
        self.prefix = f"t{uuid4().hex[:10]}."
        self.address = f"127.0.0.1:{server.port + 3}"
        self.ca = f"tls_ca={certificate}"
        self.admin = AdminClient({"bootstrap.servers": server.address})

    def url(self, user: str, *options: str, password: str = SECRET, sasl: str = "PLAIN") -> str:
        words = "&".join([f"sasl={sasl}", f"prefix={self.prefix}", "partitions=2", "timeout_s=20", *options])
        return f"kafka://{user}:{password.replace(' ', '%20')}@{self.address}/?{words}"

    def allow(self, user: str, what: ResourceType, *operations: AclOperation) -> None:
        grants = [
            AclBinding(what, self.prefix, ResourcePatternType.PREFIXED, f"User:{user}", "*", operation, AclPermissionType.ALLOW)
            for operation in operations
        ]  # fmt: skip
        for granted in self.admin.create_acls(grants).values():
            granted.result()

    def enrol(self, user: str) -> None:
        """One of its own, with the password of all."""
        credential = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        change = UserScramCredentialUpsertion(user, credential, SECRET.encode())
        self.admin.alter_user_scram_credentials([change])[user].result()

    async def prepare(self) -> None:
        async with opened(f"{self.server.url}/?prefix={self.prefix}&partitions=2") as broker:
            await broker.apply(NEEDS)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Broker]:
    broker = open_broker(url)
    await broker.open()
    try:
        yield broker
    finally:
        await broker.close()


@pytest.fixture
def access(secured: Server, certificate: Path) -> Access:
    return Access(secured, certificate)


@pytest.mark.parametrize("sasl", ["PLAIN", "SCRAM-SHA-512"])
async def test_who_logs_in_over_tls_and_may_does_everything(access: Access, sasl: str):
    user = "alice" if sasl == "PLAIN" else f"carol{access.prefix[:6]}"
    if sasl != "PLAIN":
        access.enrol(user)
    operations = [AclOperation.CREATE, AclOperation.WRITE, AclOperation.READ, AclOperation.DESCRIBE]
    access.allow(user, ResourceType.TOPIC, *operations, AclOperation.DESCRIBE_CONFIGS)
    access.allow(user, ResourceType.GROUP, AclOperation.READ, AclOperation.DESCRIBE)
    access.allow(user, ResourceType.TRANSACTIONAL_ID, AclOperation.WRITE, AclOperation.DESCRIBE)
    async with opened(access.url(user, access.ca, sasl=sasl)) as broker:
        assert SECRET not in broker.url
        await broker.apply(NEEDS)
        assert await broker.claim("publisher", "orders", "me", force=False) == "me"
        assert [None] == [*await broker.send([MESSAGE])]
        changed = asyncio.Event()
        intake = await broker.intake("orders", "stock.orders", changed.set)
        async with asyncio.timeout(60):
            while len(intake.assigned()) < 2:
                await changed.wait()
                changed.clear()
            await intake.begin(0, after=0, start="now", epoch=1)
            found = []
            while not found:
                found = [*await intake.fetch(10, 1)]
        await intake.close()
        assert found[0].data == b"{}"
        assert not [one for one in await broker.findings(NEEDS) if "may not" in one.says]


async def test_a_wrong_password_is_refused_at_once_and_shown_to_nobody(access: Access):
    with pytest.raises(BrokerError, match="lets us not in") as refused:
        async with asyncio.timeout(30), opened(access.url("alice", access.ca, password="of somebody else")):
            pass
    assert "of somebody else" not in str(refused.value)
    assert "of%20somebody" not in str(refused.value)


async def test_a_certificate_that_nobody_vouches_for_is_refused(access: Access):
    with pytest.raises(BrokerError, match="lets us not in.*certificate"):
        async with asyncio.timeout(30), opened(access.url("alice", "tls=yes")):
            pass


async def test_who_may_nothing_is_told_what_to_ask_for(access: Access):
    await access.prepare()
    async with opened(access.url("bob", access.ca)) as broker:
        (answer,) = await broker.send([MESSAGE])
        assert isinstance(answer, BrokerError)
        with pytest.raises(BrokerError, match="uthorization"):
            await broker.differences(NEEDS)
        with pytest.raises(BrokerError, match="uthorization"):
            await broker.claim("publisher", "orders", "me", force=False)


async def test_who_may_all_but_write_a_claim_is_told_so(access: Access):
    await access.prepare()
    user = f"dora{access.prefix[:6]}"
    access.enrol(user)
    access.allow(user, ResourceType.TOPIC, AclOperation.READ, AclOperation.DESCRIBE)
    access.allow(user, ResourceType.GROUP, AclOperation.READ, AclOperation.DESCRIBE)
    async with opened(access.url(user, access.ca, sasl="SCRAM-SHA-512")) as broker:
        with pytest.raises(BrokerError, match=f"on the transactional id '{access.prefix}orders@publisher'"):
            await broker.claim("publisher", "orders", "me", force=False)


async def test_who_may_look_and_no_more_is_told_what_is_missing(access: Access):
    await access.prepare()
    access.allow("bob", ResourceType.TOPIC, AclOperation.DESCRIBE)
    async with opened(access.url("bob", access.ca)) as broker:
        (answer,) = await broker.send([MESSAGE])
        assert "Grant WRITE on it to this user" in str(answer)
        with pytest.raises(BrokerError, match="Grant READ on this group and topic"):
            await broker.claim("publisher", "orders", "me", force=False)
        told = [f"{one.level} {one.what}: {one.says}" for one in await broker.findings(NEEDS)]
        topic = f"{access.prefix}orders"
        assert f"danger topic {topic}: This user may not WRITE it: grant that." in told
        assert f"danger topic {topic}: This user may not READ it: grant that." in told
        assert any("grant DESCRIBE_CONFIGS" in one for one in told)
        assert any(one.startswith("danger group") and "grant READ" in one for one in told)
        intake = await broker.intake("orders", "stock.orders", lambda: None)
        with pytest.raises(BrokerError, match="uthorization"):
            async with asyncio.timeout(60):
                while True:
                    await intake.fetch(10, 0.5)
        await intake.close()
