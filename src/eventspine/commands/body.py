"""Commands as the body of a web request, for pydantic and so for FastAPI: read strictly, by the command's own class."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec

from ..errors import CommandRefused, MissingExtra
from .declare import CommandType

try:
    from pydantic_core import PydanticCustomError, core_schema as schemas
except ImportError as missing:
    raise MissingExtra("Commands as pydantic's need pydantic: pip install 'eventspine[pydantic]'.") from missing

REFUSED = "command_refused"  # the type of the error, by which it is known among others


def core_schema(kind: CommandType) -> Any:
    return schemas.no_info_plain_validator_function(
        partial(_read, kind),
        metadata={"pydantic_js_functions": [partial(_json_schema, kind)]},
        serialization=schemas.plain_serializer_function_ser_schema(msgspec.to_builtins),
    )


def _read(kind: CommandType, given: Any) -> Any:
    if isinstance(given, kind.cls):
        return given
    try:
        return kind.asked(_json(kind, given))
    except CommandRefused as error:
        # The message is data, not a template: what a client sent stands in it.
        raise PydanticCustomError(REFUSED, "{why}", {"why": str(error)}) from error


def _json(kind: CommandType, given: Any) -> bytes:
    """Of what was JSON, and may be none any more: Python reads texts that are no Unicode, and any number."""
    try:
        return msgspec.json.encode(given)
    except (ValueError, OverflowError, RecursionError, TypeError) as error:
        raise CommandRefused(f"{kind.name} can't be read: {error}. Nothing was done.", type=kind.name) from error


def _json_schema(kind: CommandType, *_: Any) -> dict[str, Any]:
    """Written out, without references: they would be to a place that is not the document's."""
    (schema,), parts = msgspec.json.schema_components([kind.cls])
    found: dict[str, Any] = _inlined(schema, parts, ())
    return {**found, "additionalProperties": False}


def _inlined(node: Any, parts: dict[str, Any], above: tuple[str, ...]) -> Any:
    if isinstance(node, list):
        return [_inlined(one, parts, above) for one in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[-1]
        return {} if name in above else _inlined(parts[name], parts, (*above, name))  # {}: anything; it contains itself
    return {key: _inlined(value, parts, above) for key, value in node.items()}
