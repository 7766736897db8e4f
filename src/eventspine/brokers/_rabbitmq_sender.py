"""Sending: many messages at once, each answered by the server's confirm.

A message that no queue wants is not confirmed but returned; it then waits in the journal until somebody consumes the
channel. So that the first consumer misses none of them, whether a channel is wanted is found out with one message before
others follow: else those behind it could get into a queue that is made just then, and be ahead of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any

from aiormq.channel import Channel
from aiormq.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed, DeliveryError, PublishError
from pamqp.commands import Basic

from ..errors import BrokerError, MessageRefused, NotWanted
from ._rabbitmq_keys import KEYS
from ._rabbitmq_link import Link, Settings
from .port import Message, Sent

_TOO_LARGE = re.compile(r"message size \d+ is larger than configured max size (\d+)")


class Sender:
    """On one connection, for as long as that is alive. `exchange`: of a channel; `learn`: a limit that the server has told."""

    def __init__(
        self, link: Link, settings: Settings, exchange: Callable[[str], str], learn: Callable[[int], None]
    ) -> None:
        self.link = link
        self._settings = settings
        self._exchange = exchange
        self._learn = learn
        self._publishers: dict[str, Channel] = {}
        self._wanted: set[str] = set()  # channels of which a message has found a queue

    async def send(self, messages: Sequence[Message], limit: int) -> Sequence[Sent]:
        """`limit`: bytes of a message that the server takes, as far as is known."""
        if not await self.link.unblocked(self._settings.timeout_s):
            return [self._blocked()] * len(messages)
        fit = [message for message in messages if len(message.data) <= limit]
        by_channel = {
            name: [one for one in fit if one.channel == name] for name in dict.fromkeys(one.channel for one in fit)
        }
        answers = {name: iter(await self._send_in_order(name, some)) for name, some in by_channel.items()}
        return [next(answers[one.channel]) if len(one.data) <= limit else self._refused(one, limit) for one in messages]

    async def _send_in_order(self, name: str, messages: Sequence[Message]) -> Sequence[Sent]:
        channel = await self._publisher(name)
        answers: list[Sent] = []
        if name not in self._wanted and self._settings.wait_unrouted and len(messages) > 1:
            answers += await self._publish(channel, messages[:1])
            if (first := answers[0]) is not None:
                others = first if isinstance(first, NotWanted) else self._settings.error("was not asked to take it yet")
                return [first, *[others] * (len(messages) - 1)]
        return answers + await self._publish(channel, messages[len(answers) :])

    async def _publisher(self, name: str) -> Channel:
        channel = self._publishers.get(name)
        if channel is None or channel.is_closed:
            self._wanted.discard(name)
            channel = self._publishers[name] = await self.link.channel(confirms=True)
        return channel

    async def _publish(self, channel: Channel, messages: Sequence[Message]) -> list[Sent]:
        """All at once, in order; then their answers."""
        tasks = [asyncio.create_task(self._publish_one(channel, message)) for message in messages]
        lost = asyncio.get_running_loop().create_future()
        unwatch = self.link.watch(lambda: None if lost.done() else lost.set_result(None))
        try:
            await self._answered(tasks, lost)
        finally:
            unwatch()
            lost.cancel()
            for task in tasks:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return [self._answer(message, task) for message, task in zip(messages, tasks, strict=True)]

    async def _answered(self, tasks: Sequence[asyncio.Task[Any]], lost: asyncio.Future[None]) -> None:
        """Until all are, the connection is gone, or none has come for as long as it may take."""
        every = asyncio.gather(*tasks, return_exceptions=True)
        left = len(tasks)
        while not every.done() and not lost.done():
            waited: list[asyncio.Future[Any]] = [every, lost]
            await asyncio.wait(waited, timeout=self._settings.timeout_s, return_when=asyncio.FIRST_COMPLETED)
            before, left = left, sum(not task.done() for task in tasks)
            if left == before and not every.done() and not lost.done():
                if await self.link.unblocked(0.1):  # else it will answer when it has room again
                    self.link.abort()
                return

    async def _publish_one(self, channel: Channel, message: Message) -> Any:
        properties = Basic.Properties(
            content_type=message.content_type, headers=dict(message.headers), delivery_mode=2, message_id=message.id
        )
        return await channel.basic_publish(
            message.data,
            exchange=self._exchange(message.channel),
            routing_key=KEYS[message.slot],
            properties=properties,
            mandatory=self._settings.wait_unrouted,
            wait=False,
        )

    def _answer(self, message: Message, task: asyncio.Task[Any]) -> Sent:
        if task.cancelled():
            return self._settings.error("did not confirm a message: the connection broke, or it took too long")
        error = task.exception()
        if error is None:
            self._wanted.add(message.channel)
            return None
        if isinstance(error, PublishError):
            self._wanted.discard(message.channel)
            return NotWanted(
                f"{self._settings.url.shown} has no queue that wants what is published as {message.channel!r}: it waits in the journal until "
                "a service that subscribes to it has run, or its topology is applied. Where nobody ever will, say unrouted=drop."
            )
        if isinstance(error, DeliveryError):
            return self._settings.error(
                "did not take a message: a queue is full by a policy, or the majority of its replicas is away"
            )
        if isinstance(error, ChannelPreconditionFailed) and (found := _TOO_LARGE.search(str(error))):
            return self._too_large(message, int(found[1]))
        if isinstance(error, ChannelNotFoundEntity):
            return self._settings.error(
                f"has no exchange {self._exchange(message.channel)!r}. Make it: spine topology apply"
            )
        return self._settings.error("did not take a message", error)

    def _too_large(self, message: Message, limit: int) -> BrokerError:
        """The server has closed the channel, and does not say for which: it is the one that is."""
        self._learn(limit)
        if len(message.data) > limit:
            return self._refused(message, limit)
        return self._settings.error("did not take a message: another one with it was too large")

    @staticmethod
    def _refused(message: Message, limit: int) -> MessageRefused:
        return MessageRefused(f"{len(message.data):,} bytes are more than the {limit:,} that the server takes")

    def _blocked(self) -> BrokerError:
        return self._settings.error("takes no messages: it is short of memory or disk, and says so in its alarms")
