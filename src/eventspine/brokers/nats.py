"""NATS JetStream: a stream for each channel, with a subject for each partition.

    nats://user:password@host1:4222,host2:4222/?prefix=shop.&partitions=8&replicas=3

A stream keeps one order, and what it acknowledged. It is read as the log that it is: for every lease of a partition a
consumer of our own is made, which begins after the position that the journal has and ends with the lease. A consumer that
owners shared would hand out again what the last one had in hand, behind what the next has read already: out of order.
So nothing is acknowledged to the server, and nothing can be redelivered too often; what is finished is in the journal.

A message that the server sent and we did not get shows as a gap in the consumer's own count, a server that has died as
heartbeats that don't come: either ends the intake, and it is made anew from the journal's position."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import nats
import nats.errors
import nats.js.errors
from nats.js import JetStreamContext
from nats.js.api import (
    DiscardPolicy,
    KeyValueConfig,
    RetentionPolicy,
    StorageType,
    StreamConfig,
    StreamInfo,
)

from ..errors import BrokerError, MessageRefused, SettingsError
from ..wording import plural
from . import urls
from ._nats_client import BEATS, PREFIX, Connection, quietly
from ._nats_intake import NatsIntake
from ._nats_sender import Sender
from .port import Difference, Features, Finding, Message, Needs, Sent

log = logging.getLogger("eventspine.broker")
EXAMPLE = "nats://user:password@localhost:4222/?partitions=8"
PARTITIONS = 8
SILENT_S = 12.5  # without a word from the server: it is gone
HEADROOM = 4096  # of the server's limit for a message: what surrounds ours


@dataclass(frozen=True)
class Settings:
    url: urls.BrokerUrl
    prefix: str
    partitions: int
    replicas: int
    keep_s: float  # 0: for ever
    timeout_s: float
    silent_s: float
    connect: Mapping[str, Any] = field(repr=False)


def from_url(url: str) -> NatsBroker:
    read = urls.parse(url, port=4222, example=EXAMPLE)
    if read.path:
        raise SettingsError(f"{read.shown} names a path, and NATS has none. Write {EXAMPLE}", url=read.shown)
    settings = Settings(
        read,
        prefix=read.prefix(
            r"[^\s.*>]+(\.[^\s.*>]+)*\.?", "of words with dots between them, as subjects are, without * and >"
        ),
        partitions=read.number("partitions", PARTITIONS, most=960),
        replicas=read.number("replicas", 1, most=5),
        keep_s=float(read.number("keep_days", 0, least=0)) * 86_400,
        timeout_s=read.seconds("timeout_s", 10.0),
        silent_s=read.seconds("silent_s", SILENT_S),
        connect=_login(read),
    )
    read.refuse_the_rest()
    return NatsBroker(settings)


def _login(read: urls.BrokerUrl) -> dict[str, Any]:
    given: dict[str, Any] = {
        "user": read.user or None,
        "password": read.password or None,
        "token": read.text("token") or None,
        "user_credentials": read.file("credentials") or None,
        "nkeys_seed": read.file("nkey_seed_file") or None,
        "tls": read.tls(),
    }
    return {name: value for name, value in given.items() if value is not None}


class NatsBroker:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.url = settings.url.shown
        self.features = Features(
            name="NATS JetStream",
            prefix=PREFIX,
            positions=True,
            ordered=True,
            assigns="journal",
            starts=frozenset({"earliest", "now", "time"}),
            message_bytes_max=1_048_576 - HEADROOM,
            persistent=True,
            bounds="bytes",
        )
        self._client: Connection | None = None
        self._js: JetStreamContext | None = None
        self._sender: Sender | None = None
        self._counts: dict[str, int] = {}  # partitions, by channel
        self._denied = ""  # what this user may not do, by the server's last word on it
        self._lost: set[Callable[[], None]] = set()  # called when the connection breaks

    # --- connection -------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        if self._client is not None:
            return
        client, told = Connection(), list[Exception]()

        async def on_error(error: Exception) -> None:
            """The client would try the first time for ever."""
            log.debug("%s: %s", self.url, self.settings.url.masked(str(error)))
            told.append(error)
            self._denied = _denied_by(error) or self._denied
            if self._client is not client and len(told) >= len(servers):
                raise error

        servers = [f"nats://{host}" for host in self.settings.url.hosts]
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                await client.connect(
                    servers,
                    name="eventspine",
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=1,
                    connect_timeout=2,
                    ping_interval=self.settings.silent_s / BEATS,  # type: ignore[arg-type]  # it sleeps so long
                    max_outstanding_pings=2,
                    pending_size=64 * 1024 * 1024,
                    error_cb=on_error,
                    disconnected_cb=self._on_disconnected,
                    **self.settings.connect,
                )
                self._sender = Sender(client, self.settings.timeout_s, self.error, self.watch)
                await self._sender.open()
        except Exception as error:  # also what keys and certificates are not liked for
            await quietly(client.close())
            raise self.error("can't be reached", error) from error
        self._client = client
        self._js = client.jetstream(timeout=self.settings.timeout_s)
        self.features = replace(self.features, message_bytes_max=client.max_payload - HEADROOM)

    async def close(self) -> None:
        client, self._client, self._js, self._sender = self._client, None, None, None
        if client is not None:
            await quietly(client.close())

    async def _on_disconnected(self) -> None:
        self._counts.clear()
        for lost in list(self._lost):
            lost()

    @property
    def client(self) -> Connection:
        if self._client is None or not self._client.is_connected:
            raise BrokerError(f"{self.url} is not connected.")
        return self._client

    @property
    def js(self) -> JetStreamContext:
        if self._js is None or not self.client.is_connected:
            raise BrokerError(f"{self.url} is not connected.")
        return self._js

    def watch(self, lost: Callable[[], None]) -> Callable[[], None]:
        self._lost.add(lost)
        return lambda: self._lost.discard(lost)

    def error(self, what: str, error: BaseException) -> BrokerError:
        said = self.settings.url.masked(str(error) or type(error).__name__)
        return (
            self.silence(f"{what}: {said}")
            if isinstance(error, TimeoutError)
            else BrokerError(f"{self.url} {what}: {said}")
        )

    def silence(self, what: str) -> BrokerError:
        """Of a server that does not answer, as it does not either where something is not allowed."""
        denied, self._denied = self._denied, ""
        if denied:
            return BrokerError(
                f"{self.url}: this user may not {denied}, whatever its case. Permit it at the server: "
                "how-to/brokers.md has what is needed."
            )
        return BrokerError(f"{self.url} {what}")

    # --- names ------------------------------------------------------------------------------------------------------

    def stream(self, channel: str) -> str:
        """Names of streams hold no dots, spaces or wildcards."""
        return _name(self.settings.prefix + channel)

    def subject(self, channel: str, partition: int) -> str:
        return f"{self.settings.prefix}{channel}.p{partition}"

    @property
    def bucket(self) -> str:
        return _name(f"{self.settings.prefix}eventspine")

    # --- sending ----------------------------------------------------------------------------------------------------

    async def send(self, messages: Sequence[Message]) -> Sequence[Sent]:
        counts = {channel: await self.partitions(channel) for channel in {message.channel for message in messages}}
        subjects = {channel: [self.subject(channel, n) for n in range(count)] for channel, count in counts.items()}

        def route(message: Message) -> str:
            mine = subjects[message.channel]
            return mine[message.slot % len(mine)]

        answers = await self.sender.send(messages, route)
        if any(isinstance(answer, BrokerError) and not isinstance(answer, MessageRefused) for answer in answers):
            self._counts.clear()  # somebody may have taken subjects, or the stream, away: where it still is, is asked anew
        return answers

    @property
    def sender(self) -> Sender:
        if self._sender is None or not self.client.is_connected:
            raise BrokerError(f"{self.url} is not connected.")
        return self._sender

    async def partitions(self, channel: str) -> int:
        """As its stream was made: changing it moves keys away from where their past is (R12)."""
        if channel not in self._counts:
            self._counts[channel] = await self.partitions_now(channel)
        return self._counts[channel]

    async def partitions_now(self, channel: str) -> int:
        return len((await self._info(channel)).config.subjects or ())

    async def _info(self, channel: str) -> StreamInfo:
        try:
            return await self.js.stream_info(self.stream(channel))
        except nats.js.errors.NotFoundError as error:
            raise BrokerError(
                f"{self.url} has no stream {self.stream(channel)!r}. Make it: spine topology apply."
            ) from error
        except (nats.errors.Error, OSError) as error:
            raise self.error("does not answer", error) from error

    # --- topology ---------------------------------------------------------------------------------------------------

    async def differences(self, needs: Needs) -> Sequence[Difference]:
        found = [one for channel in needs.channels if (one := await self._difference(channel)) is not None]
        try:
            await self.js.key_value(self.bucket)
        except nats.js.errors.NotFoundError:
            found.append(Difference(f"bucket {self.bucket}", "who publishes and consumes", "", safe=True))
        except (nats.errors.Error, OSError) as error:
            raise self.error("does not answer", error) from error
        return found

    async def _difference(self, channel: str) -> Difference | None:
        name = self.stream(channel)
        wanted = f"{plural(self.settings.partitions, 'partition')}, {plural(self.settings.replicas, 'replica')}"
        try:
            config = (await self.js.stream_info(name)).config
        except nats.js.errors.NotFoundError:
            return Difference(f"stream {name}", wanted, "", safe=True)
        except (nats.errors.Error, OSError) as error:
            raise self.error("does not answer", error) from error
        found = f"{plural(len(config.subjects or ()), 'partition')}, {plural(config.num_replicas or 1, 'replica')}"
        return None if found == wanted else Difference(f"stream {name}", wanted, found, safe=False)

    async def apply(self, needs: Needs) -> Sequence[Difference]:
        made = [one for one in await self.differences(needs) if one.safe]
        channels = {self.stream(channel): channel for channel in needs.channels}
        for one in made:
            kind, _, name = one.what.partition(" ")
            try:
                if kind == "bucket":
                    await self.js.create_key_value(KeyValueConfig(bucket=name, replicas=self.settings.replicas))
                else:
                    await self.js.add_stream(self._config(channels[name]))
            except (nats.errors.Error, OSError) as error:
                raise self.error(f"could not make the {one.what}", error) from error
        return made

    def _config(self, channel: str) -> StreamConfig:
        return StreamConfig(
            name=self.stream(channel),
            subjects=[self.subject(channel, partition) for partition in range(self.settings.partitions)],
            retention=RetentionPolicy.LIMITS,
            discard=DiscardPolicy.OLD,
            storage=StorageType.FILE,
            max_age=self.settings.keep_s or None,
            num_replicas=self.settings.replicas,
            duplicate_window=120,
        )

    async def claim(self, role: Literal["publisher", "consumer"], name: str, identity: str, *, force: bool) -> str:
        key = f"{role}.{_name(name)}"
        try:
            bucket = await self.js.key_value(self.bucket)
            if force:
                await bucket.put(key, identity.encode())
            else:
                await bucket.create(key, identity.encode())
            return identity
        except nats.js.errors.KeyWrongLastSequenceError:
            entry = await bucket.get(key)
            return (entry.value or b"").decode()
        except (nats.errors.Error, OSError) as error:
            raise self.error("could not be asked whose this is", error) from error

    async def findings(self, needs: Needs) -> Sequence[Finding]:
        found = [_DURABILITY]
        for channel in needs.channels:
            found += _stream_findings(channel, await self._info(channel))
        return found

    # --- reading ----------------------------------------------------------------------------------------------------

    async def intake(self, channel: str, consumer: str, changed: Callable[[], None]) -> NatsIntake:
        return NatsIntake(self, channel, _name(consumer), await self._info(channel))


def _denied_by(error: Exception) -> str:
    """`publish to "$js.api.stream.info.orders"`, of a violation of permissions; "" of another error. The client has it in
    lower case."""
    return str(error).partition("permissions violation for ")[2]


def _name(text: str) -> str:
    return "".join(char if char.isalnum() or char in "-_" else "_" for char in text)


_DURABILITY = Finding(
    "warning",
    "durability",
    "An acknowledged message survives the end of the server's process. Whether it survives a power cut is the server's "
    "sync_interval: with its default of two minutes what was not synced yet is lost, unless replicas on other machines "
    "have it; sync_interval: always syncs before it acknowledges.",
)


def _stream_findings(channel: str, info: StreamInfo) -> list[Finding]:
    config, found = info.config, []
    if (config.num_replicas or 1) < 3:
        found.append(
            Finding(
                "warning", f"stream of {channel}", f"{config.num_replicas or 1} replica: the loss of its disk loses it."
            )
        )
    if config.storage == StorageType.MEMORY:
        found.append(Finding("danger", f"stream of {channel}", "kept in memory: a restart of the server loses it."))
    limits = {"max_age": config.max_age, "max_msgs": config.max_msgs, "max_bytes": config.max_bytes}
    said = [f"{name}={value:g}" for name, value in limits.items() if value and value > 0]
    if said and config.discard == DiscardPolicy.NEW and not config.max_age:
        full = f"takes nothing more when it is full ({', '.join(said)}): events wait in the journal meanwhile."
        found.append(Finding("warning", f"stream of {channel}", full))
    elif said:
        found.append(
            Finding(
                "warning",
                f"stream of {channel}",
                f"drops its oldest ({', '.join(said)}), read or not; a gap is reported.",
            )
        )
    return found or [Finding("ok", f"stream of {channel}", "replicated, on disk, without limits.")]
