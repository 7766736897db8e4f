"""What a journal reads from its queues on RabbitMQ: for every partition begun a channel, with one consumer.

Order hangs on how messages go back. A quorum queue gives out what was returned before anything else, in the order in
which it was returned. So nothing is rejected one by one: closing the channel returns all that is not acknowledged, at once
and in order, before the next consumer is active. Cancelling the consumer first would break that: the next one would be
given what comes after the messages that this channel still has."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, cast

from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel
from aiormq.exceptions import AMQPChannelError, ChannelNotFoundEntity

from ._rabbitmq_keys import KEYS
from ._rabbitmq_link import Link, Settings, quietly
from .binding import text_of
from .port import Fetched, Start
from .shelf import Shelf

PREFIX = "cloudEvents:"  # the AMQP binding's; it allows "_" too, and the SDK's binding for RabbitMQ has "ce-"
TIME = f"{PREFIX}time"
MS_MAX = 253_402_300_799_000  # the end of the year 9999
_OURS = frozenset(["", *KEYS])
_OTHERS = ("cloudEvents_", "ce-", "ce_")


class _Token(NamedTuple):
    partition: _Partition
    tag: int


class _Partition:
    def __init__(self, intake: RabbitIntake, number: int, channel: Channel) -> None:
        self.intake = intake
        self.number = number
        self.channel = channel
        self.unsettled: dict[int, None] = {}  # delivery tags, in order: fetched or not

    async def on_message(self, message: DeliveredMessage) -> None:
        tag = message.delivery_tag
        assert tag is not None
        self.unsettled[tag] = None
        self.intake.came(_fetched(self, tag, message))

    def settled(self, tags: Sequence[int]) -> tuple[int, list[int]]:
        """Up to which tag everything is (0: nothing), and the others."""
        for tag in tags:
            self.unsettled.pop(tag, None)
        first = next(iter(self.unsettled), None)
        if first is None:
            return max(tags), []
        return max((tag for tag in tags if tag < first), default=0), [tag for tag in tags if tag > first]


class RabbitIntake:
    def __init__(self, settings: Settings, link: Link, feed: str, queues: Sequence[str]) -> None:
        self.feed = feed
        self._settings = settings
        self._link = link
        self._queues = queues
        self._partitions: dict[int, _Partition] = {}
        self._shelf = Shelf()
        self._unwatch = link.watch(lambda: self.fail("has closed the connection, or says nothing"))

    def assigned(self) -> frozenset[int]:
        return frozenset(range(len(self._queues)))

    async def begin(self, partition: int, *, after: int | None, start: Start, epoch: int) -> None:
        """A queue begins with what was published since it was made, whatever `start` says."""
        queue = self._queues[partition]
        try:
            channel = await self._link.channel()
            one = self._partitions[partition] = _Partition(self, partition, channel)
            await self._link.asked(channel.basic_qos(prefetch_count=self._settings.prefetch))
            channel.on_consumer_cancel_callbacks.add(lambda _: self.fail(f"has no queue {queue!r} any more"))
            channel.closing.add_done_callback(lambda closing: self._on_closed(one, closing))
            await self._link.asked(channel.basic_consume(queue, one.on_message))
        except ChannelNotFoundEntity as error:
            raise self._settings.error(f"has no queue {queue!r}. Make it: spine topology apply.") from error
        except AMQPChannelError as error:
            raise self._settings.error(f"does not give out the queue {queue!r}", error) from error

    def _on_closed(self, one: _Partition, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        if self._partitions.get(one.number) is one:
            self.fail(f"has closed the channel of {self._queues[one.number]!r}", error)

    async def end(self, partition: int) -> None:
        one = self._partitions.pop(partition, None)
        if one is not None:
            self._shelf.keep(lambda fetched: fetched.partition != partition)
            await quietly(self._link.asked(one.channel.close()))

    # --- what came --------------------------------------------------------------------------------------------------

    def came(self, fetched: Fetched) -> None:
        if self._partitions.get(fetched.partition) is cast(_Token, fetched.token).partition:
            self._shelf.put([fetched])

    def fail(self, what: str, error: BaseException | None = None) -> None:
        self._shelf.fail(self._settings.error(what, error))

    async def fetch(self, most: int, wait_s: float) -> Sequence[Fetched]:
        return await self._shelf.fetch(most, wait_s)

    async def settle(self, fetched: Sequence[Fetched]) -> None:
        tags: dict[_Partition, list[int]] = {}
        for one in fetched:
            partition, tag = cast(_Token, one.token)
            if self._partitions.get(one.partition) is partition:  # else it was given back, and comes again
                tags.setdefault(partition, []).append(tag)
        for partition, settled in tags.items():
            await self._acknowledge(partition, settled)

    async def _acknowledge(self, partition: _Partition, tags: Sequence[int]) -> None:
        upto, others = partition.settled(tags)
        try:
            async with asyncio.timeout(self._settings.timeout_s):  # a client whose connection ends may never take it
                if upto:
                    await partition.channel.basic_ack(upto, multiple=True, wait=False)
                for tag in others:
                    await partition.channel.basic_ack(tag, wait=False)
        except (AMQPChannelError, OSError, RuntimeError) as error:
            raise self._settings.error("can't be told what is settled", error) from error

    def pause(self) -> None:
        """The server sends as many as it may have out at once, and then no more."""
        self._shelf.pause()

    def resume(self) -> None:
        self._shelf.resume()

    async def lag(self) -> int | None:
        return len(self._shelf) + sum([await self._ready(self._queues[number]) for number in self._partitions])

    async def _ready(self, queue: str) -> int:
        try:
            declared = await self._link.once(lambda channel: channel.queue_declare(queue, passive=True))
        except AMQPChannelError as error:
            raise self._settings.error(f"does not say how long the queue {queue!r} is", error) from error
        return declared.message_count or 0

    async def close(self) -> None:
        self._unwatch()
        for partition in list(self._partitions):
            await self.end(partition)


def _fetched(partition: _Partition, tag: int, message: DeliveredMessage) -> Fetched:
    properties = message.header.properties
    headers = {}
    for given, value in (properties.headers or {}).items():
        name = _name(given)
        headers[name] = _time(value) if name == TIME else _text(value, name)
    return Fetched(
        partition.number,
        0,
        None if (key := message.routing_key or "") in _OURS else key.encode("utf-8", "surrogateescape"),
        headers,
        properties.content_type or "",
        message.body,
        0,
        _Token(partition, tag),
    )


def _name(name: str) -> str:
    for other in _OTHERS:
        if name.startswith(other):
            return PREFIX + name.removeprefix(other)
    return name


def _time(value: Any) -> str:
    """AMQP has a type for it, and others write it as the milliseconds that AMQP 1.0 counts in."""
    if isinstance(value, int):
        value = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=max(0, min(value, MS_MAX)))
    if isinstance(value, datetime) and value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return _text(value, TIME)


def _text(value: Any, name: str) -> str:
    """Producers that are none of ours send numbers, times and truth values as such."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat()
    return text_of(bytes(value), name, PREFIX) if isinstance(value, (bytes, bytearray)) else str(value)
