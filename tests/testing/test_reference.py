"""The reference of the kit leaves nothing out: every public name and option is on its page."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eventspine import testing

PAGE = (Path(__file__).parent.parent.parent / "docs" / "reference" / "testing.md").read_text(encoding="utf-8")


def parameters(function: Callable[..., Any]) -> list[str]:
    unnamed = {"self", "services", "classes", "first", "dead", "event"}
    return [name for name in inspect.signature(function).parameters if name not in unnamed]


def test_every_name_is_there() -> None:
    assert [name for name in testing.__all__ if name not in PAGE] == []
    own = [name for name in vars(testing.VirtualSpine) if not name.startswith("_")]
    assert [name for name in own if f"`{name}" not in PAGE and f"`await {name}" not in PAGE] == []
    assert [name for name in testing.Kept._fields if f"`{name}`" not in PAGE and name != "number"] == []


def test_every_option_is_there() -> None:
    functions = [testing.spine, testing.delivery, testing.VirtualSpine.advance, testing.VirtualSpine.fail_next]
    assert [name for one in functions for name in parameters(one) if name not in PAGE] == []


def test_the_blocking_ones_take_the_same() -> None:
    assert parameters(testing.sync_spine) == parameters(testing.spine)
    assert parameters(testing.sync_delivery) == parameters(testing.delivery)
    for name in ("idle", "advance", "fail_next", "deliver_twice", "parked", "dead", "query", "replay", "published"):
        one, other = getattr(testing.VirtualSpine, name), getattr(testing.SyncVirtualSpine, name)
        assert parameters(one) == parameters(other)
