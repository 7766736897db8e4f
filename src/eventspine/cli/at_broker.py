"""The live broker, as `spine doctor` looks at it: what this journal needs there, what is missing, what it survives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..brokers import open_broker
from ..brokers.port import Finding, Needs
from ..errors import BrokerError
from ..journal.port import Subscription
from ..observe.printable import printable
from .findings import Promise
from .output import LABEL, say

RELAY, INTAKE = "relay:", "intake:"
WAITS = (
    "Where they run, they wait for the broker, and their log says why."  # who waits has left, so that others may try
)


class AtBroker(NamedTuple):
    name: str  # "Kafka"
    url: str  # without its password
    found: Sequence[Finding]
    promises: Sequence[Promise]

    @property
    def wrong(self) -> list[str]:
        """What needs somebody."""
        return [f"{one.what}: {one.says}" for one in self.found if one.level == "danger"]

    def view(self) -> dict[str, Any]:
        return {"name": self.name, "url": self.url, "findings": [one._asdict() for one in self.found]}

    def report(self) -> None:
        say(f"{'broker':<{LABEL}} {printable(self.name)}, {printable(self.url)}")
        for one in self.found:
            say(f"{one.level:<{LABEL}} {printable(one.what)}: {printable(one.says)}")
        say()


def is_carrying(service: str) -> bool:
    """Whether it is a relay or an intake, which are stored as services are."""
    return service.startswith((RELAY, INTAKE))


def nobody_at_work(service: str) -> str:
    """That no process of it is at work, and what to do."""
    channel = service.partition(":")[2]
    if service.startswith(RELAY):
        return (
            f"Nobody sends {printable(channel)} to the broker: run the services that publish it, with --broker. {WAITS}"
        )
    if service.startswith(INTAKE):
        return f"Nobody brings {printable(channel)} in from the broker: run the services that want it, with --broker. {WAITS}"
    return f"No process of {printable(service)} is at work: spine run."


def needs_of_rows(rows: Sequence[Subscription]) -> Needs:
    """What this journal's relays and intakes need, as they are stored."""
    live = [row for row in rows if row.state != "retired"]
    relays = [row.service.removeprefix(RELAY) for row in live if row.service.startswith(RELAY)]
    intakes = [(row.service.removeprefix(INTAKE), row.name) for row in live if row.service.startswith(INTAKE)]
    return Needs(sorted(relays), sorted(intakes))


async def look(url: str, needs: Needs) -> AtBroker:
    """Reads only. One that can't be reached, or lets us not in, is a finding."""
    broker = open_broker(url)
    promises = [Promise(True, "Publishing goes on while the broker is away: it waits in the journal.")]
    try:
        await broker.open()
        differences = await broker.differences(needs)
        found = [
            Finding(
                "danger" if one.safe else "warning",  # what could be made is missing
                one.what,
                f"{one.found or 'is not there'}; wanted: {one.wanted}. See `spine topology plan`.",
            )
            for one in differences
        ]
        if not any(one.safe for one in differences):
            found += await broker.findings(needs)
        persists = broker.features.persistent
        promises.append(Promise(persists, f"{broker.features.name} keeps what it acknowledged when it is restarted."))
    except BrokerError as error:
        found = [Finding("danger", broker.url, str(error).removeprefix(broker.url).lstrip(": "))]
    finally:
        await broker.close()
    return AtBroker(broker.features.name, broker.url, found, promises)
