"""Commands and views over HTTP: a key that makes a request happen once, a token that reads one's own writes, and errors
that are answered as what they are; from FastAPI and Flask, each through its own test client."""

from __future__ import annotations

import asyncio
import warnings
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
from fastapi import APIRouter, Body, FastAPI, HTTPException
from fastapi.responses import PlainTextResponse
from flask import Flask
from starlette.exceptions import HTTPException as HTTPError

from eventspine import Command, Delivery, Event, Reject, Service, Spine, View, errors
from eventspine.errors import HeaderRefused, OutcomeUnknown, ViewBehind
from eventspine.integrations import fastapi as of_fastapi, flask as of_flask
from eventspine.integrations.asgi import Correlation
from eventspine.integrations.http import IDEMPOTENCY_KEY, PROBLEM, RULES, TOKEN, answer_of, key_of, token_of
from eventspine.observe.written import EVENTS_MAX, Written, collected, collecting
from eventspine.state.token import Token
from eventspine.sync import Spine as Blocking

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette would rather have the successor of httpx
    from fastapi.testclient import TestClient


class Line(msgspec.Struct):
    sku: str = ""


class OrderPlaced(Event, context="orders", key="customer"):
    customer: str
    units: int


class PlaceOrder(Command[UUID], context="orders", key="customer"):
    customer: str
    units: int = 1
    lines: list[Line] = msgspec.field(default_factory=list)
    notes: dict[str, int] = msgspec.field(default_factory=dict)


class OrdersByCustomer(View, key="customer"):
    customer: str
    units: int = 0


def services() -> tuple[Service[Any], Service[Any], list[PlaceOrder]]:
    orders: Service[None] = Service("orders")
    reports: Service[None] = Service("reports")
    called: list[PlaceOrder] = []

    @orders.command(PlaceOrder, timeout_s=0.5)
    async def place(command: PlaceOrder, delivery: Delivery) -> UUID:
        called.append(command)
        if command.customer == "slow":
            await asyncio.sleep(60)
        if command.customer == "nobody":
            delivery.publish(OrderPlaced(customer="", units=1))
        if command.customer == "odd":
            raise Reject("too many \ud800\r\nX-Evil: 1")
        if command.units > 9:
            raise Reject("that is too many")
        delivery.publish(OrderPlaced(customer=command.customer, units=command.units))
        return uuid4()

    @reports.projection(OrdersByCustomer, OrderPlaced)
    def count(view: View[OrdersByCustomer], event: OrderPlaced) -> None:
        view.row(event.customer).units += event.units

    return orders, reports, called


def fastapi_app(url: str, *, view: bool = True, correlation: bool = True) -> tuple[FastAPI, list[PlaceOrder]]:
    orders, reports, called = services()
    events = of_fastapi.Events(url, service=orders, run=[reports] if view else [])
    app = FastAPI(lifespan=events.lifespan, exception_handlers=of_fastapi.answers)
    if correlation:
        app.add_middleware(Correlation)

    @app.post("/orders", status_code=201)
    async def place(
        command: Annotated[PlaceOrder, Body()], spine: of_fastapi.SpineDep, key: of_fastapi.IdempotencyKeyDep
    ) -> UUID:
        return await spine.send(command, command_id=key)

    @app.post("/blocking", status_code=201)
    def blocking(
        command: Annotated[PlaceOrder, Body()], spine: of_fastapi.BlockingSpineDep, key: of_fastapi.IdempotencyKeyDep
    ) -> UUID:
        return spine.send(command, command_id=key)

    @app.get("/rows/{customer}")
    async def row_of(customer: str, spine: of_fastapi.SpineDep) -> bool:
        return await spine.view(OrdersByCustomer).get(customer) is not None

    @app.get("/numbers")
    async def number(n: int) -> int:
        return n

    @app.get("/orders/{customer}")
    async def orders_of(customer: str, spine: of_fastapi.SpineDep, token: of_fastapi.TokenDep) -> int:
        reading = spine.view(OrdersByCustomer)
        await reading.wait(token, timeout_s=10 if view else 0.02)
        row = await reading.get(customer)
        return row.units if row else 0

    return app, called


def flask_app(url: str, *, view: bool = True, answers: bool = True) -> tuple[Flask, list[PlaceOrder]]:
    orders, _, called = services()
    events = of_flask.Events(url=url, service=Service("web"), commands=[orders], answers=answers)
    app = Flask(__name__)
    events.init_app(app)

    @app.post("/orders")
    def place() -> tuple[Any, int]:
        return app.json.response(events.send(events.command(PlaceOrder))), 201  # type: ignore[return-value]

    @app.get("/rows/<customer>")
    def row_of(customer: str) -> Any:
        return app.json.response(events.spine.view(OrdersByCustomer).get(customer) is not None)

    @app.get("/orders/<customer>")
    def orders_of(customer: str) -> Any:
        reading = events.spine.view(OrdersByCustomer)
        reading.wait(events.token, timeout_s=10 if view else 0.02)
        row = reading.get(customer)
        return app.json.response(row.units if row else 0)

    app.extensions["close"] = app.extensions["eventspine"].close
    return app, called


class Client:
    """The same words for both."""

    def __init__(self, ask: Callable[..., Any], called: list[PlaceOrder]) -> None:
        self._ask, self.called = ask, called

    def __call__(self, method: str, path: str, body: Any = None, **headers: Any) -> httpx.Response:
        named = [(name.replace("_", "-"), value) for name, value in headers.items() if isinstance(value, str)]
        named += [
            (name.replace("_", "-"), one)
            for name, values in headers.items()
            if isinstance(values, list)
            for one in values
        ]
        answer: httpx.Response = self._ask(method, path, body, named)
        return answer


def of_fastapi_client(client: TestClient, called: list[PlaceOrder]) -> Client:
    def ask(method: str, path: str, body: Any, headers: list[tuple[str, str]]) -> httpx.Response:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        given = {"content": body} if isinstance(body, bytes) else {"json": body}
        return client.request(method, path, headers=raw, **given)  # type: ignore[arg-type]

    return Client(ask, called)


def of_flask_client(app: Flask, called: list[PlaceOrder]) -> Client:
    def ask(method: str, path: str, body: Any, headers: Any) -> httpx.Response:
        given = {"data": body} if isinstance(body, bytes) else {"json": body}
        got = app.test_client().open(path, method=method, headers=headers, **given)
        return httpx.Response(got.status_code, headers=list(got.headers), content=got.data)

    return Client(ask, called)


@pytest.fixture(params=["fastapi", "flask"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Client]:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    if request.param == "fastapi":
        app, called = fastapi_app(url)
        with TestClient(app) as testing:
            yield of_fastapi_client(testing, called)
        return
    flask, called = flask_app(url)
    with Blocking(url) as beside, beside.running(services()[1]):
        yield of_flask_client(flask, called)
        flask.extensions["close"]()


ORDER = {"customer": "ann", "units": 2}


# --- commands -----------------------------------------------------------------------------------------------------------


def test_a_request_with_a_key_is_done_once_and_answered_the_same(client: Client) -> None:
    first, again = (client("POST", "/orders", ORDER, Idempotency_Key="form-1") for _ in range(2))
    assert (201, 201) == (first.status_code, again.status_code)
    assert UUID(first.json()) == UUID(again.json())
    assert 1 == len(client.called)
    assert client("POST", "/orders", ORDER).json() != client("POST", "/orders", ORDER).json()


def test_a_key_may_stand_in_quotes_and_is_the_same_key(client: Client) -> None:
    first = client("POST", "/orders", ORDER, Idempotency_Key='"form-1"')
    assert first.json() == client("POST", "/orders", ORDER, Idempotency_Key="form-1").json()


def test_twenty_at_once_are_done_once(client: Client) -> None:
    with ThreadPoolExecutor(20) as threads:
        sent = list(threads.map(lambda _: client("POST", "/orders", ORDER, Idempotency_Key="form-1"), range(20)))
    assert {201} == {one.status_code for one in sent}
    assert 1 == len({one.json() for one in sent}) == len(client.called)


def test_the_key_of_another_request_is_refused(client: Client) -> None:
    client("POST", "/orders", ORDER, Idempotency_Key="form-1")
    other = client("POST", "/orders", {**ORDER, "units": 3}, Idempotency_Key="form-1")
    assert (422, "application/problem+json") == (other.status_code, other.headers["content-type"])
    assert "was sent with another request" in other.json()["detail"]
    assert "form-1" not in other.text


def test_a_refusal_says_why(client: Client) -> None:
    refused = client("POST", "/orders", {**ORDER, "units": 10})
    assert (409, "that is too many") == (refused.status_code, refused.json()["detail"])
    assert "Spine-Token" not in refused.headers


@pytest.mark.parametrize("body", [{"customer": 3}, {"units": 1}, [], {"customer": "ann", "units": "many"}, "x"])
def test_a_body_that_is_no_command_is_refused_and_nothing_is_called(client: Client, body: Any) -> None:
    refused = client("POST", "/orders", body)
    assert (422, PROBLEM) == (refused.status_code, refused.headers["content-type"])
    assert "This can't be asked for" == refused.json()["title"]
    assert refused.json()["detail"].startswith("orders.PlaceOrder: ")
    assert client.called == []


JSON = {"Content-Type": "application/json"}
UNREADABLE = [
    b"",
    b"{",
    b'{"customer": "ann"',
    b"\xff\xfe{\x00}\x00",
    b'{"customer": "\xff"}',
    b'{"customer": "\\ud800"}',
    b'{"customer": "ann", "units": ' + b"9" * 5_000 + b"}",
    b'{"customer": "ann", "units": NaN}',
    b'{"customer": "ann", "notes": ' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}",
    b"[" * 100_000,
    b'{"customer": "ann", "notes": {"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    b'{"customer": "' + b"x" * 1_000_001 + b'"}',
]


@pytest.mark.parametrize("body", UNREADABLE, ids=lambda body: f"{body[:40]!r}")
def test_bytes_that_are_no_command_are_refused_as_a_problem_and_nothing_is_called(client: Client, body: bytes) -> None:
    refused = client("POST", "/orders", body, **JSON)
    assert (422, PROBLEM) == (refused.status_code, refused.headers["content-type"])
    assert len(refused.content) < 500
    assert client.called == []


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"customer": "ann", "unit": 2}, "unit"),
        ({"customer": "ann", "": 2}, '""'),
        ({"customer": "ann", "lines": [{"sku": "a"}, {"sku": "b", "x": 1}]}, "lines[1].x"),
    ],
)
def test_a_field_that_the_command_has_not_is_refused_by_name(client: Client, body: Any, where: str) -> None:
    refused = client("POST", "/orders", body)
    assert (422, PROBLEM) == (refused.status_code, refused.headers["content-type"])
    assert f"orders.PlaceOrder: {where}: there is no such field. Nothing was done." == refused.json()["detail"]
    assert client.called == []


@pytest.mark.parametrize(
    ("customer", "why"), [("", "a part of the key is empty"), ("k" * 256, "is 256 bytes; a key has at most 255")]
)
def test_a_key_of_the_command_that_can_t_be_is_refused(client: Client, customer: str, why: str) -> None:
    refused = client("POST", "/orders", {"customer": customer})
    assert (422, PROBLEM) == (refused.status_code, refused.headers["content-type"])
    assert why in refused.json()["detail"]
    assert client.called == []


def test_a_key_that_the_handler_made_of_it_is_refused_as_well(client: Client) -> None:
    refused = client("POST", "/orders", {"customer": "nobody"})
    assert (422, PROBLEM) == (refused.status_code, refused.headers["content-type"])
    assert "An id is empty, too long, or no printable text." == refused.json()["detail"]


def test_a_name_that_nobody_would_read_is_cut(client: Client) -> None:
    refused = client("POST", "/orders", {"customer": "ann", "x" * 500_000: 1})
    assert (422, True) == (refused.status_code, len(refused.content) < 300)
    assert "x" * 60 + "…: there is no such field" in refused.json()["detail"]


def test_a_refusal_that_is_no_unicode_is_answered(client: Client) -> None:
    refused = client("POST", "/orders", {"customer": "odd", "units": 10})
    assert (409, "too many \\ud800\r\nX-Evil: 1") == (refused.status_code, refused.json()["detail"])
    assert "X-Evil" not in refused.headers


def test_a_handler_that_takes_too_long_is_answered_and_told_in_the_log(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    slow = client("POST", "/orders", {"customer": "slow"}, Idempotency_Key="k")
    assert (503, "5", PROBLEM) == (slow.status_code, slow.headers["retry-after"], slow.headers["content-type"])
    assert "orders.place" not in slow.text
    told = [record for record in caplog.records if record.name == "eventspine.http"]
    assert 1 == len(told)
    assert told[0].getMessage().startswith("answered with 503: orders.place did not return within 0.5 s")
    assert 503 == client("POST", "/orders", {"customer": "slow"}, Idempotency_Key="k").status_code  # nothing is noted
    assert 2 == len(client.called)


def test_a_dict_takes_any_names(client: Client) -> None:
    taken = client("POST", "/orders", {"customer": "ann", "lines": [{"sku": "a"}], "notes": {"any": 1}})
    assert 201 == taken.status_code
    assert {"any": 1} == client.called[0].notes


FORMS = [
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "text/plain; application/json",
    "application/jsonp",
    "application/json, text/plain",
    "",
]


@pytest.mark.parametrize("content_type", FORMS)
def test_what_a_form_of_another_page_could_send_is_refused(client: Client, content_type: str) -> None:
    body = b'{"customer": "ann", "units": 2}'
    refused = client("POST", "/orders", body, **{"Content-Type": content_type})
    assert (415, PROBLEM) == (refused.status_code, refused.headers["content-type"])
    assert client.called == []


def test_a_body_without_a_content_type_is_refused(client: Client) -> None:
    assert 415 == client("POST", "/orders", b'{"customer": "ann"}').status_code
    assert client.called == []


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON; charset=utf-8", "application/vnd.shop+json"]
)
def test_json_by_any_of_its_names_is_taken(client: Client, content_type: str) -> None:
    body = b'{"customer": "ann", "units": 2}'
    assert 201 == client("POST", "/orders", body, **{"Content-Type": content_type}).status_code


HOSTILE = [
    "",
    " ",
    "a b",
    "a,b",
    "x" * 256,
    "ключ".encode().decode("latin-1"),
    '"a',
    'a"',
    '""',
    "a;b",
    "<script>",
    "a\tb",
]


@pytest.mark.parametrize("key", HOSTILE)
def test_a_key_that_is_none_is_refused(client: Client, key: str) -> None:
    refused = client("POST", "/orders", ORDER, Idempotency_Key=key)
    assert (400, PROBLEM) == (refused.status_code, refused.headers["content-type"])
    assert "A header can't be used" == refused.json()["title"]
    assert client.called == []


def test_a_key_that_comes_twice_is_refused(client: Client) -> None:
    assert 400 == client("POST", "/orders", ORDER, Idempotency_Key=["a", "b"]).status_code


# --- reading one's own writes -------------------------------------------------------------------------------------------


def test_a_token_reads_what_was_written(client: Client) -> None:
    for units in range(1, 11):
        token = client("POST", "/orders", {"customer": "ann", "units": 1}).headers["Spine-Token"]
        assert units == client("GET", "/orders/ann", Spine_Token=token).json()


def test_whoever_is_answered_again_gets_the_token_of_then(client: Client) -> None:
    first, again = (client("POST", "/orders", ORDER, Idempotency_Key="form-1") for _ in range(2))
    assert first.headers["Spine-Token"] == again.headers["Spine-Token"]


def test_what_publishes_nothing_has_no_token_and_without_one_nothing_is_waited_for(client: Client) -> None:
    token = client("POST", "/orders", ORDER).headers["Spine-Token"]
    client("GET", "/orders/ann", Spine_Token=token)
    got = client("GET", "/orders/ann")
    assert (200, 2) == (got.status_code, got.json())
    assert "Spine-Token" not in got.headers


@pytest.mark.parametrize(
    "token", [*HOSTILE, "1.", "1." + "A" * 21, "1." + "A" * 23, "2." + "A" * 22, "1." + "A" * 10_000, "1.=====" * 4]
)
def test_a_token_that_is_none_is_refused(client: Client, token: str) -> None:
    got = client("GET", "/orders/ann", Spine_Token=token)
    assert (400, PROBLEM) == (got.status_code, got.headers["content-type"])
    assert len(got.content) < 400


def test_a_token_that_comes_twice_is_refused(client: Client) -> None:
    one = "1." + "A" * 22
    assert 400 == client("GET", "/orders/ann", Spine_Token=[one, one]).status_code


@contextmanager
def without_the_view(kind: str, url: str) -> Iterator[Client]:
    """An application in which nobody keeps it."""
    if kind == "fastapi":
        app, called = fastapi_app(url, view=False)
        with TestClient(app) as testing:
            yield of_fastapi_client(testing, called)
    else:
        flask, called = flask_app(url, view=False)
        yield of_flask_client(flask, called)
        flask.extensions["close"]()


@pytest.mark.parametrize("kind", ["fastapi", "flask"])
def test_a_view_that_is_behind_says_when_to_ask_again_and_nothing_of_its_inside(kind: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    with Blocking(url) as spine, spine.running(services()[1]):
        pass  # the view is known, and nobody keeps it
    with without_the_view(kind, url) as client:
        check_behind(client)


def check_behind(client: Client) -> None:
    token = client("POST", "/orders", ORDER).headers["Spine-Token"]
    behind = client("GET", "/orders/ann", Spine_Token=token)
    assert (503, "1", "application/problem+json") == (
        behind.status_code, behind.headers["retry-after"], behind.headers["content-type"],
    )  # fmt: skip
    assert "reports" not in behind.text
    assert 0 == client("GET", "/orders/ann").json()  # what there is
    made_up = str(Token((b"x" * 16,) * EVENTS_MAX))
    assert 503 == client("GET", "/orders/ann", Spine_Token=made_up).status_code


@pytest.mark.parametrize("kind", ["fastapi", "flask"])
def test_a_view_that_nobody_has_kept_yet_is_to_be_asked_for_again(kind: str, tmp_path: Path) -> None:
    with without_the_view(kind, f"sqlite:///{tmp_path / 'shop.db'}") as client:
        got = client("GET", "/rows/ann")
    assert (503, "5", PROBLEM) == (got.status_code, got.headers["retry-after"], got.headers["content-type"])
    assert "orders_by_customer" not in got.text


def test_an_application_without_correlation_says_what_was_published(tmp_path: Path) -> None:
    app, called = fastapi_app(f"sqlite:///{tmp_path / 'shop.db'}", correlation=False)
    for _ in range(2):  # an application may be started again
        with TestClient(app) as testing:
            client = of_fastapi_client(testing, called)
            answer = client("POST", "/orders", ORDER)
            assert 1 == len(answer.headers.get_list("Spine-Token"))
            client("GET", "/orders/ann", Spine_Token=answer.headers["Spine-Token"])
            assert "Spine-Token" not in client("GET", "/orders/ann").headers


def test_with_correlation_there_is_one_token(client: Client) -> None:
    assert 1 == len(client("POST", "/orders", ORDER).headers.get_list("Spine-Token"))


def test_a_command_that_is_no_body_is_found_at_the_start(tmp_path: Path) -> None:
    events = of_fastapi.Events(f"sqlite:///{tmp_path / 'shop.db'}")
    app = FastAPI(lifespan=events.lifespan)

    @app.post("/orders")
    async def place(command: PlaceOrder) -> None: ...

    with pytest.raises(errors.SettingsError, match=r"command: Annotated\[PlaceOrder, Body\(\)\]"), TestClient(app):
        pass


def test_routers_are_looked_at_too(tmp_path: Path) -> None:
    events = of_fastapi.Events(f"sqlite:///{tmp_path / 'shop.db'}", service=services()[0])
    good, bad = APIRouter(prefix="/good"), APIRouter(prefix="/bad")

    @good.post("/orders")
    async def place(command: Annotated[PlaceOrder, Body()]) -> None: ...

    @bad.post("/orders")
    async def wrong(command: PlaceOrder) -> None: ...

    app = FastAPI(lifespan=events.lifespan, exception_handlers=of_fastapi.answers)
    app.include_router(good, prefix="/v1")
    with TestClient(app) as testing:
        for body in (b"{", b"\xff"):
            refused = testing.post("/v1/good/orders", content=body, headers=JSON)
            assert (422, PROBLEM) == (refused.status_code, refused.headers["content-type"])
    app = FastAPI(lifespan=events.lifespan)
    app.include_router(bad, prefix="/v1")
    with pytest.raises(errors.SettingsError, match="command: Annotated"), TestClient(app):
        pass


def test_what_is_no_command_is_answered_as_fastapi_does(tmp_path: Path) -> None:
    app, _ = fastapi_app(f"sqlite:///{tmp_path / 'shop.db'}")
    with TestClient(app) as testing:
        got = testing.get("/numbers?n=x")
        assert (422, "int_parsing") == (got.status_code, got.json()["detail"][0]["type"])


def test_the_applications_own_handler_of_http_errors_stays(tmp_path: Path) -> None:
    app, _ = fastapi_app(f"sqlite:///{tmp_path / 'shop.db'}")
    app.add_exception_handler(HTTPError, lambda _, error: PlainTextResponse(f"no: {error.detail}", error.status_code))  # type: ignore[attr-defined]

    @app.get("/teapot")
    async def teapot() -> None:
        raise HTTPException(418, "short and stout")

    with TestClient(app) as testing:
        assert (418, "no: short and stout") == ((got := testing.get("/teapot")).status_code, got.text)


def test_without_answers_an_application_still_refuses(tmp_path: Path) -> None:
    events = of_fastapi.Events(f"sqlite:///{tmp_path / 'shop.db'}", service=services()[0])
    app = FastAPI(lifespan=events.lifespan)

    @app.post("/orders")
    async def place(command: Annotated[PlaceOrder, Body()], key: of_fastapi.IdempotencyKeyDep) -> None: ...

    with TestClient(app) as testing:
        assert 400 == testing.post("/orders", json=ORDER, headers={"Idempotency-Key": "a b"}).status_code
        assert 422 == testing.post("/orders", json={**ORDER, "unit": 1}).status_code
        assert 422 == testing.post("/orders", content=b'{"customer": "ann"}').status_code


def test_text_in_place_of_the_flask_application_is_explained() -> None:
    with pytest.raises(errors.SettingsError, match=r"Events\(url='sqlite:///shop.db'\)"):
        of_flask.Events("sqlite:///shop.db")  # type: ignore[arg-type]
    with pytest.raises(errors.SettingsError) as refused:
        of_flask.Events("postgresql://ann:secret@db/shop")  # type: ignore[arg-type]
    assert "secret" not in str(refused.value)


def test_def_endpoints_send_too(tmp_path: Path) -> None:
    app, called = fastapi_app(f"sqlite:///{tmp_path / 'shop.db'}")
    with TestClient(app) as testing:
        client = of_fastapi_client(testing, called)
        first, again = (client("POST", "/blocking", ORDER, Idempotency_Key="k") for _ in range(2))
        assert first.json() == again.json()
        assert 2 == client("GET", "/orders/ann", Spine_Token=again.headers["Spine-Token"]).json()
    assert 1 == len(called)


def test_the_document_of_the_interface_knows_the_command_and_the_headers(tmp_path: Path) -> None:
    app, _ = fastapi_app("memory://")
    told = app.openapi()["paths"]
    schema = told["/orders"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(schema["properties"]) == {"customer", "units", "lines", "notes"}
    assert schema["additionalProperties"] is False
    assert [one["name"].lower() for one in told["/orders"]["post"]["parameters"]] == ["idempotency-key"]
    assert [one["name"].lower() for one in told["/orders/{customer}"]["get"]["parameters"]] == [
        "customer",
        "spine-token",
    ]


def test_without_the_answers_of_the_extension_an_application_has_its_own(tmp_path: Path) -> None:
    app, called = flask_app(f"sqlite:///{tmp_path / 'shop.db'}", answers=False)
    app.register_error_handler(Reject, lambda error: (f"no: {error}", 418))
    refused = of_flask_client(app, called)("POST", "/orders", {**ORDER, "units": 10})
    assert (418, "no: that is too many") == (refused.status_code, refused.text)
    app.extensions["close"]()


@pytest.mark.parametrize("token", [True, False])
def test_a_middleware_can_be_told_to_say_nothing_of_what_was_published(token: bool, tmp_path: Path) -> None:
    events = of_fastapi.Events(f"sqlite:///{tmp_path / 'shop.db'}", service=services()[0])
    app = FastAPI(lifespan=events.lifespan)
    app.add_middleware(Correlation, token=token)

    @app.post("/")
    async def publish(spine: of_fastapi.SpineDep) -> None:
        await spine.publish(OrderPlaced(customer="ann", units=1))

    with TestClient(app) as testing:
        assert ("Spine-Token" in testing.post("/").headers) == token


# --- the parts ------------------------------------------------------------------------------------------------------------


def test_tokens_are_read_as_they_were_written() -> None:
    for count in (0, 1, 2, 3, EVENTS_MAX):
        token = Token(tuple(bytes([n]) * 16 for n in range(count)))
        assert token == (Token.parse(str(token)) if count else Token())
    with pytest.raises(HeaderRefused):
        Token.parse("1." + urlsafe_b64encode(b"x" * 16 * (EVENTS_MAX + 1)).decode().rstrip("="))


def test_headers_that_are_missing_say_nothing() -> None:
    assert (None, Token()) == (key_of([]), token_of([]))


async def test_of_each_key_the_last_event_is_collected_and_at_most_so_many() -> None:
    orders = services()[0]
    async with Spine("memory://", service=orders) as spine:
        with collecting() as written:
            receipts = await spine.publish(*[OrderPlaced(customer="ann", units=n) for n in range(3)])
            assert written.ids == [receipts[-1].event_id]
            many = await spine.publish(*[OrderPlaced(customer=str(n), units=n) for n in range(100)])
            assert EVENTS_MAX == len(written.ids)
            assert written.ids[-1] == many[-1].event_id
        assert collected.get() is None
        later = Written()
        assert later.ids == []


async def test_what_is_scheduled_or_failed_is_not_collected() -> None:
    from datetime import timedelta

    orders = services()[0]
    async with Spine("memory://", service=orders) as spine:
        with collecting() as written:
            await spine.publish(OrderPlaced(customer="ann", units=1), after=timedelta(hours=1))
            with pytest.raises(Reject):
                await spine.send(PlaceOrder(customer="ann", units=10))
            assert written.ids == []


@pytest.mark.parametrize("kind", RULES)
def test_each_error_has_an_answer_that_is_a_problem(kind: type[Exception]) -> None:
    answer = answer_of(kind("said"))
    assert answer is not None
    assert 400 <= answer.status < 600
    assert answer.body["status"] == answer.status
    assert (answer.status >= 500) <= ("said" not in str(answer.body))


def test_other_errors_are_not_ours_to_answer() -> None:
    assert answer_of(ValueError("x")) is None
    assert answer_of(errors.SettingsError("x")) is None


def test_an_unknown_outcome_is_answered_with_the_key_to_send_it_again_under() -> None:
    answer = answer_of(OutcomeUnknown("x", command_id="abc"))
    assert answer is not None
    assert ("abc", "1") == (answer.body["idempotency_key"], answer.headers["Retry-After"])
    assert answer_of(ViewBehind("x")) is not None
    assert (TOKEN, IDEMPOTENCY_KEY) == ("Spine-Token", "Idempotency-Key")


def test_flask_does_not_read_a_body_that_says_to_be_too_large(tmp_path: Path) -> None:
    class Unread(BytesIO):
        def read(self, *_: Any) -> bytes:
            raise AssertionError("it was read")

    app, called = flask_app(f"sqlite:///{tmp_path / 'shop.db'}")
    given = {"wsgi.input": Unread(), "CONTENT_LENGTH": "1000001", "CONTENT_TYPE": "application/json"}
    refused = app.test_client().open("/orders", method="POST", environ_overrides=given)
    assert (422, "orders.PlaceOrder is 1,000,001 bytes; a command has at most 1,000,000. Nothing was done.") == (
        refused.status_code,
        refused.get_json()["detail"],
    )
    assert called == []
    app.extensions["close"]()
