"""Fields that a client sent and the command's class doesn't have, however deep.

msgspec passes over them unless each class says `forbid_unknown_fields`. Here what was sent is compared with what was made of
it, place by place. What pydantic made is left out: its models have a word of their own for this (`extra`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import msgspec


def stranger(sent: Any, made: Any) -> str | None:
    """Where the first one stands, such as `lines[0].unit`; None: there is none."""
    if isinstance(sent, dict):
        return _in_object(sent, made)
    if isinstance(sent, list) and isinstance(made, (list, tuple)) and len(sent) == len(made):
        for index, (one, of) in enumerate(zip(sent, made, strict=True)):
            if (path := stranger(one, of)) is not None:
                return f"[{index}]{_under(path)}"
    return None


def _in_object(sent: dict[str, Any], made: Any) -> str | None:
    names = _names(made)
    for name, value in sent.items():
        if names is not None and name not in names:
            return name or '""'
        inside = made.get(name) if isinstance(made, Mapping) else getattr(made, names[name], None) if names else None
        if (path := stranger(value, inside)) is not None:
            return f"{name}{_under(path)}"
    return None


def _names(made: Any) -> dict[str, str] | None:
    """The attributes by their names on the wire; None: it takes any."""
    if isinstance(made, msgspec.Struct):
        tag = made.__struct_config__.tag_field
        named = dict(zip(made.__struct_encode_fields__, made.__struct_fields__, strict=True))
        return named if tag is None else {**named, tag: ""}
    if is_dataclass(made):
        return {field.name: field.name for field in fields(made)}
    return None


def _under(path: str) -> str:
    return path if path.startswith("[") else f".{path}"
