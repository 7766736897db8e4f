"""What an event's values must be before they become JSON, found out once per class.

JSON has no NaN and no infinity (they would be written as null and be read as nothing), and a time without a zone is a
different instant for every reader. Looking at every value of every event would cost more than encoding it, so the type
tree is walked when the class is made, and a check is compiled from only those places that can hold such a value. A
class with no float, Decimal, datetime or time in its tree has none at all. Where the tree says `Any`, values are
searched as they come.

The same walk refuses, when the class is made, what could never be encoded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields as dataclass_fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from operator import attrgetter
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET, inspect

from ..errors import DeclarationError
from .pydantic_models import fields_of, is_pydantic, keeps_unknown_fields, loses, types_of

Check = Callable[[Any], None]
Numbers = Sequence[tuple[Callable[[Any], Any], Callable[[Any], bool]]]  # how to get a value, and whether it is finite
Reason = Callable[[object], "str | None"]


class Unfit(Exception):
    """Carries the path of the value that can't be published, from the inside out."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.steps: list[str] = []

    @property
    def path(self) -> str:
        return "".join(reversed(self.steps)).removeprefix(".")


# --- single values ------------------------------------------------------------------------------------------------


# Every check lets None pass, which costs less than a check of its own around those of optional fields. Whether a field
# may be None is asked elsewhere, when the event's bytes are read back.


def check_float(value: Any) -> None:
    if value is None:
        return
    try:
        if math.isfinite(value):
            return
    except (TypeError, OverflowError):
        if value is UNSET:
            return
        raise _mistyped(value, "a number") from None
    search(value, unfit)


def check_decimal(value: Any) -> None:
    if value.__class__ is not Decimal:
        check_float(value)
        if isinstance(value, float):  # an int is exact, and read back as a Decimal
            raise Unfit(
                f"is the float {value!r}, where the class says a Decimal: a float is not exact. Make a Decimal of text, such "
                f"as Decimal({str(round(value, 2))!r})"
            )
    elif not value.is_finite():
        search(value, unfit)


def check_zoned(value: Any) -> None:
    if value is None:
        return
    try:
        offset = value.utcoffset()
        if offset is not None and not (offset.seconds % 60 or offset.microseconds):
            return
    except AttributeError:
        if value is UNSET:
            return
        raise _mistyped(value, "a datetime or time") from None
    search(value, unfit)


def _mistyped(value: object, declared: str) -> Unfit:
    return Unfit(f"is of type {type(value).__name__}, where the class says {declared}")


def check_any(value: Any) -> None:
    search(value, unfit)


def unfit(value: object) -> str | None:
    """Why this single value can't be published."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value}, which JSON can't carry; use an optional field and None, or leave the event unpublished"
    if isinstance(value, Decimal) and not value.is_finite():
        return f"is Decimal('{value}'), which is no number; use an optional field and None"
    if isinstance(value, datetime | time):
        return _unzoned(value, value.utcoffset())
    return None


def _unzoned(value: datetime | time, offset: timedelta | None) -> str | None:
    if offset is not None and not (offset.seconds % 60 or offset.microseconds):
        return None
    if offset is not None:  # such as Paris before 1911; the seconds would be cut off, and the instant be another one
        return f"has the UTC offset {offset}, of which JSON carries no seconds; convert it to UTC, such as by value.astimezone(UTC)"
    if isinstance(value, datetime):
        return "is a datetime without a time zone; give it one, such as datetime.now(UTC) or value.replace(tzinfo=UTC)"
    return "is a time without a UTC offset; give it one, such as time(9, 30, tzinfo=UTC), or use a str"


_FIT = frozenset({str, int, bool, type(None)})  # there is no reason against any value of these


_KNOWN = (str, int, float, bytes, bytearray, Decimal, date, time, timedelta, UUID, Enum, type(None))


def unencodable(value: object) -> str | None:
    """Why the encoder failed at this single value."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return "holds half a character (a lone surrogate); decode its source as UTF-8, or with errors='replace'"
    elif isinstance(value, int) and value.bit_length() > 14_000:
        return f"is a number of {value.bit_length():,} bits, which no reader accepts; use a str"
    elif not isinstance(value, _KNOWN):
        return f"is of type {type(value).__name__}, which can't be encoded as JSON; convert it to a plain value first"
    return None


def search(value: object, reason_of: Reason) -> None:
    """Raise Unfit, with its path, for the first value inside this one that there is a reason against."""
    if reason_of is unfit and (value.__class__ in _FIT or (value.__class__ is float and math.isfinite(value))):
        return  # most values, and there may be hundreds of thousands of them
    if reason := (None if _is_container(value) else reason_of(value)):
        raise Unfit(reason)
    for step, inner in _inside(value):
        try:
            search(inner, reason_of)
        except Unfit as found:
            found.steps.append(step)
            raise


def _is_container(value: object) -> bool:
    if isinstance(value, dict | list | tuple | set | frozenset | msgspec.Struct):
        return True
    return (is_dataclass(value) and not isinstance(value, type)) or is_pydantic(type(value))


def _inside(value: Any) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield "[a key]", key
            yield f"[{key!r:.60}]", inner
    elif isinstance(value, list | tuple | set | frozenset):
        for at, inner in enumerate(value):
            yield f"[{at}]", inner
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield f".{name}", getattr(value, name)
    elif is_pydantic(type(value)):
        for name in (*fields_of(type(value)), *(getattr(value, "__pydantic_extra__", None) or ())):
            yield f".{name}", getattr(value, name)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in dataclass_fields(value):
            yield f".{field.name}", getattr(value, field.name)


# --- composed checks ------------------------------------------------------------------------------------------------


def _each(check: Check) -> Check:
    def check_each(values: Any) -> None:
        if values is None or values is UNSET:
            return
        at = -1
        try:
            for at, value in enumerate(values):  # noqa: B007 - the handler tells it
                check(value)
        except Unfit as found:
            found.steps.append(f"[{at}]")
            raise

    return check_each


def _values(check: Check) -> Check:
    def check_values(mapping: Any) -> None:
        if mapping is None or mapping is UNSET:
            return
        key: object = None
        try:
            for key, value in mapping.items():  # noqa: B007
                check(value)
        except Unfit as found:
            found.steps.append(f"[{key!r:.60}]")
            raise

    return check_values


def _attributes(checks: list[tuple[str, Check]]) -> Check:
    parts = tuple((name, attrgetter(name), check) for name, check in checks)

    def check_attributes(value: Any) -> None:
        if value is None or value is UNSET:
            return
        name = ""
        try:
            for name, get, check in parts:  # noqa: B007
                check(get(value))
        except Unfit as found:
            found.steps.append(f".{name}")
            raise

    return check_attributes


# --- the walk -----------------------------------------------------------------------------------------------------

_LEAVES: dict[type, Check] = {
    inspect.FloatType: check_float,
    inspect.DecimalType: check_decimal,
    inspect.DateTimeType: check_zoned,
    inspect.TimeType: check_zoned,
}
_FINITE: dict[type, Callable[[Any], bool]] = {
    inspect.FloatType: math.isfinite,
    inspect.DecimalType: Decimal.is_finite,
}
_UNHASHABLE = (inspect.ListType, inspect.SetType, inspect.DictType, inspect.TypedDictType, inspect.ByteArrayType)
_DICT_KEYS = (inspect.AnyType, inspect.StrType, inspect.BytesType, inspect.IntType, inspect.FloatType, inspect.EnumType,
              inspect.LiteralType, inspect.UUIDType, inspect.DateType, inspect.DateTimeType, inspect.TimeType,
              inspect.TimeDeltaType, inspect.DecimalType, inspect.UnionType, inspect.Metadata)  # fmt: skip
_SUPPORTED = (
    "str, int, float, bool, bytes, Decimal, datetime, date, time, timedelta, UUID, enums, Literal, lists, tuples, sets, "
    "dicts, unions, and msgspec structs, dataclasses, TypedDicts, NamedTuples and pydantic models of these"
)


class Walk:
    """Compiles the checks of one class. `bounded` says afterwards whether its JSON has a known greatest depth."""

    def __init__(self, event_name: str) -> None:
        self.bounded = True
        self._event_name = event_name
        self._classes: dict[type, Check | None] = {}
        self._open: set[type] = set()
        self._model: Any = None  # the pydantic model that is being walked

    def fields(self, cls: type, types: dict[str, inspect.Type], path: str = "") -> Check | None:
        """The check of a class with these fields."""
        if cls in self._open:  # a type that contains itself
            self.bounded = False
            return check_any
        if cls not in self._classes:
            self._open.add(cls)
            found = [(name, self.visit(node, f"{path}.{name}")) for name, node in types.items()]
            checks = [(name, check) for name, check in found if check is not None]
            self._classes[cls] = whole = _attributes(checks) if checks else None
            if checks and all(type(types[name]) in _FINITE for name, _ in checks):  # none of them optional
                whole.numbers = [(attrgetter(name), _FINITE[type(types[name])]) for name, _ in checks]  # type: ignore[union-attr]
            self._open.discard(cls)
        return self._classes[cls]

    def visit(self, node: inspect.Type, path: str) -> Check | None:
        match node:
            case inspect.Metadata(type=inner):
                return self.visit(inner, path)
            case inspect.AnyType():
                self.bounded = False
                return check_any
            case inspect.UnionType(types=types):
                return self._union(types, path)
            case inspect.SetType(item_type=item) | inspect.FrozenSetType(item_type=item):
                self._hashable(item, path)
                return self._items([item], path)
            case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
                return self._items([item], path)
            case inspect.TupleType(item_types=items):
                return self._items(items, path)
            case inspect.DictType(key_type=key, value_type=value):
                return self._mapping(key, value, path)
            case inspect.StructType(cls=cls, fields=fields) | inspect.DataclassType(cls=cls, fields=fields):
                return self.fields(cls, {field.name: field.type for field in fields}, path)
            case inspect.NamedTupleType(fields=fields) | inspect.TypedDictType(fields=fields):
                found = [self.visit(field.type, f"{path}.{field.name}") for field in fields]
                return check_any if any(found) else None
            case inspect.CustomType(cls=cls):
                return self._custom(cls, path)
            case inspect.RawType() | inspect.ExtType() | inspect.MemoryViewType():
                what = type(node).__name__.removesuffix("Type")
                raise self._refused(f"a {what}, which can't be encoded", path)
        return _LEAVES.get(type(node))

    def _union(self, types: tuple[inspect.Type, ...], path: str) -> Check | None:
        rest = [node for node in types if not isinstance(node, inspect.NoneType)]
        checks = [self.visit(node, path) for node in rest]
        if not any(checks):
            return None
        return checks[0] if len(checks) == 1 else check_any

    def _items(self, items: list[inspect.Type] | tuple[inspect.Type, ...], path: str) -> Check | None:
        checks = [self.visit(item, f"{path}[...]") for item in items]
        if len(checks) == 1 and checks[0] is not None:
            return _each(checks[0])
        return check_any if any(checks) else None

    def _mapping(self, key: inspect.Type, value: inspect.Type, path: str) -> Check | None:
        if not isinstance(key, _DICT_KEYS):
            raise self._refused("a dict whose keys can't be written as JSON names", path)
        check = self.visit(value, f"{path}[...]")
        if self.visit(key, f"{path}[a key]") is not None and not isinstance(key, inspect.AnyType):
            return check_any
        return _values(check) if check is not None else None

    def _custom(self, cls: Any, path: str) -> Check | None:
        if is_pydantic(cls):
            return self.model(cls, path)
        if cls is object:
            return self.visit(inspect.AnyType(), path)
        reason = (
            loses(self._model, cls) if self._model else f"a {getattr(cls, '__name__', cls)}, which can't be encoded"
        )
        if reason is not None:
            raise self._refused(reason, path)
        self.bounded = False
        return check_any

    def model(self, cls: Any, path: str = "") -> Check | None:
        """The check of a pydantic model, which may hold types that only pydantic knows."""
        outer, self._model = self._model, cls
        check = self.fields(cls, types_of(cls), path)
        self._model = outer
        if keeps_unknown_fields(cls):
            self.bounded = False
            return check_any
        return check

    def _hashable(self, node: inspect.Type, path: str) -> None:
        match node:
            case inspect.TupleType(item_types=inner) | inspect.UnionType(types=inner):
                for one in inner:
                    self._hashable(one, path)
            case inspect.VarTupleType(item_type=item) | inspect.Metadata(type=item):
                self._hashable(item, path)
        if _can_change(node):
            raise DeclarationError(
                f"{self._event_name}{path} is a set of what can't be in a set, since it isn't hashable. "
                "Use a list, or make its items frozen.",
                event=self._event_name,
                path=path,
            )

    def _refused(self, what: str, path: str) -> DeclarationError:
        return DeclarationError(
            f"{self._event_name}{path} is {what}. An event may hold {_SUPPORTED}.",
            event=self._event_name,
            path=path,
        )


def _can_change(node: inspect.Type) -> bool:
    if isinstance(node, inspect.StructType):
        return not node.cls.__struct_config__.frozen
    return isinstance(node, _UNHASHABLE) or (isinstance(node, inspect.DataclassType) and node.cls.__hash__ is None)
