"""What every client of librdkafka is told here, what it says, and the questions that are put to a cluster.

librdkafka connects again by itself, for ever and in silence. Whatever is asked of it here has a time limit, and what it
complained about last stands in the error.

An AdminClient is asked about the cluster and its topics, and nothing else. What it asks of a group's coordinator ends the
process when the broker dies meanwhile (librdkafka's issue 4605), and its positions of a topic stay wrong long after the
broker is back: consumers are asked for both."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,
    DescribeClusterResult,
    ResourceType,
    TopicDescription,
)

from ..errors import BrokerError, SettingsError
from ._kafka_url import TLS_FILES, Settings

log = logging.getLogger("eventspine.broker.kafka")
T = TypeVar("T")
Config = Mapping[str, str]
CONTENT_TYPE = "content-type"  # the header
PREFIX = "ce_"  # of those that are CloudEvents attributes

REFUSED = frozenset(  # nothing changes by itself, so that nobody needs to wait
    {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._SSL,
     KafkaError.UNSUPPORTED_SASL_MECHANISM, KafkaError.CLUSTER_AUTHORIZATION_FAILED}
)  # fmt: skip
GONE = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION,
     KafkaError.UNKNOWN_TOPIC_ID, KafkaError.INCONSISTENT_TOPIC_ID}
)  # fmt: skip
FORBIDDEN = frozenset(  # the third: an idempotent producer may write to no topic at all
    {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED,
     KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED}
)  # fmt: skip


AWAY = frozenset({KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT})


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
        self.down = False  # since somebody last looked: none is left
        self.fatal = ""
        self.fatal_code = KafkaError.NO_ERROR

    def heard(self, error: KafkaError) -> None:
        """librdkafka's error_cb, in the thread that polls."""
        text = self._settings.masked(error.str())
        none_left = error.code() == KafkaError._ALL_BROKERS_DOWN
        if not none_left or not self.last:
            self.last = text
        self.cut = True
        self.down |= none_left
        if error.code() in REFUSED:
            self.refused = text
        if error.fatal():
            self.fatal, self.fatal_code = text, error.code()

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
        for ours, theirs in TLS_FILES.items():
            if (path := config.get(theirs)) and not os.access(path, os.R_OK):
                settings.url.refuse(ours, path, "a readable file")
        raise SettingsError(f"{settings.shown} says what librdkafka refuses: {why}", url=settings.shown) from None


def code_of(error: KafkaException) -> int:
    return int(error.args[0].code())


async def in_thread(work: Callable[[], T], name: str) -> T:
    """In one of its own: what waits for a broker that is away would keep a pool's others waiting. Never left half done: who
    is cancelled leaves, and the thread ends by itself."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()
    threading.Thread(target=settle, args=(future, work), name=name, daemon=True).start()
    return await asyncio.wrap_future(future)


def settle(future: Future[T], work: Callable[[], T]) -> None:
    try:
        future.set_result(work())
    except Exception as error:  # noqa: BLE001  of whoever asked
        future.set_exception(error)


class _Asking(NamedTuple):
    admin: AdminClient
    waiting: set[Future[Any]]


# An AdminClient answers in a thread of librdkafka's. Should garbage be collected in that thread, and the client be part of
# it, the process ends: no thread can end itself. So each is kept here until nothing that it was asked is left to answer.
_ALIVE: list[_Asking] = []
_CLOSED: list[_Asking] = []


def _bury() -> None:
    """The closed ones that have answered everything."""
    for one in [one for one in _CLOSED if not one.waiting]:
        _CLOSED.remove(one)
        _ALIVE.remove(one)


class Cluster:
    """Questions and orders, each with a time limit; whatever goes wrong is a BrokerError."""

    def __init__(self, settings: Settings) -> None:
        _bury()
        self.settings = settings
        self.complaints = Complaints(settings)
        self.admin = made(AdminClient, settings, config_of(settings, self.complaints))
        self._asking = _Asking(self.admin, set())
        _ALIVE.append(self._asking)
        self.id = ""

    def close(self) -> None:
        _CLOSED.append(self._asking)
        _bury()

    def _asked(self, futures: Iterable[Future[Any]]) -> None:
        waiting = self._asking.waiting
        for future in futures:
            waiting.add(future)
            future.add_done_callback(waiting.discard)

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
        self._asked([future])
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

    def error(self, what: str, error: KafkaError, complaints: Complaints | None = None) -> BrokerError:
        why, last = self.settings.masked(error.str()), (complaints or self.complaints).last
        if error.code() in AWAY and last:
            why = f"nothing for {self.settings.timeout_s:g} s ({last})"
        return BrokerError(f"{self.settings.shown}: {what}: {why}", code=error.name())

    # --- topics -----------------------------------------------------------------------------------------------------

    async def topic(self, channel: str) -> Topic:
        found = (await self.described([channel]))[channel]
        if found is None:
            raise BrokerError(
                f"There is no topic {self.settings.topic(channel)!r} on {self.settings.shown}. `spine topology apply` makes it.",
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
        self._asked(asked.values())
        return {channel: await self._described(asked[name], name) for channel, name in names.items()}

    async def _described(self, future: Future[TopicDescription], name: str) -> TopicDescription | None:
        try:
            return await self.result(future)
        except KafkaException as error:
            if code_of(error) in GONE:
                return None
            raise self.error(f"the topic {name!r}", error.args[0]) from None

    async def config(self, name: str) -> Config:
        """Of a topic; empty where we may not know."""
        resource = ConfigResource(ResourceType.TOPIC, name)
        try:
            found = await self.result(self.admin.describe_configs([resource], **self.limit)[resource])
        except KafkaException:
            return {}
        return {name: str(entry.value) for name, entry in found.items()}
