"""A coroutine that waits for nothing, run where there is no event loop to wait on."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from .errors import SpineError

T = TypeVar("T")


def at_once(coroutine: Coroutine[Any, Any, T], otherwise: SpineError) -> T:
    """What it returns. Raises `otherwise` where it waits after all; it is ended then."""
    try:
        coroutine.send(None)
    except StopIteration as answer:
        value: T = answer.value
        return value
    coroutine.close()
    raise otherwise
