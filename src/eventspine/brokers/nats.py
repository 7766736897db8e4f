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
import json
import logging
import os
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import quote, unquote

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    KeyValueConfig,
    RetentionPolicy,
    StorageType,
    StreamConfig,
    StreamInfo,
)

from ..errors import BrokerError, MessageRefused
from . import urls
from .port import Difference, Features, Fetched, Finding, Message, Needs, Sent, Start

log = logging.getLogger("eventspine.broker")
EXAMPLE = "nats://user:password@localhost:4222/?partitions=8"
PARTITIONS = 8
PULL = 500  # messages asked for at once, for a partition
PULL_BYTES = 4_000_000
EXPIRES_S = 30.0
SILENT_S = 12.5  # without a word from the server: it is gone
BEATS = 2.5  # in that time
GONE_S = 60.0  # after which the server forgets a consumer that nobody reads
HEADROOM = 4096  # of the server's limit for a message: what surrounds ours
UNSENDABLE = frozenset(
    {10054, 10077}
)  # JetStream's codes for a message that is too large, and too large for the stream
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
_PLAIN = re.compile(f"[{re.escape(_SAFE)}]*")


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
    settings = Settings(
        read,
        prefix=read.text("prefix"),
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
        "user_credentials": _file(read, "credentials"),
        "nkeys_seed": _file(read, "nkey_seed_file"),
        "tls": read.tls(),
    }
    return {name: value for name, value in given.items() if value is not None}


def _file(read: urls.BrokerUrl, name: str) -> str | None:
    given = read.text(name)
    if given and not os.access(given, os.R_OK):
        read.refuse(name, given, "a readable file")
    return given or None


class _Client(Client):
    """Tells its password to nobody who does not encrypt, where that was asked for, and leaves no socket open that never got
    so far as to be a connection."""

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except BaseException:
            if self._transport is not None:
                self._transport.close()  # type: ignore[no-untyped-call]
            raise

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if self.options.get("tls") and not info.get("tls_required"):
            raise nats.errors.Error("the server does not speak TLS, which the URL asks for")
        await super()._process_info(info, initial_connection)


class NatsBroker:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.url = settings.url.shown
        self.features = Features(
            name="NATS JetStream",
            prefix="ce-",
            positions=True,
            ordered=True,
            assigns="journal",
            starts=frozenset({"earliest", "now", "time"}),
            message_bytes_max=1_048_576 - HEADROOM,
            persistent=True,
        )
        self._client: Client | None = None
        self._js: JetStreamContext | None = None
        self._counts: dict[str, int] = {}  # partitions, by channel
        self._lost: set[Callable[[], None]] = set()  # called when the connection breaks

    # --- connection -------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        if self._client is not None:
            return
        client, told = _Client(), list[Exception]()

        async def on_error(error: Exception) -> None:
            """The client would try the first time for ever."""
            log.debug("%s: %s", self.url, self.settings.url.masked(str(error)))
            told.append(error)
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
        except Exception as error:  # also what keys and certificates are not liked for
            await _quietly(client.close())
            raise self._error("can't be reached", error) from error
        self._client = client
        self._js = client.jetstream(timeout=self.settings.timeout_s, publish_async_max_pending=100_000)
        self.features = _with_limit(self.features, client.max_payload - HEADROOM)

    async def close(self) -> None:
        client, self._client, self._js = self._client, None, None
        if client is not None:
            await _quietly(client.close())

    async def _on_disconnected(self) -> None:
        self._counts.clear()
        for lost in list(self._lost):
            lost()

    @property
    def client(self) -> Client:
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

    def _error(self, what: str, error: BaseException) -> BrokerError:
        said = self.settings.url.masked(str(error) or type(error).__name__)
        return BrokerError(f"{self.url} {what}: {said}")

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
        waiting = [await self._hand_over(message, counts[message.channel]) for message in messages]
        futures = [one for one in waiting if isinstance(one, asyncio.Future)]
        if futures:
            await self._answered(futures)
        return [one if isinstance(one, Exception) else self._answer(one) for one in waiting]

    async def _answered(self, futures: Sequence[asyncio.Future[Any]]) -> None:
        """Until all are, the connection breaks, or time is over."""
        lost = asyncio.get_running_loop().create_future()
        unwatch = self.watch(lambda: None if lost.done() else lost.set_result(None))
        every = asyncio.gather(*futures, return_exceptions=True)
        try:
            await asyncio.wait([every, lost], timeout=self.settings.timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            unwatch()
            lost.cancel()
            if not every.done():
                every.cancel()
                await asyncio.gather(every, return_exceptions=True)

    async def _hand_over(self, message: Message, partitions: int) -> asyncio.Future[Any] | Exception:
        headers = {
            name: value if _PLAIN.fullmatch(value) else quote(value, safe=_SAFE)
            for name, value in message.headers.items()
        }
        headers |= {"content-type": message.content_type, "Nats-Msg-Id": message.id}
        subject = self.subject(message.channel, message.slot % partitions)
        try:
            # Without wait_stall: with it the client makes a task for each message, and so writes each to the socket by itself.
            return await self.js.publish_async(subject, message.data, headers=headers)
        except nats.errors.MaxPayloadError:
            return MessageRefused(f"the server takes {self.client.max_payload:,} bytes at most")
        except (nats.errors.Error, OSError) as error:
            return self._error("did not take a message", error)

    def _answer(self, future: asyncio.Future[Any]) -> Sent:
        if future.cancelled():
            return BrokerError(f"{self.url} did not acknowledge a message: the connection broke, or it took too long.")
        error = future.exception()
        if error is None:
            return None
        if isinstance(error, nats.js.errors.APIError) and error.err_code in UNSENDABLE:
            return MessageRefused(str(error.description))
        return self._error("did not take a message", error)

    async def partitions(self, channel: str) -> int:
        """As its stream was made: changing it moves keys away from where their past is (R12)."""
        if channel not in self._counts:
            self._counts[channel] = len((await self._info(channel)).config.subjects or ())
        return self._counts[channel]

    async def _info(self, channel: str) -> StreamInfo:
        try:
            return await self.js.stream_info(self.stream(channel))
        except nats.js.errors.NotFoundError as error:
            raise BrokerError(
                f"{self.url} has no stream {self.stream(channel)!r}. Make it: spine topology apply."
            ) from error
        except (nats.errors.Error, OSError) as error:
            raise self._error("does not answer", error) from error

    # --- topology ---------------------------------------------------------------------------------------------------

    async def differences(self, needs: Needs) -> Sequence[Difference]:
        channels = dict.fromkeys([*needs.publishes, *(channel for channel, _ in needs.consumes)])
        found = [one for channel in channels if (one := await self._difference(channel)) is not None]
        try:
            await self.js.key_value(self.bucket)
        except nats.js.errors.NotFoundError:
            found.append(Difference(f"bucket {self.bucket}", "who publishes and consumes", "", safe=True))
        except (nats.errors.Error, OSError) as error:
            raise self._error("does not answer", error) from error
        return found

    async def _difference(self, channel: str) -> Difference | None:
        name = self.stream(channel)
        wanted = f"{self.settings.partitions} partitions, {self.settings.replicas} replicas"
        try:
            config = (await self.js.stream_info(name)).config
        except nats.js.errors.NotFoundError:
            return Difference(f"stream {name}", wanted, "", safe=True)
        except (nats.errors.Error, OSError) as error:
            raise self._error("does not answer", error) from error
        found = f"{len(config.subjects or ())} partitions, {config.num_replicas} replicas"
        return None if found == wanted else Difference(f"stream {name}", wanted, found, safe=False)

    async def apply(self, needs: Needs) -> Sequence[Difference]:
        made = [one for one in await self.differences(needs) if one.safe]
        channels = {self.stream(channel): channel for channel in [*needs.publishes, *(c for c, _ in needs.consumes)]}
        for one in made:
            kind, _, name = one.what.partition(" ")
            try:
                if kind == "bucket":
                    await self.js.create_key_value(KeyValueConfig(bucket=name, replicas=self.settings.replicas))
                else:
                    await self.js.add_stream(self._config(channels[name]))
            except (nats.errors.Error, OSError) as error:
                raise self._error(f"could not make the {one.what}", error) from error
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
            raise self._error("could not be asked whose this is", error) from error

    async def findings(self, needs: Needs) -> Sequence[Finding]:
        found = [_DURABILITY]
        for channel in dict.fromkeys([*needs.publishes, *(channel for channel, _ in needs.consumes)]):
            found += _stream_findings(channel, await self._info(channel))
        return found

    # --- reading ----------------------------------------------------------------------------------------------------

    async def intake(self, channel: str, consumer: str, changed: Callable[[], None]) -> NatsIntake:
        return NatsIntake(self, channel, consumer, await self._info(channel))


class _Partition:
    """One consumer, and what it has sent."""

    def __init__(self, intake: NatsIntake, number: int, consumer: str, inbox: str, after: int) -> None:
        self.intake = intake
        self.number = number
        self.consumer = consumer
        self.inbox = inbox
        self.after = after  # the position before all that was fetched
        self.asked = 0  # messages that may still come for the last pull
        self.count = 0  # the consumer's own
        self.pending = 0  # in the stream, after the last that came
        self.heard = time.monotonic()
        self.subscription: Subscription | None = None

    async def on_message(self, message: Msg) -> None:
        self.heard = time.monotonic()
        if (status := (message.headers or {}).get("Status")) is not None and message.reply.find("$JS.ACK") != 0:
            self._on_status(status, (message.headers or {}).get("Description", ""))
            return
        meta = message.metadata
        if meta.sequence.consumer != self.count + 1:
            self.intake.fail(BrokerError(f"{meta.sequence.consumer - self.count - 1} messages were lost on the way"))
            return
        self.count += 1
        self.asked = max(0, self.asked - 1)
        self.pending = meta.num_pending
        headers = {name: unquote(value) for name, value in (message.headers or {}).items()}
        content_type = headers.pop("content-type", "")
        time_us = int(meta.timestamp.timestamp() * 1e6)
        self.intake.came(
            Fetched(self.number, meta.sequence.stream, None, headers, content_type, message.data, time_us),
            len(message.data),
        )

    def _on_status(self, status: str, description: str) -> None:
        if status == "100":
            return  # a heartbeat
        self.asked = 0  # that pull is over: by its time, its size, or because the consumer is gone
        if status == "409" and "max" not in description.lower() and "batch" not in description.lower():
            self.intake.fail(BrokerError(f"the consumer {self.consumer} ended: {description}"))
        self.intake.wake()


class NatsIntake:
    def __init__(self, broker: NatsBroker, channel: str, consumer: str, info: StreamInfo) -> None:
        self.broker = broker
        self.channel = channel
        self.stream = broker.stream(channel)
        created = info.created.isoformat() if info.created else ""
        self.feed = f"nats:{self.stream}:{created}"
        self._consumer = _name(consumer)
        self._count = len(info.config.subjects or ())
        self._partitions: dict[int, _Partition] = {}
        self._buffer: deque[Fetched] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        self._paused = False
        self._failure: BrokerError | None = None
        self._unwatch = broker.watch(lambda: self.fail(BrokerError(f"the connection to {broker.url} was lost")))

    def assigned(self) -> frozenset[int]:
        return frozenset(range(self._count))

    async def begin(self, partition: int, *, after: int | None, start: Start, epoch: int) -> int | None:
        name = f"{self._consumer}_p{partition}_e{epoch}_{time.time_ns():x}"
        client, js = self.broker.client, self.broker.js
        one = _Partition(self, partition, name, client.new_inbox(), after or 0)
        config = ConsumerConfig(
            name=name,
            ack_policy=AckPolicy.NONE,
            filter_subject=self.broker.subject(self.channel, partition),
            inactive_threshold=GONE_S,
            max_deliver=-1,
            **_where(after, start),
        )
        try:
            made = await js.add_consumer(self.stream, config)
            one.subscription = await client.subscribe(
                one.inbox, cb=one.on_message, pending_msgs_limit=-1, pending_bytes_limit=-1
            )
        except (nats.errors.Error, OSError) as error:
            raise self.broker._error(f"could not read the stream {self.stream}", error) from error
        self._partitions[partition] = one
        await self._pull(one)
        return made.delivered.stream_seq if after is None and made.delivered is not None else after

    async def end(self, partition: int) -> None:
        one = self._partitions.pop(partition, None)
        if one is None:
            return
        kept = [fetched for fetched in self._buffer if fetched.partition != partition]
        self._buffer = deque(kept)
        self._bytes = sum(len(fetched.data) for fetched in kept)
        await _quietly(self._forget(one))

    async def _forget(self, one: _Partition) -> None:
        if one.subscription is not None:
            await one.subscription.unsubscribe()
        await self.broker.js.delete_consumer(self.stream, one.consumer)

    # --- what came --------------------------------------------------------------------------------------------------

    def came(self, fetched: Fetched, size: int) -> None:
        if fetched.partition in self._partitions:
            self._buffer.append(fetched)
            self._bytes += size
            self._news.set()

    def wake(self) -> None:
        self._news.set()

    def fail(self, error: BrokerError) -> None:
        self._failure = self._failure or error
        self._news.set()

    async def fetch(self, most: int, wait_s: float) -> Sequence[Fetched]:
        await self._ask_for_more()
        if not self._buffer and wait_s > 0:
            self._news.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._news.wait()
            except TimeoutError:
                pass
        self._check()
        if self._paused:
            return []
        taken = [self._buffer.popleft() for _ in range(min(most, len(self._buffer)))]
        self._bytes -= sum(len(one.data) for one in taken)
        return taken

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        now, silent_s = time.monotonic(), self.broker.settings.silent_s
        for one in self._partitions.values():
            if one.asked and now - one.heard > silent_s:
                raise BrokerError(f"{self.broker.url} has said nothing for {silent_s:g} s; the intake is made anew.")

    async def _ask_for_more(self) -> None:
        if self._paused or self._failure is not None or len(self._buffer) > PULL or self._bytes > PULL_BYTES:
            return
        for one in self._partitions.values():
            if one.asked <= PULL // 4:
                await self._pull(one)

    async def _pull(self, one: _Partition) -> None:
        one.asked = PULL
        one.heard = time.monotonic()
        wanted = {
            "batch": PULL,
            "max_bytes": PULL_BYTES,
            "expires": int(EXPIRES_S * 1e9),
            "idle_heartbeat": int(self.broker.settings.silent_s / BEATS * 1e9),
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{one.consumer}"
        try:
            await self.broker.client.publish(subject, json.dumps(wanted).encode(), reply=one.inbox)
        except (nats.errors.Error, OSError) as error:
            self.fail(self.broker._error("did not take a request for more", error))

    async def settle(self, fetched: Sequence[Fetched]) -> None:
        """Nothing: the position in the journal says it."""

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        for one in self._partitions.values():
            one.heard = time.monotonic()
        self._news.set()

    async def lag(self) -> int | None:
        return len(self._buffer) + sum(one.pending for one in self._partitions.values())

    async def close(self) -> None:
        self._unwatch()
        for partition in list(self._partitions):
            await self.end(partition)


def _where(after: int | None, start: Start) -> dict[str, Any]:
    if after is not None:
        return {"deliver_policy": DeliverPolicy.BY_START_SEQUENCE, "opt_start_seq": after + 1}
    if isinstance(start, datetime):
        moment = start.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {"deliver_policy": DeliverPolicy.BY_START_TIME, "opt_start_time": moment}
    return {"deliver_policy": DeliverPolicy.ALL if start == "earliest" else DeliverPolicy.NEW}


def _name(text: str) -> str:
    return "".join(char if char.isalnum() or char in "-_" else "_" for char in text)


def _with_limit(features: Features, most: int) -> Features:
    return replace(features, message_bytes_max=most)


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
    if said:
        found.append(
            Finding(
                "warning",
                f"stream of {channel}",
                f"drops its oldest ({', '.join(said)}), read or not; a gap is reported.",
            )
        )
    return found or [Finding("ok", f"stream of {channel}", "replicated, on disk, without limits.")]


async def _quietly(closing: Any) -> None:
    """What is given up anyway."""
    try:
        async with asyncio.timeout(2.0):
            await closing
    except Exception as error:  # noqa: BLE001 -- its assertions too, where it was never connected
        log.debug("closing: %s", type(error).__name__)
