"""Services: what may be declared, what is refused with a word that helps, and what runs before the first delivery."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from eventspine import Batch, Dead, Delivery, Event, Middleware, Retry, Service, Spine
from eventspine.errors import DeclarationError


class Placed(Event, context="orders", key="customer"):
    customer: str = "ann"


class Cancelled(Event, context="orders", key="customer"):
    customer: str = "ann"


class OtherPlaced(Event, context="orders", key="customer", type="orders.Placed"):
    customer: str


SHOP: Service[Any] = Service("shop", publishes="orders")


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.002)


async def nothing(event: Placed) -> None: ...


async def nothing_else(event: Cancelled) -> None: ...


def test_a_decorator_gives_the_function_back_unchanged() -> None:
    service = Service("mail")
    assert service.on(Placed)(nothing) is nothing
    assert service.handlers["nothing"].function is nothing


def test_a_service_publishes_its_own_names_context_unless_told_otherwise() -> None:
    assert Service("mail").publishes == ("mail",)
    assert Service("shop", publishes="orders").publishes == ("orders",)
    assert Service("shop", publishes=("orders", "payments")).publishes == ("orders", "payments")
    assert Service("reports", publishes=()).publishes == ()


def test_handlers_of_other_modules_are_included() -> None:
    service, part = Service("mail"), Service("mail")
    part.on(Placed)(nothing)
    service.on(Cancelled, name="other")(nothing_else)
    service.include(part)
    assert list(service.handlers) == ["other", "nothing"]
    with pytest.raises(DeclarationError, match="'nothing' already; give one of them name="):
        service.include(part)


def test_a_part_declares_nothing_once_it_is_included() -> None:
    """The service that includes it would not have that, without a word."""
    service, part = Service("mail"), Service("mail")
    service.include(part)
    with pytest.raises(DeclarationError, match=r"'nothing' of 'mail' comes too late.* include\(...\) below all"):
        part.on(Placed)(nothing)
    with pytest.raises(DeclarationError, match="the decoder of 'orders' of 'mail' comes too late"):
        part.decoder("orders")(lambda _: None)


@asynccontextmanager
async def clients() -> AsyncIterator[str]:
    yield "clients"


def test_a_handler_that_is_to_take_something_else_than_it_handles_is_refused_where_it_stands() -> None:
    """Each event would fail, eight times over."""
    service = Service("mail")

    async def cancelled(event: Cancelled) -> None: ...

    async def one(event: Placed, delivery: Delivery) -> None: ...

    async def several(events: list[Placed]) -> None: ...

    with pytest.raises(
        DeclarationError, match="mail.cancelled handles Placed, and is to take Cancelled. Name the same"
    ):
        service.on(Placed)(cancelled)  # type: ignore[arg-type]
    with pytest.raises(
        DeclarationError, match=r"is to take Placed; it is given a list. Write `events: list\[Placed\]`"
    ):
        service.on(Placed, batch=Batch(10))(one)  # type: ignore[arg-type]
    with pytest.raises(DeclarationError, match="given one event at a time. Write `event: Placed`, or batch="):
        service.on(Placed)(several)  # type: ignore[arg-type]


def test_what_a_handler_is_to_take_may_be_wider_or_the_same_event_declared_again_or_not_be_known_yet() -> None:
    service = Service("mail")

    class Order(Event):
        customer: str

    class Returned(Order, context="orders", key="customer"): ...

    async def wider(event: Placed | Cancelled) -> None: ...

    async def narrower(event: Placed) -> None: ...

    async def base(event: Order) -> None: ...

    async def again(event: OtherPlaced) -> None: ...

    async def unknown(event: Later) -> None: ...  # type: ignore[name-defined]  # noqa: F821 -- as in a cycle of imports

    service.on(Placed)(wider)
    service.on(Placed, Cancelled)(narrower)  # type: ignore[arg-type]
    service.on(Returned)(base)
    service.on(Placed)(again)  # type: ignore[arg-type]
    service.on(Placed)(unknown)
    assert list(service.handlers) == ["wider", "narrower", "base", "again", "unknown"]


OF_ITS_OWN: list[dict[str, Any]] = [
    {"tables": lambda connection: None},
    {"lifespan": clients},
    {"errors": {ValueError: Dead}},
    {"middleware": [Middleware()]},
    {"retention": timedelta(days=1)},
    {"publishes": "orders"},
]


@pytest.mark.parametrize("options", OF_ITS_OWN, ids=lambda options: next(iter(options)))
def test_what_a_part_has_besides_its_handlers_is_not_left_behind_unnoticed(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(DeclarationError, match=f"has {name}= of its own, which would be left behind"):
        Service("mail").include(Service("mail", **options))
    Service("mail", **options).include(Service("mail", **options))


def test_only_another_service_is_included() -> None:
    service = Service("mail")
    for other in (service, "mail"):
        with pytest.raises(DeclarationError, match=r"mail.include\(...\) takes another Service"):
            service.include(other)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "Mail", "9mail", "mail.er", "mail er", "m" * 101, "mäil", "mail\n"])
def test_names_of_services_are_plain(name: str) -> None:
    with pytest.raises(DeclarationError, match="can't name a service"):
        Service(name)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": "a b"}, "can't name a handler"),
    ({"name": "a.b"}, "can't name a handler"),
    ({"concurrency": 0}, "concurrency must be at least 1"),
    ({"timeout_s": 0}, "timeout_s above 0"),
    ({"order": "none", "on_dead": "waits"}, "with order='none' no event waits for another"),
    (
        {"order": "feed", "concurrency": 4},
        "with order='feed' one event is handled at a time, so concurrency=4 has no effect",
    ),
    ({"start": datetime(2030, 1, 1)}, "no time zone"),  # noqa: DTZ001 -- naive on purpose
    ({"errors": {"Broken": Dead}}, "maps exception classes"),
    ({"errors": {ValueError: "dead"}}, r"use Retry\(...\), Dead or Drop"),
    ({"errors": {ValueError: Dead()}}, "without parentheses"),
    ({"errors": {ValueError: Retry}}, r"Write Retry\(\)"),
    ({"errors": Dead}, "not a dict"),
    ({"retires": True}, "no such option: retires. Known: .*replayable, batch"),
    ({"batch": 50}, r"Write batch=Batch\(50\)"),
    ({"batch": Batch}, r"Write batch=Batch\(100\)"),
    ({"retry": 3}, r"Write retry=Retry\(attempts=3\)"),
    ({"retry": Retry}, r"not a Retry\(...\)"),
    ({"retry": None}, r"Retry\(attempts=1\) to try once"),
    ({"retry": Dead}, "errors={Exception: Dead}"),
    ({"start": "later"}, "neither 'earliest', nor 'now'.*Perhaps start='now'"),
    ({"start": 17}, "neither 'earliest'"),
    ({"concurrency": "many"}, "concurrency must be at least 1, a whole number, not 'many'"),
    ({"concurrency": 2.5}, "whole number"),
    ({"timeout_s": None}, "number of seconds.*not None"),
    ({"timeout_s": timedelta(minutes=2)}, "timeout_s=120"),
    ({"replayable": "yes"}, "True or False"),
    ({"on_dead": "stop"}, "on_dead='stop' must be 'goes_on' or 'waits'"),
    ({"order": "keys"}, "order='keys' must be 'key', 'none' or 'feed'"),
    ({"name": 3}, "can't name a handler"),
    ({"name": "mail.nothing"}, "Write name='nothing'"),
    ({"renamed_from": "mail.old"}, "renamed_from='old'"),
    ({"renamed_from": 3}, "renamed_from='old_name'"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_a_wrong_option_is_an_error_that_names_the_handler(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message) as raised:
        Service("mail").on(Placed, **options)(nothing)
    assert "mail." in str(raised.value)


def test_a_handler_needs_event_types() -> None:
    with pytest.raises(DeclarationError, match="needs the event types"):
        Service("mail").on()(nothing)
    with pytest.raises(DeclarationError, match="is not an event"):
        Service("mail").on(int)(nothing)  # type: ignore[arg-type]
    with pytest.raises(DeclarationError, match="one event type"):
        Service("mail").on(Placed, OtherPlaced)(nothing)  # type: ignore[arg-type]


def test_a_decorator_without_its_types_is_refused_where_it_stands() -> None:
    service: Any = Service("mail")
    with pytest.raises(DeclarationError, match=r"in parentheses: @mail\.on\(OrderPlaced\)"):
        service.on(nothing)
    with pytest.raises(DeclarationError, match="give the class: Placed"):
        service.on(Placed())
    with pytest.raises(DeclarationError, match="side by side"):
        service.on([Placed, Cancelled])
    with pytest.raises(DeclarationError, match="stands above a function"):
        service.on(Placed)(3)
    assert not service.handlers


async def with_yield(event: Placed) -> AsyncIterator[Cancelled]:
    yield Cancelled()


def test_a_handler_returns_its_events() -> None:
    service: Any = Service("mail")
    with pytest.raises(DeclarationError, match="returns its events"):
        service.on(Placed)(with_yield)


async def resources() -> AsyncIterator[int]:
    yield 1


class Noting(Middleware):
    pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"publishes": Placed}, "names contexts, not event classes: write publishes='orders'"),
        ({"publishes": ["mail", Placed]}, "not event classes"),
        ({"publishes": 3}, "names contexts"),
        ({"tables": 3}, "neither the name of a file of SQL"),
        ({"tables": Path("mail.sql")}, "such as tables='mail.sql'"),
        ({"lifespan": 5}, "asynccontextmanager above it"),
        ({"lifespan": resources}, "put @asynccontextmanager above resources"),
        ({"lifespan": asynccontextmanager(resources)()}, "not called"),
        ({"errors": {ValueError: 3}}, r"use Retry\(...\), Dead or Drop"),
        ({"errors": 3}, "not a dict"),
        ({"middleware": Noting()}, r"middleware=\[Noting\(\)\]"),
        ({"middleware": [Noting]}, r"such as Noting\(\)"),
        ({"middleware": ["log"]}, "subclasses of Middleware"),
    ],
)
def test_a_wrong_option_of_a_service_is_an_error_that_names_it(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message) as raised:
        Service("mail", **options)
    assert "Service('mail')" in str(raised.value)
    with pytest.raises(DeclarationError, match="can't name a service"):
        Service(3)  # type: ignore[arg-type]


async def three(event: Placed, delivery: Delivery, more: int) -> None: ...


async def none() -> None: ...


async def some_defaults(event: Placed, more: int = 3) -> None: ...


def test_a_handler_takes_the_event_and_perhaps_the_delivery() -> None:
    service: Any = Service("mail")
    for function, count in ((three, 3), (none, 0)):
        with pytest.raises(DeclarationError, match=f"takes {count} arguments"):
            service.on(Placed)(function)
    service.on(Placed)(some_defaults)
    assert not service.handlers["some_defaults"].wants_delivery


async def returns_several(events: list[Placed]) -> list[Cancelled]:
    return []


def returns_one_or_several(events: list[Placed]) -> Cancelled | list[Cancelled]:
    return []


async def returns_none(events: list[Placed]) -> None: ...


async def returns_perhaps(events: list[Placed]) -> Cancelled | None: ...


async def returns_anything(events: list[Placed]) -> Any: ...


async def returns_unknown(events: list[Placed]) -> list[NotHere]:  # type: ignore[name-defined]  # noqa: F821
    return []


async def says_nothing(events):  # type: ignore[no-untyped-def]
    ...


@pytest.mark.parametrize("function", [returns_several, returns_one_or_several])
def test_a_batch_handler_that_is_to_return_events_is_told_what_to_write(function: Any) -> None:
    service: Any = Service("mail")
    message = (
        rf"mail.{function.__name__} is a batch handler and is to return .*Cancelled.* delivery.publish\(event, cause="
    )
    with pytest.raises(DeclarationError, match=message):
        service.on(Placed, batch=Batch(10))(function)


@pytest.mark.parametrize("function", [returns_none, returns_perhaps, returns_anything, returns_unknown, says_nothing])
def test_a_batch_handler_that_may_return_nothing_is_taken(function: Any) -> None:
    service: Any = Service("mail")
    service.on(Placed, batch=Batch(10))(function)


def test_two_handlers_of_one_name_are_refused() -> None:
    service = Service("mail")
    service.on(Placed)(nothing)
    with pytest.raises(DeclarationError, match="give one of them name="):
        service.on(Cancelled, name="nothing")(nothing_else)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Retry(attempts=0),
        lambda: Retry(attempts=None),
        lambda: Retry(attempts="3"),  # type: ignore[arg-type]
        lambda: Retry(within=5),  # type: ignore[arg-type]
        lambda: Retry(immediate=0.5),  # type: ignore[arg-type]
        lambda: Retry(first_s=None),  # type: ignore[arg-type]
        lambda: Retry(most_s=float("nan")),
        lambda: Batch("100"),  # type: ignore[arg-type]
        lambda: Batch(100, within_ms=timedelta(1)),  # type: ignore[arg-type]
        lambda: Retry(immediate=-1),
        lambda: Retry(first_s=0),
        lambda: Retry(factor=0.5),
        lambda: Retry(first_s=10, most_s=1),
        lambda: Batch(0),
        lambda: Batch(5, within_ms=-1),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_when_it_is_made(wrong: Callable[[], Any]) -> None:
    with pytest.raises(DeclarationError):
        wrong()


def test_seconds_in_place_of_a_timedelta_are_shown_as_one() -> None:
    with pytest.raises(DeclarationError, match=r"Retry\(within=timedelta\(seconds=5\)\)"):
        Retry(within=5)  # type: ignore[arg-type]


# --- tables -----------------------------------------------------------------------------------------------------------


def test_a_file_of_tables_is_looked_for_beside_the_module(tmp_path: Path) -> None:
    (tmp_path / "mail.sql").write_text("create table mail_sent (id text)")
    module = tmp_path / "mail_service.py"
    module.write_text('from eventspine import Service\nmail = Service("mail", tables="mail.sql")\n')
    spec = importlib.util.spec_from_file_location("mail_service", module)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    assert loaded.mail.tables == str(tmp_path / "mail.sql")
    with pytest.raises(DeclarationError, match="there is no file"):
        Service("mail", tables="missing.sql")


async def test_tables_run_once_per_version_before_the_first_delivery(tmp_path: Path) -> None:
    script = tmp_path / "mail.sql"
    script.write_text("create table mail_sent (id text);")
    seen: list[int] = []

    def service() -> Service[Any]:
        mail: Service[Any] = Service("mail", tables=str(script))

        @mail.on(Placed)
        async def note(event: Placed, delivery: Delivery) -> None:
            (row,) = await delivery.query("select count(*) as n from mail_sent")
            delivery.execute("insert into mail_sent (id) values ('x')")
            seen.append(row["n"])

        return mail

    async with Spine(f"sqlite:///{tmp_path / 'spine.db'}", service=SHOP) as spine:
        await spine.publish(Placed())
        for _ in range(2):
            async with spine.running(service()):
                await until(lambda: seen)
        script.write_text("alter table mail_sent add column note text;")
        await spine.publish(Placed())
        async with spine.running(service()):
            await until(lambda: len(seen) == 2)
        (row, _) = await spine.journal.query("select * from mail_sent", {})
    assert seen == [0, 1]
    assert row == {"id": "x", "note": None}


async def test_tables_may_be_a_function_with_a_version(tmp_path: Path) -> None:
    ran: list[str] = []

    def tables(connection: Any) -> None:
        ran.append(tables.version)  # type: ignore[attr-defined]
        connection.execute(f"create table mail_{len(ran)} (id text)")

    mail: Service[Any] = Service("mail", tables=tables)
    async with Spine(f"sqlite:///{tmp_path / 'spine.db'}", service=SHOP) as spine:
        for version in ("1", "1", "2"):
            tables.version = version  # type: ignore[attr-defined]
            async with spine.running(mail):
                pass
    assert ran == ["1", "2"]


# --- resources ----------------------------------------------------------------------------------------------------------


class Clients:
    def __init__(self) -> None:
        self.sent: list[str] = []
        self.open = True


async def test_resources_are_made_once_reach_every_delivery_and_are_closed() -> None:
    made: list[Clients] = []

    @asynccontextmanager
    async def clients() -> AsyncIterator[Clients]:
        made.append(Clients())
        yield made[-1]
        made[-1].open = False

    mail = Service("mail", lifespan=clients)

    @mail.on(Placed)
    async def note(event: Placed, delivery: Delivery[Clients]) -> None:
        assert delivery.resources.open
        delivery.resources.sent.append(event.customer)

    async with Spine("memory://", service=SHOP) as spine:
        async with spine.running(mail):
            await spine.publish(Placed(customer="ann"), Placed(customer="bob"))
            await until(lambda: len(made[0].sent) == 2)
            assert made[0].open
    assert len(made) == 1
    assert not made[0].open


async def test_a_spine_touches_neither_signals_nor_logging() -> None:
    import logging
    import signal

    def state() -> list[Any]:
        root = logging.getLogger()
        handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        return [*handlers, list(root.handlers), root.level, logging.getLogRecordFactory()]

    before = state()
    async with Spine("memory://", service=SHOP) as spine, spine.running(Service("mail")):
        assert state() == before
    assert state() == before


def test_a_spine_may_be_made_before_there_is_a_loop_or_a_file(tmp_path: Path) -> None:
    Spine(f"sqlite:///{tmp_path / 'spine.db'}", service=SHOP)
    assert list(tmp_path.iterdir()) == []


async def test_it_opens_at_first_use(tmp_path: Path) -> None:
    spine = Spine(f"sqlite:///{tmp_path / 'spine.db'}", service=SHOP)
    assert (await spine.publish(Placed())).position == 1
    await spine.close()


async def test_without_handlers_a_service_runs_too() -> None:
    async with Spine("memory://", service=SHOP) as spine, spine.running(Service("mail")):
        await spine.publish(Placed())
        assert spine.health()["status"] == "ok"
