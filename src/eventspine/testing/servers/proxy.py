"""A network between a client and a server, that does what networks do.

    with kafka.proxy() as network:  # or Proxy(port)
        ...  # clients use network.url, or network.address
        network.cut()  # nothing passes, nobody is told; new connections are taken and not answered
        network.mend()  # what was held back arrives now, as after TCP's own retransmissions
        network.lose()  # the open connections never carry anything again: a firewall has forgotten them
        network.reset()  # the open connections end with RST
        network.refuse()  # and new ones are refused, until mend()
        network.delay(0.2)  # each way
        network.throttle(10_000)  # bytes a second, each way, for each connection

It runs on a thread and an event loop of its own, so it goes on working while a test blocks, and its methods may be called
from anywhere; what they say holds when they return. `cut` and `delay` take `towards="server"` or `"client"` for one way only.
What TCP doesn't show can't be played: a connection attempt during a cut succeeds, and hears nothing."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from .ports import free_ports

T = TypeVar("T")
Way = Literal["server", "client"]
_UnderWay = asyncio.Queue[tuple[float, bytes | None]]  # when it is due over there, and what: bytes, _END or _BROKEN
_END, _BROKEN = b"", None
_WAYS: tuple[Way, Way] = ("server", "client")
_CHUNK_BYTES = 65_536
_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: forget what is unsent, and say RST


class _Rules:
    """What one way of the network does now."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.bytes_s: float | None = None
        self.open = asyncio.Event()
        self.open.set()


class Proxy:
    """From a free port of 127.0.0.1, or from the one that is given, to the port of the server."""

    def __init__(self, target: int, port: int | None = None, *, url_form: str = "tcp://{address}") -> None:
        self.target = target
        self.port = port or free_ports()
        self.url = url_form.format(address=self.address)
        self.accepted = 0  # connections, since it began
        self.passed_bytes: dict[Way, int] = {"server": 0, "client": 0}

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many are open now, those that are lost included."""
        return self._call(lambda: len(self._connections))

    # what the network does

    def cut(self, towards: Way | None = None) -> None:
        self._each(towards, lambda rules: rules.open.clear())

    def delay(self, seconds: float, towards: Way | None = None) -> None:
        def set_it(rules: _Rules) -> None:
            rules.delay_s = seconds

        self._each(towards, set_it)

    def throttle(self, bytes_s: float | None, towards: Way | None = None) -> None:
        def set_it(rules: _Rules) -> None:
            rules.bytes_s = bytes_s

        self._each(towards, set_it)

    def mend(self) -> None:
        """All is well again: no cut, delay, throttle or refusal. Lost connections stay lost."""

        def clear(rules: _Rules) -> None:
            rules.delay_s, rules.bytes_s = 0.0, None
            rules.open.set()

        self._each(None, clear)
        self._wait(self._listen())

    def lose(self) -> None:
        self._call(lambda: self._to_all(_Connection.lose))

    def reset(self) -> None:
        self._call(lambda: self._to_all(_Connection.reset))

    def refuse(self) -> None:
        self._wait(self._close_listener())
        self.reset()

    # at work

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy:{self.port}", daemon=True)
        self._thread.start()
        self._connections: dict[_Connection, asyncio.Task[None]] = {}
        self._listener: asyncio.Server | None = None
        self._rules: dict[Way, _Rules] = {way: self._call(_Rules) for way in _WAYS}
        try:
            self._wait(self._listen())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()
        self._end()

    def _end(self) -> None:
        self._wait(self._let_all_end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _let_all_end(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._take_on, "127.0.0.1", self.port, limit=_CHUNK_BYTES)

    async def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _take_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        connection = _Connection(self, reader, writer)
        task = self._loop.create_task(connection.run())
        self._connections[connection] = task
        task.add_done_callback(lambda _: self._connections.pop(connection, None))

    def _each(self, towards: Way | None, change: Callable[[_Rules], None]) -> None:
        def changed() -> None:
            for way, rules in self._rules.items():
                if towards in (None, way):
                    change(rules)

        self._call(changed)

    def _to_all(self, do: Callable[[_Connection], None]) -> None:
        for connection in list(self._connections):
            do(connection)

    def _call(self, what: Callable[[], T]) -> T:
        async def called() -> T:
            return what()

        return self._wait(called())

    def _wait(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(30)


class _Connection:
    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client = reader, writer
        self._writers = [writer]
        self._lost = False

    async def run(self) -> None:
        try:
            await self._proxy._rules["server"].open.wait()  # nor does a connection attempt arrive while it is cut
            reader, writer = await asyncio.open_connection("127.0.0.1", self._proxy.target, limit=_CHUNK_BYTES)
        except OSError:  # there is no server; the client hears of it as far as TCP can say it now
            self.reset()
            return
        self._writers.append(writer)
        try:
            await asyncio.gather(
                self._carry("server", self._client[0], writer), self._carry("client", reader, self._client[1])
            )
        finally:
            self.close()

    def lose(self) -> None:
        self._lost = True

    def reset(self) -> None:
        for writer in self._writers:
            end: socket.socket = writer.get_extra_info("socket")
            if end.fileno() >= 0:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            writer.transport.abort()

    def close(self) -> None:
        for writer in self._writers:
            writer.close()

    async def _carry(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction. Also the end of the stream is under way for a while, and is held back by a cut."""
        under_way: _UnderWay = asyncio.Queue(maxsize=256)
        await asyncio.gather(self._take(way, reader, under_way), self._give(way, under_way, writer))

    async def _take(self, way: Way, reader: asyncio.StreamReader, under_way: _UnderWay) -> None:
        data: bytes | None = None
        while data != _END:
            try:
                data = await reader.read(_CHUNK_BYTES)
            except OSError:
                data = _BROKEN
            await under_way.put((time.monotonic() + self._proxy._rules[way].delay_s, data))
            if data is _BROKEN:
                return

    async def _give(self, way: Way, under_way: _UnderWay, writer: asyncio.StreamWriter) -> None:
        rules = self._proxy._rules[way]
        data: bytes | None = None
        while data != _END:
            due, data = await under_way.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await rules.open.wait()
            if self._lost:
                await asyncio.Event().wait()  # until the proxy ends
            if data is _BROKEN:
                self.reset()
                return
            await self._write(way, data, writer)
        if writer.can_write_eof() and not writer.is_closing():
            with suppress(OSError):  # nobody is there any more to be told that this was the end
                writer.write_eof()

    async def _write(self, way: Way, data: bytes, writer: asyncio.StreamWriter) -> None:
        rules = self._proxy._rules[way]
        while data:
            piece = max(1, int((rules.bytes_s or 0) / 20)) if rules.bytes_s else len(data)
            if rules.bytes_s:
                await asyncio.sleep(piece / rules.bytes_s)
            writer.write(data[:piece])
            self._proxy.passed_bytes[way] += len(data[:piece])
            data = data[piece:]
            try:
                await writer.drain()
            except OSError:  # over there it is broken off: the other way hears of it, and passes it on
                return
