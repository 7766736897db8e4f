"""Views in SQLAlchemy: `table_of(OrdersByCustomer)` is its table, for statements that a projection executes.

    @orders.projection(OrdersByCustomer, OrderPlaced)
    def count(view: View[OrdersByCustomer], event: OrderPlaced) -> None:
        table = table_of(OrdersByCustomer)
        new = insert(table).values(customer_id=event.customer_id, orders=1)
        view.execute(new.on_conflict_do_update(index_elements=["customer_id"], set_={"orders": table.c.orders + 1}))

Statements are compiled here and run by the journal, in the projection's unit: SQLAlchemy has no connection of its own in
this. Values are kept as views keep them, money as decimal text."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtra
from ..state.columns import Column, Dialect, for_postgres
from ..state.tables import table_of as table_name
from ..state.views import describe_view

try:
    import sqlalchemy
    from sqlalchemy.dialects import postgresql, sqlite
except ImportError as missing:
    raise MissingExtra(
        "eventspine.integrations.sqlalchemy_views needs SQLAlchemy: pip install 'eventspine[sqlalchemy]'."
    ) from missing

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect as Engine

_PLAIN: dict[str, Any] = {
    "text": sqlalchemy.Text,
    "integer": sqlalchemy.BigInteger,
    "real": sqlalchemy.Float,
    "blob": sqlalchemy.LargeBinary,
    "boolean": sqlalchemy.Boolean,
}


class Kept(sqlalchemy.types.TypeDecorator[Any]):
    """A value as a view keeps it."""

    impl = sqlalchemy.Text
    cache_ok = True

    def __init__(self, column: Column) -> None:
        super().__init__()
        self._column = column

    def process_bind_param(self, value: Any, dialect: Engine) -> Any:
        if value is None:
            return None
        stored = self._column.stored(value, "The statement")
        return for_postgres(self._column.kind, stored) if dialect.name == "postgresql" else stored

    def process_result_value(self, value: Any, dialect: Engine) -> Any:
        return self._column.loaded(value)


@cache
def table_of(view: type) -> sqlalchemy.Table:
    """The table of this version of the view."""
    kind = describe_view(view)
    columns: list[sqlalchemy.Column[Any]] = [
        sqlalchemy.Column(
            column.name,
            _PLAIN[column.kind]() if column.kind in _PLAIN and column.load is None else Kept(column),
            primary_key=column.name in kind.key,
            nullable=column.nullable,
        )
        for column in kind.columns
    ]
    return sqlalchemy.Table(table_name(kind.name, kind.version), sqlalchemy.MetaData(), *columns)


def compiled(statement: Any, dialect: Dialect) -> tuple[str, dict[str, Any]]:
    """A statement as text, and its values by name."""
    engine = _engine(dialect)
    found = statement.compile(dialect=engine, compile_kwargs={"render_postcompile": True})
    values = dict(found.params)
    for name, bound in found.binds.items():
        process = bound.type.dialect_impl(engine).bind_processor(engine)
        if process is not None and name in values:
            values[name] = process(values[name])
    return str(found), values


@cache
def _engine(dialect: Dialect) -> Any:
    kind: Any = postgresql.dialect if dialect == "postgres" else sqlite.dialect
    return kind(paramstyle="named")
