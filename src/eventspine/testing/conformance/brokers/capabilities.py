"""What can be done with a broker in a test, beside what its `Features` say."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ....brokers.embedded import Features
from ..running import capability


@dataclass(frozen=True, slots=True)
class BrokerCapabilities:
    """Nothing is declared unless it is said."""

    processes: bool = capability("other processes reach it by its address, and may be killed at any moment")
    server: bool = capability("it has a server, which the tests may kill and start again")
    cuts: bool = capability("the way to it can be cut without a word to either side")
    topology: bool = capability("what it needs on the server is applied by a command of its own")


def from_features(features: Features) -> dict[str, bool]:
    """Those that the port knows, as capabilities of the table."""
    known = asdict(features)
    return {name: known[name] for name in ("ordered", "rewinds", "one_feed", "persistent")} | {
        "settles": features.settles != "cursor"
    }
