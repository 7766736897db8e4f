"""What a view is made by, as a hash: its projection's code, and the defaults of its columns.

Of the source, without comments, layout, decorators and docstring, so that what is only written otherwise is the same. What
the projection calls is not in it: a function elsewhere that has changed is not noticed."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import msgspec

from .views import ViewType


def code_of(view: ViewType, function: Callable[..., Any]) -> str:
    """ "" where the source is not at hand."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, TypeError, SyntaxError, ValueError):
        return ""
    made = tree.body[0] if tree.body else None
    if not isinstance(made, ast.FunctionDef):
        return ""  # a lambda stands in whatever line declares it
    made.decorator_list, made.name = [], ""
    if ast.get_docstring(made, clean=False) is not None:
        made.body = made.body[1:] or [ast.Pass()]
    return blake2b(f"{ast.unparse(made)}\0{_defaults(view)}".encode(), digest_size=16).hexdigest()


def _defaults(view: ViewType) -> list[tuple[str, str]]:
    return [(field.name, _default(field)) for field in msgspec.structs.fields(view.cls)]


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default is not msgspec.NODEFAULT:
        return repr(field.default)
    made = field.default_factory
    return "" if made is msgspec.NODEFAULT else repr(made())
