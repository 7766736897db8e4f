"""Pulsar's administration by HTTP, with what the standard library has."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import quote, urlsplit

from ..errors import BrokerError
from ._pulsar_client import Settings

JSON = "application/json"
HOPS_MAX = 5
REDIRECTS = frozenset({301, 302, 307, 308})
REFUSED = {
    401: "it wants to know who we are: token=…, token_file=…, user:password@ or tls_cert=… and tls_key=… in the URL",
    403: "we may not: grant that on the tenant or namespace, or have an administrator do it",
    405: "it is switched off there",
}


class Away(BrokerError):
    """Nobody answers at that address."""


class Admin:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.url = settings.admin

    async def get(self, path: str) -> Any:
        """What it says, or None where there is no such thing."""
        status, said = await self._ask("GET", path, None, JSON)
        return None if status == 404 else said

    async def make(self, method: str, path: str, body: Any = None, kind: str = JSON) -> bool:
        """False: it is there already."""
        status, said = await self._ask(method, path, body, kind)
        if status == 404:
            raise self._error(method, path, f"{status}: {said}")
        return status != 409

    async def _ask(self, method: str, path: str, body: Any, kind: str) -> tuple[int, Any]:
        if not self.url:
            raise Away(f"{self._settings.url.shown} says admin=no.")
        try:
            status, text = await asyncio.to_thread(self._call, method, f"{self.url}/admin/v2/{path}", body, kind)
        except (OSError, HTTPException) as error:
            raise Away(f"Pulsar's administration at {self.url} can't be reached ({error}).") from error
        if status >= 400 and status not in {404, 409}:
            raise self._error(method, path, f"{status}: {REFUSED.get(status, text)}")
        return status, _read(text)

    def _error(self, method: str, path: str, said: str) -> BrokerError:
        masked = self._settings.url.masked(said[:500])
        return BrokerError(f"Pulsar's administration at {self.url} answers {method} {path} with {masked}")

    def _call(self, method: str, url: str, body: Any, kind: str) -> tuple[int, str]:
        """Whoever is asked may send us on to the broker that has the topic."""
        content = None if body is None else json.dumps(body).encode()
        for _ in range(HOPS_MAX):
            connection = self._connection(url)
            try:
                parts = urlsplit(url)
                path = f"{parts.path}?{parts.query}" if parts.query else parts.path
                connection.request(method, path, content, {"Content-Type": kind, "Accept": "*/*", **self._login()})
                answer = connection.getresponse()
                text, location = answer.read().decode("utf-8", "replace"), answer.getheader("Location", "")
            finally:
                connection.close()
            if answer.status not in REDIRECTS or (url.startswith("https:") and not location.startswith("https:")):
                return answer.status, text
            url = location
        return 508, "it sends us around in a circle"

    def _connection(self, url: str) -> HTTPConnection:
        place = urlsplit(url).netloc
        if url.startswith("https:"):
            return HTTPSConnection(place, timeout=self._settings.timeout_s, context=self._tls())
        return HTTPConnection(place, timeout=self._settings.timeout_s)

    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._settings.client["tls_trust_certs_file_path"])
        context.check_hostname = self._settings.client["tls_validate_hostname"]
        login = self._settings.login
        if login.certificate:
            context.load_cert_chain(login.certificate, login.key)
        return context

    def _login(self) -> Mapping[str, str]:
        login = self._settings.login
        if token := login.token_now():
            return {"Authorization": f"Bearer {token}"}
        if login.user:
            pair = base64.b64encode(f"{login.user}:{login.password}".encode()).decode()
            return {"Authorization": f"Basic {pair}"}
        return {}


def topic_path(topic: str) -> str:
    """persistent://tenant/namespace/name, as paths have it."""
    kind, _, rest = topic.partition("://")
    tenant, namespace, name = rest.split("/", 2)
    return f"{kind}/{tenant}/{namespace}/{quote(name, safe='')}"


def _read(text: str) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text
