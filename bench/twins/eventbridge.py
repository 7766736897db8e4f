"""aiobotocore by hand; FastStream has neither EventBridge nor SQS. The other side is an emulator, MiniStack, which answers some
hundred calls a second: what is measured is how many calls are made, and how much is waited for, not AWS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
from aiobotocore.session import AioSession

from eventspine.brokers.port import Message

from ..parcels import CHANNEL, decode
from . import Handle, Peer

ENTRIES = 10  # of a call: AWS takes no more
LANES = 8  # calls at the same time, as many as eventspine makes
HEADER = "ce-"


class Twin:
    prefix = HEADER
    keeps = False

    def __init__(self, url: str) -> None:
        asked = urlsplit(url)
        self._endpoint = parse_qs(asked.query)["endpoint"][0]
        self._region, self._bus = asked.hostname or "", asked.path.strip("/")
        self._login = {"aws_access_key_id": asked.username, "aws_secret_access_key": asked.password}
        self._stack = AsyncExitStack()
        self._events: Any
        self._sqs: Any
        self._queue = ""

    async def open(self) -> None:
        session = AioSession()
        options: dict[str, Any] = {"region_name": self._region, "endpoint_url": self._endpoint, **self._login}
        self._events = await self._stack.enter_async_context(session.create_client("events", **options))
        self._sqs = await self._stack.enter_async_context(session.create_client("sqs", **options))
        self._queue = await self._made("by-hand")

    async def _made(self, name: str) -> str:
        return str((await self._sqs.create_queue(QueueName=name))["QueueUrl"])

    async def close(self) -> None:
        await self._stack.aclose()

    async def send(self, messages: Sequence[Message]) -> None:
        calls = (self._put([self._entry(one) for one in some]) for some in _in_tens(messages))
        await _few_at_once(calls)

    def _entry(self, message: Message) -> dict[str, Any]:
        return {
            "EventBusName": self._bus,
            "Source": CHANNEL,
            "DetailType": message.headers[f"{HEADER}type"],
            "Detail": _detail(message).decode(),
        }

    async def _put(self, entries: list[dict[str, Any]]) -> None:
        answer = await self._events.put_events(Entries=entries)
        assert not answer["FailedEntryCount"], answer

    async def stock(self, messages: Sequence[Message]) -> None:
        await _few_at_once(self._stocked(some) for some in _in_tens(messages))

    async def _stocked(self, messages: Sequence[Message]) -> None:
        """As a rule of EventBridge's would deliver them."""
        bodies = (msgspec.json.encode({"detail": msgspec.Raw(_detail(one))}).decode() for one in messages)
        entries = [{"Id": str(number), "MessageBody": body} for number, body in enumerate(bodies)]
        await self._sqs.send_message_batch(QueueUrl=self._queue, Entries=entries)

    async def receive(self, count: int, handle: Handle) -> None:
        left = [count]

        async def read() -> None:
            while left[0] > 0:
                taken = await self._taken(self._queue, handle)
                left[0] -= taken

        await asyncio.gather(*(read() for _ in range(LANES)))

    async def _taken(self, queue: str, handle: Handle) -> int:
        answer = await self._sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=ENTRIES, WaitTimeSeconds=1)
        messages = answer.get("Messages", ())
        for message in messages:
            body = msgspec.json.decode(message["Body"], type=dict[str, Any])
            await handle(decode(msgspec.json.encode(body["detail"]["data"])))
        if messages:
            handles = [{"Id": str(n), "ReceiptHandle": one["ReceiptHandle"]} for n, one in enumerate(messages)]
            await self._sqs.delete_message_batch(QueueUrl=queue, Entries=handles)
        return len(messages)

    @asynccontextmanager
    async def listening(self, handle: Handle) -> AsyncIterator[None]:
        queue = await self._made("listens")
        found = await self._sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
        pattern = msgspec.json.encode({"source": [CHANNEL]}).decode()
        await self._events.put_rule(Name="listens", EventBusName=self._bus, EventPattern=pattern)
        targets = [{"Id": "queue", "Arn": found["Attributes"]["QueueArn"]}]
        await self._events.put_targets(Rule="listens", EventBusName=self._bus, Targets=targets)

        async def listen() -> None:
            while True:
                await self._taken(queue, handle)

        listening = asyncio.create_task(listen())
        yield
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)

    def peer(self) -> Peer | None:
        return None


def _detail(message: Message) -> bytes:
    attributes: dict[str, Any] = {name.removeprefix(HEADER): value for name, value in message.headers.items()}
    return msgspec.json.encode(
        {**attributes, "datacontenttype": message.content_type, "data": msgspec.Raw(message.data)}
    )


def _in_tens(messages: Sequence[Message]) -> list[Sequence[Message]]:
    return [messages[at : at + ENTRIES] for at in range(0, len(messages), ENTRIES)]


async def _few_at_once(calls: Any) -> None:
    gate = asyncio.Semaphore(LANES)

    async def one(call: Any) -> None:
        async with gate:
            await call

    await asyncio.gather(*(one(call) for call in calls))


def twin(url: str, _partitions: int) -> Twin:
    return Twin(url)
