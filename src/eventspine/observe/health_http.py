"""Health and readiness over HTTP, for whoever starts and stops processes: `/healthz` (live) and `/readyz` (ready).

    async with spine, HealthEndpoint(spine, "127.0.0.1:8080"), spine.running(inventory): ...

*Live*: the event loop turns. A `Pulse` on that loop looks at the spine once a second; the answer comes from a thread of
its own, so that a loop that is stuck is seen: live ends when the last look is older than LIVE_S. *Ready*: all services
are registered, and lead or knowingly stand by for a newer release; not while starting or draining.

200 means yes and 503 no; the body is JSON and the same for both: what `spine.health()` says, without secrets. It listens
on the loopback interface unless another one is said in full. Whoever connects gets SECONDS_MAX for a request of at most
REQUEST_BYTES_MAX, and nothing but GET and HEAD; when CONNECTIONS_MAX are open the oldest is closed for a new one, so that
slow clients keep nobody else from an answer.
"""

from __future__ import annotations

import asyncio
import io
import json
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from ..engine.health import is_ready
from ..errors import SettingsError
from ..settings_values import Address, Refused, address as to_address

if TYPE_CHECKING:
    from ..sync import Spine as BlockingSpine

LOOK_EVERY_S = 1.0
LIVE_S = 10.0  # without a turn of the event loop, then it counts as stuck
REQUEST_BYTES_MAX = 8192
SECONDS_MAX = 5.0
CONNECTIONS_MAX = 32
PLACES = {"/healthz": "live", "/livez": "live", "/readyz": "ready"}


class Answer(NamedTuple):
    live: bool
    ready: bool
    report: dict[str, Any]

    def body(self) -> bytes:
        shown = {"live": self.live, "ready": self.ready}
        return json.dumps({**shown, **self.report, **shown}, default=str).encode() + b"\n"


class Pulse:
    """Looks at something on its event loop, once a second; the last look may be asked for by any thread."""

    def __init__(self, look: Callable[[], dict[str, Any]]) -> None:
        self._look = look
        self._timer: asyncio.TimerHandle | None = None
        self._last: tuple[float, dict[str, Any]] = (time.monotonic(), {})

    def start(self) -> None:
        self._beat(asyncio.get_running_loop())

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(LOOK_EVERY_S, self._beat, loop)  # first: a look that fails must not end it
        self.look_now()

    def look_now(self) -> None:
        self._last = (time.monotonic(), self._look())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def answer(self) -> Answer:
        at, report = self._last
        age_s = time.monotonic() - at
        live = age_s < LIVE_S
        return Answer(live, live and bool(report.get("ready")), {**report, "looked_s_ago": round(age_s, 1)})


class HealthServer:
    """Answers on an address, from threads of its own, until it is closed."""

    def __init__(self, address: Address, answer: Callable[[], Answer]) -> None:
        try:
            self._server = _Server(address, answer)
        except (OSError, OverflowError) as error:
            raise SettingsError(
                f"Health can't be answered at {address}: {error}. Choose another address, or end what listens there."
            ) from error
        self.address = Address(address.host, self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.2,), name="spine-health", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Spine(Protocol):
    def health(self) -> dict[str, Any]: ...


class HealthEndpoint:
    """Answers for a spine of one's own program: `async with HealthEndpoint(spine, "127.0.0.1:8080")`, and plain `with` for
    a spine of `eventspine.sync`. `address` is a port alone (this host only), or host and port; port 0 takes any that is
    free, and `.address` says which."""

    def __init__(self, spine: Spine, address: str | int) -> None:
        try:
            self.address: Address = to_address(address)
        except Refused as refused:
            raise SettingsError(f"{address!r} can't be used as an address; it is to be {refused}.") from None
        self._spine = spine
        self._pulse = Pulse(self._look)
        self._server: HealthServer | None = None

    def _look(self) -> dict[str, Any]:
        health = self._spine.health()
        return {"ready": is_ready(health), **health}

    async def __aenter__(self) -> Self:
        self._pulse.start()
        return self._open()

    async def __aexit__(self, *_: object) -> None:
        self._pulse.stop()
        self._close()

    def __enter__(self) -> Self:
        self._blocking._loop.run(_called(self._pulse.start))
        return self._open()

    def __exit__(self, *_: object) -> None:
        self._blocking._loop.run(_called(self._pulse.stop), again=True)
        self._close()

    @property
    def _blocking(self) -> BlockingSpine:
        from ..sync import Spine as BlockingSpine

        if not isinstance(self._spine, BlockingSpine):
            raise TypeError("Plain `with` is for a spine of eventspine.sync; write `async with` here.")
        return self._spine

    def _open(self) -> Self:
        self._server = HealthServer(self.address, self._pulse.answer)
        self.address = self._server.address
        return self

    def _close(self) -> None:
        if self._server is not None:
            self._server.close()


async def _called(call: Callable[[], None]) -> None:
    call()


class _Server(ThreadingMixIn, TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128  # with socketserver's own 5, a burst of clients waits for seconds

    def __init__(self, address: Address, answer: Callable[[], Answer]) -> None:
        self.answer = answer
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._open: dict[socket.socket, None] = {}  # oldest first
        self._lock = threading.Lock()
        super().__init__((address.host, address.port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            oldest = next(iter(self._open)) if len(self._open) >= CONNECTIONS_MAX else None
            self._open.pop(oldest, None)  # type: ignore[arg-type]  # None is not in it
            self._open[request] = None
        if oldest is not None:
            _end(oldest)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever left, or was too slow, is nobody's error."""


def _end(connection: socket.socket) -> None:
    """Its thread wakes up and finds it closed."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it has ended by itself


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BytesIO(_request(self.connection))

    def do_GET(self) -> None:
        self._tell()

    def do_HEAD(self) -> None:
        self._tell()

    def _tell(self) -> None:
        question = PLACES.get(self.path.partition("?")[0])
        if question is None:
            self._say(HTTPStatus.NOT_FOUND, b'{"error": "ask /healthz or /readyz"}\n')
            return
        answer = self.server.answer()
        yes = answer.live if question == "live" else answer.ready
        self._say(HTTPStatus.OK if yes else HTTPStatus.SERVICE_UNAVAILABLE, answer.body())

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """As JSON, and without a word of what was sent."""
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        self._say(status, json.dumps({"error": status.phrase}).encode() + b"\n")

    def _say(self, status: HTTPStatus, body: bytes) -> None:
        self.send_response(status)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        return "eventspine"

    def log_message(self, format: str, *args: Any) -> None:
        """Somebody asks every few seconds; that is no news."""


def _request(connection: socket.socket) -> bytes:
    """The head of a request: whole, within its size and time, or not at all. Bodies are not read."""
    until, head = time.monotonic() + SECONDS_MAX, b""
    while b"\r\n\r\n" not in head and b"\n\n" not in head:
        connection.settimeout(max(0.001, until - time.monotonic()))
        some = connection.recv(REQUEST_BYTES_MAX + 1 - len(head))
        head += some
        if not some or len(head) > REQUEST_BYTES_MAX or time.monotonic() > until:
            raise TimeoutError("not a request, or not in time")
    connection.settimeout(SECONDS_MAX)
    return head
