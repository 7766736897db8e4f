"""Flask: an extension for app factories, threads and forked workers; the ORM in handlers, exactly once through kills."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import Flask, Response, request

from eventspine import Event, Service
from eventspine.errors import SettingsError
from eventspine.integrations.flask import Events
from eventspine.integrations.wsgi import Correlation

from .serving import ROOT, until


class Placed(Event, context="orders", key="customer"):
    customer: str = "ann"


SHOP: Service[Any] = Service("shop", publishes="orders")
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
events = Events(service=SHOP)


def create_app(url: str) -> Flask:
    app = Flask(__name__)
    app.config["EVENTSPINE_URL"] = url
    events.init_app(app)

    @app.post("/orders")
    def place() -> dict[str, Any]:
        return {"position": events.spine.publish(Placed()).position}

    @app.post("/streamed")
    def streamed() -> Response:
        def parts() -> Iterator[bytes]:
            for _ in range(2):
                yield b"%d" % spine.publish(Placed()).position

        spine = events.spine
        return Response(parts())

    app.add_url_rule("/health", view_func=events.health)
    return app


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    app = create_app(f"sqlite:///{tmp_path}/shop.db")
    yield app
    app.extensions["eventspine"].close()


def stored(tmp_path: Path, column: str) -> list[Any]:
    with closing(sqlite3.connect(tmp_path / "shop.db")) as own:
        return [row[0] for row in own.execute(f"select {column} from spine_events order by position")]


def test_who_has_it_done_is_asked_when_something_is_published(tmp_path: Path) -> None:
    """By then whatever finds the user has run; a body that is made while it is sent is that user's too."""
    app = Flask(__name__)
    own = Events(app, url=f"sqlite:///{tmp_path}/shop.db", service=SHOP, actor=lambda environ: environ.get("shop.user"))

    @app.before_request
    def find() -> None:
        request.environ["shop.user"] = request.headers.get("Authorization")

    @app.post("/orders")
    def place() -> Response:
        own.spine.publish(Placed())
        spine = own.spine
        return Response(b"%d" % spine.publish(Placed()).position for _ in range(2))

    with app.test_client() as client:
        assert client.post("/orders", headers={"Authorization": "user:42"}).data == b"23"
        client.post("/orders").get_data()
    own_spine = app.extensions["eventspine"]
    own_spine.close()
    assert [json.loads(meta).get("actor") for meta in stored(tmp_path, "meta")] == ["user:42"] * 3 + [None] * 3


def test_requests_publish_with_their_correlation(app: Flask, tmp_path: Path) -> None:
    with app.test_client() as client:
        answer = client.post("/orders", headers={"X-Request-ID": "web-7", "traceparent": TRACE})
        assert (answer.json, answer.headers["X-Request-ID"]) == ({"position": 1}, "web-7")
        assert answer.headers["traceparent"] == TRACE
        made = client.post("/orders", headers={"X-Request-ID": "no good"}).headers["X-Request-ID"]
        assert client.get("/health").json["status"] == "ok"  # type: ignore[index]
    assert stored(tmp_path, "correlation") == ["web-7", made]


def test_what_is_published_while_a_body_is_streamed_belongs_to_the_request(app: Flask, tmp_path: Path) -> None:
    answer = app.test_client().post("/streamed", headers={"X-Request-ID": "web-8"})
    assert answer.data == b"12"
    assert stored(tmp_path, "correlation") == ["web-8", "web-8"]


def test_many_threads_share_an_application(app: Flask) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: app.test_client().post("/orders").json, range(40)))
    assert sorted(answer["position"] for answer in answers if answer) == list(range(1, 41))


def test_each_application_of_a_factory_has_a_spine_of_its_own(app: Flask, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = create_app(f"sqlite:///{tmp_path}/other/shop.db")
    assert app.test_client().post("/orders").json == {"position": 1}
    assert other.test_client().post("/orders").json == {"position": 1}
    other.extensions["eventspine"].close()


def test_mistakes_in_setting_up_say_what_to_do(app: Flask) -> None:
    with pytest.raises(SettingsError, match="EVENTSPINE_URL"):
        Events(Flask(__name__))
    with pytest.raises(SettingsError, match="already"):
        events.init_app(app)
    with pytest.raises(SettingsError, match="init_app"):
        _ = events.spine
    assert Events(Flask(__name__), url="memory://") is not None


def test_strangers_may_be_distrusted() -> None:
    app = Flask(__name__)
    Events(app, url="memory://", trust=False)
    answer = app.test_client().get("/", headers={"X-Request-ID": "web-7"})
    assert answer.headers["X-Request-ID"] != "web-7"


def test_a_body_is_closed_by_the_server() -> None:
    closed = list[bool]()

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield b"x"

        def close(self) -> None:
            closed.append(True)

    def app(environ: dict[str, Any], start_response: Any) -> Body:
        start_response("200 OK", [("X-Request-ID", "mine")])
        return Body()

    started = list[Any]()
    body: Any = Correlation(app)({}, lambda *arguments: started.append(arguments))
    assert b"".join(body) == b"x"
    body.close()
    assert closed == [True]
    assert [name for name, _ in started[0][1]] == ["X-Request-ID", "traceparent"]


# --- workers ------------------------------------------------------------------------------------------------------------

FORKING = """
    import os, socket, sys
    from werkzeug.serving import make_server
    from tests.integrations.test_flask import create_app

    app = create_app(sys.argv[1])
    app.test_client().post("/orders")  # the parent's spine is open already: it must not be shared
    listening = socket.socket(fileno=int(sys.argv[2]))
    for _ in range(2):
        if os.fork() == 0:
            make_server("127.0.0.1", 0, app, threaded=True, fd=listening.fileno()).serve_forever()
            os._exit(0)
        print("forked", flush=True)
    os.wait()
    os.wait()
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux tells a process's children so simply")
def test_forked_workers_open_their_own_and_one_that_is_killed_leaves_the_other(tmp_path: Path) -> None:
    script = tmp_path / "forking.py"
    script.write_text(textwrap.dedent(FORKING))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        parent = subprocess.Popen(
            [sys.executable, str(script), f"sqlite:///{tmp_path}/shop.db", str(listening.fileno())],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            pass_fds=[listening.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
    try:
        with ThreadPoolExecutor(4) as threads:
            positions = list(threads.map(lambda _: order(url), range(20)))
        assert sorted(positions) == list(range(2, 22))
        workers = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        os.kill(int(workers[0]), signal.SIGKILL)
        assert [order(url) for _ in range(3)] == [22, 23, 24]
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.communicate()


def order(url: str) -> int:
    """Asked again while a worker that was killed takes the connection with it: nothing of that was published."""
    for _ in range(50):
        try:
            answer = httpx.post(f"{url}/orders", timeout=30, trust_env=False)
        except httpx.TransportError:
            continue
        assert answer.status_code == 200
        return int(answer.json()["position"])
    raise AssertionError("nobody answers")


# --- the example: the ORM in a handler, killed again and again ------------------------------------------------------------


def test_the_orm_in_a_handler_is_exactly_once_however_often_it_is_killed(tmp_path: Path) -> None:
    path, chance = tmp_path / "shop.db", random.Random(7)
    place(path, 60)
    for _ in range(3):
        before = taken(path)
        with inventory(path) as process:
            until(lambda: taken(path) > before, (tmp_path / "run.log").read_text)  # noqa: B023 -- called here
            time.sleep(chance.uniform(0, 0.03))  # not to wait for something: to be killed anywhere
            process.kill()
    place(path, 3)  # one for each key: they come last
    with inventory(path) as process:
        until(lambda: taken(path) >= 63, (tmp_path / "run.log").read_text)
        process.terminate()
        assert process.wait(60) == 0
    assert taken(path) == 63
    with closing(sqlite3.connect(path)) as own:
        assert own.execute("select count(*) from spine_deliveries where state <> 'settled'").fetchone() == (0,)


def settings(path: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "SHOP_DATABASE": str(path)}


def place(path: Path, orders: int) -> None:
    script = f"""
        from examples.flask_shop.app import create_app
        client = create_app().test_client()
        for number in range({orders}):
            assert client.post("/orders", json={{"sku": f"sku-{{number % 3}}", "units": 1}}).status_code == 201
        """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    subprocess.run(command, env=settings(path), check=True, cwd=path.parent)


@contextmanager
def inventory(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "eventspine.cli", "run", "examples.flask_shop.inventory"]
    with (path.parent / "run.log").open("ab") as output:
        process = subprocess.Popen(
            [*command, "--journal", f"sqlite:///{path}"],
            env=settings(path),
            cwd=path.parent,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def taken(path: Path) -> int:
    with closing(sqlite3.connect(path)) as own:
        return int(own.execute("select coalesce(sum(taken), 0) from inventory_stock").fetchone()[0])


def test_a_request_that_begins_with_its_own_row_finds_the_spine_open(tmp_path: Path) -> None:
    """A journal can't be made inside a transaction: so the extension opens it before the request."""
    for opens_first in (True, False):
        path = tmp_path / f"{opens_first}.db"
        app = create_app(f"sqlite:///{path}")

        @app.post("/within")
        def within(path: Path = path) -> dict[str, Any]:
            with closing(sqlite3.connect(path)) as own:
                own.execute("create table if not exists mine (n)")
                own.execute("insert into mine values (1)")
                events.spine.publish(Placed(), within=own)
                own.commit()
            return {}

        if not opens_first:
            app.before_request_funcs.clear()
        assert app.test_client().post("/within").status_code == (200 if opens_first else 503)
        app.extensions["eventspine"].close()
