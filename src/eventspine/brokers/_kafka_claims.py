"""Claims: which journal publishes a channel, and which reads as a consumer (R14).

The journal's identity stands in the metadata of an offset that is committed in a group of its own, which nobody ever
joins. Kafka has no compare-and-set for it, and a transaction will do: of those under one transactional id the last to
begin ends the others, and what they had not yet committed they never can. So whoever claims begins one, looks whose it
is, and only then writes; who was ended meanwhile looks again. Kafka forgets an offset of such a group after a week or so
(offsets.retention.minutes), so that each claim is renewed while its journal runs.

A consumer of that group asks, and a producer writes, not an AdminClient: what that asks of a group's coordinator ends the
process when the broker dies meanwhile (librdkafka's issue 4605, also in 2.16)."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from random import uniform
from time import monotonic
from typing import Literal, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from ..errors import BrokerError
from ._kafka_client import FORBIDDEN, REFUSED, Cluster, Complaints, code_of, config_of, in_thread, made

log = logging.getLogger("eventspine.broker.kafka")
T = TypeVar("T")
LISTEN_S = 1.0
ASK_AGAIN_S = 0.1
TRANSACTION_MS = 60_000, 900_000  # at least so long as a socket waits; more than the latter no broker allows by default
UNSETTLED = frozenset(
    {KafkaError._TIMED_OUT, KafkaError._WAIT_COORD, KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
     KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR, KafkaError.UNSTABLE_OFFSET_COMMIT}
)  # fmt: skip
RENEW_S = 3600.0


class Claims:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._ours: dict[tuple[str, str], str] = {}  # group and topic, with our identity
        self._renewing: asyncio.Task[None] | None = None
        self._one_by_one = asyncio.Lock()

    async def claim(self, role: Literal["publisher", "consumer"], name: str, identity: str, *, force: bool) -> str:
        topic = await self._topic(role, name)
        group = self._cluster.settings.group(f"{name}@{role}")
        async with self._one_by_one:
            owner = await asked_as(self._cluster, group, lambda member: member.claim(topic, identity, force=force))
        if owner == identity:
            self._keep(group, topic, identity)
        return owner

    async def _topic(self, role: str, name: str) -> str:
        """An offset belongs to a topic that is there. A consumer's name ends with its channel's."""
        parts = name.split(".")
        channels = [name] if role == "publisher" else [".".join(parts[n:]) for n in range(1, len(parts))]
        for channel, topic in (await self._cluster.described(channels)).items():
            if topic is not None:
                return self._cluster.settings.topic(channel)
        return (await self._cluster.topic(channels[-1] if channels else name)).name  # which says what is missing

    # --- kept -------------------------------------------------------------------------------------------------------

    def _keep(self, group: str, topic: str, identity: str) -> None:
        self._ours[group, topic] = identity
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew(), name="eventspine-kafka-claims")

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            for (group, topic), identity in list(self._ours.items()):
                try:
                    if not await asked_as(self._cluster, group, lambda member: member.renew(topic, identity)):  # noqa: B023
                        del self._ours[group, topic]  # taken over; the engine finds out when it next asks
                except BrokerError as error:
                    log.warning("a claim was not renewed: %s", error)

    async def close(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
            self._renewing = None


class Member:
    """Of a group that it never joins: it reads and writes what is committed there. In a thread, since it waits; `over` is
    set when nobody waits for its answer any more."""

    def __init__(
        self, consumer: Consumer, producer: Callable[[], Producer], timeout_s: float, over: threading.Event
    ) -> None:
        self._consumer = consumer
        self._producer = producer
        self._timeout_s = timeout_s
        self._over = over

    def claim(self, topic: str, identity: str, *, force: bool) -> str:
        owner = self.read(topic)
        if owner == identity or (owner and not force):
            return owner
        return self.write(topic, identity, lambda owner: force or not owner)

    def renew(self, topic: str, identity: str) -> bool:
        """Whether it is ours still."""
        return self.write(topic, identity, lambda owner: owner in ("", identity)) == identity

    def read(self, topic: str) -> str:
        (place,) = self._answered(lambda: self._consumer.committed([TopicPartition(topic, 0)], timeout=LISTEN_S))
        return place.metadata or ""

    def write(self, topic: str, identity: str, may: Callable[[str], bool]) -> str:
        """If we may, by whose it is; and whose it is then. Nobody else writes in between."""
        give_up = monotonic() + self._timeout_s
        while True:
            try:
                return self._write(self._producer(), topic, identity, may)
            except KafkaException as error:
                # By another who claims, or by a broker that is away or doesn't say: what became of it is read again. Two
                # that end each other's should not go on doing so in step.
                over = code_of(error) in FORBIDDEN or code_of(error) in REFUSED or monotonic() > give_up
                if over or self._over.wait(uniform(ASK_AGAIN_S, 5 * ASK_AGAIN_S)):
                    raise

    def _write(self, producer: Producer, topic: str, identity: str, may: Callable[[str], bool]) -> str:
        producer.init_transactions(self._timeout_s)
        if not may(owner := self.read(topic)):
            return owner
        producer.begin_transaction()
        told = [TopicPartition(topic, 0, 0, identity)]
        producer.send_offsets_to_transaction(told, self._consumer.consumer_group_metadata(), self._timeout_s)
        producer.commit_transaction(self._timeout_s)
        return identity

    def _answered(self, ask: Callable[[], list[TopicPartition]]) -> list[TopicPartition]:
        """Again and again while who would know is away, elected or loading, as for a while after a broker has started."""
        give_up = monotonic() + self._timeout_s
        while True:
            try:
                places = ask()
                _check(places)
            except KafkaException as error:
                self._hear()
                if code_of(error) not in UNSETTLED or monotonic() > give_up or self._over.wait(ASK_AGAIN_S):
                    raise
            else:
                return places

    def _hear(self) -> None:
        """Why there is no answer is said beside it: complaints, and that the group is not ours to ask."""
        said = self._consumer.poll(0)
        if said is not None and (error := said.error()) is not None and error.code() in FORBIDDEN:
            raise KafkaException(error)


def _check(places: list[TopicPartition]) -> None:
    for place in places:
        if place.error is not None:
            raise KafkaException(place.error)


async def asked_as(cluster: Cluster, group: str, ask: Callable[[Member], T]) -> T:
    settings, complaints, over = cluster.settings, Complaints(cluster.settings), threading.Event()
    timeout_ms = round(settings.timeout_s * 1000)
    least, most = TRANSACTION_MS
    writing = {"transactional_id": group, "transaction_timeout_ms": min(max(least, timeout_ms), most)}
    own = {"group_id": group, "enable_auto_commit": False, "isolation_level": "read_committed"}

    def producer() -> Producer:
        return made(Producer, settings, config_of(settings, complaints, **writing))

    def work() -> T:
        consumer = made(Consumer, settings, config_of(settings, complaints, **own))
        try:
            return ask(Member(consumer, producer, settings.timeout_s, over))
        except KafkaException as error:
            raise _error(cluster, group, error.args[0], complaints) from None
        finally:
            consumer.close()

    try:
        return await in_thread(work, "eventspine-kafka-claim")
    finally:
        over.set()


def _error(cluster: Cluster, group: str, said: KafkaError, complaints: Complaints) -> BrokerError:
    failed = cluster.error(f"whose {group!r} is can't be told", said, complaints)
    if said.code() not in FORBIDDEN:
        return failed
    return BrokerError(
        f"{failed}. Grant READ on this group and topic, and WRITE and DESCRIBE on the transactional id {group!r}; or say "
        "claims=no in the URL and see to it yourself that no second journal does the same",
        **failed.details,
    )
