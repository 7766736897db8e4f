"""`spine publish`: events from the command line or from JSON lines, checked by their class as if code had made them.

A batch is published as one or not at all. When a line can't be an event, those before it have been published and it is
named; nothing after it is read.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext
from datetime import datetime, timedelta
from types import ModuleType
from typing import Any

import click
import msgspec

from ..clock import us_of
from ..durations import parse_duration
from ..errors import EventRefused, Undecodable
from ..events import EventType
from ..events.codec import DATA_BYTES_MAX
from ..observe.acting import acting
from ..observe.correlation import correlate
from ..observe.printable import printable
from ..publishing import Receipt
from . import completion
from .app import Command, Invocation, json_option, pass_invocation, setting_option
from .exits import Failed, Misused
from .journals import asynchronous
from .modules import event_type, load, publisher
from .output import json_line, say
from .records import normal_id
from .times import duration, iso, moment, past
from .waits import telling_of_the_lock

BATCH = 500
CHUNK = 256 * 1024
LINE_MAX = 8 * DATA_BYTES_MAX  # JSON may say one byte in six


def read_event(kind: EventType, data: bytes, key: str | None) -> Any:
    """An event of the class. Unlike a subscriber, who ignores fields that it doesn't know, this refuses them: whoever
    types an event wants each of its fields to arrive."""
    if len(data) > LINE_MAX:
        raise EventRefused(f"This is longer than {LINE_MAX:,} bytes; no event is. Give one JSON object per line.")
    try:
        # Values stay the text that they are: a number must not pass through a float on its way into a Decimal.
        given = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        _refuse_what_is_said_twice(data)
    except msgspec.ValidationError:
        raise EventRefused(f"{kind.name} is a JSON object, such as {{{_example(kind)}}}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EventRefused(f"This is not JSON: {error}. In a shell, put it in single quotes.") from error
    except RecursionError:
        raise EventRefused("This JSON is nested too deeply to be read.") from None
    if key is not None:
        given[_key_field(kind)] = msgspec.Raw(msgspec.json.encode(key))
    try:
        event = kind.decode(msgspec.json.encode(given))
    except Undecodable as error:
        raise EventRefused(str(error)) from error
    known = msgspec.json.decode(kind.encode(event))
    if unknown := sorted(set(given) - set(known)):
        raise EventRefused(f"{kind.name} has no field {unknown[0]!r}. Its fields are {', '.join(known)}.")
    return event


def _refuse_what_is_said_twice(data: bytes) -> None:
    """JSON's readers take the last of two, and the other would be gone without a word."""

    def once(pairs: list[tuple[str, Any]]) -> None:
        seen = set[str]()
        for name, _ in pairs:
            if name in seen:
                raise EventRefused(f"{name!r} is said twice in one JSON object. Say it once.")
            seen.add(name)

    json.loads(data, object_pairs_hook=once, parse_int=str, parse_float=str)


def in_utf8(text: str, what: str) -> str:
    """Bytes of the command line that are no UTF-8 reach Python as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Misused(
            f"{what} is not UTF-8. Set the terminal to it, or read the event from a file: spine publish … -"
        ) from None
    return text


def _example(kind: EventType) -> str:
    return ", ".join(f'"{name}": …' for name in kind.key) or "…"


def _key_field(kind: EventType) -> str:
    if len(kind.key) != 1:
        told = f"is made of {', '.join(kind.key)}" if kind.key else "does not exist"
        raise Misused(f"--key fills in the field that is the key; that of {kind.name} {told}. Give it in the data.")
    return kind.key[0]


async def lines() -> AsyncIterator[list[bytes]]:
    """What stands on stdin, as the lines that have come by now: few when somebody types, many from a file."""
    stream = sys.stdin.buffer
    rest = b""
    while chunk := await _read(stream):
        *complete, rest = (rest + chunk).split(b"\n")
        if complete:
            yield complete
        if len(rest) > LINE_MAX:
            break  # whoever reads it says so; nothing after it is read
    if rest:
        yield [rest]


async def _read(stream: Any) -> bytes:
    """The next bytes, without holding up the loop where they come through a pipe or from a terminal."""
    try:
        descriptor = stream.fileno()
        waits = not stat.S_ISREG(os.fstat(descriptor).st_mode)
    except (OSError, AttributeError):  # not a real file: a test's
        data: bytes = stream.read(CHUNK)
        return data
    if waits:
        await _readable(descriptor)
    return os.read(descriptor, CHUNK)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    try:
        loop.add_reader(descriptor, _wake, ready)
    except (PermissionError, NotImplementedError):
        return  # such as /dev/null: always ready
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


class Publishing:
    """One run: publishes batches and prints a receipt for each event."""

    def __init__(self, spine: Any, kind: EventType, key: str | None, when: dict[str, Any], as_json: bool) -> None:
        self.spine = spine
        self.kind = kind
        self.key = key
        self.when = when
        self.as_json = as_json
        self.line = 0
        self.published = 0

    async def from_lines(self) -> None:
        async for some in lines():
            for start in range(0, len(some), BATCH):
                await self._batch(some[start : start + BATCH])

    async def _batch(self, some: Sequence[bytes]) -> None:
        events = []
        wrong: EventRefused | None = None
        for line in some:
            self.line += 1
            text = line.removeprefix(BOM_UTF8) if self.line == 1 else line  # of Windows editors and shells
            if not text.strip():
                continue
            try:
                events.append(read_event(self.kind, text, self.key))
            except EventRefused as error:
                wrong = error
                break
        if events:
            await self.publish(events)
        if wrong is not None:
            told = (
                "The lines before it were published; this one and those after it were not."
                if self.published
                else "Nothing was published."
            )
            raise Failed(f"Line {self.line}: {wrong}\n{told}")

    async def publish(self, events: Sequence[Any]) -> None:
        answer = await self.spine.publish(*events, **self.when)
        self.published += len(events)
        for event, receipt in zip(events, answer if isinstance(answer, list) else [answer], strict=True):
            say(self._receipt(event, receipt))

    def _receipt(self, event: Any, receipt: Receipt) -> str:
        due = None if receipt.due is None else iso(us_of(receipt.due))
        if self.as_json:
            shown = {"id": receipt.id, "type": self.kind.name, "key": self.kind.key_of(event)}
            return json_line(shown | ({"position": receipt.position} if due is None else {"due": due}))
        key = self.kind.key_of(event)
        about = "" if key is None else f"  key={printable(key)}"
        where = f"#{receipt.position}" if due is None else f"due {due}"
        return f"{self.kind.name}{about}  {where}  {receipt.id}"


def _modules(invocation: Invocation, module: str | None) -> list[ModuleType]:
    """The one that was named, else those of the settings."""
    if module is not None:
        _refuse_a_service(module)
        return [load(module)]
    settings = invocation.settings
    names = dict.fromkeys(place.partition(":")[0] for place in settings.modules)
    if not names:
        raise Misused("Say where the event's class is declared, so that it can be checked: --module shop.storefront.")
    return [load(name, settings.modules_folder) for name in names]


def _refuse_a_service(module: str) -> None:
    """It is what `run` takes."""
    name, separator, attribute = module.partition(":")
    if separator:
        raise Misused(
            f"--module is the module in which the event's class is declared, and {module!r} names {attribute!r} in one. Say "
            f"--module {name or 'shop.storefront'}, and --service NAME where several services may publish the event."
        )


def later(text: str) -> datetime:
    """A time. How long until then has an option of its own; for other times it means how long ago."""
    if parse_duration(text) is not None:
        raise click.BadParameter(f"{text!r} is no time. To publish so much later say --after {text}.")
    return moment(text)


@click.command(cls=Command)
@click.argument("type")
@click.argument("data")
@click.option(
    "--module",
    "-m",
    metavar="MODULE",
    shell_complete=completion.modules,
    help="Where the event's class and the service that publishes it are declared. [default: the modules of the settings]",
)
@click.option("--service", help="The service that publishes, where several may.")
@click.option("--key", help="The value of the field that is the key, when the data leaves it out.")
@click.option("--at", type=later, metavar="TIME", help="Publish it then.")
@click.option("--after", type=duration, metavar="DURATION", help="Publish it so much later (90s, 15m, 2h).")
@click.option(
    "--time",
    "happened",
    type=past,
    metavar="TIME",
    help="When it happened, if that was not now: a time, or how long ago (2h).",
)
@click.option("--correlation", metavar="ID", help="The correlation that it belongs to.")
@click.option("--actor", help="Who has it done: user:42. It travels with the event, and with what comes of it.")
@click.option("--why", help="Why: ticket 811.")
@setting_option("broker", "URL")
@json_option
@pass_invocation
@asynchronous
async def command(
    invocation: Invocation,
    type: str,
    data: str,
    module: str | None,
    service: str | None,
    key: str | None,
    at: datetime | None,
    after: timedelta | None,
    happened: datetime | None,
    correlation: str | None,
    actor: str | None,
    why: str | None,
    as_json: bool,
) -> None:
    """Publish events, given as JSON.

    TYPE is such as orders.OrderPlaced or OrderPlaced. DATA - reads JSON lines from stdin, an event each, and publishes them in batches."""
    if at is not None and after is not None:
        raise Misused("Say --at or --after, not both.")
    loaded = _modules(invocation, module)
    kind = event_type(loaded, type)
    speaker = publisher(loaded, kind.context, service)
    key = None if key is None else in_utf8(key, "--key")
    given = {"at": at, "after": after, "time": happened}
    when = {name: value for name, value in given.items() if value is not None}
    single = None if data == "-" else read_event(kind, in_utf8(data, "DATA").encode(), key)

    from .. import Spine

    caused = nullcontext() if correlation is None else correlate(normal_id(in_utf8(correlation, "--correlation")))
    said = nullcontext() if actor is None and why is None else acting(actor, why=why)
    spine = Spine(invocation.url, service=speaker, broker=invocation.settings.broker)
    with caused, said:  # first: what is refused makes no journal
        async with telling_of_the_lock(spine.journal), spine:
            publishing = Publishing(spine, kind, key, when, as_json)
            await (publishing.from_lines() if single is None else publishing.publish([single]))
