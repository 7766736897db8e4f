"""Kafka: a channel is a topic, slots are spread over its partitions, and a consumer is a group.

What is acknowledged is on all replicas that are in sync (acks=all), once and in order (an idempotent producer), so far as
the topic's settings carry that: `spine doctor` reads them from the cluster. Positions are the journal's; the group
divides partitions among processes, and shows others how far we are.

| file | has |
|---|---|
| _kafka_url | what a URL may say |
| _kafka_client | what every client is told; questions to the cluster |
| _kafka_sender | sending, with an answer for each message |
| _kafka_intake | what the event loop has of it: begin, fetch, settle |
| _kafka_shelf | what was read and not fetched yet, and how far each partition is settled |
| _kafka_reader | the consumer in its thread: a member of a group |
| _kafka_topics | topics: needed, there, and as they are found |
| _kafka_claims | which journal publishes and reads (R14) |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from ..errors import BrokerError
from . import _kafka_topics as topics
from ._kafka_claims import Claims
from ._kafka_client import CONTENT_TYPE, PREFIX, Cluster, Topic
from ._kafka_intake import KafkaIntake
from ._kafka_sender import Outgoing, Sender
from ._kafka_url import Settings, settings_of
from .port import Broker, Difference, Features, Finding, Message, Needs, Sent


def from_url(url: str) -> Broker:
    return KafkaBroker(settings_of(url))


class KafkaBroker:
    def __init__(self, settings: Settings) -> None:
        self.url = settings.shown
        self.settings = settings
        self.features = Features(
            name="Kafka",
            prefix=PREFIX,
            positions=True,
            ordered=True,
            assigns="broker",
            starts=frozenset({"earliest", "now", "time"}),
            message_bytes_max=settings.message_bytes_max,
            persistent=True,
            bounds="bytes",
        )
        self._open: _Open | None = None

    async def open(self) -> None:
        if self._open is not None:
            return
        cluster = Cluster(self.settings)
        try:
            await cluster.open()
        except BaseException:
            cluster.close()
            raise
        self._open = _Open(cluster)

    async def close(self) -> None:
        if self._open is not None:
            opened, self._open = self._open, None
            try:
                await opened.claims.close()
                await opened.sender.close()
            finally:
                opened.cluster.close()

    @property
    def _opened(self) -> _Open:
        if self._open is None:
            raise BrokerError(f"{self.url} is not open.")
        return self._open

    # --- out --------------------------------------------------------------------------------------------------------

    async def send(self, messages: Sequence[Message]) -> Sequence[Sent]:
        opened = self._opened
        ways = {channel: await opened.way(channel) for channel in {message.channel for message in messages}}
        outgoing, numbers = [], []
        answers: list[Sent] = [None] * len(messages)
        for number, message in enumerate(messages):
            way = ways[message.channel]
            if isinstance(way, BrokerError):
                answers[number] = way
            else:
                outgoing.append(_outgoing(message, way))
                numbers.append(number)
        for number, sent in zip(numbers, await opened.sender.send(outgoing), strict=True):
            answers[number] = sent
            if sent is not None and not opened.sender.away:
                opened.ways.pop(messages[number].channel, None)  # looked at anew: it may have been made anew
        return answers

    # --- in ---------------------------------------------------------------------------------------------------------

    async def intake(self, channel: str, consumer: str, changed: Callable[[], None]) -> KafkaIntake:
        opened = self._opened
        topic = await opened.cluster.topic(channel)
        identity = opened.identities.get(consumer, "")
        return KafkaIntake(opened.cluster, topic, self.settings.group(consumer), identity, changed)

    # --- about ------------------------------------------------------------------------------------------------------

    async def differences(self, needs: Needs) -> Sequence[Difference]:
        return await topics.differences(self._opened.cluster, needs)

    async def apply(self, needs: Needs) -> Sequence[Difference]:
        return await topics.apply(self._opened.cluster, needs)

    async def findings(self, needs: Needs) -> Sequence[Finding]:
        return await topics.findings(self._opened.cluster, needs)

    async def claim(self, role: Literal["publisher", "consumer"], name: str, identity: str, *, force: bool) -> str:
        opened = self._opened
        if role == "consumer":
            opened.identities[name] = identity
        if not self.settings.claims:
            return ""
        return await opened.claims.claim(role, name, identity, force=force)


class _Open:
    """What there is between open and close."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.sender = Sender(cluster)
        self.claims = Claims(cluster)
        self.identities: dict[str, str] = {}  # by consumer, for the metadata of what it commits
        self.ways: dict[str, Topic] = {}  # by channel

    async def way(self, channel: str) -> Topic | BrokerError:
        if (way := self.ways.get(channel)) is None:
            try:
                way = await self.cluster.topic(channel)
                topics.check_partitions(self.cluster.settings, channel, way.partitions)
            except BrokerError as error:
                error.details["sent"] = False  # nothing has left
                return error
            self.ways[channel] = way
        return way


def _outgoing(message: Message, way: Topic) -> Outgoing:
    headers: dict[str, str | bytes | None] = {**message.headers}
    if message.content_type:
        headers[CONTENT_TYPE] = message.content_type
    key = None if message.key is None else message.key.encode()
    return Outgoing(way.name, message.slot % way.partitions, key, headers, message.data)
