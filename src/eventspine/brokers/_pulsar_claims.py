"""Claims: which journal publishes a channel, and which reads as a consumer (R14).

They are messages of a topic of their own with one partition, which has them in one order for everybody. Of a name the first
claim counts, and after it only what takes over by force. So whoever claims writes, reads what is there, and knows with all
others who came first: nobody needs to be kept out meanwhile. (A producer that fences off the others does not do that: what
one of those has under way is stored after the fence, and was not there to be read.) Everybody who may produce and consume
can do that; properties of topics and subscriptions need the rights of an administrator, and Pulsar can't compare before it
sets them.

A subscription that nobody reads holds all of it: a message for each claim and take-over, and one that names this
namespace, so that positions of another cluster are never taken for those of this one."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from random import random
from time import monotonic
from typing import Any

import _pulsar

from ..errors import BrokerError
from ._pulsar_client import Link, is_missing, quietly
from ._pulsar_intake import EARLIEST, anchored

KEEPER = "eventspine"
NAMESPACE = "namespace"
FORCE = "force"  # a property of claims that take over


class Claims:
    """Of one moment: what it opens it closes."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._topic = ""

    async def claim(self, name: str, identity: str, *, force: bool = False) -> str:
        give_up = monotonic() + self._link.settings.timeout_s
        while True:
            try:
                return await self._claim(name, identity, force=force)
            except BrokerError as error:
                if self._link.silent or is_missing(error) or monotonic() > give_up:
                    raise
            await asyncio.sleep(0.1 + 0.4 * random())  # the topic is being moved, or was just made

    async def _claim(self, name: str, identity: str, *, force: bool) -> str:
        owner = (await self._read()).get(name, "")
        if owner == identity or (owner and not force):
            return owner
        await self._write(name, identity, force=force)
        return (await self._read()).get(name, "")

    async def namespace(self) -> str:
        """Its identity, made by the first who asks."""
        return (await self._read()).get(NAMESPACE, "") or await self.claim(NAMESPACE, uuid.uuid4().hex)

    async def _read(self) -> Mapping[str, str]:
        if not self._topic:
            self._topic = (await self._link.partitions(self._link.settings.claims_topic))[0]
        reader = await self._link.reader(self._topic, EARLIEST, _pulsar.ReaderConfiguration())
        found: dict[str, str] = {}
        what = f"{self._topic} can't be read"
        try:
            while await self._link.ask(reader.has_message_available_async, what=what):
                message = await self._link.ask(reader.read_next_async, what=what)
                name = message.partition_key()
                if name not in found or FORCE in message.properties():
                    found[name] = message.data().decode("utf-8", "replace")
        finally:
            await self._close(reader)
        return found

    async def _write(self, name: str, identity: str, *, force: bool) -> None:
        await self._close(await self._link.consumer(self._topic, KEEPER, anchored()))
        producer = await self._link.producer(self._topic, _at_once())
        try:
            await self._send(producer, name, identity, force=force)
        finally:
            await quietly(asyncio.to_thread(producer.close))  # see _pulsar_sender

    async def _send(self, producer: Any, name: str, identity: str, *, force: bool) -> None:
        builder = _pulsar.MessageBuilder()
        builder.content(identity.encode())
        builder.partition_key(name)
        if force:
            builder.property(FORCE, "yes")
        builder.disable_replication(True)
        await self._link.ask(producer.send_async, builder.build(), what=f"{name} can't be claimed")

    async def _close(self, one: Any) -> None:
        if not self._link.silent:
            await quietly(self._link.ask(one.close_async, what="closing", within_s=1.0))


def _at_once() -> Any:
    made = _pulsar.ProducerConfiguration()
    made.batching_enabled(False)
    return made
