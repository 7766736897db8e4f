"""What tests have shown of set-ups such as the one at hand, against which faults: the columns of docs/why/promises.md.

The table is made from the tests by `make promises`, and comes with the package."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Any, NamedTuple

import msgspec

WITH_TLS = {"amqps": "amqp", "pulsar+ssl": "pulsar"}  # the same brokers
NOT_TESTED, DOES_NOT_ARISE = "not tested", "does not arise"


class Cell(NamedTuple):
    setup: str  # the column's title
    fault: str
    verdict: str  # "survived", "not survived", "not tested", "does not arise"
    why: str  # what is lost, or why it does not arise
    tests: list[str]


def of_setup(journal: str, broker: str | None, *, processes: bool) -> list[Cell]:
    """The column of this journal, and that of the broker where there is one."""
    table = _table()
    broker = WITH_TLS.get(broker, broker) if broker else None
    chosen = [
        setup
        for setup in table["setups"]
        if (setup["journal"] == journal and setup["broker"] is None and setup["processes"] == processes)
        or (broker is not None and setup["broker"] == broker)
    ]
    cells = [cell for setup in chosen for cell in _column(table, setup["name"], setup["title"])]
    return cells if broker is None or any(setup["broker"] for setup in chosen) else [*cells, _untried(broker)]


def _untried(broker: str) -> Cell:
    return Cell(broker, f"whatever happens to the broker ({broker})", NOT_TESTED, "", [])


def _column(table: dict[str, Any], name: str, title: str) -> Iterator[Cell]:
    for fault in table["faults"]:
        found = fault["setups"].get(name)
        if found is None:
            yield Cell(title, fault["title"], NOT_TESTED, "", [])
        else:
            yield Cell(title, fault["title"], found["verdict"], found["why"], found["tests"])


def _table() -> dict[str, Any]:
    stored: dict[str, Any] = msgspec.json.decode((files(__package__) / "promises.json").read_bytes())
    return stored
