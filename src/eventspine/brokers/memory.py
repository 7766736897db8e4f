"""A broker in this process's memory: for tests, simulations and examples; nothing of it survives the process.

    memory://name                     a log: four partitions, in order, read from any position
    memory://name?kind=queue          a queue for each consumer; what was not settled comes again
    memory://name?kind=queue&order=none   and in any order, some of it twice

Spines of one process that name the same one share it, and it can be made to fail: see `Server`."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate, islice
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

from ..errors import BrokerError, MessageRefused, SettingsError
from .binding import size_of
from .port import FETCH_BYTES, Difference, Features, Fetched, Finding, Message, Needs, Sent, Start

PARTITIONS = 4
MESSAGE_BYTES_MAX = 1_000_000
_servers: dict[str, Server] = {}


class Server:
    """What the spines of this process share under one name."""

    def __init__(self, name: str, *, seed: int = 0) -> None:
        self.name = name
        self.random = random.Random(seed)
        self.up = True
        self.lose_answers = 0  # so many times send() stores everything and says nothing of it
        self.refuse: Callable[[Message], str] = lambda _: ""  # why this message will never be taken
        self.topics: dict[str, list[list[Message]]] = {}
        self.queues: dict[tuple[str, str], list[deque[tuple[Message, bool]]]] = {}  # by channel and consumer
        self.owners: dict[tuple[str, str], str] = {}
        self.sent = 0
        self._watchers: dict[asyncio.Event, None] = {}  # in the order in which they came

    def reach(self) -> None:
        if not self.up:
            raise BrokerError(f"memory://{self.name} is away.")

    def topic(self, channel: str) -> list[list[Message]]:
        return self.topics.setdefault(channel, [[] for _ in range(PARTITIONS)])

    def queue(self, channel: str, consumer: str, start: Start = "earliest") -> list[deque[tuple[Message, bool]]]:
        """Made when a consumer first asks, and then holds what was sent before, as far as it starts there."""
        if (channel, consumer) not in self.queues:
            before = [[] if start == "now" else part for part in self.topic(channel)]
            self.queues[channel, consumer] = [deque((message, False) for message in part) for part in before]
        return self.queues[channel, consumer]

    def store(self, message: Message) -> None:
        partition = message.slot % PARTITIONS
        self.topic(message.channel)[partition].append(message)
        for (channel, _), queue in self.queues.items():
            if channel == message.channel:
                queue[partition].append((message, False))
        self.sent += 1

    def stop(self) -> None:
        self.up = False
        self.ring()

    def restart(self) -> None:
        """Again, with what it had stored."""
        self.up = True
        self.ring()

    def watch(self, event: asyncio.Event) -> None:
        self._watchers[event] = None

    def forget(self, event: asyncio.Event) -> None:
        self._watchers.pop(event, None)

    def ring(self) -> None:
        for event in self._watchers:
            event.set()


def server(name: str) -> Server:
    return _servers.setdefault(name, Server(name))


def from_url(url: str) -> MemoryBroker:
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    kind, order = options.pop("kind", "log"), options.pop("order", "slot")
    if options or kind not in ("log", "queue") or order not in ("slot", "none") or not parts.netloc:
        raise SettingsError(f"{url!r}: a memory broker is memory://name, with ?kind=log|queue and &order=slot|none.")
    return MemoryBroker(server(parts.netloc), kind=kind, ordered=order == "slot")  # type: ignore[arg-type]


class MemoryBroker:
    def __init__(self, server: Server, *, kind: Literal["log", "queue"] = "log", ordered: bool = True) -> None:
        self.server = server
        self.url = f"memory://{server.name}"
        self.features = Features(
            name="The memory broker",
            prefix="ce_",
            positions=kind == "log",
            ordered=ordered,
            assigns="journal",
            starts=frozenset({"earliest", "now"}),
            message_bytes_max=MESSAGE_BYTES_MAX,
            persistent=False,
            bounds="bytes",
        )

    async def open(self) -> None:
        self.server.reach()

    async def close(self) -> None:
        """Nothing is held."""

    async def send(self, messages: Sequence[Message]) -> Sequence[Sent]:
        self.server.reach()
        answers = [self._send(message) for message in messages]
        self.server.ring()
        if self.server.lose_answers:
            self.server.lose_answers -= 1
            raise BrokerError("The answer was lost.")
        return answers

    def _send(self, message: Message) -> Sent:
        if (size := size_of(message)) > self.features.message_bytes_max:
            return MessageRefused(f"{size:,} bytes are more than {self.features.message_bytes_max:,}.")
        if why := self.server.refuse(message):
            return MessageRefused(why)
        self.server.store(message)
        return None

    async def intake(self, channel: str, consumer: str, changed: Callable[[], None]) -> MemoryIntake:
        self.server.reach()
        return MemoryIntake(self, channel, consumer)

    async def differences(self, needs: Needs) -> Sequence[Difference]:
        return [
            Difference(f"topic {channel}", f"{PARTITIONS} partitions", "", safe=True)
            for channel in needs.channels
            if channel not in self.server.topics
        ]

    async def apply(self, needs: Needs) -> Sequence[Difference]:
        self.server.reach()
        made = await self.differences(needs)
        for one in made:
            self.server.topic(one.what.removeprefix("topic "))
        return made

    async def claim(self, role: Literal["publisher", "consumer"], name: str, identity: str, *, force: bool) -> str:
        self.server.reach()
        if force:
            self.server.owners[role, name] = identity
        return self.server.owners.setdefault((role, name), identity)

    async def findings(self, needs: Needs) -> Sequence[Finding]:
        return [Finding("warning", self.url, "keeps everything in this process's memory, and nothing after its end.")]


class MemoryIntake:
    def __init__(self, broker: MemoryBroker, channel: str, consumer: str) -> None:
        self.feed = f"memory:{broker.server.name}:{channel}"
        self._server, self._features = broker.server, broker.features
        self._channel, self._consumer = channel, consumer
        self._at: dict[int, int] = {}  # partitions begun, with the position after which to read on
        self._unsettled: dict[int, list[tuple[Message, bool]]] = {}
        self._paused = False
        self._news = asyncio.Event()
        self._server.watch(self._news)

    def assigned(self) -> frozenset[int]:
        return frozenset(range(PARTITIONS))

    async def begin(self, partition: int, *, after: int | None, start: Start, epoch: int) -> int | None:
        end = len(self._server.topic(self._channel)[partition])
        self._at[partition] = after if after is not None else end if start == "now" else 0
        if self._features.positions:
            return self._at[partition]
        self._server.queue(self._channel, self._consumer, start)
        return None

    async def end(self, partition: int) -> None:
        self._give_back(partition)

    def _give_back(self, partition: int) -> None:
        self._at.pop(partition, None)
        if not self._features.positions:
            queue = self._server.queue(self._channel, self._consumer)[partition]
            queue.extendleft((message, True) for message, _ in reversed(self._unsettled.pop(partition, [])))

    async def fetch(self, most: int, wait_s: float) -> Sequence[Fetched]:
        self._server.reach()
        self._news.clear()
        if (found := self._take(most)) or wait_s <= 0:
            return found
        try:
            async with asyncio.timeout(wait_s):
                await self._news.wait()
        except TimeoutError:
            return []
        self._server.reach()
        return self._take(most)

    def _take(self, most: int) -> list[Fetched]:
        if self._paused:
            return []
        found: list[Fetched] = []
        left = FETCH_BYTES
        for partition in sorted(self._at):
            room = most - len(found)
            some = self._read(partition, room, left) if self._features.positions else self._pop(partition, room, left)
            found += some
            left -= sum(len(one.data) for one in some)
        if not self._features.ordered:
            self._server.random.shuffle(found)
        return found

    def _read(self, partition: int, most: int, bytes_most: int) -> list[Fetched]:
        after = self._at[partition]
        messages = _within(self._server.topic(self._channel)[partition][after : after + most], bytes_most)
        self._at[partition] += len(messages)
        return [_fetched(partition, after + n, message) for n, message in enumerate(messages, 1)]

    def _pop(self, partition: int, most: int, bytes_most: int) -> list[Fetched]:
        queue = self._server.queue(self._channel, self._consumer)[partition]
        found: list[Fetched] = []
        while queue and len(found) < most and bytes_most > 0:
            copy = queue.popleft()  # a message that was sent twice is two: each is settled by itself
            bytes_most -= len(copy[0].data)
            self._unsettled.setdefault(partition, []).append(copy)
            found.append(_fetched(partition, 0, copy[0], copy))
        return found

    def expire(self) -> None:
        """As queues do when something is in one's hands for long: what is not settled is handed out once more. It is the
        same message, and settled with either."""
        for partition, copies in self._unsettled.items():
            self._server.queue(self._channel, self._consumer)[partition].extend(copies)
        self._news.set()

    async def settle(self, fetched: Sequence[Fetched]) -> None:
        self._server.reach()
        if self._features.positions:
            return
        settled = {id(one.token) for one in fetched}
        for partition, copies in self._unsettled.items():
            self._unsettled[partition] = [copy for copy in copies if id(copy) not in settled]

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._news.set()

    async def lag(self) -> int | None:
        if self._features.positions:
            topic = self._server.topic(self._channel)
            return sum(len(topic[partition]) - after for partition, after in self._at.items())
        queue = self._server.queue(self._channel, self._consumer)
        return sum(len(queue[partition]) for partition in self._at)

    async def close(self) -> None:
        self.abandon()

    def abandon(self) -> None:
        """As when a connection breaks: what was not settled comes again, to whoever asks."""
        for partition in list(self._at):
            self._give_back(partition)
        self._server.forget(self._news)


def _within(messages: list[Message], bytes_most: int) -> list[Message]:
    """The first of them, and none after so many bytes."""
    before = accumulate((len(message.data) for message in messages), initial=0)
    return messages[: sum(size < bytes_most for size in islice(before, len(messages)))]


def _fetched(partition: int, position: int, message: Message, token: object = None) -> Fetched:
    key = None if message.key is None else message.key.encode()
    return Fetched(partition, position, key, message.headers, message.content_type, message.data, 0, token)
