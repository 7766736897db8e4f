"""RabbitMQ 4: an exchange for each channel, and for each consumer quorum queues among which slots are divided.

    amqp://user:password@host1:5672,host2:5672/vhost?prefix=shop.&partitions=8&prefetch=500

    orders (fanout) ──┬── inventory.orders.slots (topic) ── inventory.orders.p000 … p007 (quorum)
                      │       └── else: inventory.orders.others (fanout) ── inventory.orders.p000
                      └── billing.orders.slots ── …

A publisher knows none of its consumers: it sends to the channel's exchange, under the slot, and waits for the server's
confirm. The routing key has the slot's remainders as words, so that N bindings say which slots are in which of N queues.
An exchange of the type x-consistent-hash, which is made for such things, does not say it for good: it numbers its queues
anew whenever the server starts, in whatever order they come, and what follows of a key gets into another queue than what
is still waiting. Messages with another routing key than ours, from producers that are not ours, share the first queue.

A queue keeps what was published since it was made. It has no positions, and nothing older for anybody; what can be
rewound is the copy in the journal. Which process reads which queue is said by the journal's leases. That the queue has a
single active consumer is a second lock, for a process that was stopped and does not know yet that it has lost its lease.

AMQP shows neither policies nor replicas; with `management=http://host:15672` doctor reads them there."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import unquote

from aiormq.channel import Channel
from aiormq.exceptions import AMQPChannelError, ChannelNotFoundEntity, ChannelPreconditionFailed

from ..errors import BrokerError
from ..journal.port import SLOTS
from ..wording import plural
from . import _rabbitmq_findings as findings, urls
from ._rabbitmq_intake import PREFIX, RabbitIntake
from ._rabbitmq_keys import pattern_of
from ._rabbitmq_link import Link, Settings
from ._rabbitmq_sender import Sender
from .port import Difference, Features, Finding, Message, Needs, Sent

EXAMPLE = "amqp://user:password@localhost:5672/?partitions=8"
PARTITIONS = 8
PREFETCH = 500  # messages of a queue that may be on their way into the journal
REGISTERED_S = 1.5  # after which the server has on its disk that there is a quorum queue; no answer says so
BINDING_S = 0.05  # generous, for each
TAKES = 20  # of a place by force, while others ask for it in between
OLDEST = 4  # of the server: before, a delivery limit could not be unlimited
MESSAGE_BYTES_MAX = 16_777_216  # the server's own default; a lower one is learned when it refuses
QUEUE = {
    "x-queue-type": "quorum",
    "x-single-active-consumer": True,
    "x-delivery-limit": -1,  # whose event is dead is said by the journal (R16)
}
_Declare = Callable[[Channel, bool], Any]


def from_url(url: str) -> RabbitBroker:
    read = urls.parse(url, port=5671 if url.startswith("amqps:") else 5672, example=EXAMPLE)
    settings = Settings(
        read,
        vhost=unquote(read.path) or "/",
        prefix=read.text("prefix"),
        partitions=_partitions(read),
        replicas=read.number("replicas", 0, least=0, most=9),
        prefetch=read.number("prefetch", PREFETCH, most=65_535),
        heartbeat_s=read.number("heartbeat_s", 5, most=600),
        timeout_s=read.seconds("timeout_s", 5.0),
        wait_unrouted=read.one_of("unrouted", ("wait", "drop"), "wait") == "wait",
        management=read.text("management").rstrip("/"),
        tls=read.tls(default=read.scheme == "amqps"),
    )
    if settings.tls is None and read.scheme == "amqps":
        read.refuse("tls", "no", "possible: amqps:// is TLS; write amqp:// for a connection in the clear")
    if settings.tls is not None and read.scheme == "amqp":
        read.refuse("tls", "yes", "possible: amqp:// is in the clear; write amqps://")
    if settings.management and not settings.management.startswith(("http://", "https://")):
        read.refuse("management", settings.management, "the address of its management, such as http://localhost:15672")
    read.refuse_the_rest()
    return RabbitBroker(settings)


def _partitions(read: urls.BrokerUrl) -> int:
    number = read.number("partitions", PARTITIONS, most=SLOTS)
    if SLOTS % number:
        fitting = ", ".join(str(n) for n in range(1, SLOTS + 1) if SLOTS % n == 0)
        read.refuse("partitions", str(number), f"a number by which {SLOTS} can be divided: {fitting}")
    return number


class RabbitBroker:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.url = settings.url.shown
        self.features = Features(
            name="RabbitMQ",
            prefix=PREFIX,
            positions=False,
            ordered=True,
            assigns="journal",
            starts=frozenset({"now"}),
            message_bytes_max=MESSAGE_BYTES_MAX,
            persistent=True,
            bounds="messages",
        )
        # Of its own for publishing: the server reads nothing more from a connection that publishes while it is short of
        # memory or disk, and what consumers acknowledge must go on.
        self._links: dict[Literal["reading", "publishing"], Link] = {}
        self._opening = asyncio.Lock()
        self._open = False
        self._sender: Sender | None = None  # of the connection for publishing

    # --- connections ------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        self._open = True
        try:
            server = (await self._link("reading")).server
        except BrokerError:
            self._open = False
            raise
        version = str(server.get("version", ""))
        if not version.partition(".")[0].isdigit() or int(version.partition(".")[0]) < OLDEST:
            await self.close()
            raise BrokerError(
                f"{self.url} is {server.get('product', '')} {version}; RabbitMQ {OLDEST}.0 or later is needed."
            )

    async def close(self) -> None:
        self._open = False
        links, self._links = list(self._links.values()), {}
        self._sender = None
        await asyncio.gather(*(link.close() for link in links))

    async def _link(self, purpose: Literal["reading", "publishing"]) -> Link:
        """The one that there is, or a new one in its place."""
        async with self._opening:
            link = self._links.get(purpose)
            if link is not None and link.alive:
                return link
            if not self._open:
                raise self.settings.error("is not connected")
            if link is not None:
                await link.close()
            link = Link(self.settings)
            await link.open(watched=purpose == "reading")
            self._links[purpose] = link
            return link

    # --- names ------------------------------------------------------------------------------------------------------

    def exchange(self, channel: str) -> str:
        return self.settings.prefix + channel

    def slots(self, consumer: str) -> str:
        return f"{self.settings.prefix}{consumer}.slots"

    def others(self, consumer: str) -> str:
        return f"{self.settings.prefix}{consumer}.others"

    def queue(self, consumer: str, partition: int) -> str:
        return f"{self.settings.prefix}{consumer}.p{partition:03d}"

    # --- sending ----------------------------------------------------------------------------------------------------

    async def send(self, messages: Sequence[Message]) -> Sequence[Sent]:
        link = await self._link("publishing")
        if self._sender is None or self._sender.link is not link:
            self._sender = Sender(link, self.settings, self.exchange, self._learn)
        return await self._sender.send(messages, self.features.message_bytes_max)

    def _learn(self, message_bytes_max: int) -> None:
        self.features = replace(self.features, message_bytes_max=message_bytes_max)

    # --- topology ---------------------------------------------------------------------------------------------------

    async def differences(self, needs: Needs) -> Sequence[Difference]:
        link = await self._link("reading")
        found = [one for channel in needs.channels if (one := await self._exchange_differs(link, channel))]
        for _, consumer in needs.consumes:
            found += [one] if (one := await self._queues_differ(link, consumer)) else []
        return found

    async def _exchange_differs(self, link: Link, channel: str) -> Difference | None:
        name = self.exchange(channel)
        found = await self._look(link, lambda on, passive: _fanout(on, name, passive=passive))
        return None if found == "same" else Difference(f"exchange {name}", "fanout", found, safe=not found)

    async def _queues_differ(self, link: Link, consumer: str) -> Difference | None:
        what, wanted = f"queues of {consumer}", self.settings.partitions
        count = await self._count(link, consumer)
        if count != wanted:
            found = plural(count, "partition") if count else ""
            return Difference(what, plural(wanted, "partition"), found, safe=not count)
        queues = [
            self.queue(consumer, number)
            for number in range(1, count - 1)
            if not await self._is_there(link, consumer, number)
        ]
        if queues:  # what it had is gone with it; the others have theirs, and bound they all are again
            return Difference(
                what,
                plural(wanted, "partition"),
                f"no queue {', '.join(queues[:3])}{', …' if queues[3:] else ''}",
                safe=True,
            )
        first = self.queue(consumer, 0)
        found = await self._look(link, lambda on, passive: self._declare(on, first, passive=passive))
        if found == "same":
            found = await self._look(link, lambda on, passive: self._divide(on, consumer, passive=passive))
        return None if found == "same" else Difference(what, plural(wanted, "partition"), found, safe=not found)

    async def _look(self, link: Link, declare: _Declare) -> str:
        """ "": it isn't there. "same", or what of it differs: only what is there is declared as we want it."""
        try:
            await link.once(lambda channel: declare(channel, True))
            await link.once(lambda channel: declare(channel, False))
        except ChannelNotFoundEntity:
            return ""
        except ChannelPreconditionFailed as error:
            return _difference(str(error))
        except AMQPChannelError as error:
            raise self.settings.error("does not say what is there", error) from error
        return "same"

    async def _count(self, link: Link, consumer: str) -> int:
        """Partitions, as they were made: changing it moves keys away from where their past is (R12)."""
        there = {number: await self._is_there(link, consumer, number) for number in (0, self.settings.partitions)}
        if not there[0]:
            return 0
        low, high = 0, self.settings.partitions
        if there[high]:
            while high < 960 and await self._is_there(link, consumer, high):
                low, high = high, min(2 * high, 960)
        elif await self._is_there(link, consumer, high - 1):
            return high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if await self._is_there(link, consumer, middle) else (low, middle)
        return high

    async def _is_there(self, link: Link, consumer: str, partition: int) -> bool:
        try:
            await link.once(lambda channel: channel.queue_declare(self.queue(consumer, partition), passive=True))
        except ChannelNotFoundEntity:
            return False
        except AMQPChannelError as error:
            raise self.settings.error("does not say which queues there are", error) from error
        return True

    async def apply(self, needs: Needs) -> Sequence[Difference]:
        """What is there already is bound once more: who made it may have been stopped in the middle. Queues are made first
        and bound after a while: a server that is killed right after making a quorum queue does not know of it when it
        starts again, nor of what it had confirmed. To the channel they are bound at the very end, so that nothing is ever
        divided among some of them."""
        found = await self.differences(needs)
        others = {one.what for one in found if not one.safe}
        link = await self._link("reading")
        try:
            channel = await link.channel()
            for name in needs.channels:
                if f"exchange {self.exchange(name)}" not in others:
                    await link.asked(_fanout(channel, self.exchange(name)))
            consumes = [
                one
                for one in needs.consumes
                if not {f"queues of {one[1]}", f"exchange {self.exchange(one[0])}"} & others
            ]
            missing = [one for _, one in consumes if f"queues of {one}" in {each.what for each in found}]
            for consumer in missing:
                await self._make_queues(link, channel, consumer)
            if missing:
                await asyncio.sleep(REGISTERED_S)
            for name, consumer in consumes:
                await self._bind(link, channel, name, consumer)
            await link.asked(channel.close())
        except AMQPChannelError as error:
            raise self.settings.error("did not make what is needed", error) from error
        return [one for one in found if one.safe]

    async def _make_queues(self, link: Link, channel: Channel, consumer: str) -> None:
        """From the last to the first, so that where the first is all are."""
        for partition in reversed(range(self.settings.partitions)):
            await link.asked(self._declare(channel, self.queue(consumer, partition)))

    async def _bind(self, link: Link, channel: Channel, name: str, consumer: str) -> None:
        """In one go: the server does one after the other, and the answer to the last is that to all."""
        slots, others, count = self.slots(consumer), self.others(consumer), self.settings.partitions
        await link.asked(_fanout(channel, others, nowait=True))
        await link.asked(self._divide(channel, consumer, nowait=True))
        await link.asked(channel.queue_bind(self.queue(consumer, 0), others, nowait=True))
        for partition in range(count):
            pattern = pattern_of(partition, count)
            await link.asked(channel.queue_bind(self.queue(consumer, partition), slots, pattern, nowait=True))
        await link.asked(channel.exchange_bind(slots, self.exchange(name)), self.settings.timeout_s + count * BINDING_S)

    async def _divide(self, channel: Channel, consumer: str, *, passive: bool = False, nowait: Any = False) -> None:
        await channel.exchange_declare(
            self.slots(consumer),
            exchange_type="topic",
            durable=True,
            arguments={"alternate-exchange": self.others(consumer)},
            passive=passive,
            nowait=nowait,
        )

    async def _declare(self, channel: Channel, queue: str, *, passive: bool = False) -> None:
        arguments: dict[str, Any] = dict(QUEUE)
        if self.settings.replicas:
            arguments["x-quorum-initial-group-size"] = self.settings.replicas
        await channel.queue_declare(queue, durable=True, arguments=arguments, passive=passive)

    async def claim(self, role: Literal["publisher", "consumer"], name: str, identity: str, *, force: bool) -> str:
        """An exchange to which nobody publishes, whose alternate is named like the owner. Exchanges are made by all nodes
        of a cluster or none, and one that is there is declared again only with the same alternate; the refusal says
        which it has. So looking and taking are one step, it survives restarts, and no message can get lost."""
        place = f"{self.settings.prefix}eventspine.{role}.{name}"
        link = await self._link("reading")
        try:
            if force:
                await _taken(link, place, self.settings.prefix + identity)
            else:
                await link.once(lambda channel: _owned(channel, place, self.settings.prefix + identity))
        except ChannelPreconditionFailed as error:
            return _current(str(error)).removeprefix(self.settings.prefix) or "unknown"
        except AMQPChannelError as error:
            raise self.settings.error("could not be asked whose this is", error) from error
        return identity

    async def findings(self, needs: Needs) -> Sequence[Finding]:
        queues = {}
        link = await self._link("reading")
        for _, consumer in needs.consumes:
            count = await self._count(link, consumer)
            queues[consumer] = [self.queue(consumer, partition) for partition in range(count)]
        return await findings.read(self.settings, queues)

    # --- reading ----------------------------------------------------------------------------------------------------

    async def intake(self, channel: str, consumer: str, changed: Callable[[], None]) -> RabbitIntake:
        link = await self._link("reading")
        count = await self._count(link, consumer)
        if not count:
            raise self.settings.error(f"has no queues of {consumer!r}. Make them: spine topology apply")
        feed = f"rabbitmq:{link.server.get('cluster_name', '')}:{self.settings.vhost}:{self.exchange(channel)}"
        queues = [self.queue(consumer, partition) for partition in range(count)]
        return RabbitIntake(self.settings, link, feed, queues)


async def _fanout(channel: Channel, name: str, *, passive: bool = False, nowait: Any = False) -> None:
    await channel.exchange_declare(name, exchange_type="fanout", durable=True, passive=passive, nowait=nowait)


async def _taken(link: Link, place: str, owner: str) -> None:
    """Away with it, and made anew in the same breath. Somebody who only asks may have made it in between all the same."""

    async def take(channel: Channel) -> None:
        await channel.exchange_delete(place, nowait=True)
        await _owned(channel, place, owner)

    tries = 0
    while True:
        try:
            await link.once(take)
            return
        except ChannelPreconditionFailed:
            if (tries := tries + 1) == TAKES:
                raise


async def _owned(channel: Channel, place: str, owner: str) -> None:
    arguments: Mapping[str, Any] = {"alternate-exchange": owner}
    await channel.exchange_declare(
        place, exchange_type="fanout", durable=True, internal=True, arguments=dict(arguments)
    )


def _difference(refusal: str) -> str:
    """ "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received 'quorum' but current …" """
    name = re.search(r"inequivalent arg '([^']*)'", refusal)
    return f"{name[1]} {_current(refusal)}" if name else refusal


def _current(refusal: str) -> str:
    return refusal.rpartition("but current is ")[2].removeprefix("the value ").partition(" of type")[0].strip("'")
