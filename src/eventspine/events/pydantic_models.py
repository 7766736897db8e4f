"""Pydantic models, as far as events need to know them. Pydantic itself is never imported: whoever has a model has it."""

from __future__ import annotations

import sys
from typing import Any

from msgspec import inspect


def is_pydantic(cls: object) -> bool:
    """A model, or a pydantic dataclass."""
    # Not by hasattr, which asks metaclasses that answer to any name; not by dir, which is twenty times slower.
    return isinstance(cls, type) and any("__pydantic_validator__" in base.__dict__ for base in cls.__mro__)


def fields_of(cls: Any) -> dict[str, Any]:
    found: dict[str, Any] = getattr(cls, "__pydantic_fields__", None) or cls.model_fields  # the latter before 2.10
    return found


def types_of(cls: Any) -> dict[str, inspect.Type]:
    """The fields' types as msgspec sees them; `Any` where only pydantic has an idea."""
    if not getattr(cls, "__pydantic_complete__", True):
        cls.model_rebuild()
    return {name: _type_of(field.annotation) for name, field in fields_of(cls).items()}


def _type_of(annotation: Any) -> inspect.Type:
    try:
        return inspect.type_info(annotation)
    except TypeError:
        return inspect.AnyType()


def keeps_unknown_fields(cls: Any) -> bool:
    return _config(cls).get("extra") == "allow"


def loses(owner: Any, cls: Any) -> str | None:
    """Why a field of this class, of a model, would not survive being published."""
    if _has_serializers(owner):
        return None  # it is told how to write it
    if hasattr(cls, "get_secret_value"):
        return f"a {cls.__name__}, which would be published as asterisks"
    if _config(owner).get("arbitrary_types_allowed") and not _understood(cls):
        return f"a {getattr(cls, '__name__', cls)}, which can't be encoded"
    return None


def _has_serializers(owner: Any) -> bool:
    decorators = getattr(owner, "__pydantic_decorators__", None)
    return bool(decorators and decorators.field_serializers) or any(f.metadata for f in fields_of(owner).values())


def _config(cls: Any) -> dict[str, Any]:
    return getattr(cls, "model_config", None) or getattr(cls, "__pydantic_config__", None) or {}


def _understood(cls: Any) -> bool:
    pydantic: Any = sys.modules["pydantic"]
    try:
        pydantic.TypeAdapter(cls)
    except pydantic.errors.PydanticSchemaGenerationError:
        return False
    return True


ERRORS_TOLD = 100  # of a model; for more than these it takes longer to say them than to find them


def first_error(error: Any) -> tuple[str, str] | None:
    """Path and reason of the first thing that a model's validation found wrong; None: it is another kind of error."""
    count = getattr(error, "error_count", None)
    if count is None:
        return None
    if count() > ERRORS_TOLD:
        return "", f"{count():,} values are not what the class says"
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"])[1:], first["msg"]


def to_json(cls: Any, event: Any) -> bytes:
    # What is written must be what can be read: by alias, as validation expects it, and without computed fields.
    written: bytes = cls.__pydantic_serializer__.to_json(event, by_alias=True, round_trip=True)
    return written
