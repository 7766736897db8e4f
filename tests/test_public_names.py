"""`eventspine.__all__` is the list of what users import, and all of it is there."""

from __future__ import annotations

import subprocess
import sys

import eventspine
import eventspine.sync


def test_every_name_in_the_list_is_there():
    assert [name for name in eventspine.__all__ if not hasattr(eventspine, name)] == []


def test_the_list_is_sorted_and_names_nothing_twice():
    assert eventspine.__all__ == sorted(set(eventspine.__all__))


def test_these_names_are_promised():
    """Taking one of them out, or adding one, is a decision: it belongs in the changelog."""
    assert set(eventspine.__all__) == {
        "Aggregate",
        "Batch",
        "BatchDelivery",
        "Command",
        "Dead",
        "Delivery",
        "Drop",
        "Envelope",
        "Event",
        "Foreign",
        "HandlerTimeout",
        "Middleware",
        "OpenEnum",
        "Receipt",
        "Reject",
        "Retry",
        "RetryAfter",
        "Running",
        "Service",
        "Spine",
        "SpineError",
        "Tumbling",
        "View",
        "__version__",
        "acting",
        "applies",
        "correlate",
        "event",
        "invalidating",
        "upcast",
    }


def test_nothing_else_is_public_by_accident():
    imported = {
        name
        for name, value in vars(eventspine).items()
        if not name.startswith("_") and type(value).__name__ != "module"
    }
    assert imported <= set(eventspine.__all__)


def test_sync_has_the_same_names():
    for name in eventspine.sync.__all__:
        blocking, async_ = getattr(eventspine.sync, name), getattr(eventspine, name)
        ours = {member for member in vars(blocking) if not member.startswith("_")}
        assert ours <= {member for base in async_.__mro__ for member in vars(base)} | {"journal"}


def test_to_import_it_loads_nothing_that_only_some_need():
    """`import eventspine` takes a tenth of a second at most; each of these would be a good part of that."""
    loaded = "import sys, eventspine; print(*(name for name in sys.argv[1:] if name in sys.modules))"
    heavy = [
        "asyncio", "sqlite3", "ssl", "json", "click", "rich", "pydantic", "concurrent.futures", "psycopg", "importlib.metadata",
    ]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", loaded, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
