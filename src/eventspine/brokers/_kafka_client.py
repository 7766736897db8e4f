"""What every client of librdkafka is told here, what it says, and the questions that are put to a cluster.

librdkafka connects again by itself, for ever and in silence. Whatever is asked of it here has a time limit, and what it
complained about last stands in the error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, DescribeClusterResult, OffsetSpec, TopicDescription

from ..errors import BrokerError, SettingsError
from ._kafka_url import Settings

log = logging.getLogger("eventspine.broker.kafka")
T = TypeVar("T")

EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]

REFUSED = frozenset(  # nothing changes by itself, so that nobody needs to wait
    {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._SSL,
     KafkaError.UNSUPPORTED_SASL_MECHANISM, KafkaError.CLUSTER_AUTHORIZATION_FAILED}
)  # fmt: skip
GONE = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION,
     KafkaError.UNKNOWN_TOPIC_ID, KafkaError.INCONSISTENT_TOPIC_ID}
)  # fmt: skip
FORBIDDEN = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED})


class Topic(NamedTuple):
    channel: str
    name: str
    id: str  # another one when it is made anew
    partitions: int


class Complaints:
    """What a client said about its connections; `refused` once there is no use in waiting."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.last = ""
        self.refused = ""
        self.cut = False  # since somebody last looked: a connection broke, or none is left
        self.fatal = ""

    def heard(self, error: KafkaError) -> None:
        """librdkafka's error_cb, in the thread that polls."""
        text = self._settings.masked(error.str())
        if error.code() != KafkaError._ALL_BROKERS_DOWN or not self.last:
            self.last = text
        self.cut = True
        if error.code() in REFUSED:
            self.refused = text
        if error.fatal():
            self.fatal = text

    def log(self, level: int, line: str, *values: Any) -> None:
        """librdkafka repeats itself at every try; what matters becomes an error of ours."""
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s", self._settings.masked(line % values if values else line))


def config_of(settings: Settings, complaints: Complaints, **own: Any) -> dict[str, Any]:
    """`own` has underscores for dots."""
    timeout_ms = round(settings.timeout_s * 1000)
    return {
        "client.id": "eventspine",
        "error_cb": complaints.heard,
        "logger": complaints,
        "log.connection.close": False,
        "socket.timeout.ms": timeout_ms,  # 60 s by default: as long as that a dead connection would go unnoticed
        "socket.connection.setup.timeout.ms": min(timeout_ms, 5000),
        "socket.keepalive.enable": True,
        "socket.nagle.disable": True,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1000,
        **{name.replace("_", "."): value for name, value in own.items()},
        **settings.client,
    }


def made(kind: type[T], settings: Settings, config: Mapping[str, Any]) -> T:
    """A client; librdkafka checks the settings that were passed on to it."""
    try:
        return kind(dict(config))  # type: ignore[call-arg]
    except KafkaException as error:
        why = settings.masked(error.args[0].str())
        raise SettingsError(f"{settings.shown} says what librdkafka refuses: {why}", url=settings.shown) from None


def code_of(error: KafkaException) -> int:
    return int(error.args[0].code())


class Cluster:
    """Questions and orders, each with a time limit; whatever goes wrong is a BrokerError."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.complaints = Complaints(settings)
        self.admin = made(AdminClient, settings, config_of(settings, self.complaints))
        self.id = ""

    async def open(self) -> None:
        self.id = (await self.describe()).cluster_id or ""

    async def describe(self) -> DescribeClusterResult:
        found: DescribeClusterResult = await self.answer(
            "it does not answer", self.admin.describe_cluster(**self.limit)
        )
        return found

    @property
    def limit(self) -> dict[str, float]:
        return {"request_timeout": self.settings.timeout_s}

    async def answer(self, what: str, future: Future[T]) -> T:
        try:
            return await self.result(future)
        except KafkaException as error:
            raise self.error(what, error.args[0]) from None

    async def result(self, future: Future[T]) -> T:
        """Raises KafkaException, for those who know what to make of it."""
        self.complaints.refused = ""  # of earlier; it is said again if it still is so
        waiting = asyncio.wrap_future(future)
        waiting.add_done_callback(
            lambda one: one.cancelled() or one.exception()
        )  # seen, also when nobody waits any more
        while not waiting.done():
            self.admin.poll(0)  # complaints are heard in it
            if self.complaints.refused:
                raise BrokerError(f"{self.settings.shown} lets us not in: {self.complaints.refused}")
            await asyncio.wait([waiting], timeout=0.05)
        self.admin.poll(0)
        return await waiting

    def error(self, what: str, error: KafkaError) -> BrokerError:
        why = self.settings.masked(error.str())
        if error.code() == KafkaError._TIMED_OUT and self.complaints.last:
            why = f"nothing for {self.settings.timeout_s:g} s ({self.complaints.last})"
        return BrokerError(f"{self.settings.shown}: {what}: {why}", code=error.name())

    # --- topics -----------------------------------------------------------------------------------------------------

    async def topic(self, channel: str) -> Topic:
        found = (await self.described([channel]))[channel]
        if found is None:
            raise BrokerError(
                f"There is no topic {self.settings.topic(channel)!r} on {self.settings.shown}. `spine topology apply` of the "
                "service that publishes the channel makes it.",
                channel=channel,
            )
        return Topic(channel, found.name, str(found.topic_id), len(found.partitions))

    async def described(self, channels: Sequence[str]) -> dict[str, TopicDescription | None]:
        """None: it is not there."""
        names = {channel: self.settings.topic(channel) for channel in channels}
        if not names:
            return {}
        asked = self.admin.describe_topics(
            TopicCollection(list(set(names.values()))), include_authorized_operations=True, **self.limit
        )
        return {channel: await self._described(asked[name], name) for channel, name in names.items()}

    async def _described(self, future: Future[TopicDescription], name: str) -> TopicDescription | None:
        try:
            return await self.result(future)
        except KafkaException as error:
            if code_of(error) in GONE:
                return None
            raise self.error(f"the topic {name!r}", error.args[0]) from None

    # --- positions --------------------------------------------------------------------------------------------------

    async def offsets(self, topic: str, partitions: Sequence[int], where: OffsetSpec) -> dict[int, int]:
        """-1 where there is none: no message is as late as that time."""
        if not partitions:
            return {}
        asked = self.admin.list_offsets({TopicPartition(topic, number): where for number in partitions}, **self.limit)
        return {
            one.partition: int((await self.answer(f"positions of {topic!r}", future)).offset)
            for one, future in asked.items()
        }
