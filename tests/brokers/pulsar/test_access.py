"""Who may in, and over TLS: a Pulsar that wants to know."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from eventspine.brokers import open_broker
from eventspine.brokers.port import Message, Needs
from eventspine.errors import BrokerError
from eventspine.testing import servers
from eventspine.testing.servers.pulsar import Pulsar

CHANNEL = "orders"
NEEDS = Needs([CHANNEL], [(CHANNEL, f"stock.{CHANNEL}")])
KEY = b"a secret of thirty-two bytes, ok"
PASSWORD = "p/ss w@rd"


def token(role: str) -> str:
    def part(what: bytes) -> str:
        return base64.urlsafe_b64encode(what).rstrip(b"=").decode()

    head = f"{part(json.dumps({'alg': 'HS256'}).encode())}.{part(json.dumps({'sub': role}).encode())}"
    return f"{head}.{part(hmac.digest(KEY, head.encode(), hashlib.sha256))}"


def certificates(folder: Path) -> None:
    """Of an authority, a server that is 127.0.0.1, and a client."""

    def openssl(*arguments: str) -> str:
        ran = subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, text=True)
        return ran.stdout

    rsa = ("-newkey", "rsa:2048", "-nodes")
    openssl("req", "-x509", *rsa, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n", encoding="utf-8")
    for name in ("server", "client"):
        openssl("req", *rsa, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
    (folder / "passwords").write_text(f"ann:{openssl('passwd', '-apr1', PASSWORD)}", encoding="utf-8")
    (folder / "key").write_bytes(KEY)


class Guarded:
    """A Pulsar of which we know the certificates and passwords."""

    def __init__(self, server: servers.Server, folder: Path, tls: int) -> None:
        self.server = server
        self.folder = folder
        self.tls = tls

    def url(self, login: str = "", *, user: str = "", **options: str) -> str:
        said = {"admin": f"https://127.0.0.1:{self.tls + 1}", "tls_ca": str(self.folder / "ca.pem"), **options}
        pairs = [f"{name}={value}" for name, value in said.items() if value]
        more = "&".join([*pairs, *filter(None, [login]), f"prefix=t{uuid4().hex[:8]}.", "partitions=1", "timeout_s=15"])
        return f"pulsar+ssl://{user}127.0.0.1:{self.tls}/public/default?{more}"


class Guarding(Pulsar):
    def _ready(self) -> bool:
        bearer = {"Authorization": f"Bearer {token('admin')}"}
        asked = urllib.request.Request(f"{self.admin_url}/admin/v2/brokers/health", headers=bearer)
        try:
            with urllib.request.urlopen(asked, timeout=30) as answer:
                return bool(answer.read() == b"ok")
        except OSError:
            return False


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    if not Guarding.is_installed():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("Pulsar is not installed: spine servers install pulsar")
    folder, tls = tmp_path_factory.mktemp("guarded"), servers.free_ports(2)
    certificates(folder)
    server = Guarding(folder / "pulsar")
    server.settings = settings(folder, tls, server.port)
    with server:
        yield Guarded(server, folder, tls)


def settings(folder: Path, tls: int, port: int) -> dict[str, str]:
    provider = "org.apache.pulsar.broker.authentication.AuthenticationProvider"
    direct = f"direct:pulsar://127.0.0.1:{port},direct:pulsar+ssl://127.0.0.1:{tls}"
    return {
        "brokerServicePortTls": str(tls),
        "webServicePortTls": str(tls + 1),
        "numHttpServerThreads": "8",  # two ports want more
        "advertisedListeners": f"{direct},proxied:pulsar://127.0.0.1:{port + 3}",
        "tlsCertificateFilePath": str(folder / "server.pem"),
        "tlsKeyFilePath": str(folder / "server.key"),
        "tlsTrustCertsFilePath": str(folder / "ca.pem"),
        "authenticationEnabled": "true",
        "authenticationProviders": f"{provider}Token,{provider}Basic,{provider}Tls",
        "authorizationEnabled": "true",
        "superUserRoles": "admin,ann,client",
        "tokenSecretKey": f"file://{folder / 'key'}",
        "basicAuthConf": f"file://{folder / 'passwords'}",
        "brokerClientAuthenticationPlugin": "org.apache.pulsar.client.impl.auth.AuthenticationToken",
        "brokerClientAuthenticationParameters": f"token:{token('admin')}",
    }


async def goes(url: str) -> None:
    """Both ways in: the administration, and the broker."""
    broker = open_broker(url)
    await broker.open()
    try:
        await broker.apply(NEEDS)
        headers = {"ce_id": "1"}
        assert [None] == list(await broker.send([Message(CHANNEL, 1, None, "1", headers, "text/plain", b"x")]))
        assert [] == list(await broker.differences(NEEDS))
    finally:
        await broker.close()


async def test_a_token_lets_us_in_over_tls(guarded: Guarded) -> None:
    await goes(guarded.url(f"token={token('admin')}"))


async def test_a_token_is_read_from_its_file_each_time(guarded: Guarded, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("not yet\n", encoding="utf-8")
    url = guarded.url(f"token_file={file}")
    with pytest.raises(BrokerError):
        await goes(url.replace("timeout_s=15", "timeout_s=3"))
    file.write_text(token("admin") + "\n", encoding="utf-8")
    await goes(url)


async def test_a_name_and_a_password_let_us_in(guarded: Guarded) -> None:
    await goes(guarded.url(user="ann:p%2Fss%20w%40rd@"))


async def test_a_certificate_lets_us_in(guarded: Guarded) -> None:
    await goes(guarded.url(f"tls_cert={guarded.folder / 'client.pem'}&tls_key={guarded.folder / 'client.key'}"))


async def test_who_is_not_known_is_told_what_to_give_and_no_secret(guarded: Guarded) -> None:
    with pytest.raises(BrokerError, match="token_file=") as raised:
        await goes(guarded.url("token=wr0ng").replace("timeout_s=15", "timeout_s=3"))
    assert "wr0ng" not in str(raised.value)
    with pytest.raises(BrokerError) as raised:
        await goes(guarded.url(user="ann:wr0ng@").replace("timeout_s=15", "timeout_s=3"))
    assert "wr0ng" not in str(raised.value)


async def test_who_may_not_is_told_what_to_grant(guarded: Guarded) -> None:
    with pytest.raises(BrokerError, match="rant"):
        await goes(guarded.url(f"token={token('somebody')}"))


async def test_a_server_whose_certificate_nobody_vouches_for_is_not_talked_to(guarded: Guarded) -> None:
    with pytest.raises(BrokerError):
        await goes(guarded.url(f"token={token('admin')}", tls_ca="").replace("timeout_s=15", "timeout_s=3"))


async def test_a_server_of_another_name_is_talked_to_only_if_told(guarded: Guarded) -> None:
    login = f"token={token('admin')}"
    url = guarded.url(login).replace("127.0.0.1", "localhost").replace("timeout_s=15", "timeout_s=3")
    with pytest.raises(BrokerError):
        await goes(url)
    await goes(url.replace("timeout_s=3", "timeout_s=15&tls_verify_hostname=no"))
