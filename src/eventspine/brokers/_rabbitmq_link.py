"""One connection to RabbitMQ, that says when it is gone.

It is never mended: who has it makes another one. A client that reconnects by itself would go on with delivery tags of
before, which acknowledge other messages now, or none. What hangs is noticed by asking: the reading side asks the server
something small all the time, the publishing side by the answers to what it publishes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

import aiormq
from aiormq.channel import Channel
from aiormq.connection import TransportFactory
from aiormq.exceptions import AMQPChannelError

from ..errors import BrokerError
from . import urls
from ._rabbitmq_frames import Connection

T = TypeVar("T")
GRACE_S = 1.0  # for an answer that is there already, in an event loop that was held up
CLOSE_S = 2.0
BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class Settings:
    url: urls.BrokerUrl
    vhost: str
    prefix: str
    partitions: int
    replicas: int  # 0: as many as the server's own default
    prefetch: int
    heartbeat_s: int
    timeout_s: float
    wait_unrouted: bool
    management: str
    tls: ssl.SSLContext | None = field(repr=False)

    def address(self, host: str) -> str:
        """For the client; holds the password."""
        user, password = self.url.user or "guest", self.url.password or "guest"
        who = f"{quote(user, safe='')}:{quote(password, safe='')}"
        options = f"heartbeat={self.heartbeat_s}&name=eventspine"
        return f"{self.url.scheme}://{who}@{host}/{quote(self.vhost, safe='')}?{options}"

    def error(self, what: str, error: BaseException | None = None) -> BrokerError:
        said = "" if error is None else f": {self.url.masked(str(error) or type(error).__name__)}"
        return BrokerError(f"{self.url.shown} {what}{said}")


class _Transport(TransportFactory):
    """TCP or TLS, kept within reach so that it can be cut off."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        self.writer: asyncio.StreamWriter | None = None

    async def create(self, url: Any, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, self.writer = await asyncio.open_connection(url.host, url.port, ssl=self._tls, limit=BUFFER_BYTES)
        return reader, self.writer

    def abort(self) -> None:
        if self.writer is not None:
            self.writer.transport.abort()


class Link:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._connection: aiormq.Connection | None = None
        self._transport = _Transport(settings.tls)
        self._lost: set[Callable[[], None]] = set()
        self._asking: asyncio.Task[None] | None = None

    # --- life -----------------------------------------------------------------------------------------------------

    async def open(self, *, watched: bool) -> None:
        """To the first of the hosts that lets us in. `watched`: a server that has nothing to say is asked, all the time."""
        errors = []
        for host in self.settings.url.hosts:
            try:
                await self._open(host)
                break
            except BrokerError as error:
                errors.append(error)
        else:
            raise errors[-1]
        if watched:
            channel = await self.channel()
            self._asking = asyncio.create_task(self._ask_all_the_time(channel), name="spine-rabbitmq-alive")

    async def _open(self, host: str) -> None:
        transport = self._transport = _Transport(self.settings.tls)
        connection = Connection(self.settings.address(host), transport_factory=transport)
        connecting = asyncio.create_task(connection.connect())
        try:
            await asyncio.wait([connecting], timeout=self.settings.timeout_s)
        finally:
            if not connecting.done():
                connecting.cancel()
                transport.abort()
        if not connecting.done() or connecting.cancelled():
            raise self.settings.error("can't be reached", TimeoutError(f"{host} does not answer"))
        if (error := connecting.exception()) is not None:
            if "Connection.OpenOk" in str(error):  # the client leaves out what the server said instead
                user = self.settings.url.user or "guest"
                raise self.settings.error(f"has no virtual host {self.settings.vhost!r}, or {user} may not use it")
            raise self.settings.error("can't be reached", error) from error
        self._connection = connection
        connection.closing.add_done_callback(self._on_closed)

    def _on_closed(self, closing: asyncio.Future[Any]) -> None:
        _seen(closing)
        if self._asking is not None:
            self._asking.cancel()
        for lost in list(self._lost):
            lost()

    def abort(self) -> None:
        """Away with it: nobody is asked."""
        self._transport.abort()

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
        if self._connection is None:
            return
        closing = asyncio.create_task(self._connection.close())
        try:
            await asyncio.wait([closing], timeout=CLOSE_S)
        finally:
            self.abort()
            await asyncio.wait([closing], timeout=CLOSE_S)
            closing.cancel()

    # --- what it is asked -----------------------------------------------------------------------------------------

    @property
    def connection(self) -> aiormq.Connection:
        if self._connection is None or not self._connection.is_opened:
            raise self.settings.error("is not connected")
        return self._connection

    @property
    def alive(self) -> bool:
        return self._connection is not None and self._connection.is_opened

    @property
    def server(self) -> dict[str, Any]:
        """What the server says of itself."""
        return dict(self.connection.server_properties or {})

    def watch(self, lost: Callable[[], None]) -> Callable[[], None]:
        """`lost` is called when it is gone."""
        self._lost.add(lost)
        return lambda: self._lost.discard(lost)

    async def unblocked(self, wait_s: float) -> bool:
        """Whether the server takes messages, waiting for it so long."""
        ready = asyncio.create_task(self.connection.ready())
        done, _ = await asyncio.wait([ready], timeout=wait_s)
        ready.cancel()
        return bool(done)

    async def channel(self, *, confirms: bool = False) -> Channel:
        channel = await self.asked(self.connection.channel(publisher_confirms=confirms))
        assert isinstance(channel, Channel)
        return channel

    async def once(self, ask: Callable[[Channel], Coroutine[Any, Any, T]]) -> T:
        """On a channel of its own, which a refusal closes."""
        channel = await self.channel()
        try:
            return await self.asked(ask(channel))
        finally:
            await quietly(self.asked(channel.close()))

    async def asked(self, call: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Its answer. Raises AMQPChannelError where the server refuses it, else BrokerError: the client cancels what waits
        when its connection ends, and that must not look as if somebody had cancelled us."""
        task = asyncio.create_task(call)
        task.add_done_callback(_seen)
        try:
            await asyncio.wait([task], timeout=timeout_s or self.settings.timeout_s)
            if not task.done():
                await asyncio.wait([task], timeout=GRACE_S)
        finally:
            silent = not task.done()
            task.cancel()
        if silent:
            self.abort()
            raise self.settings.error("does not answer; the connection is given up")
        if task.cancelled():
            raise self.settings.error("has closed the connection")
        error = task.exception()
        if error is None:
            return task.result()
        if isinstance(error, AMQPChannelError):
            raise error
        raise self.settings.error("has closed the connection", error) from error

    async def _ask_all_the_time(self, channel: Channel) -> None:
        try:
            while self.alive:
                await asyncio.sleep(self.settings.heartbeat_s)
                await self.asked(channel.basic_qos(prefetch_count=1), self.settings.heartbeat_s)
        except (BrokerError, AMQPChannelError):
            self.abort()


def _seen(future: asyncio.Future[Any]) -> None:
    """Its error, which asyncio would else complain of."""
    if not future.cancelled():
        future.exception()


async def quietly(closing: Awaitable[Any]) -> None:
    """What is given up anyway."""
    try:
        async with asyncio.timeout(CLOSE_S):
            await closing
    except (AMQPChannelError, BrokerError, OSError, TimeoutError):
        pass
