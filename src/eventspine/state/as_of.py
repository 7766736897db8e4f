"""A view as it was: folded from the feed into memory, by the projection that keeps it now.

Nothing is written, and nothing but rows comes of it. What retention has deleted is lacking, so who asks for the past of a
feed that has lost events is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..clock import us_of
from ..errors import BeyondColumn, SettingsError, ViewRefused
from ..journal.pages import feed
from ..journal.port import Journal
from ..wording import plural
from . import cut_streams
from .reading import check_limit, ordered, ordering
from .rows import Key, Rows
from .views import ViewType

if TYPE_CHECKING:
    from .projections import Projection

V = TypeVar("V")


class ViewThen(Generic[V]):
    """The rows of a view as they were; read without waiting."""

    def __init__(self, view: ViewType, rows: Mapping[Key, V], position: int, tenant: Any) -> None:
        self._view = view
        self._rows = rows
        self._tenant = tenant
        self.position = position  # of the last event that is in it

    def get(self, *key: Any) -> V | None:
        try:
            return self._rows.get(self._view.key_of(key, self._tenant))
        except BeyondColumn:
            return None

    def all(self, *, order_by: str | Sequence[str] = (), limit: int | None = None, **where: Any) -> list[V]:
        if self._tenant is not None:
            where[self._view.tenant or ""] = self._tenant
        order = ordering(self._view, order_by)
        self._view.check_names(where)
        check_limit(self._view, limit)
        try:
            for column in self._view.columns:
                if column.name in where:
                    column.stored(where[column.name], self._view.where)
        except BeyondColumn:
            return []
        rows = [
            self._rows[key]
            for key in sorted(self._rows)
            if all(getattr(self._rows[key], name) == value for name, value in where.items())
        ]
        return ordered(rows, order)[:limit]

    def __len__(self) -> int:
        return len(self._rows)


async def as_of(journal: Journal, view: ViewType, when: datetime | int, by: str, tenant: Any) -> ViewThen[Any]:
    projection = _projection_of(view)
    upto, happened_us = await _bounds(journal, when, by)
    await _check_whole(journal, projection)
    rows, position = await fold(journal, projection, upto, happened_us)
    await _check_whole(journal, projection)  # nor was anything deleted meanwhile
    if tenant is not None:
        own = view.columns[0].stored(tenant, view.where)
        rows = {key: row for key, row in rows.items() if key[0] == own}
    return ViewThen(view, rows, position, tenant)


async def fold(
    journal: Journal, projection: Projection, upto: int, happened_us: int | None
) -> tuple[dict[Key, Any], int]:
    """All rows that come of the feed up to this position (of what had happened by this time), and where that ends."""
    rows, position, tenants = Rows(projection.view, "", sql=False, everything=True), 0, projection.tenant_of
    rows.record_of = lambda record: record
    kinds = {name: kind for kind in projection.types for name in kind.names}
    async for record in feed(journal, 0, upto, channels=projection.channels, types=sorted(kinds)):
        if happened_us is not None and record.time_us > happened_us:
            continue
        kind = kinds[record.type]
        event = kind.read(record.data, record.version)
        rows.turn_to(tenants[kind.cls](event) if tenants else None, None)
        rows.current = record
        projection.function(rows, event)
        position = record.position
    store, load = projection.view.store, projection.view.load
    # As its columns keep it: what can't be stored there is refused here as well.
    return {key: load(store(row)) for key, row in rows.live.items() if row is not None}, position


def _projection_of(view: ViewType) -> Projection:
    if view.projection is None:
        raise ViewRefused(
            f"What {view.where} was is folded by its projection, which is not known here. Import the module that declares it: "
            f"@service.projection({view.where}, ...).",
            view=view.name,
        )
    return view.projection


async def _bounds(journal: Journal, when: datetime | int, by: str) -> tuple[int, int | None]:
    """Up to which position, and, of what happened, up to which time."""
    if by not in ("happened", "recorded"):
        raise SettingsError(f'by={by!r} is neither "happened" nor "recorded".')
    if isinstance(when, int) and not isinstance(when, bool) and when >= 0:
        if when > (head := await journal.head()):
            raise ViewRefused(
                f"There is no position {when:,} yet: the feed ends at {head:,}. What will be in it nobody can say."
            )
        return when, None
    if not isinstance(when, datetime) or when.tzinfo is None:
        raise SettingsError(f"as_of({when!r}) is neither a position nor an aware datetime.")
    if by == "recorded":
        return await journal.position_at(us_of(when) + 1), None
    return await journal.head(), us_of(when)


async def _check_whole(journal: Journal, projection: Projection) -> None:
    if (gone := await projection.lacks(journal)) is not None:
        raise ViewRefused(
            f"The past of {projection.view.name} can't be told: {plural(gone.events, 'event')} of {gone.channel} "
            f"{'was' if gone.events == 1 else 'were'} deleted, the last at position {gone.position:,}{await cut_streams.told(journal, gone)}. "
            'A projection with history="what_is_left" is folded of those that are left.',
            view=projection.view.name,
        )
