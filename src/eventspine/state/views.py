"""Views: tables that projections keep, declared as classes.

    class OrdersByCustomer(View, key="customer_id"):
        customer_id: str
        orders: int = 0
        spent: Decimal = Decimal(0)

A row that was never written is its defaults, which is why every column but those of the key has one. The table is made by
us, one for each version of the view, and which version is read is a note of the journal: so a new version is built beside
the old one, and readers go from one to the other at once.

Nothing is registered anywhere: what is known about a view is kept on its class."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Generic, TypeVar, dataclass_transform

import msgspec

from ..errors import DeclarationError, ViewRefused
from ..events.declare import resolve_local  # the same for events: a test declares them where it uses them
from ..policies import is_whole
from ..wording import plural
from .columns import INTEGER_MAX, KEY_KINDS, Column, columns_of

if TYPE_CHECKING:
    from typing_extensions import TypeVar as WithDefault

    from .projections import Projection

    V = WithDefault("V", default=Any)
else:
    V = TypeVar("V")

_STORED = "__spine_view__"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_COLUMN = re.compile(r"[a-z][a-z0-9_]{0,59}", re.IGNORECASE)
_TABLES_NOT_OURS = ("spine_", "sqlite_")
_WORDS = frozenset(
    {"row", "get", "delete", "execute", "table", "happened", "recorded"}
)  # what a projection says to the view
KeyNames = str | tuple[str, ...]


class ViewType:
    """A view's class as the rest of the spine uses it; `describe_view(cls)` gives it."""

    def __init__(self, cls: type, key: Any, name: Any, version: Any, tenant: Any) -> None:
        self.cls = cls
        self.name: Any = _snake(cls.__name__) if name is None else name
        self.version: Any = version
        self.tenant: str | None = tenant
        self.given = (key,) if isinstance(key, str) else tuple(key) if isinstance(key, (tuple, list)) else ()
        self.key: tuple[str, ...] = (tenant, *self.given) if tenant is not None else self.given
        self.projection: Projection | None = None  # who fills it; known where its module has been imported
        self._check()

    def __repr__(self) -> str:
        return f"<ViewType {self.name} version {self.version}>"

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """Those of the key first. Raises NameError while a type isn't defined yet."""
        found = {column.name: column for column in columns_of(self.cls)}
        columns = [*(found[name] for name in self.key), *(found[name] for name in found if name not in self.key)]
        self._check_columns(columns)
        return tuple(columns)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @cached_property
    def signature(self) -> dict[str, str]:
        """What makes a table one of this version."""
        return {column.name: column.signature for column in self.columns}

    @property
    def where(self) -> str:
        return self.cls.__name__

    # --- rows -------------------------------------------------------------------------------------------------------

    def key_of(self, given: Sequence[Any], tenant: Any = None) -> tuple[Any, ...]:
        """A row's key as it is stored, of what was said for it."""
        parts = given if self.tenant is None else (tenant, *given)
        if len(parts) != len(self.key):
            wanted = ", ".join(self.given) or "nothing"
            raise ViewRefused(
                f"A row of {self.where} is named by {wanted}; {plural(len(given), 'value was', 'values were')} given.",
                view=self.name,
            )
        return tuple([column.stored(part, self.where) for column, part in zip(self.columns, parts, strict=False)])

    def fresh(self, key: Sequence[Any]) -> Any:
        """A row with its defaults."""
        return self.cls(**{c.name: c.loaded(part) for c, part in zip(self.columns, key, strict=False)})

    @cached_property
    def load(self) -> Callable[[Sequence[Any]], Any]:
        """A row of stored values, in order of the columns."""
        cls, names = self.cls, self.names
        loads = [(index, column.load) for index, column in enumerate(self.columns) if column.load is not None]

        def plain(values: Sequence[Any]) -> Any:
            return cls(**dict(zip(names, values, strict=True)))

        def loaded(values: Sequence[Any]) -> Any:
            changed = list(values)
            for index, load in loads:
                if changed[index] is not None:
                    changed[index] = load(changed[index])
            return plain(changed)

        return loaded if loads else plain

    @cached_property
    def store(self) -> Callable[[Any], tuple[Any, ...]]:
        """The values of a row as they are stored; raises ViewRefused for what its column can't keep."""
        columns, where = self.columns, self.where
        stores = [(column.name, column.store) for column in columns]

        def store(row: Any) -> tuple[Any, ...]:
            try:
                return tuple([of(getattr(row, name)) for name, of in stores])
            except (TypeError, ValueError, msgspec.MsgspecError):
                return tuple([column.stored(getattr(row, column.name), where) for column in columns])

        return store

    def check_names(self, where: Mapping[str, Any]) -> None:
        if unknown := sorted(set(where) - set(self.names)):
            raise ViewRefused(
                f"{self.where} has no column {unknown[0]!r}; it has {', '.join(self.names)}.", view=self.name
            )

    # --- checks -----------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name) or self.name.startswith(_TABLES_NOT_OURS):
            raise self._wrong(
                f"would be kept as {self.name!r}; say name= with lower-case letters, digits and _, at most 40, that does not "
                f"begin with {', '.join(_TABLES_NOT_OURS)}"
            )
        if not is_whole(self.version) or not 1 <= self.version <= INTEGER_MAX:  # 63 letters are a table's name at most
            raise self._wrong(
                f"has version={self.version!r:.80}; a version is a whole number from 1 on, of 63 bits at most"
            )
        if not self.given:
            raise self._wrong(
                f'has no key; name the column, or columns, that a row is found by: key="{_example(self)}"'
            )
        fields = self.cls.__struct_fields__  # type: ignore[attr-defined]
        if self.tenant is not None and not isinstance(self.tenant, str):
            raise self._wrong(f"has tenant={self.tenant!r}; tenant= names a column")
        if missing := [name for name in self.key if name not in fields]:
            raise self._wrong(f"has {missing[0]!r} in its key, but no such column; its columns are {', '.join(fields)}")
        if len(set(self.key)) < len(self.key):
            raise self._wrong("names a column twice in its key; the tenant comes first without being in key=")
        for name in fields:
            _check_column_name(self, name)
        if len({name.lower() for name in fields}) < len(fields):
            raise self._wrong("has two columns whose names differ in case alone; to a database they are one")
        with suppress(NameError):  # a column's type is defined further down: `describe_view` tries again
            self.columns  # noqa: B018 -- resolves the types

    def _check_columns(self, columns: Sequence[Column]) -> None:
        for column in columns[: len(self.key)]:
            if column.kind not in KEY_KINDS or column.nullable:
                raise self._wrong(
                    f"has {column.name!r} in its key, which is kept as {column.kind}{' or null' if column.nullable else ''}; "
                    "a key is made of str, int, UUID, date and enum, and is never optional"
                )
        lacking = [field.name for field in msgspec.structs.fields(self.cls) if field.required]
        if lacking := [name for name in lacking if name not in self.key]:
            raise self._wrong(
                f"has no default for {', '.join(lacking)}: a row that was never written is its defaults. "
                f"Write {lacking[0]}: int = 0, or whatever it begins with"
            )

    def _wrong(self, what: str) -> DeclarationError:
        return DeclarationError(f"The view {self.cls.__name__} {what}.", view=self.cls.__qualname__)


class ViewMeta(msgspec.StructMeta):
    """Takes the class keywords that msgspec doesn't know."""

    def __new__(  # noqa: PYI034 -- a metaclass can't say Self
        mcls,
        class_name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        key: Any = None,
        name: str | None = None,
        version: int = 1,
        tenant: str | None = None,
    ) -> ViewMeta:
        resolve_local(namespace, sys._getframe(1))
        cls = super().__new__(mcls, class_name, bases, namespace, kw_only=True)
        if any(isinstance(base, ViewMeta) for base in bases):
            setattr(cls, _STORED, ViewType(cls, key, name, version, tenant))
        return cls


def describe_view(cls: Any) -> ViewType:
    """What is known about a view's class."""
    found: ViewType | None = vars(cls).get(_STORED) if isinstance(cls, type) else None
    if found is None:
        name = getattr(cls, "__name__", repr(cls))
        raise DeclarationError(f'{name} is no view. Derive it from View: class {name}(View, key="..."): ...')
    try:
        found.columns  # noqa: B018 -- resolves the types
    except NameError as error:
        raise DeclarationError(
            f"{cls.__name__} has a column whose type can't be found: {error}. Define that type in the module of the view, "
            "outside of functions and of `if TYPE_CHECKING`."
        ) from error
    return found


if TYPE_CHECKING:

    @dataclass_transform(kw_only_default=True, field_specifiers=(msgspec.field,))
    class View(Generic[V]):
        """A table that a projection keeps: `class OrdersByCustomer(View, key="customer_id"): ...`; and, as
        `View[OrdersByCustomer]`, what a projection changes it with.

        `key` names the column, or the tuple of columns, that a row is found by. `version` is raised when its columns or
        its projection change: then it is built anew beside the old one. `name` is what it is called in the database, by
        default the class's in lower case. `tenant` names the column that comes first in every key, and that the event
        says: no projection reaches another tenant's rows, and no reader without saying whose."""

        def __init_subclass__(
            cls, *, key: KeyNames = ..., name: str | None = None, version: int = 1, tenant: str | None = None
        ) -> None: ...

        @property
        def table(self) -> str: ...
        @property
        def happened(self) -> datetime: ...
        @property
        def recorded(self) -> datetime: ...
        def row(self, *key: Any) -> V: ...
        def get(self, *key: Any) -> V | None: ...
        def delete(self, *key: Any) -> None: ...
        def execute(self, sql: str, /, *, expect_rows: int | None = None, **parameters: Any) -> None: ...

else:

    class View(msgspec.Struct, metaclass=ViewMeta):
        """A table that a projection keeps: `class OrdersByCustomer(View, key="customer_id"): ...`."""

        __class_getitem__ = classmethod(GenericAlias)


def _check_column_name(view: ViewType, name: str) -> None:
    if not _COLUMN.fullmatch(name) or name.lower().startswith("spine_") or name in _WORDS:
        raise view._wrong(
            f"has a column {name!r}; choose another name: letters, digits and _, not beginning with _ or spine_, and none of "
            f"{', '.join(sorted(_WORDS))}, which are what a projection says"
        )


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _example(view: ViewType) -> str:
    return next(iter(view.cls.__struct_fields__), "id")  # type: ignore[attr-defined]
