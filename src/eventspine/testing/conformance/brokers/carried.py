"""The site of a broker between journals: who publishes has one, who handles another, and the broker is all that they share.

    class TestNats(BrokerConformance):
        capabilities = BrokerCapabilities(processes=True, server=True, topology=True, claims=True)
        features = from_url("nats://localhost").features

        async def make(self, nats_server, tmp_path):
            return CarriedSite(apart(nats_server.url), tmp_path, server=nats_server)

Servers are slow to start, so many tests share one: `apart` gives a URL with a prefix for all names that nobody has used yet."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from ....brokers import open_broker
from ....brokers.binding import message_of
from ....brokers.port import Broker, Needs
from ....engine.carrying import needs_of
from ....errors import BrokerError, SettingsError, SpineError
from ....journal import open_journal
from ....journal.memory import MemoryJournal
from ....journal.port import Journal, Record
from ....keys import slot_of_id, slot_of_key
from ....service import Service
from ....spine import Spine
from ...servers.proxy import Proxy
from ...servers.server import Server
from .material import WAIT_S
from .site import LEASE_S, Undeclared

T = TypeVar("T")
SPEAKING, LISTENING = "speaking", "listening"
SPOKEN = ("talk", "noise")  # channels of who publishes; whatever else a service publishes, it belongs to who handles
CONSUMERS = ("listener", "listener0", "slow", "reader")  # whose queues are there before anything is sent
ENVELOPE_BYTES = 2000  # generous, of what travels beside an event's data


def apart(url: str) -> str:
    """This broker with a prefix of its own: `prefix` is an option that every adapter knows."""
    return f"{url}{'&' if '?' in url else '?'}prefix=t{uuid.uuid4().hex[:10]}."


def side(service: Service[Any] | None) -> str:
    return SPEAKING if service is not None and set(SPOKEN) & set(service.publishes) else LISTENING


class CarriedSite(Undeclared):
    """`url` is the broker's, with names that nobody has used yet. With a `folder`, the two journals are SQLite files in it,
    which other processes may open; else they are in memory.

    `opens` makes the broker of the URL; other processes import it by its name. `server` is what `kill_server` kills; `network` is what `cut` cuts, and then `url` leads through it."""

    opened_by = f"{__name__}:spine_at"

    def __init__(
        self,
        url: str,
        folder: Path | None = None,
        *,
        opens: Callable[[str], Broker] = open_broker,
        server: Server | None = None,
        network: Proxy | None = None,
    ) -> None:
        self.url = url
        self.address = "" if folder is None else json.dumps([str(folder), url, _name_of(opens)])
        self._opens = opens
        self._folder = folder
        self._memory = {SPEAKING: MemoryJournal(), LISTENING: MemoryJournal()}
        self._server = server
        self._network = network
        self._own = self.broker()
        self._origin = f"{uuid.uuid4()}.1"
        self._numbers = Counter[tuple[str, int]]()

    async def open(self) -> None:
        await self._own.open()
        if "earliest" not in self._own.features.starts:  # what is sent before there is a queue reaches nobody
            consumes = [(channel, f"{name}.{channel}") for name in CONSUMERS for channel in SPOKEN]
            await self._own.apply(Needs(SPOKEN, consumes))

    async def close(self) -> None:
        """Also after a test that has failed in the middle, so that the next finds a server."""
        if self._network is not None:
            await asyncio.to_thread(self._network.mend)
        if self._server is not None:
            await asyncio.to_thread(self._server.start)
        await self._own.close()

    @property
    def event_bytes_max(self) -> int:
        return self._own.features.message_bytes_max - ENVELOPE_BYTES

    def broker(self) -> Broker:
        """As a process has it: not open."""
        return self._opens(self.url)

    def journal(self, where: str) -> Journal:
        """As a process has it, of who is SPEAKING or LISTENING."""
        return self._memory[where] if self._folder is None else _journal(self._folder, where)

    def spine(self, service: Service[Any] | None = None, **options: Any) -> Spine:
        given = {"broker": self.broker(), "lease_s": LEASE_S, **options}
        return Spine(self.journal(side(service)), service=service, **given)

    async def publish(self, *records: Record) -> None:
        """As another journal of ours would send them: numbered, each in the slot of its key."""
        prefix = self._own.features.prefix
        await self._own.apply(Needs(publishes=list(dict.fromkeys(record.channel or "" for record in records))))
        rest = [message_of(record, self._origin, self._number(record), prefix) for record in map(_slotted, records)]
        while rest:
            answers = await self._own.send(rest)
            failed = [(message, answer) for message, answer in zip(rest, answers, strict=True) if answer is not None]
            if refused := [answer for _, answer in failed if not isinstance(answer, SpineError)]:
                raise refused[0]
            rest = [message for message, _ in failed]

    def _number(self, record: Record) -> int:
        self._numbers[record.channel or "", record.slot] += 1
        return self._numbers[record.channel or "", record.slot]

    async def kill_server(self) -> None:
        await asyncio.to_thread(self._given(self._server).kill)

    async def start_server(self) -> None:
        await asyncio.to_thread(self._given(self._server).start)

    async def cut(self) -> None:
        await asyncio.to_thread(self._given(self._network).cut)

    async def mend(self) -> None:
        await asyncio.to_thread(self._given(self._network).mend)

    async def slow(self, bytes_s: float) -> None:
        """So many bytes a second pass each way of each connection, until `mend`."""
        await asyncio.to_thread(self._given(self._network).throttle, bytes_s)

    async def fill(self) -> None:
        """The server has no room for another message. For those that declare `full`."""
        raise NotImplementedError(
            "This site can't make its server full; override fill and empty, or do not declare full."
        )

    empty = fill

    @property
    def came_bytes(self) -> int:
        """From the server to whoever is connected through the network."""
        return self._given(self._network).passed_bytes["client"]

    async def lose(self) -> None:
        """What is connected never hears anything again, and isn't told; who connects anew does."""
        await asyncio.to_thread(self._given(self._network).lose)

    @staticmethod
    def _given(one: T | None) -> T:
        if one is None:
            raise NotImplementedError("This site was given no server, or no network; do not declare server or cuts.")
        return one

    async def apply_topology(self, *services: Service[Any]) -> Sequence[str]:
        """Again for a while, as a spine does: the test before this one may have killed the server, and some that answer
        again can't make anything yet."""
        give_up = time.monotonic() + WAIT_S
        while True:
            try:
                return [one.what for one in await self._own.apply(needs_of(services))]
            except BrokerError:
                if time.monotonic() > give_up:
                    raise
            await asyncio.sleep(0.1)


def spine_at(address: str, service: Service[Any]) -> Spine:
    """As another process opens it."""
    folder, url, opens = json.loads(address)
    module, _, name = opens.partition(":")
    broker = getattr(import_module(module), name)(url)
    return Spine(_journal(Path(folder), side(service)), service=service, broker=broker, lease_s=LEASE_S)


def _name_of(opens: Callable[[str], Broker]) -> str:
    """By which another process finds it."""
    module, name = (str(getattr(opens, said, "")) for said in ("__module__", "__qualname__"))
    try:
        found = getattr(import_module(module), name, None)
    except (ModuleNotFoundError, ValueError):
        found = None
    if found is not opens:
        raise SettingsError(
            f"Other processes make this broker too, and can't import {opens!r:.100}. Give opens= a class or function that a "
            "module has under its own name."
        )
    return f"{module}:{name}"


def _journal(folder: Path, where: str) -> Journal:
    return open_journal(f"sqlite:///{folder}/{where}.db")


def _slotted(record: Record) -> Record:
    slot = slot_of_id(record.id) if record.key is None else slot_of_key(record.key)
    return record._replace(slot=slot)
