"""What a pulsar:// URL says, and a client of Pulsar whose calls are awaited here and answered on its own threads.

The client connects again by itself, and takes up to a minute to notice a connection over which nothing comes any more: it
asks every 30 seconds, which Python can't change. So whoever waits here waits for so long and no longer, and a client that did
not answer in time is given up, with its connections, for a new one."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import _pulsar
import pulsar

from ..errors import BrokerError
from . import urls

EXAMPLE = "pulsar://localhost:6650/tenant/namespace?partitions=8"
PARTITIONS = 8
PREFETCH = 500  # messages a partition that the client may have ready
MESSAGE_BYTES_MAX = 5_242_880 - 65_536  # the server's default for a message, less what surrounds ours
CLOSING_S = 2.0
OK = _pulsar.Result.Ok
COMPRESSION = {
    "none": pulsar.CompressionType.NONE,
    "lz4": pulsar.CompressionType.LZ4,
    "zlib": pulsar.CompressionType.ZLib,
    "zstd": pulsar.CompressionType.ZSTD,
    "snappy": pulsar.CompressionType.SNAPPY,
}


@dataclass(frozen=True)
class Settings:
    url: urls.BrokerUrl
    namespace: str  # tenant/namespace
    prefix: str
    partitions: int
    keep_days: int
    admin: str  # "": there is none
    admin_is_said: bool  # in the URL, rather than supposed
    timeout_s: float
    message_bytes_max: int
    by_slot: bool  # batches hold one slot each
    compression: str
    prefetch: int
    claims: bool
    tls: bool
    login: Login = field(repr=False)
    client: Mapping[str, Any] = field(repr=False)  # of every client, beside who it is

    def topic(self, channel: str) -> str:
        return f"persistent://{self.namespace}/{self.prefix}{channel}"

    @property
    def claims_topic(self) -> str:
        return self.topic("eventspine-claims")


@dataclass(frozen=True)
class Login:
    """Who we are, for both ways in."""

    user: str = ""
    password: str = ""
    token: str = ""
    token_file: str = ""  # read anew whenever it is needed, since tokens run out
    certificate: str = ""  # with its key: of a client
    key: str = ""

    def token_now(self) -> str:
        if not self.token_file:
            return self.token
        with open(self.token_file, encoding="utf-8") as file:
            return file.read().strip()

    def for_client(self) -> pulsar.Authentication | None:
        if self.token or self.token_file:
            return pulsar.AuthenticationToken(self.token_now if self.token_file else self.token)
        if self.user:
            return pulsar.AuthenticationBasic(self.user, self.password)
        if self.certificate:
            return pulsar.AuthenticationTLS(self.certificate, self.key)
        return None


def settings_of(url: str) -> Settings:
    tls = url.startswith("pulsar+ssl://")
    read = urls.parse(url, port=6651 if tls else 6650, example=EXAMPLE)
    admin, said = _admin(read, tls=tls)
    settings = Settings(
        read,
        namespace=_namespace(read),
        prefix=read.text("prefix"),
        partitions=read.number("partitions", PARTITIONS, most=960),
        keep_days=read.number("keep_days", 7, least=0, most=36_500),
        admin=admin,
        admin_is_said=said,
        timeout_s=read.seconds("timeout_s", 10.0),
        message_bytes_max=read.number("message_bytes_max", MESSAGE_BYTES_MAX, least=1024),
        by_slot=read.one_of("batches", ("partition", "slot"), "partition") == "slot",
        compression=read.one_of("compression", tuple(COMPRESSION), "none"),
        prefetch=read.number("prefetch", PREFETCH, most=100_000),
        claims=read.yes("claims", default=True),
        tls=tls,
        login=_login(read),
        client=_client(read),
    )
    read.refuse_the_rest()
    return settings


def _namespace(read: urls.BrokerUrl) -> str:
    parts = read.path.strip("/").split("/") if read.path.strip("/") else ["public", "default"]
    if len(parts) != 2 or not all(parts):
        read.refuse("path", read.path, "a tenant and a namespace, as in pulsar://localhost:6650/public/default")
    return "/".join(parts)


def _admin(read: urls.BrokerUrl, *, tls: bool) -> tuple[str, bool]:
    host = read.hosts[0].rpartition(":")[0]
    given = read.text("admin", "")
    if given == "no":
        return "", True
    if given and not given.startswith(("http://", "https://")):
        read.refuse("admin", given, "the http:// or https:// address of its administration, or no")
    return given.rstrip("/") or (f"https://{host}:8443" if tls else f"http://{host}:8080"), bool(given)


def _login(read: urls.BrokerUrl) -> Login:
    login = Login(
        read.user,
        read.password,
        read.text("token"),
        read.text("token_file"),
        read.text("tls_cert"),
        read.text("tls_key"),
    )
    for name, path in (("token_file", login.token_file), ("tls_cert", login.certificate), ("tls_key", login.key)):
        if path and not os.access(path, os.R_OK):
            read.refuse(name, path, "a file that can be read")
    if bool(login.certificate) != bool(login.key):
        read.refuse("tls_cert", login.certificate, "given together with tls_key")
    return login


def _client(read: urls.BrokerUrl) -> dict[str, Any]:
    authority, log_file = read.text("tls_ca"), read.text("client_log")
    if authority and not os.access(authority, os.R_OK):
        read.refuse("tls_ca", authority, "a file that can be read")
    level = _pulsar.LoggerLevel.Info if log_file else _pulsar.LoggerLevel.Error
    return {
        "tls_trust_certs_file_path": authority or None,
        "tls_validate_hostname": read.yes("tls_verify_hostname", default=True),
        "listener_name": read.text("listener") or None,
        # To a file or nowhere: it writes from its own threads, also while the interpreter is going away.
        "logger": pulsar.FileLogger(level, log_file or os.devnull),
    }


class Link:
    """One client: its connections and threads. Made without connecting."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.silent = False  # it did not answer in time once
        login = settings.login.for_client()
        self._client = pulsar.Client(
            f"{settings.url.scheme}://{','.join(settings.url.hosts)}",
            authentication=login,
            operation_timeout_seconds=max(1, math.ceil(settings.timeout_s)),
            connection_timeout_ms=max(100, int(settings.timeout_s * 500)),
            stats_interval_in_seconds=0,
            **settings.client,
        )._client

    # --- what is asked ----------------------------------------------------------------------------------------------

    async def partitions(self, topic: str) -> Sequence[str]:
        """Names of its partitions, or its own if it has none. Where Pulsar makes topics by itself, this makes it."""
        found: Sequence[str] = await self.ask(
            self._client.get_topic_partitions_async, topic, what=f"{topic} can't be looked up"
        )
        return found

    async def reach(self) -> None:
        """Raises BrokerError where nobody answers, or lets us not in. A topic or namespace may be missing."""
        try:
            await self.partitions(f"{self.settings.claims_topic}-partition-0")  # which makes nothing
        except BrokerError as error:
            if self.silent:
                raise BrokerError(f"{error}. {UNREACHED}") from None
            if not is_missing(error):
                raise

    async def producer(self, topic: str, configured: _pulsar.ProducerConfiguration) -> Any:
        return await self.ask(
            self._client.create_producer_async_v2, topic, configured, what=f"{topic} can't be written"
        )

    async def consumer(self, topic: str, name: str, configured: _pulsar.ConsumerConfiguration) -> Any:
        what = f"{topic} can't be subscribed to as {name}"
        return await self.ask(self._client.subscribe_async_v2, topic, name, configured, what=what)

    async def reader(self, topic: str, start: _pulsar.MessageId, configured: _pulsar.ReaderConfiguration) -> Any:
        what = f"{topic} can't be read"
        return await self.ask(self._client.create_reader_async_v2, topic, start, configured, what=what)

    async def ask(self, call: Callable[..., None], *given: Any, what: str, within_s: float | None = None) -> Any:
        """The answer of a call whose last argument is called back with it. Raises BrokerError."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[Any, ...]] = loop.create_future()

        def answered(*answer: Any) -> None:  # on a thread of the client
            try:
                loop.call_soon_threadsafe(_put, future, answer)
            except RuntimeError:
                pass  # the loop is closed; nobody waits any more

        try:
            call(*given, answered)
            async with asyncio.timeout(within_s or self.settings.timeout_s + 1.0):
                answer = await future
        except TimeoutError:
            self.silent = True
            raise BrokerError(f"{self.settings.url.shown} does not answer: {what}") from None
        except (_pulsar.PulsarException, RuntimeError) as error:
            raise self._error(what, str(error)) from None
        return self._value(answer, what)

    def _value(self, answer: tuple[Any, ...], what: str) -> Any:
        """(value or error), (result) or (result, value): the client has three ways to answer."""
        first = answer[0]
        if isinstance(first, _pulsar.Error):
            self._refused(first.error, f"{first.error.name}: {first.message}", what)
        if isinstance(first, _pulsar.Result):
            if first != OK:
                self._refused(first, first.name, what)
            return answer[1] if len(answer) > 1 else None
        return first

    def _refused(self, result: _pulsar.Result, said: str, what: str) -> NoReturn:
        if result == _pulsar.Result.Timeout:
            self.silent = True
        raise self._error(what, said + HINTS.get(result.name, ""), result.name)

    def _error(self, what: str, said: str, result: str = "") -> BrokerError:
        return BrokerError(f"{self.settings.url.shown}: {what}: {self.settings.url.masked(said)}", result=result)

    # --- closed -----------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        if not self.silent:
            await quietly(asyncio.to_thread(self._client.close))
        await quietly(asyncio.to_thread(self._client.shutdown))


# The client tries again when it was not let in, so that in the end it says the same as when nobody is there.
UNREACHED = (
    "Is the address right, and who we are (token=…, token_file=…, user:password@, or tls_cert=… and tls_key=…)? "
    "With client_log=PATH in the URL the client writes there what it sees."
)
HINTS = {
    "TopicNotFound": ". Make it, or its namespace: spine topology apply",
    "AuthorizationError": ". Grant produce and consume on this namespace",
    "AuthenticationError": ". Give token=…, token_file=…, user:password@ or tls_cert=… and tls_key=… in the URL",
    "ProducerBlockedQuotaExceededError": ": subscriptions are so far behind that its backlog quota is full",
    "ProducerBlockedQuotaExceededException": ": subscriptions are so far behind that its backlog quota is full",
}


def is_missing(error: BrokerError) -> bool:
    """A topic, or its namespace or tenant."""
    return error.details.get("result") == "TopicNotFound"


def _put(future: asyncio.Future[tuple[Any, ...]], answer: tuple[Any, ...]) -> None:
    if not future.done():
        future.set_result(answer)


async def quietly(closing: Any) -> None:
    """What is given up anyway."""
    try:
        async with asyncio.timeout(CLOSING_S):
            await closing
    except (BrokerError, TimeoutError, _pulsar.PulsarException):
        pass
