"""Pulsar: a channel is a partitioned topic, read as a log from the journal's positions.

    pulsar://host1:6650,host2:6650/tenant/namespace?partitions=8&admin=http://host1:8080

Pulsar can be read in two ways. Its subscriptions hand out and take acknowledgements, so that the broker knows what was
done, and redelivers the rest, from memory and in an order of its own making; who holds a partition is decided by who is
connected, and one that hangs keeps it for a minute. Its readers begin at a message id, and leave all that to
whoever has it. We have it, in the journal, with leases that run out. So a reader it is, and a subscription only to hold
what it has not read: `_pulsar_intake` says how.

A message's partition follows from its slot; its ordering key is the slot, its partition key the event's. In a partition
batches hold what comes together. Foreign consumers that share a partition by key (Key_Shared) need `batches=slot`,
which costs about half of the rate: else a batch goes to one of them as a whole.

Feeds are named by an identity that was left in the namespace, not by the topic's: Pulsar never uses a ledger's number
twice in a cluster, so the positions of a topic that was made anew go on growing, and nothing of it is missed or taken for known.

| file | has |
|---|---|
| _pulsar_client | what a URL may say; a client whose calls can be awaited |
| _pulsar_sender | sending, with an answer for each message |
| _pulsar_intake | reading, positions, and what is held until it is settled |
| _pulsar_claims | which journal publishes and reads (R14) |
| _pulsar_admin | administration by HTTP |
| _pulsar_topics | topics: needed, there, and as they are found |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from ..errors import BrokerError
from ._pulsar_claims import Claims
from ._pulsar_client import Link, Settings, settings_of
from ._pulsar_intake import PulsarIntake
from ._pulsar_sender import Sender
from ._pulsar_topics import Topics
from .port import Broker, Difference, Features, Finding, Message, Needs, Sent


def from_url(url: str) -> Broker:
    return PulsarBroker(settings_of(url))


class PulsarBroker:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.url = settings.url.shown
        self.features = Features(
            name="Pulsar",
            prefix="ce_",
            positions=True,
            ordered=True,
            assigns="journal",
            starts=frozenset({"earliest", "now", "time"}),
            message_bytes_max=settings.message_bytes_max,
            persistent=True,
            bounds="messages",
        )
        self._open: _Open | None = None

    async def open(self) -> None:
        if self._open is not None:
            return
        opened = _Open(self.settings)
        try:
            await opened.link.reach()
        except BaseException:
            await opened.close()
            raise
        self._open = opened

    async def close(self) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            await opened.close()

    async def _opened(self) -> _Open:
        """Anew, if the one that there was did not answer: its connections may be dead without its noticing."""
        if self._open is None:
            raise BrokerError(f"{self.url} is not open.")
        if self._open.link.silent:
            silent, self._open = self._open, _Open(self.settings)
            await silent.close()
        return self._open

    # --- out --------------------------------------------------------------------------------------------------------

    async def send(self, messages: Sequence[Message]) -> Sequence[Sent]:
        opened = await self._opened()
        ways = {channel: await opened.way(channel) for channel in {message.channel for message in messages}}
        answers: list[Sent] = []
        outgoing, numbers = [], []
        for number, message in enumerate(messages):
            way = ways[message.channel]
            answers.append(way if isinstance(way, BrokerError) else None)
            if not isinstance(way, BrokerError):
                outgoing.append((way[message.slot % len(way)], message))
                numbers.append(number)
        for number, sent in zip(numbers, await opened.sender.send(outgoing), strict=True):
            answers[number] = sent
            if isinstance(sent, BrokerError):
                opened.ways.pop(messages[number].channel, None)  # looked at anew: it may have been made anew
        return answers

    # --- in ---------------------------------------------------------------------------------------------------------

    async def intake(self, channel: str, consumer: str, changed: Callable[[], None]) -> PulsarIntake:
        opened = await self._opened()
        topics = await opened.topics.partitions(channel)
        # A client of its own: when it is made anew, nothing of the connections of before is left.
        return PulsarIntake(Link(self.settings), topics, consumer, f"pulsar:{await opened.namespace()}:{channel}")

    # --- about ------------------------------------------------------------------------------------------------------

    async def differences(self, needs: Needs) -> Sequence[Difference]:
        return await (await self._opened()).topics.differences(needs)

    async def apply(self, needs: Needs) -> Sequence[Difference]:
        return await (await self._opened()).topics.apply(needs)

    async def findings(self, needs: Needs) -> Sequence[Finding]:
        return await (await self._opened()).topics.findings(needs)

    async def claim(self, role: Literal["publisher", "consumer"], name: str, identity: str, *, force: bool) -> str:
        if not self.settings.claims:
            return ""
        return await Claims((await self._opened()).link).claim(f"{role} {name}", identity, force=force)


class _Open:
    """What there is between open and close, or until the client has to be given up."""

    def __init__(self, settings: Settings) -> None:
        self.link = Link(settings)
        self.sender = Sender(self.link)
        self.topics = Topics(settings, self.link)
        self.ways: dict[str, Sequence[str]] = {}  # topics of the partitions, by channel
        self._namespace = ""

    async def way(self, channel: str) -> Sequence[str] | BrokerError:
        if (way := self.ways.get(channel)) is None:
            try:
                way = self.ways[channel] = await self.topics.partitions(channel)
            except BrokerError as error:
                return error
        return way

    async def namespace(self) -> str:
        settings = self.link.settings
        if not self._namespace:
            self._namespace = await Claims(self.link).namespace() if settings.claims else settings.namespace
        return self._namespace

    async def close(self) -> None:
        await self.link.close()
