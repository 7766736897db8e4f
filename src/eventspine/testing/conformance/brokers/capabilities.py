"""What can be done with a broker in a test, beside what its `Features` say."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ....brokers import embedded, port
from ..running import capability


@dataclass(frozen=True, slots=True)
class BrokerCapabilities:
    """Nothing is declared unless it is said."""

    processes: bool = capability("other processes reach it by its address, and may be killed at any moment")
    server: bool = capability("it has a server, which the tests may kill and start again")
    cuts: bool = capability("the way to it can be cut without a word to either side")
    full: bool = capability("its server can be brought to take nothing more for a while, as one that is full")
    topology: bool = capability("what it needs on the server is applied by a command of its own")
    claims: bool = capability("it has a place where a journal leaves its identity, so that no second takes its part")


def of_feed(features: embedded.Features) -> dict[str, bool]:
    """What the port of a feed knows, as capabilities of the table."""
    known = asdict(features)
    return {name: known[name] for name in ("ordered", "rewinds", "one_feed", "persistent")} | {
        "settles": features.settles != "cursor"
    }


def of_broker(features: port.Features) -> dict[str, bool]:
    """What the port of a broker knows. Handlers read the feed of their own journal: so there is one order, and history."""
    starts = {start: start in features.starts for start in ("earliest", "now", "time")}
    kinds = {"positions": features.positions, "queue": not features.positions}
    others = {"bytes": features.bounds == "bytes", "rewinds": True, "one_feed": True}
    return {"ordered": features.ordered, "persistent": features.persistent, **kinds, **starts, **others}
