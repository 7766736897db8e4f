"""Public suites: what every journal, every feed and every broker of eventspine promises, for whoever writes another one.

    class TestPostgres(JournalConformance):
        capabilities = JournalCapabilities(sql=True, persistent=True, processes=True)

        async def make(self, clock, postgres_url):
            return PostgresJournal(postgres_url, clock)

pytest finds the class and runs every test that its declaration implies, in groups, each test with a store of its own. A
declared capability that doesn't hold fails; one that isn't declared is shown as such in the table at the end of the run.
The tests need no plug-in for asyncio: each runs on an event loop of its own.
Names are loaded when they are used: the processes that the suites start have no part in pytest."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from ...errors import MissingExtra
from .._later import later

if TYPE_CHECKING:
    from .brokers.capabilities import BrokerCapabilities
    from .brokers.carried import CarriedSite, apart
    from .brokers.site import BrokerSite, EmbeddedSite
    from .brokers.suite import BrokerConformance, FeedConformance
    from .journals.capabilities import JournalCapabilities
    from .journals.suite import JournalConformance
    from .running import capability

__all__ = [
    "BrokerCapabilities",
    "BrokerConformance",
    "BrokerSite",
    "CarriedSite",
    "EmbeddedSite",
    "FeedConformance",
    "JournalCapabilities",
    "JournalConformance",
    "apart",
    "capability",
]

if find_spec("pytest") is None:
    raise MissingExtra('The conformance suites are run by pytest: pip install "eventspine[testing]"')

_MODULES = {
    "brokers.capabilities": ("BrokerCapabilities",),
    "brokers.carried": ("CarriedSite", "apart"),
    "brokers.site": ("BrokerSite", "EmbeddedSite"),
    "brokers.suite": ("BrokerConformance", "FeedConformance"),
    "journals.capabilities": ("JournalCapabilities",),
    "journals.suite": ("JournalConformance",),
    "running": ("capability",),
}


__getattr__ = later(__name__, _MODULES)
