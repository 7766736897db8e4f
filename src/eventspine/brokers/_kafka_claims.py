"""Claims: which journal publishes a channel, and which reads as a consumer (R14).

The journal's identity stands in the metadata of an offset that is committed in a group of its own, which nobody ever
joins. Kafka has no compare-and-set for it, so of two that claim at the same moment both write, and both look again
after a while: the last to have written has it. Kafka forgets an offset of such a group after a week or so
(offsets.retention.minutes), so that each claim is renewed while its journal runs."""

from __future__ import annotations

import asyncio
import logging
from typing import Literal

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition

from ..errors import BrokerError
from ._kafka_client import Cluster, code_of

log = logging.getLogger("eventspine.broker.kafka")
LOOK_AGAIN_S = 0.3
RENEW_S = 3600.0


class Claims:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._ours: dict[tuple[str, str], str] = {}  # group and topic, with our identity
        self._renewing: asyncio.Task[None] | None = None

    async def claim(self, role: Literal["publisher", "consumer"], name: str, identity: str, *, force: bool) -> str:
        topic = await self._topic(role, name)
        group = self._cluster.settings.group(f"{name}@{role}")
        owner = await self._read(group, topic)
        if owner != identity:
            if owner and not force:
                return owner
            await self._write(group, topic, identity)
            await asyncio.sleep(LOOK_AGAIN_S)
            owner = await self._read(group, topic)
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

    async def _read(self, group: str, topic: str) -> str:
        asked = [ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0)])]
        try:
            answer = await self._cluster.result(
                self._cluster.admin.list_consumer_group_offsets(asked, **self._cluster.limit)[group]
            )
        except KafkaException as error:
            raise self._error(group, error) from None
        return (answer.topic_partitions or [TopicPartition(topic, 0)])[0].metadata or ""

    async def _write(self, group: str, topic: str, identity: str) -> None:
        told = [ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, 0, identity)])]
        try:
            answer = await self._cluster.result(
                self._cluster.admin.alter_consumer_group_offsets(told, **self._cluster.limit)[group]
            )
        except KafkaException as error:
            raise self._error(group, error) from None
        for place in answer.topic_partitions or []:
            if place.error is not None and place.error.code() != KafkaError.NO_ERROR:
                raise self._error(group, KafkaException(place.error))

    def _error(self, group: str, error: KafkaException) -> BrokerError:
        hint = ""
        if code_of(error) in (KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED):
            hint = ". Grant READ on this group and topic, or say claims=no in the URL and see to it yourself that no second journal does the same"
        failed = self._cluster.error(f"whose {group!r} is can't be told", error.args[0])
        return BrokerError(f"{failed}{hint}", **failed.details)

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
                    if await self._read(group, topic) in ("", identity):
                        await self._write(group, topic, identity)
                    else:
                        del self._ours[group, topic]  # taken over; the engine finds out when it next asks
                except BrokerError as error:
                    log.warning("a claim was not renewed: %s", error)

    async def close(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
            self._renewing = None
