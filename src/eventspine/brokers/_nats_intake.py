"""Reading a stream: a consumer of our own for each lease of a partition, and pulls that are open before anything comes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import nats.errors
from nats.aio.subscription import Subscription
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StreamInfo

from ..errors import BrokerError
from ..wording import plural
from ._nats_client import BEATS, PREFIX, quietly
from .binding import text_of
from .port import Fetched, Start
from .shelf import Shelf

if TYPE_CHECKING:
    from .nats import NatsBroker

PULL = 500  # messages asked for at once, for a partition
PULL_BYTES = 4_000_000  # by all partitions together, and on the shelf before there is another pull
MESSAGE_ROOM = 16_384  # of subjects, which count too: a pull that a message does not fit into brings nothing
EXPIRES_S = 30.0
CONTENT_TYPE = "content-type"
LOOK_S = 5.0  # how often it is asked for its partitions
GONE_S = 60.0  # after which the server forgets a consumer that nobody reads


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

    def hear(self, _: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        self.heard = time.monotonic()
        try:
            if reply.startswith(b"$JS.ACK."):
                self._take(reply, data, headers)
            else:
                self._on_status(*_status(headers))
        except Exception as error:  # noqa: BLE001 -- one that is passed over would be lost
            self.intake.fail(BrokerError(f"a message can't be read ({type(error).__name__}: {error})"))

    def _take(self, reply: bytes, data: bytes, headers: bytes) -> None:
        sequence, count, time_ns, pending = _place(reply)
        if count != self.count + 1:
            self.intake.fail(
                BrokerError(f"{plural(count - self.count - 1, 'message was', 'messages were')} lost on the way")
            )
            return
        self.count = count
        self.asked = max(0, self.asked - 1)
        self.pending = pending
        named = _named(headers)
        content_type = _content_type(named)
        self.intake.came(Fetched(self.number, sequence, None, named, content_type, data, time_ns // 1000))

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
        self._consumer = consumer
        self._count = len(info.config.subjects or ())
        self._partitions: dict[int, _Partition] = {}
        self._shelf = Shelf()
        self._looking = asyncio.create_task(self._look_at_partitions(), name=f"spine-nats-{self.stream}")
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
            one.subscription = await client.hear(one.inbox, one.hear)
        except (nats.errors.Error, OSError) as error:
            raise self.broker.error(f"could not read the stream {self.stream}", error) from error
        self._partitions[partition] = one
        await self._pull(one)
        return made.delivered.stream_seq if after is None and made.delivered is not None else after

    async def end(self, partition: int) -> None:
        one = self._partitions.pop(partition, None)
        if one is None:
            return
        self._shelf.keep(lambda fetched: fetched.partition != partition)
        await quietly(self._forget(one))

    async def _forget(self, one: _Partition) -> None:
        if one.subscription is not None:
            await self.broker.client.hear_no_more(one.subscription)
        await self.broker.js.delete_consumer(self.stream, one.consumer)

    async def _look_at_partitions(self) -> None:
        """Subjects that were added while we read would be read by nobody, and no consumer says so."""
        while True:
            await asyncio.sleep(LOOK_S)
            with suppress(BrokerError):  # whoever reads is told
                if (found := await self.broker.partitions_now(self.channel)) != self._count:
                    has = plural(found, "partition")
                    self.fail(
                        BrokerError(
                            f"the stream {self.stream} has {has} now, and had {self._count}; the intake is made anew."
                        )
                    )

    # --- what came --------------------------------------------------------------------------------------------------

    def came(self, fetched: Fetched) -> None:
        if fetched.partition in self._partitions:
            self._shelf.put([fetched])

    def wake(self) -> None:
        self._shelf.wake()

    def fail(self, error: BrokerError) -> None:
        self._shelf.fail(error)

    async def fetch(self, most: int, wait_s: float) -> Sequence[Fetched]:
        await self._ask_for_more()
        fetched = await self._shelf.fetch(most, wait_s)
        self._look_for_silence()
        return fetched

    def _look_for_silence(self) -> None:
        now, silent_s = time.monotonic(), self.broker.settings.silent_s
        for one in self._partitions.values():
            if one.asked and now - one.heard > silent_s:
                raise self.broker.silence(f"has said nothing for {silent_s:g} s; the intake is made anew.")

    async def _ask_for_more(self) -> None:
        shelf = self._shelf
        if shelf.paused or shelf.failed or len(shelf) > PULL or shelf.bytes > PULL_BYTES:
            return
        for one in self._partitions.values():
            if one.asked <= PULL // 4:
                await self._pull(one)

    async def _pull(self, one: _Partition) -> None:
        one.asked = PULL
        one.heard = time.monotonic()
        wanted = {
            "batch": PULL,
            "max_bytes": max(PULL_BYTES // len(self._partitions), self.broker.client.max_payload + MESSAGE_ROOM),
            "expires": int(EXPIRES_S * 1e9),
            "idle_heartbeat": int(self.broker.settings.silent_s / BEATS * 1e9),
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{one.consumer}"
        try:
            await self.broker.client.publish(subject, json.dumps(wanted).encode(), reply=one.inbox)
        except (nats.errors.Error, OSError) as error:
            self.fail(self.broker.error("did not take a request for more", error))

    async def settle(self, fetched: Sequence[Fetched]) -> None:
        """Nothing: the position in the journal says it."""

    def pause(self) -> None:
        self._shelf.pause()

    def resume(self) -> None:
        for one in self._partitions.values():
            one.heard = time.monotonic()
        self._shelf.resume()

    async def lag(self) -> int | None:
        return len(self._shelf) + sum(one.pending for one in self._partitions.values())

    async def close(self) -> None:
        self._unwatch()
        self._looking.cancel()
        for partition in list(self._partitions):
            await self.end(partition)


def _where(after: int | None, start: Start) -> dict[str, Any]:
    if after is not None:
        return {"deliver_policy": DeliverPolicy.BY_START_SEQUENCE, "opt_start_seq": after + 1}
    if isinstance(start, datetime):
        moment = start.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {"deliver_policy": DeliverPolicy.BY_START_TIME, "opt_start_time": moment}
    return {"deliver_policy": DeliverPolicy.ALL if start == "earliest" else DeliverPolicy.NEW}


# --- as it comes over the wire ------------------------------------------------------------------------------------------


def _place(reply: bytes) -> tuple[int, int, int, int]:
    """Of a message: its number in the stream, and in the consumer; when the stream had it (ns), and how many follow.

    `$JS.ACK.<stream>.<consumer>.<delivered>.<in the stream>.<in the consumer>.<time>.<pending>`, with the domain and the
    account before the stream, and a token at the end, where a server says them."""
    tokens = reply.split(b".")
    at = 5 if len(tokens) == 9 else 7
    return int(tokens[at]), int(tokens[at + 1]), int(tokens[at + 2]), int(tokens[at + 3])


def _named(headers: bytes | None) -> dict[str, str]:
    """Its first line is the protocol's."""
    if not headers:
        return {}
    text = headers.decode("utf-8", "surrogateescape")
    named = {}
    for line in text.split("\r\n")[1:]:
        if line:
            name, _, value = line.partition(":")
            named[name.strip()] = value.strip()
    if text.isascii() and "%" not in text:  # nearly always
        return named
    return {name: _unquoted(value, name) for name, value in named.items()}


def _unquoted(value: str, name: str) -> str:
    """Percent-encoded bytes, which may be no text."""
    return text_of(unquote_to_bytes(value.encode("utf-8", "surrogateescape")), name, PREFIX)


def _content_type(named: dict[str, str]) -> str:
    """Taken out of them. Ours is named so; what others write, as in HTTP, may be Content-Type."""
    if CONTENT_TYPE in named:  # nearly always
        return named.pop(CONTENT_TYPE)
    other = next((name for name in named if name.lower() == CONTENT_TYPE), None)
    return "" if other is None else named.pop(other)


def _status(headers: bytes | None) -> tuple[str, str]:
    """`NATS/1.0 409 Consumer Deleted`"""
    first = (headers or b"").partition(b"\r\n")[0].decode("utf-8", "replace")
    _, _, said = first.partition(" ")
    status, _, description = said.strip().partition(" ")
    return status, description
