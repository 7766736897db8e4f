"""Reading a view: the version that is active, whatever versions there are.

Which one that is is looked up with every read, so a switch is seen at once. What was read before the switch may be a few events
ahead of the version that is read after it, since both go on: the first read of it in a process waits until that has come as far.
A reader of a newer release reads the older
version until the switch: columns that this has not yet are their defaults. Where a version is switched away from and
dropped between the two steps of one read, the read is made again."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import msgspec

from ..errors import BeyondColumn, UnitFailed, ViewNotKept, ViewRefused
from ..journal.port import Journal
from ..policies import is_whole
from . import versions
from .columns import INTEGER_MAX, Beyond, Column, _text
from .dialects import Dialect, dialect_of
from .progress import progress_of
from .store import every_note, matching, note_key, notes_kind
from .tables import table_of
from .views import ViewType, describe_view

if TYPE_CHECKING:
    from ..publishing import Receipt
    from .as_of import ViewThen
    from .on_spine import State
    from .token import Token

V = TypeVar("V")
T = TypeVar("T")
TENANT = "spine_tenant"
_SELECT = re.compile(r"\s*(select|with|values)\b", re.IGNORECASE)
_WITH = re.compile(r"\s*with\s+(recursive\s+)?", re.IGNORECASE)


LEVEL_S = 2.0  # that a read waits at most for the version that was switched to
LOOK_S = 0.005
_read_last: WeakKeyDictionary[Journal, dict[str, int]] = WeakKeyDictionary()  # versions, by view


class ViewReader(Generic[V]):
    """What `spine.view(OrdersByCustomer)` gives."""

    def __init__(self, spine: State, view: type[V], tenant: Any = None) -> None:
        self._spine = spine
        self._view = describe_view(view)
        self._tenant = _tenant_of(self._view, tenant)

    # --- rows ---------------------------------------------------------------------------------------------------------

    async def get(self, *key: Any) -> V | None:
        """The row of this key, or None. No row has a key that none can have, such as a text with a NUL."""
        try:
            at = self._view.key_of(key, self._tenant)
        except BeyondColumn:
            return None
        rows = await self._read(lambda source: source.by_key(at))
        return rows[0] if rows else None

    async def all(self, *, order_by: str | Sequence[str] = (), limit: int | None = None, **where: Any) -> list[V]:
        """The rows with these values: `all(country="NL", order_by="-spent", limit=10)`. Without `order_by`, in order of key."""
        if self._tenant is not None:
            where[self._view.tenant or ""] = self._tenant
        self._view.check_names(where)
        order = ordering(self._view, order_by)
        check_limit(self._view, limit)
        try:
            return await self._read(lambda source: source.wanted(where, order, limit))
        except BeyondColumn:
            return []

    async def query(self, sql: str, /, **parameters: Any) -> list[dict[str, Any]]:
        """Rows of a SELECT, in which the view stands under its own name: `select sum(spent) from orders_by_customer`. Values
        are as the database keeps them. Of a view with tenants, it holds the rows of this one alone."""
        journal = await self._journal()
        if not journal.sql:
            raise ViewRefused(f"{self._view.where} is in memory here, and has no SQL. Use get() and all().")
        if not _SELECT.match(sql):
            raise ViewRefused(
                f"query() of {self._view.where} reads: its SQL is a SELECT, and this is {sql.strip():.60}. Rows are changed by "
                "the projection alone, lest they differ from what the events say.",
                view=self._view.name,
            )
        check_texts(self._view, sql, parameters)
        return await self._read(lambda source: self._query(source, sql, parameters))

    async def _query(self, source: _Source, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        own, given = source.named(), dict(parameters)
        if self._tenant is not None:
            own += f' where "{self._view.tenant}" = :{TENANT}'
            tenant = self._view.columns[:1]
            stored = [column.stored(self._tenant, self._view.where) for column in tenant]
            [given[TENANT]] = dialect_of(source.journal).putting(tenant)(stored)
        begun = _WITH.match(sql)
        recursive = "recursive " if begun and begun[1] else ""
        rest = f", {sql[begun.end() :]}" if begun else f" {sql}"
        return await source.journal.query(f'with {recursive}"{self._view.name}" as ({own}){rest}', given)

    # --- when -----------------------------------------------------------------------------------------------------------

    async def wait(self, *events: Receipt | str | Token, timeout_s: float = 2.0) -> None:
        """Wait until this view has what these events (receipts, their ids, or a client's token) made of it; raises
        ViewBehind when it takes longer."""
        from .waiting import wait

        await wait(await self._journal(), self._view, events, timeout_s)

    async def as_of(self, when: datetime | int, *, by: Literal["happened", "recorded"] = "happened") -> ViewThen[V]:
        """The view as it was: made anew, in memory, of what had happened by this time, or of the feed up to a position.
        `by="recorded"`: of what had been recorded here by this time."""
        from .as_of import as_of

        return await as_of(await self._journal(), self._view, when, by, self._tenant)

    # --- inside ---------------------------------------------------------------------------------------------------------

    async def _journal(self) -> Journal:
        await self._spine._at_first_use()
        return self._spine.journal

    async def _read(self, read: Callable[[_Source], Awaitable[T]]) -> T:
        journal = await self._journal()
        source = await self._source(journal)
        try:
            return await read(source)
        except UnitFailed:
            now = await self._source(journal)
            if now.version == source.version:
                raise
            return await read(now)

    async def _source(self, journal: Journal) -> _Source:
        stored = await versions.known(journal, self._view.name)
        if stored is None:
            raise ViewNotKept(
                f"Nobody has kept the view {self._view.name} on this journal yet. Run the service whose projection does: "
                "spine run MODULE, or spine.running(service).",
                view=self._view.name,
            )
        await _come_level(journal, self._view.name, stored)
        version = stored.versions[stored.active]
        if tuple(version.key) != self._view.key or version.tenant != self._view.tenant:
            raise ViewRefused(
                f"Version {stored.active} of {self._view.name}, which is read until version {self._view.version} has caught up, "
                f"is found by {', '.join(version.key)}, and not by {', '.join(self._view.key)}. Read it by the class that it "
                "was declared with, or wait for the switch: spine views list.",
                view=self._view.name,
            )
        columns = [c for c in self._view.columns if version.columns.get(c.name) == c.signature]
        return _Source(journal, self._view, stored.active, columns)


async def _come_level(journal: Journal, name: str, stored: versions.Known) -> None:
    """Lest a row that was read of the version before be of later than the same row now."""
    last = _read_last.setdefault(journal, {})
    before = last.get(name)
    last[name] = stored.active
    if before is None or before == stored.active or before not in stored.kept:
        return
    until = time.monotonic() + LEVEL_S
    reached = await progress_of(journal, stored.service, stored.versions[before].subscription)
    while reached is not None and time.monotonic() < until:
        now = await progress_of(journal, stored.service, stored.versions[stored.active].subscription)
        if now is None or now.position >= reached.position:
            return
        await asyncio.sleep(LOOK_S)


class Order(NamedTuple):
    column: Column
    descending: bool


class _Source(NamedTuple):
    """The rows of one version, wherever they are."""

    journal: Journal
    view: ViewType
    version: int
    columns: list[Column]

    def named(self) -> str:
        return self._selecting(", ".join(f'"{column.name}"' for column in self.columns))

    def _selecting(self, columns: str) -> str:
        return f'select {columns} from "{table_of(self.view.name, self.version)}"'

    async def by_key(self, key: Sequence[Any]) -> list[Any]:
        if not self.journal.sql:
            notes = await self.journal.notes("", notes_kind(self.view.name, self.version), [note_key(tuple(key))])
            return self._rows([msgspec.msgpack.decode(note.value) for note in notes])
        return await self._select(dict(zip(self.view.key, key, strict=True)), [], None)

    async def wanted(self, where: Mapping[str, Any], order: Sequence[Order], limit: int | None) -> list[Any]:
        stored = {
            column.name: column.stored(where[column.name], self.view.where)
            for column in self.view.columns
            if column.name in where
        }
        kept = {column.name for column in self.columns}
        if missing := [name for name in stored if name not in kept]:
            raise ViewRefused(
                f"Version {self.version} of {self.view.name} has no {missing[0]} yet; it will have when version "
                f"{self.view.version} has caught up: spine views list.",
                view=self.view.name,
            )
        if self.journal.sql:
            return await self._select(stored, order, limit)
        rows = matching(await every_note(self.journal, notes_kind(self.view.name, self.version)), stored)
        return ordered(self._rows(rows), order)[:limit]

    async def _select(self, where: Mapping[str, Any], order: Sequence[Order], limit: int | None) -> list[Any]:
        tests = [f'"{n}" is null' if value is None else f'"{n}" = :{n}' for n, value in where.items()]
        dialect = dialect_of(self.journal)
        by = [*(_ordering(one, dialect) for one in order), *(f'"{name}"' for name in self.view.key)]
        selected = self._selecting(dialect.selected(self.columns))
        sql = selected + (" where " + " and ".join(tests) if tests else "") + f" order by {', '.join(by)}"
        columns = [column for column in self.columns if where.get(column.name) is not None]
        given = dialect.putting(columns)([where[column.name] for column in columns])
        values = dict(zip([column.name for column in columns], given, strict=True))
        if limit is not None:
            sql, values = f"{sql} limit :spine_limit", {**values, "spine_limit": limit}
        got, names = dialect.getting(self.columns), [column.name for column in self.columns]
        found = await self.journal.query(sql, values)
        return self._rows([dict(zip(names, got(list(row.values())), strict=True)) for row in found])

    def _rows(self, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
        cls, columns = self.view.cls, self.columns
        return [cls(**{c.name: c.loaded(row[c.name]) for c in columns}) for row in rows]


def ordered(rows: list[V], order: Sequence[Order]) -> list[V]:
    for column, descending in reversed(order):
        name = column.name
        rows = sorted(rows, key=lambda row: (getattr(row, name) is not None, getattr(row, name)), reverse=descending)
    return rows


def _ordering(one: Order, dialect: Dialect) -> str:
    """No value is less than any, on each database."""
    name = f'"{one.column.name}"'
    if one.column.kind == "decimal":
        name = dialect.decimal_order.format(name)
    nulls = f" nulls {'last' if one.descending else 'first'}" if one.column.nullable else ""
    return f"{name}{' desc' if one.descending else ''}{nulls}"


def ordering(view: ViewType, order_by: str | Sequence[str]) -> list[Order]:
    columns = {column.name: column for column in view.columns}
    order = []
    for said in [order_by] if isinstance(order_by, str) else order_by:
        name = said.removeprefix("-")
        if name not in columns:
            raise ViewRefused(f"{view.where} has no column {name!r} to order by; it has {', '.join(columns)}.")
        order.append(Order(columns[name], said.startswith("-")))
    return order


def check_limit(view: ViewType, limit: Any) -> None:
    if limit is not None and not (is_whole(limit) and 0 <= limit <= INTEGER_MAX):
        raise ViewRefused(f"limit={limit!r:.40} of {view.where} is no number of rows: say 0 or more.", view=view.name)


def check_texts(view: ViewType, sql: str, parameters: Mapping[str, Any]) -> None:
    """A client's text may be what no database takes."""
    for name, value in [("its SQL", sql), *((f":{name}", value) for name, value in parameters.items())]:
        if isinstance(value, str):
            try:
                _text(value)
            except Beyond as error:
                raise BeyondColumn(
                    f"{name}, of a query of {view.where}, can't be asked for: {error}.", view=view.name
                ) from None


def _tenant_of(view: ViewType, tenant: Any) -> Any:
    if view.tenant is None:
        if tenant is not None:
            raise ViewRefused(f"{view.where} has no tenants; leave tenant= out.", view=view.name)
        return None
    if tenant is None:
        raise ViewRefused(
            f"The rows of {view.where} belong to tenants, and a reader sees those of one: "
            f"spine.view({view.where}, tenant=...).",
            view=view.name,
        )
    view.columns[0].stored(tenant, view.where)  # refuses what is no tenant
    return tenant
