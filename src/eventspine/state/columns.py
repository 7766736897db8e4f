"""Columns: how a field of a view is kept in a table, and how it comes back as what it was.

Each type has one stored form, the same whoever writes it: money as decimal text, times as UTC with their
microseconds, so that text sorts as time does; which types a database has for them: dialects.py. What is not among the types here is kept as JSON. A value of
another type than its column is refused when the run is written; SQLite by itself would store it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from math import isnan
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import msgspec
import msgspec.inspect

from ..errors import BeyondColumn, DeclarationError, ViewRefused

Store = Callable[[Any], Any]
INTEGER_MAX = 2**63 - 1
WHOLE_DIGITS, PARTS_DIGITS = 131_072, 16_383  # of a decimal, before and behind its point: PostgreSQL's own limits

KEY_KINDS = ("text", "integer", "date", "uuid")


class Beyond(ValueError):
    """Of the right type, and no column can have it."""


class Column(NamedTuple):
    name: str
    kind: str
    nullable: bool
    python: Any  # the type, for messages
    store: Store  # what the database keeps; raises TypeError or ValueError
    load: Store | None  # None: as it is

    @property
    def signature(self) -> str:
        """What a table must have been made with to be this column's."""
        return f"{self.kind}?" if self.nullable else self.kind

    def stored(self, value: Any, view: str) -> Any:
        try:
            return self.store(value)
        except (TypeError, ValueError, msgspec.MsgspecError) as error:
            kind = BeyondColumn if isinstance(error, Beyond) else ViewRefused
            raise kind(
                f"{view}.{self.name} is {_shown(value)}, and its column keeps {_word(self.python)}: {error}.",
                view=view,
                column=self.name,
            ) from None

    def loaded(self, value: Any) -> Any:
        return value if self.load is None or value is None else self.load(value)


def columns_of(cls: type) -> list[Column]:
    """In order of the class."""
    hints = get_type_hints(cls)
    return [_column(cls, name, hints[name]) for name in cls.__struct_fields__]  # type: ignore[attr-defined]  # a Struct


def _column(cls: type, name: str, declared: Any) -> Column:
    python, nullable = _without_none(declared)
    try:
        kind, store, load = _kind(python)
    except TypeError as error:
        raise DeclarationError(f"{cls.__name__}.{name} can't be a column: {error}") from error
    return Column(name, kind, nullable, declared, _or_none(store) if nullable else store, load)


def _without_none(declared: Any) -> tuple[Any, bool]:
    if get_origin(declared) not in (Union, UnionType):
        return declared, False
    others = tuple(one for one in get_args(declared) if one is not type(None))
    nullable = len(others) < len(get_args(declared))
    return (others[0] if len(others) == 1 else Union[others]), nullable  # noqa: UP007 -- of a tuple


def _kind(python: Any) -> tuple[str, Store, Store | None]:
    if isinstance(python, type) and issubclass(python, Enum):
        return _of_enum(python)
    for known, kind, store, load in _KNOWN:
        if python is known:
            return kind, store, load
    return _as_json(python)


def _of_enum(python: type[Enum]) -> tuple[str, Store, Store | None]:
    kinds = {type(member.value) for member in python}
    if kinds not in ({str}, {int}):
        raise TypeError("the values of an enum have to be all str, or all int")

    def store(value: Any) -> Any:
        _check(value, python)
        return value.value

    return ("text" if kinds == {str} else "integer"), store, python


def _as_json(python: Any) -> tuple[str, Store, Store | None]:
    if isinstance(msgspec.inspect.type_info(python), msgspec.inspect.CustomType):
        raise TypeError(f"{_word(python)} has no form in JSON; use a msgspec.Struct, a dataclass, or plain types")
    decoder = msgspec.json.Decoder(python)

    def store(value: Any) -> str:
        text = msgspec.json.encode(value, order="deterministic")
        decoder.decode(text)  # what is of another type is refused here, and not by the next reader
        return text.decode()

    return "json", store, decoder.decode


def _or_none(store: Store) -> Store:
    return lambda value: None if value is None else store(value)


def _check(value: Any, python: type) -> None:
    if value.__class__ is not python and not isinstance(value, python):
        raise TypeError(f"it is of type {type(value).__name__}")


def _text(value: Any) -> str:
    if value.__class__ is not str:
        _check(value, str)
        value = str.__str__(value)
    if "\0" in value:
        raise Beyond("it has a NUL in it")
    if not value.isascii():
        _check_whole(value)
    return value  # type: ignore[no-any-return]


def _check_whole(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Beyond("it has half of a character in it") from None


def _integer(value: Any) -> int:
    if value.__class__ is not int:
        _check(value, int)
        if value.__class__ is bool:
            raise TypeError("it is of type bool")
        value = int(value)
    if not -INTEGER_MAX - 1 <= value <= INTEGER_MAX:
        raise Beyond("it takes more than 64 bits")
    return value  # type: ignore[no-any-return]


def _real(value: Any) -> float:
    if value.__class__ is int:
        return _real_of(value)
    _check(value, float)
    if isnan(value):
        raise ValueError("NaN is no value of a column")
    return value  # type: ignore[no-any-return]


def _real_of(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise Beyond("it is beyond what a float can be") from None


def _blob(value: Any) -> bytes:
    _check(value, bytes)
    return value  # type: ignore[no-any-return]


def _boolean(value: Any) -> int:
    _check(value, bool)
    return int(value)


def _decimal(value: Any) -> str:
    if value.__class__ is int:
        value = Decimal(value)
    _check(value, Decimal)
    if not value.is_finite():
        raise ValueError("a column keeps finite figures")
    if (
        value.adjusted() >= WHOLE_DIGITS or value.as_tuple().exponent < -PARTS_DIGITS
    ):  # a letter can ask for a gigabyte: 1E+999999999
        raise Beyond(f"a column keeps {WHOLE_DIGITS:,} digits before the point and {PARTS_DIGITS:,} behind it")
    return f"{value:f}"


def _time(value: Any) -> str:
    _check(value, datetime)
    if value.tzinfo is None:
        raise ValueError("it has no time zone")
    try:
        return value.astimezone(UTC).isoformat(timespec="microseconds")  # type: ignore[no-any-return]
    except OverflowError:
        raise Beyond("in UTC it is beyond the years 1 to 9999") from None


def _date(value: Any) -> str:
    _check(value, date)
    if isinstance(value, datetime):
        raise TypeError("it is of type datetime")
    return value.isoformat()  # type: ignore[no-any-return]


def _uuid(value: Any) -> str:
    _check(value, UUID)
    return str(value)


_KNOWN: list[tuple[type, str, Store, Store | None]] = [
    (str, "text", _text, None),
    (int, "integer", _integer, None),
    (float, "real", _real, None),
    (bytes, "blob", _blob, None),
    (bool, "boolean", _boolean, bool),
    (Decimal, "decimal", _decimal, Decimal),
    (datetime, "time", _time, datetime.fromisoformat),
    (date, "date", _date, date.fromisoformat),
    (UUID, "uuid", _uuid, UUID),
]


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.80}"
    except ValueError:  # of an int with more digits than Python writes
        return f"of type {type(value).__name__}, and too long to be shown"


def _word(python: Any) -> str:
    return getattr(python, "__name__", None) or str(python)
