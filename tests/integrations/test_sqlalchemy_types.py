"""`as_sql` with every common type of column, beside the ORM on the same database: each finds, and reads, what the other stored."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import UUID, uuid4

import pytest
from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Dialect,
    Engine,
    Enum,
    Float,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    PickleType,
    String,
    Table,
    Text,
    Time,
    TypeDecorator,
    Uuid,
    create_engine,
    delete,
    func,
    insert,
    select,
    text,
    update,
)  # fmt: skip
from sqlalchemy.dialects.postgresql import INET, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.schema import CreateTable

from eventspine import Delivery, Event, Retry, Service, Spine, View
from eventspine.errors import DeclarationError
from eventspine.integrations.sqlalchemy import as_sql, view_table
from tests.engine.material import rows, subscription, until


class Asked(Event, context="till", key="order"):
    order: str = "o-1"


class State(enum.Enum):
    OPEN = "open"
    PAID = "paid"


class Cents(TypeDecorator[Decimal]):
    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else int(value * 100)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else Decimal(value) / 100


COLUMNS: dict[str, tuple[Any, Any]] = {
    "an_int": (Integer(), -7),
    "a_big_int": (BigInteger(), 2**40),
    "a_text": (Text(), "o'neil % :x"),
    "a_string": (String(20), "ünder"),
    "a_bool": (Boolean(), True),
    "a_float": (Float(), 0.5),
    "a_number": (Numeric(10, 2), Decimal("2.50")),
    "a_date": (Date(), date(2026, 1, 2)),
    "a_time": (Time(), time(12, 30, 1)),
    "a_datetime": (DateTime(), datetime(2026, 1, 2, 12, 0)),  # noqa: DTZ001 -- such as Mapped[datetime] has
    "an_instant": (DateTime(timezone=True), datetime(2026, 1, 2, 12, 0, 0, 5, tzinfo=UTC)),
    "an_interval": (Interval(), timedelta(days=1, seconds=5)),
    "a_uuid": (Uuid(), UUID(int=7)),
    "a_uuid_as_text": (Uuid(as_uuid=False), str(UUID(int=9))),
    "an_enum": (Enum(State), State.PAID),
    "an_enum_as_text": (Enum(State, native_enum=False), State.OPEN),
    "an_enum_by_value": (
        Enum(State, values_callable=lambda kind: [one.value for one in kind], name="by_value"),
        State.PAID,
    ),
    "some_bytes": (LargeBinary(), b"\0\xff"),
    "of_its_own": (Cents(), Decimal("3.25")),
    "a json": (JSON(), {"a": [1, None]}),
    "a_pickle": (PickleType(), {"b": (1, 2)}),
}
ON_POSTGRES: dict[str, tuple[Any, Any]] = {
    "a_jsonb": (JSONB(), {"a": [1, None]}),
    "an_array": (ARRAY(String), ["a", "b"]),
    "enums": (ARRAY(Enum(State, name="state")), [State.OPEN, State.PAID]),
    "an_address": (INET(), "10.0.0.1"),
}
NOT_COMPARED = {"a json", "a_pickle"}  # nor does PostgreSQL compare a json


class Place(NamedTuple):
    """A database with a table that has a column of each type, and a value for each."""

    url: str
    engine: Engine
    speaks: Literal["sqlite", "postgresql"]
    table: Table
    values: dict[str, Any]


@pytest.fixture(params=["sqlite", "postgresql"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    columns = COLUMNS if request.param == "sqlite" else COLUMNS | ON_POSTGRES
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'till.db'}"
        engine = create_engine(url)
    else:
        url, schema = request.getfixturevalue("postgres_url"), request.getfixturevalue("schema")
        at = url.partition("?")[0].replace("postgresql:", "postgresql+psycopg:")
        engine = create_engine(at, connect_args={"options": f"-csearch_path={schema}"})
    table = Table("till_rows", MetaData(), Column("id", Integer, primary_key=True))
    for name, (kind, _) in columns.items():
        table.append_column(Column(name, kind))
    async with Spine(url):
        pass  # makes the schema
    table.metadata.create_all(engine)
    yield Place(url, engine, request.param, table, {name: value for name, (_, value) in columns.items()})
    engine.dispose()


async def in_a_handler(place: Place, work: Callable[[Delivery], Awaitable[Any]]) -> Any:
    """What `work` gives back, once the unit that it filled is stored."""
    service, found = Service("books"), list[Any]()

    @service.on(Asked, retry=Retry(attempts=1))
    async def handle(event: Asked, delivery: Delivery) -> None:
        found.append(await work(delivery))

    async with Spine(place.url, service=Service("till")) as spine, spine.running(service):
        await spine.publish(Asked())
        await until(lambda: subscription(spine).handled)
        assert [] == [one.error for one in await rows(spine, "dead")]
    return found[0]


async def change(place: Place, *statements: Any) -> None:
    async def work(delivery: Delivery) -> None:
        for one in statements:
            sql, values = as_sql(one, place.speaks)
            delivery.execute(sql, **values)

    await in_a_handler(place, work)


async def counts(place: Place, wheres: dict[str, Any]) -> dict[str, int]:
    async def work(delivery: Delivery) -> dict[str, int]:
        found = {}
        for name, where in wheres.items():
            sql, values = as_sql(select(func.count().label("n")).select_from(place.table).where(where), place.speaks)
            (row,) = await delivery.query(sql, **values)
            found[name] = row["n"]
        return found

    found: dict[str, int] = await in_a_handler(place, work)
    return found


def read(place: Place) -> list[dict[str, Any]]:
    """As SQLAlchemy reads them, in order."""
    with place.engine.connect() as connection:
        return [dict(row) for row in connection.execute(select(place.table).order_by(place.table.c.id)).mappings()]


def as_stored(place: Place) -> list[list[Any]]:
    names = ", ".join(f'"{name}"' for name in place.values)
    with place.engine.connect() as connection:
        return [list(row) for row in connection.execute(text(f"select {names} from till_rows order by id"))]


async def test_what_as_sql_inserts_is_what_sqlalchemy_would_have(place: Place) -> None:
    with place.engine.begin() as connection:
        connection.execute(insert(place.table).values(id=1, **place.values))
    await change(place, insert(place.table).values(id=2, **place.values))
    by_alchemy, by_us = as_stored(place)
    assert by_alchemy == by_us
    by_alchemy, by_us = read(place)
    assert {**by_alchemy, "id": 2} == by_us


async def test_what_sqlalchemy_inserted_is_found_by_each_column(place: Place) -> None:
    with place.engine.begin() as connection:
        connection.execute(insert(place.table).values(id=1, **place.values))
        connection.execute(insert(place.table).values(id=2))
    compared = {name: place.table.c[name] for name in place.values if name not in NOT_COMPARED}
    equal = {name: column == place.values[name] for name, column in compared.items()}
    one_of = {f"{name} in": column.in_([place.values[name]]) for name, column in compared.items()}
    found = await counts(place, equal | one_of)
    assert dict.fromkeys(found, 1) == found


async def test_what_is_updated_is_what_sqlalchemy_would_have(place: Place) -> None:
    with place.engine.begin() as connection:
        connection.execute(insert(place.table).values(id=1, **place.values))
        connection.execute(insert(place.table).values([{"id": 2}, {"id": 3}]))
    await change(
        place,
        update(place.table).where(place.table.c.id == 2).values(place.values),
        delete(place.table).where(place.table.c.id.in_([3, 4])),
    )
    by_alchemy, by_us = as_stored(place)
    assert by_alchemy == by_us


# --- the ORM ------------------------------------------------------------------------------------------------------------


class Base(DeclarativeBase):
    pass


class Invoice(Base):
    __tablename__ = "till_invoices"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    state: Mapped[State] = mapped_column(default=State.OPEN)
    at: Mapped[datetime]
    amount: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    note: Mapped[str] = mapped_column("a note", default=lambda: "made in Python")
    changed: Mapped[int] = mapped_column(default=0, onupdate=1)


AT = datetime(2026, 1, 1, 12, 0)  # noqa: DTZ001 -- such as Mapped[datetime] has


async def test_the_orm_reads_what_as_sql_inserted_with_its_defaults(place: Place) -> None:
    Base.metadata.create_all(place.engine)
    await change(place, insert(Invoice).values(at=AT, amount=Decimal("2.50")))
    with Session(place.engine) as session:
        (found,) = session.scalars(select(Invoice))
        assert session.get(Invoice, found.id) is found
    assert (State.OPEN, AT, Decimal("2.50")) == (found.state, found.at, found.amount)
    assert ("made in Python", 0) == (found.note, found.changed)


async def test_as_sql_finds_and_changes_rows_of_the_orm(place: Place) -> None:
    Base.metadata.create_all(place.engine)
    with Session(place.engine) as session:
        session.add(made := Invoice(at=AT, amount=Decimal("2.50")))
        session.commit()
        mine = made.id
    await change(place, update(Invoice).where(Invoice.id == mine, Invoice.at <= AT).values(state=State.PAID))
    with Session(place.engine) as session:
        found = session.get_one(Invoice, mine)
        assert (State.PAID, 1) == (found.state, found.changed)


# --- a view's columns, whose values the journal keeps --------------------------------------------------------------------


class Seen(View, key="order"):
    order: str
    amount: Decimal = Decimal(0)
    who: UUID = UUID(int=0)
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    state: State = State.OPEN


async def test_a_view_finds_its_own_rows_by_expressions(place: Place) -> None:
    """Its values are not as SQLAlchemy stores them on SQLite: a Decimal is a text, and a time has its zone."""
    service, kept = Service("books"), view_table(Seen)
    who, at = UUID(int=5), datetime(2026, 1, 2, 12, 0, tzinfo=UTC)

    @service.projection(Seen, Asked)
    def keep(view: View[Seen], event: Asked) -> None:
        row = view.row(event.order)
        row.amount, row.who, row.at, row.state = Decimal("2.50"), who, at, State.PAID

    wheres = [
        kept.c.amount == Decimal("2.50"),
        kept.c.who == who,
        kept.c.at == at,
        kept.c.at.in_([at]),
        kept.c.state == State.PAID,
        kept.c.order + "x" == "o-1x",
        kept.c.order.like("o-%"),
        func.coalesce(kept.c.order, "") == "o-1",
    ]
    async with Spine(place.url, service=Service("till")) as spine, spine.running(service):
        receipt = await spine.publish(Asked())
        view = spine.view(Seen)
        await view.wait(receipt, timeout_s=20)
        for where in wheres:
            sql, values = as_sql(select(kept.c.order).where(where), place.speaks)
            assert [{"order": "o-1"}] == await view.query(sql, **values), sql


# --- what is no statement -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["select 1", None, Invoice, Invoice.note == "x", CreateTable(Invoice.__table__)])
def test_what_is_no_statement_is_refused_in_words(wrong: Any) -> None:
    with pytest.raises(DeclarationError, match=r"as_sql takes a statement of SQLAlchemy's: select\(...\)"):
        as_sql(wrong)


def test_another_dialect_is_refused_in_words() -> None:
    with pytest.raises(DeclarationError, match=r"no 'postgres'\. Perhaps 'postgresql'\?"):
        as_sql(select(Invoice), "postgres")  # type: ignore[arg-type]
