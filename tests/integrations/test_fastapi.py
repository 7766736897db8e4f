"""FastAPI: a lifespan, a dependency, health; an engine that fails does not leave an application behind."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, WebSocket
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from eventspine import Event, Service, Spine
from eventspine.errors import SettingsError, WouldDeadlock
from eventspine.integrations.asgi import Correlation
from eventspine.integrations.fastapi import BlockingSpineDep, Events, SpineDep

from .serving import serving, until

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette would rather have the successor of httpx
    from fastapi.testclient import TestClient


class Placed(Event, context="orders", key="customer"):
    customer: str = "ann"


SHOP: Service[Any] = Service("shop", publishes="orders")
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

router = APIRouter()


@router.post("/orders")
async def place(spine: SpineDep) -> dict[str, Any]:
    receipt = await spine.publish(Placed())
    return {"position": receipt.position}


@router.post("/blocking")
def place_blocking(spine: BlockingSpineDep, request: Request) -> dict[str, Any]:
    engine = create_engine(f"sqlite:///{spine.journal.path}")  # type: ignore[attr-defined]
    with Session(engine) as session:
        session.execute(text("create table if not exists shop_rows (id integer primary key)"))
        session.execute(text("insert into shop_rows default values"))
        spine.publish(Placed(), within=session)
        session.commit()
    engine.dispose()
    return {"position": spine.publish(Placed()).position}


@router.post("/mistaken")
async def wait_for_oneself(spine: BlockingSpineDep) -> None:
    spine.publish(Placed())


@router.websocket("/live")
async def live(socket: WebSocket, spine: SpineDep) -> None:
    await socket.accept()
    receipt = await spine.publish(Placed())
    await socket.send_json({"position": receipt.position})
    await socket.close()


def application(events: Events, **options: Any) -> FastAPI:
    app = FastAPI(**{"lifespan": events.lifespan, **options})
    app.include_router(router)
    app.add_middleware(Correlation)
    app.add_api_route("/health", events.health)
    return app


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/shop.db"


def stored(tmp_path: Path, column: str) -> list[Any]:
    with closing(sqlite3.connect(tmp_path / "shop.db")) as own:
        return [row[0] for row in own.execute(f"select {column} from spine_events order by position")]


def test_an_endpoint_publishes_and_a_service_beside_it_handles(url: str) -> None:
    handled = list[str]()
    mail = Service("mail")

    @mail.on(Placed)
    async def confirm(event: Placed) -> None:
        handled.append(event.customer)

    with TestClient(application(Events(url, service=SHOP, run=[mail]))) as client:
        assert client.post("/orders").json() == {"position": 1}
        until(lambda: handled == ["ann"])
        health = client.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "ok")
        assert health.json()["services"][0]["service"] == "mail"


def test_a_def_endpoint_publishes_from_its_thread_within_its_session(url: str, tmp_path: Path) -> None:
    with TestClient(application(Events(url, service=SHOP))) as client:
        assert client.post("/blocking", headers={"X-Request-ID": "r-1"}).json() == {"position": 2}
        with pytest.raises(WouldDeadlock, match="SpineDep"):
            client.post("/mistaken")
    assert stored(tmp_path, "correlation") == ["r-1", "r-1"]


def test_an_application_starts_again_with_the_same_events(url: str) -> None:
    app = application(Events(url, service=SHOP))
    for position in (1, 2):
        with TestClient(app) as client:
            assert client.post("/orders").json() == {"position": position}


def test_the_programs_own_lifespan_runs_inside_with_its_state(url: str) -> None:
    steps = list[str]()
    events = Events(Spine(url, service=SHOP))

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        steps.append(str((await events.spine.publish(Placed())).position))
        yield {"mine": 7}
        steps.append(str((await events.spine.publish(Placed())).position))

    app = application(events, lifespan=events.around(own))

    @app.get("/mine")
    def mine(request: Request) -> int:
        return int(request.state.mine)

    with TestClient(app) as client:
        assert client.get("/mine").json() == 7
        assert client.post("/orders").json() == {"position": 2}
    assert steps == ["1", "3"]


def test_a_mounted_application_finds_the_spine_of_the_whole(url: str) -> None:
    part = FastAPI()
    part.include_router(router)
    app = application(Events(url, service=SHOP))
    app.mount("/part", part)
    with TestClient(app) as client:
        assert client.post("/part/orders").json() == {"position": 1}


def test_without_its_lifespan_an_application_says_what_is_missing() -> None:
    app = FastAPI()
    app.include_router(router)
    with (
        TestClient(app) as client,
        pytest.raises(SettingsError, match=r"Events\(url, service=\.\.\.\).*lifespan=events.lifespan"),
    ):
        client.post("/orders")
    with pytest.raises(SettingsError, match="lifespan=events.lifespan"):
        _ = Events().blocking


def test_options_that_mean_nothing_are_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="neither"):
        Events(url, on_failure="restart")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"Spine\(\.\.\.\)"):
        Events(Spine(url), service=SHOP)


def test_events_serve_one_application_at_a_time(url: str) -> None:
    """The second one's end would close the spine of the first, and its blocking publishes would wait for a loop that is gone."""
    events = Events(url, service=SHOP)
    with TestClient(application(events)) as client:
        with pytest.raises(SettingsError, match="for an application already"), TestClient(application(events)):
            raise AssertionError
        assert client.post("/orders").json() == {"position": 1}


def test_what_is_no_list_of_services_is_refused(url: str) -> None:
    for run, said in ((SHOP, r"run=\[inventory\]"), (["shop"], "'shop' is no service"), ([SHOP, SHOP], "Two services")):
        with pytest.raises(SettingsError, match=said):
            Events(url, run=run)  # type: ignore[arg-type]


def test_a_service_that_can_not_start_keeps_the_application_from_starting(url: str) -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        raise ZeroDivisionError
        yield

    app = application(Events(url, service=SHOP, run=[Service("mail", lifespan=broken)]))
    with pytest.raises(ZeroDivisionError), TestClient(app):
        pass


# --- correlation --------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(url: str) -> Any:
    with TestClient(application(Events(url, service=SHOP))) as client:
        yield client


def test_the_clients_request_id_and_trace_are_taken_stored_and_sent_back(client: TestClient, tmp_path: Path) -> None:
    answer = client.post("/orders", headers={"x-request-id": "web-7", "traceparent": TRACE})
    assert (answer.headers["x-request-id"], answer.headers["traceparent"]) == ("web-7", TRACE)
    assert stored(tmp_path, "correlation") == ["web-7"]
    (meta,) = stored(tmp_path, "meta")
    assert TRACE[:36] in str(meta)


@pytest.mark.parametrize("bad", ["", "a b", "x" * 200, "ö", "a\tb", "<script>", "-a"])
def test_a_request_id_that_is_missing_or_malformed_is_made(client: TestClient, tmp_path: Path, bad: str) -> None:
    answer = client.post("/orders", headers={"x-request-id": bad.encode()} if bad else {})
    made = answer.headers["x-request-id"]
    assert len(made) == 32
    assert made != bad
    assert stored(tmp_path, "correlation") == [made]


@pytest.mark.parametrize(
    "bad", ["", "00-0-0-00", "ff" + TRACE[2:], TRACE.upper(), f"00-{'0' * 32}-{'1' * 16}-01", TRACE + "-more", "x"]
)
def test_a_trace_that_is_missing_or_malformed_is_begun(client: TestClient, bad: str) -> None:
    made = client.post("/orders", headers={"traceparent": bad} if bad else {}).headers["traceparent"]
    assert len(made) == 55
    assert made != bad


def test_headers_that_come_twice_are_not_taken(client: TestClient) -> None:
    answer = client.post("/orders", headers=[("x-request-id", "a"), ("x-request-id", "b")])
    assert answer.headers["x-request-id"] not in ("a", "b", "a, b")


def test_strangers_may_be_distrusted(url: str) -> None:
    app = FastAPI()
    app.add_middleware(Correlation, trust=False)
    answer = TestClient(app).get("/", headers={"x-request-id": "web-7", "traceparent": TRACE})
    assert answer.headers["x-request-id"] != "web-7"
    assert answer.headers["traceparent"] != TRACE


def test_who_has_it_done_is_what_a_dependency_has_found_by_then(url: str, tmp_path: Path) -> None:
    app = FastAPI(lifespan=Events(url, service=SHOP).lifespan)
    app.add_middleware(Correlation, actor=lambda scope: scope["state"].get("user_id"))

    def user(request: Request) -> None:
        request.state.user_id = request.headers.get("authorization")

    @app.post("/async", dependencies=[Depends(user)])
    async def place(spine: SpineDep) -> None:
        await spine.publish(Placed())

    @app.post("/def", dependencies=[Depends(user)])
    def place_in_a_thread(spine: BlockingSpineDep) -> None:
        spine.publish(Placed())

    with TestClient(app) as client:
        for path in ("/async", "/def"):
            assert client.post(path, headers={"authorization": "user:42"}).status_code == 200
            assert client.post(path).status_code == 200
    assert [json.loads(meta).get("actor") for meta in stored(tmp_path, "meta")] == ["user:42", None] * 2


def test_a_web_socket_belongs_to_its_request(client: TestClient, tmp_path: Path) -> None:
    with client.websocket_connect("/live", headers={"x-request-id": "live-1"}) as socket:
        assert socket.receive_json() == {"position": 1}
    assert stored(tmp_path, "correlation") == ["live-1"]


# --- an engine that fails -----------------------------------------------------------------------------------------------

FAILING = """
import os
from fastapi import FastAPI
from eventspine import Service
from eventspine.integrations.fastapi import Events

events = Events("sqlite:///shop.db", service=Service("shop"), run=[Service("mail")], on_failure=os.environ["ON_FAILURE"])
app = FastAPI(lifespan=events.lifespan)
app.add_api_route("/health", events.health)

@app.post("/fail")
async def fail() -> None:
    events.spine._runtimes[0].fail(RuntimeError("the committer ended"))
"""


def test_an_application_whose_engine_fails_stops_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    with serving("failing:app", tmp_path, ON_FAILURE="stop") as server, server.client() as client:
        assert client.get("/health").status_code == 200
        client.post("/fail")
        assert server.process.wait(60) != 0
        assert "the committer ended" in server.log
        assert "Application shutdown failed" in server.log


def test_told_to_serve_on_it_does_and_health_says_failed(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    with serving("failing:app", tmp_path, ON_FAILURE="serve") as server, server.client() as client:
        client.post("/fail")
        until(lambda: client.get("/health").status_code == 503, lambda: server.log)
        health = client.get("/health").json()
        assert health["status"] == "failed"
        assert "the committer ended" in health["problems"][0]
        server.stop()


# --- what is imported ---------------------------------------------------------------------------------------------------


def test_importing_eventspine_imports_no_framework() -> None:
    code = (
        "import sys, eventspine, eventspine.within, eventspine.sync, eventspine.integrations\n"
        "import eventspine.integrations.sqlalchemy, eventspine.integrations.asgi, eventspine.integrations.wsgi\n"
        "print([n for n in ('fastapi', 'starlette', 'sqlalchemy', 'aiosqlite', 'flask', 'django') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize("extra", ["fastapi", "flask"])
def test_a_missing_extra_names_the_pip_line(extra: str) -> None:
    code = f"import sys; sys.modules[{extra!r}] = None\nimport eventspine.integrations.{extra}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert f"pip install 'eventspine[{extra}]'" in done.stderr


async def test_health_tells_of_a_block_that_a_failure_has_ended_until_something_runs_again(url: str) -> None:
    async with Spine(url, service=SHOP) as spine:
        with pytest.raises(RuntimeError, match="ended"):
            async with spine.running(Service("mail")) as running:
                running.runtime.fail(RuntimeError("the committer ended"))
                await running.wait()
        assert (spine.health()["status"], spine.health()["problems"]) == ("failed", ["the committer ended"])
        async with spine.running(Service("mail")):
            assert spine.health()["status"] == "ok"


# --- what the safeguards are for: the same, without them ------------------------------------------------------------------

NAIVE = FAILING.replace(
    "app = FastAPI(lifespan=events.lifespan)",
    """
from contextlib import asynccontextmanager

@asynccontextmanager
async def lifespan(app):
    async with events.spine, events.spine.running(*events.run):
        yield

app = FastAPI(lifespan=lifespan)
""",
)


def test_a_block_around_a_servers_own_lifespan_would_fail_in_silence(tmp_path: Path) -> None:
    """Why `Events` holds the block in a task of its own: the server goes on, and only health knows."""
    (tmp_path / "failing.py").write_text(NAIVE)
    with serving("failing:app", tmp_path, ON_FAILURE="stop") as server, server.client() as client:
        client.post("/fail")
        until(lambda: client.get("/health").status_code == 503, lambda: server.log)
        assert server.process.poll() is None


def test_draining_takes_no_longer_than_it_is_given(url: str) -> None:
    begun, mail = list[int](), Service("mail")

    @mail.on(Placed)
    async def confirm(event: Placed) -> None:
        begun.append(1)
        await asyncio.sleep(60)

    with TestClient(application(Events(url, service=SHOP, run=[mail], drain_s=0.1))) as client:
        client.post("/orders")
        until(lambda: begun)
        began = time.monotonic()
    assert time.monotonic() - began < 20


def test_around_the_whole_application_even_an_unhandled_exception_carries_the_id() -> None:
    app = FastAPI()

    @app.get("/")
    def fail() -> None:
        raise ZeroDivisionError

    answer = TestClient(Correlation(app), raise_server_exceptions=False).get("/", headers={"x-request-id": "web-7"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "web-7")


def test_without_fastapi_its_own_extra_is_named_and_not_one_of_what_it_brings() -> None:
    program = """
import sys
sys.modules["fastapi"] = sys.modules["pydantic_core"] = None
import eventspine
try:
    import eventspine.integrations.fastapi
except eventspine.errors.MissingExtra as error:
    print(error)
"""
    line = [sys.executable, "-W", "error", "-c", program]
    assert "pip install 'eventspine[fastapi]'" in subprocess.run(line, stdout=subprocess.PIPE, text=True).stdout
