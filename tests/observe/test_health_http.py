"""Health over HTTP: a real server, real sockets; a loop that is stuck is seen, and slow clients keep nobody waiting."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventspine import Event, Service, Spine, sync
from eventspine.errors import SettingsError
from eventspine.observe import health_http
from eventspine.observe.health_http import Answer, HealthEndpoint, HealthServer, Pulse
from eventspine.settings_values import Address
from tests.faults.harness import until

WELL = Answer(True, True, {"status": "ok"})


class Placed(Event, context="orders", key="customer"):
    customer: str = "ann"


def inventory() -> Service[Any]:
    service = Service("inventory")

    @service.on(Placed)
    async def reserve(event: Placed) -> None: ...

    return service


@pytest.fixture
def serve() -> Iterator[Callable[..., Address]]:
    servers = list[HealthServer]()

    def start(answer: Callable[[], Answer] = lambda: WELL, host: str = "127.0.0.1") -> Address:
        servers.append(HealthServer(Address(host, 0), answer))
        return servers[-1].address

    yield start
    for server in servers:
        server.close()


def ask(address: Address, path: str, method: str = "GET") -> tuple[int, dict[str, Any], dict[str, str]]:
    with closing(http.client.HTTPConnection(address.host, address.port, timeout=20)) as connection:
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read()
        return response.status, json.loads(body) if body else {}, dict(response.getheaders())


async def asked(address: Address, path: str) -> tuple[int, dict[str, Any]]:
    status, body, _ = await asyncio.to_thread(ask, address, path)
    return status, body


@pytest.mark.parametrize(
    ("answer", "live", "ready"),
    [(WELL, 200, 200), (Answer(True, False, {}), 200, 503), (Answer(False, False, {}), 503, 503)],
)
def test_live_and_ready_are_two_questions(serve: Any, answer: Answer, live: int, ready: int) -> None:
    address = serve(lambda: answer)
    assert (live, ready) == (ask(address, "/healthz")[0], ask(address, "/readyz?verbose")[0])
    assert answer.ready == ask(address, "/readyz")[1]["ready"]


def test_only_get_and_head_of_known_paths(serve: Any) -> None:
    address = serve()
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        status, body, headers = ask(address, "/healthz", method)
        assert (405, "GET, HEAD", {"error": "Method Not Allowed"}) == (status, headers["Allow"], body)
    status, body, headers = ask(address, "/healthz", "HEAD")
    assert (200, {}) == (status, body)
    assert int(headers["Content-Length"]) > 0
    assert headers["Cache-Control"] == "no-store"
    assert headers["Server"] == "eventspine"
    assert 404 == ask(address, "/../etc/passwd")[0]


def raw(address: Address, *pieces: bytes) -> bytes:
    with socket.create_connection(address, timeout=20) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            return b"".join(iter(lambda: connection.recv(65536), b""))
        except OSError:
            return b""


def test_a_request_in_pieces_is_one(serve: Any) -> None:
    assert raw(serve(), b"GET /hea", b"lthz HTTP/1.1\r\nHo", b"st: x\r\n\r", b"\n").startswith(b"HTTP/1.0 200")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 2000 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01" * 2000,
    ],
)
def test_a_request_that_is_too_large_is_not_read(serve: Any, request_bytes: bytes) -> None:
    address = serve()
    assert raw(address, request_bytes) == b""
    assert 200 == ask(address, "/healthz")[0]


@pytest.mark.parametrize("nonsense", [b"\r\n\r\n", b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\xff\xfe\r\n\r\n"])
def test_nonsense_is_refused_without_a_word_of_it(
    serve: Any, nonsense: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    address = serve()
    answer = raw(address, nonsense)
    assert b"200" not in answer
    assert b"hello" not in answer
    assert 200 == ask(address, "/healthz")[0]
    assert ("", "") == capfd.readouterr()


def test_many_slow_clients_keep_nobody_else_waiting(serve: Any) -> None:
    address = serve()
    slow = [socket.create_connection(address) for _ in range(3 * health_http.CONNECTIONS_MAX)]
    try:
        for connection in slow:
            _send(connection, b"GET /")
        began = time.monotonic()
        assert 200 == ask(address, "/healthz")[0]
        assert time.monotonic() - began < health_http.SECONDS_MAX
        threads = [one for one in threading.enumerate() if "process_request_thread" in one.name]
        assert len(threads) <= health_http.CONNECTIONS_MAX + 1
    finally:
        for connection in slow:
            connection.close()


def test_without_the_bound_each_would_have_a_thread(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    most = health_http.CONNECTIONS_MAX
    monkeypatch.setattr(health_http, "CONNECTIONS_MAX", 10_000)
    address = serve()
    slow = [socket.create_connection(address) for _ in range(2 * most)]
    try:
        assert 200 == ask(address, "/healthz")[0]
        until(
            lambda: len([one for one in threading.enumerate() if "process_request_thread" in one.name]) > most,
            "each connection to have its thread",
        )
    finally:
        for connection in slow:
            connection.close()


def _send(connection: socket.socket, some: bytes) -> None:
    try:
        connection.sendall(some)
    except OSError:
        pass  # it was the oldest


def test_a_client_that_sends_a_byte_now_and_then_is_out_of_time(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_http, "SECONDS_MAX", 0.3)
    began = time.monotonic()
    with socket.create_connection(serve(), timeout=20) as connection:
        connection.settimeout(0.05)
        while time.monotonic() - began < 15:
            _send(connection, b"G")
            try:
                if connection.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
    assert time.monotonic() - began < 10


def test_an_address_that_is_taken_is_said(serve: Any) -> None:
    address = serve()
    with pytest.raises(SettingsError, match=f"127.0.0.1:{address.port}.*Choose another address"):
        HealthServer(address, lambda: WELL)


@pytest.mark.parametrize(
    ("said", "host"),
    [(0, "127.0.0.1"), ("0", "127.0.0.1"), (":0", "127.0.0.1"), ("0.0.0.0:0", "0.0.0.0"), ("[::1]:0", "::1")],
)
async def test_it_is_the_loopback_interface_unless_another_is_said(said: str | int, host: str) -> None:
    async with Spine("memory://") as spine, HealthEndpoint(spine, said) as endpoint:
        assert (host, True) == (endpoint.address.host, endpoint.address.port > 0)
        reached = "127.0.0.1" if host == "0.0.0.0" else host
        assert 200 == (await asked(Address(reached, endpoint.address.port), "/healthz"))[0]


async def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match="can't be used as an address"):
        HealthEndpoint(Spine("memory://"), "eighty")


async def test_a_program_of_ones_own_is_ready_while_its_services_run(tmp_path: Path) -> None:
    async with Spine(f"sqlite:///{tmp_path / 'spine.db'}") as spine, HealthEndpoint(spine, 0) as endpoint:
        async with spine.running(inventory()):
            endpoint._pulse.look_now()
            status, body = await asked(endpoint.address, "/readyz")
            assert (200, "ok") == (status, body["status"])
            assert ["leads"] == [one["state"] for one in body["services"]]


async def test_while_it_drains_it_is_alive_and_not_ready(tmp_path: Path) -> None:
    service, at_work, go = Service("inventory"), asyncio.Event(), asyncio.Event()

    @service.on(Placed)
    async def reserve(event: Placed) -> None:
        at_work.set()
        await go.wait()

    async with (
        Spine(f"sqlite:///{tmp_path / 'spine.db'}", service=Service("shop", publishes="orders")) as spine,
        HealthEndpoint(spine, 0) as endpoint,
    ):

        async def run() -> None:
            async with spine.running(service):
                await at_work.wait()

        running = asyncio.create_task(run())
        await spine.publish(Placed())
        await at_work.wait()
        async with asyncio.timeout(15):
            while not (answer := await asked(endpoint.address, "/readyz"))[1]["draining"]:
                pass
        assert 503 == answer[0]
        assert 200 == (await asked(endpoint.address, "/healthz"))[0]
        go.set()
        await running


async def test_before_it_is_open_it_is_not_ready(tmp_path: Path) -> None:
    spine = Spine(f"sqlite:///{tmp_path / 'spine.db'}")
    async with HealthEndpoint(spine, 0) as endpoint:
        assert (503, "closed") == ((answer := await asked(endpoint.address, "/readyz"))[0], answer[1]["status"])


def test_a_blocking_spine_has_it_too(tmp_path: Path) -> None:
    with (
        sync.Spine(f"sqlite:///{tmp_path / 'spine.db'}") as spine,
        spine.running(inventory()),
        HealthEndpoint(spine, 0) as endpoint,
    ):
        assert 200 == ask(endpoint.address, "/readyz")[0]


def test_plain_with_is_refused_for_a_spine_with_a_loop_of_its_own() -> None:
    with pytest.raises(TypeError, match="async with"), HealthEndpoint(Spine("memory://"), 0):
        pass


async def test_a_loop_that_is_stuck_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_http, "LIVE_S", 0.3)
    monkeypatch.setattr(health_http, "LOOK_EVERY_S", 0.05)
    async with Spine("memory://") as spine, HealthEndpoint(spine, 0) as endpoint:
        seen = list[int]()

        def look() -> None:
            while 503 not in seen:
                seen.append(ask(endpoint.address, "/healthz")[0])

        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        looking.join(15)  # this thread has the loop, so that it stands still
        assert (200, 503) == (seen[0], seen[-1])


async def test_a_look_that_fails_does_not_end_the_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_http, "LOOK_EVERY_S", 0.01)
    looks = list[int]()

    def look() -> dict[str, Any]:
        looks.append(1)
        if len(looks) == 2:
            raise RuntimeError("once")
        return {"ready": True}

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    pulse = Pulse(look)
    pulse.start()
    async with asyncio.timeout(15):
        while len(looks) < 4:
            await asyncio.sleep(0.005)
    assert pulse.answer().ready
    pulse.stop()


async def test_no_secret_of_the_journals_url_is_told() -> None:
    async with Spine("memory://") as spine:
        spine.journal.url = "postgres://spine:s3cret@db/shop"  # as one would be
        assert "s3cret" not in str(spine.health())
