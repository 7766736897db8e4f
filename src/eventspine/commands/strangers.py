"""Fields that a client sent and the command's class doesn't have, however deep.

msgspec passes over them unless each class says `forbid_unknown_fields`. Here what was sent is compared with what was made of
it, place by place. What pydantic made is left out: its models have a word of their own for this (`extra`)."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import msgspec

NAME_SHOWN = 60  # characters


def stranger(sent: Any, made: Any) -> str | None:
    """Where the first one stands, such as `lines[0].unit`; None: there is none."""
    if isinstance(sent, dict):
        return _in_object(sent, made)
    if isinstance(sent, list) and isinstance(made, (list, tuple)):
        for index, (one, of) in enumerate(zip(sent, made, strict=False)):  # a NamedTuple has its defaults beyond them
            if (path := stranger(one, of)) is not None:
                return f"[{index}]{_under(path)}"
    return None


def _in_object(sent: dict[str, Any], made: Any) -> str | None:
    names = _names(made, len(sent))
    for name, value in sent.items():
        if names is not None and name not in names:
            return _shown(name)
        inside = made.get(name) if isinstance(made, dict) else getattr(made, names[name], None) if names else None
        if (path := stranger(value, inside)) is not None:
            return f"{_shown(name)}{_under(path)}"
    return None


def _names(made: Any, sent: int) -> dict[str, str] | None:
    """The attributes by their names on the wire; None: it takes any. `sent`: how many there were."""
    if isinstance(made, msgspec.Struct):
        tag = made.__struct_config__.tag_field
        named = dict(zip(made.__struct_encode_fields__, made.__struct_fields__, strict=True))
        return named if tag is None else {**named, tag: ""}
    if is_dataclass(made):
        return {field.name: field.name for field in fields(made)}
    if isinstance(made, dict) and len(made) < sent and all(isinstance(name, str) for name in made):
        return dict.fromkeys(made, "")  # a TypedDict, which has lost some
    return None


def _shown(name: str) -> str:
    """A client chose it, and is told of it: not more than people read."""
    return (name if len(name) <= NAME_SHOWN else f"{name[:NAME_SHOWN]}…") or '""'


def _under(path: str) -> str:
    return path if path.startswith("[") else f".{path}"
