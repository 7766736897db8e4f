"""The suite for journals: units, cursors, feed, leases, timers, registration, retention, and who comes and goes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from typing import Any, ClassVar

from ....journal.port import Journal
from ..running import Suite
from .appends import Appends
from .asking import AskingForStreams
from .capabilities import JournalCapabilities
from .control import Control, Deliveries, Starts
from .cutting import Cutting, WhoHoldsStreams
from .dropping import Dropping
from .feed import Feed, LookingUp
from .killed import Killed, ManyProcesses
from .living import Leases, Reopening, Timers, Watching
from .marks import Marks, MarksAndRepetition, MarksAndRewind, MarksOfRefusedUnits
from .material import Store
from .notes import Notes, NotesComparedAndSet, NotesInUnits, NotesThatEnd
from .racing import Fencing, Groups, Racing
from .registration import OlderGenerations, Registering, Renames, Starting, Undeclared
from .retention import BackingUp, Deleting, SayingHowLong, WhatHoldsThemBack, WhatReadersSee
from .sql import Statements, Tables, Transactions, Within
from .units import Closing, Cursors, Fences


class JournalConformance(Suite):
    """Subclass it as `class TestMine(JournalConformance)`; say what it can and how it is made."""

    title = "journal"
    capabilities: ClassVar[JournalCapabilities] = JournalCapabilities()
    opened_by: ClassVar[str] = "eventspine.journal:open_journal"  # by which another process opens its url
    gives = frozenset({"journal", "other", "store", "clock"})
    groups = (
        Appends,
        Groups,
        Racing,
        Fences,
        Fencing,
        Cursors,
        Marks,
        MarksOfRefusedUnits,
        MarksAndRepetition,
        MarksAndRewind,
        Notes,
        NotesComparedAndSet,
        NotesInUnits,
        NotesThatEnd,
        Feed,
        LookingUp,
        Deliveries,
        Starts,
        Control,
        Dropping,
        Registering,
        Starting,
        Undeclared,
        Renames,
        OlderGenerations,
        Leases,
        Timers,
        Watching,
        SayingHowLong,
        Deleting,
        WhatHoldsThemBack,
        WhatReadersSee,
        AskingForStreams,
        Cutting,
        WhoHoldsStreams,
        Statements,
        Tables,
        Transactions,
        Within,
        BackingUp,
        Reopening,
        Closing,
        ManyProcesses,
        Killed,
    )

    # Who subclasses writes `async def make(self, ...)`: it gives a journal that is not open yet, on an empty store, and is
    # called again in the same test for the same store. It may ask for `clock`, by which the journal tells the time, and
    # for any fixture of pytest by its name.
    make: Callable[..., Awaitable[Journal]]

    def connect(self, journal: Journal) -> AbstractContextManager[Any]:
        """For `within`: a connection of a program's own to this store, on which `write_within` can write."""
        raise NotImplementedError(f"{type(self).__name__} declares within=True, so it needs connect(self, journal).")

    def declared(self) -> Mapping[str, bool]:
        return asdict(self.capabilities)

    @asynccontextmanager
    async def set_up(self, asked: frozenset[str], fixtures: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        store = Store(self, fixtures)
        provided: dict[str, Any] = {"store": store, "clock": store.clock}
        async with AsyncExitStack() as stack:
            for name in ("journal", "other"):
                if name in asked or (name == "journal" and "other" in asked):
                    provided[name] = await store.open()
                    stack.push_async_callback(provided[name].close)
            yield {name: provided[name] for name in asked}
