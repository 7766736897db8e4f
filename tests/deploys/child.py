"""A process of these tests: that of tests/faults with other services, and with more safeguards to do without."""

from __future__ import annotations

from eventspine.engine import host
from eventspine.journal import migrations, registry
from tests.deploys import services
from tests.faults import child


def without_widening() -> None:
    """A filter is widened without fencing whoever runs the narrower one."""
    registry._widened = lambda *_: False


def without_giving_back() -> None:
    """Everything is kept until the slowest handler has returned."""
    host.Host.give_back = lambda _: None  # type: ignore[method-assign]


def be_release(number: int) -> None:
    """Of eventspine itself: release 2 adds a column to every table, release 3 takes away a table that others write."""
    ours = len(migrations.MIGRATIONS)
    old(number)
    tables = [
        "meta", "events", "streams", "stream_events", "services", "subscriptions", "cursors", "deliveries", "starts",
        "marks", "timers", "leases", "processes", "tables", "notes",
    ]  # fmt: skip
    more = ";".join(f"alter table spine_{table} add column added text default 'by release 2'" for table in tables)
    added = tuple(
        step if step.removes else migrations.Migration(step.version, f"{step.script};{more};")
        for step in migrations.MIGRATIONS[ours:]
    )
    migrations.MIGRATIONS = (*migrations.MIGRATIONS[:ours], *added)


if __name__ == "__main__":
    old = child.be_release
    child.be_release = be_release
    child.services = services  # type: ignore[assignment]
    child.WITHOUT |= {
        "widening": without_widening,
        "giving-back": without_giving_back,
    }
    child.main()
