"""Sending: many messages at once, each answered by the stream's acknowledgement.

Every message has a reply subject of its own below one inbox, which ends with its number; so an answer finds its message by
arithmetic. Frames are written some at a time, so that the server works on the first while we make the next."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote

import nats.errors

from ..errors import BrokerError, MessageRefused
from ._nats_client import Connection
from .port import Message, Sent

AT_ONCE = 100  # messages in one write
TOO_LARGE = 10054  # JetStream's code for a message that is larger than its stream takes
NOT_STORED = 10077  # and for one that could not be stored: too large for that too, or the stream or its disk is full
SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
PLAIN = re.compile(f"[{re.escape(SAFE)}]*")

Route = Callable[[Message], str]  # to its subject
Explain = Callable[[str, BaseException], BrokerError]
Watch = Callable[
    [Callable[[], None]], Callable[[], None]
]  # to be called when the connection breaks, until it is undone


class Sender:
    """On one connection, for as long as that is used; it mends itself after a break."""

    def __init__(self, connection: Connection, timeout_s: float, explain: Explain, watch: Watch) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._explain = explain
        self._watch = watch
        self._inbox = connection.new_inbox()
        self._waiting: dict[int, _Batch] = {}  # by number
        self._next = 0

    async def open(self) -> None:
        await self._connection.hear(f"{self._inbox}.*", self._hear)

    async def send(self, messages: Sequence[Message], route: Route) -> Sequence[Sent]:
        """One answer each, once they are known, the connection breaks, or time is over."""
        batch = _Batch(self._next, len(messages))
        self._next += len(messages)
        unwatch = self._watch(batch.end)
        try:
            await self._write(messages, batch, route)
            async with asyncio.timeout(self._timeout_s):
                await batch.ended.wait()
        except TimeoutError:
            pass
        finally:
            unwatch()
            for number in range(batch.first, batch.first + len(messages)):
                self._waiting.pop(number, None)
        if not batch.left:
            return batch.answers
        missing = self._explain("did not acknowledge a message", _NO_ANSWER)
        return [missing if answer is _NO_ANSWER else answer for answer in batch.answers]

    async def _write(self, messages: Sequence[Message], batch: _Batch, route: Route) -> None:
        most, inbox = self._connection.max_payload, self._inbox
        for start in range(0, len(messages), AT_ONCE):
            frames = []
            for number, message in enumerate(messages[start : start + AT_ONCE], batch.first + start):
                frame = frame_of(message, route(message), f"{inbox}.{number}", most)
                if frame is None:
                    batch.answer(number, MessageRefused(f"the server takes {most:,} bytes at most"))
                else:
                    self._waiting[number] = batch
                    frames.append(frame)
            try:
                await self._connection.write(b"".join(frames))
            except (nats.errors.Error, OSError) as error:
                batch.give_up(self._explain("did not take a message", error))
                return
            await asyncio.sleep(0)  # the writer's turn

    def _hear(self, subject: bytes, _: bytes, data: bytes, headers: bytes) -> None:
        number = int(subject[subject.rindex(b".") + 1 :])
        batch = self._waiting.pop(number, None)
        if batch is not None:
            batch.answer(number, None if data and b'"error"' not in data else self._read(data, headers))

    def _read(self, data: bytes, headers: bytes) -> Sent:
        """What may not be a plain acknowledgement."""
        try:
            error = json.loads(data).get("error") if data else {"description": "no stream of this subject answers"}
        except (ValueError, AttributeError):
            error = {"description": f"it answered {data[:100]!r}"}
        if error is None:
            return None
        said = str(error.get("description", error))
        code = error.get("err_code")
        if code == TOO_LARGE or (code == NOT_STORED and "large" in said):
            return MessageRefused(said)
        return self._explain("did not take a message", nats.errors.Error(said))


_NO_ANSWER = TimeoutError("the connection broke, or it took too long.")  # so far


class _Batch:
    """What was sent as one, and what was answered so far."""

    def __init__(self, first: int, count: int) -> None:
        self.first = first
        self.answers: list[Sent] = [_NO_ANSWER] * count
        self.ended = asyncio.Event()
        self.left = count
        if not count:
            self.end()

    def answer(self, number: int, answer: Sent) -> None:
        self.answers[number - self.first] = answer
        self.left -= 1
        if not self.left:
            self.ended.set()

    def give_up(self, error: BrokerError) -> None:
        """Nothing more of it will be written; what was may have arrived."""
        self.answers = [error if answer is _NO_ANSWER else answer for answer in self.answers]
        self.left = 0
        self.end()

    def end(self) -> None:
        self.ended.set()


def frame_of(message: Message, subject: str, reply: str, most: int) -> bytes | None:
    """A message as it goes over the wire; None: the server would end the connection for its size."""
    headers, id, content_type = message.headers, _id_of(message), message.content_type
    if not PLAIN.fullmatch("".join((*headers.values(), id, content_type))):
        headers, id, content_type = _quoted(headers), _quote(id), quote(content_type, safe=SAFE + " ")
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    head = f"NATS/1.0\r\n{lines}content-type: {content_type}\r\nNats-Msg-Id: {id}\r\n\r\n".encode()
    size = len(head) + len(message.data)
    if size > most:
        return None
    return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (
        subject.encode(),
        reply.encode(),
        len(head),
        size,
        head,
        message.data,
    )


def _id_of(message: Message) -> str:
    """By which a stream knows for two minutes what it has. Of what is numbered its number: sent again under another, after
    a relay was rewound, an event is another message, and readers would wait for a number whose message was dropped."""
    origin = message.headers.get("ce-spineorigin")
    return message.id if origin is None else f"{origin}.{message.slot}.{message.headers['ce-sequence']}"


def _quoted(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: _quote(value) for name, value in headers.items()}


def _quote(value: str) -> str:
    return value if PLAIN.fullmatch(value) else quote(value, safe=SAFE)
