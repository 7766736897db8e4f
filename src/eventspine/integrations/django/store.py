"""What the project's journal is asked for on Django's connection: a class for each kind of database that can have one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from django.db import transaction
from django.test import utils as testing

from ...delivery import Delivery
from ...journal._sql_tables import Script
from ...journal.port import Registration, Unit, Verdict
from ...service import Service


class Store(ABC):
    """The journal, ready to be written to on the connection of this thread."""

    dialect: str
    id = ""  # where the journal is known by one
    path: Path | None = None  # where it is a file
    url: str  # for messages, and for who connects by itself

    @abstractmethod
    def write_within(self, connection: Any, unit: Unit) -> Verdict:
        """Write the unit in the transaction that is open on the driver's connection."""

    @abstractmethod
    def is_same(self, journal: Any) -> bool:
        """Whether what an engine works on is this journal."""

    @abstractmethod
    def reading(self, wrapper: Any) -> AbstractContextManager[Any]:
        """A cursor for SQL of ours, in the transaction that is open, if one is."""

    @abstractmethod
    def query(self, wrapper: Any, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Rows of somebody's own SQL that only reads."""

    @abstractmethod
    def lock(self, wrapper: Any, name: str | None = None) -> None:
        """What a transaction holds before anything is read in it. Two that give the same `name` take turns, at least."""

    def turn(self, delivery: Delivery[Any]) -> AbstractContextManager[None]:
        """Waited for before the transaction of a handler begins."""
        return nullcontext()

    @abstractmethod
    def ring_after_commit(self, wrapper: Any) -> None:
        """Have the processes that run handlers look at once, where what was written doesn't tell them by itself."""

    @abstractmethod
    def clear(self, wrapper: Any) -> None:
        """Empty it, in a test; tables of views are dropped, and those of services stay as they are."""

    @abstractmethod
    def run_tables(self, wrapper: Any, service: str, version: str, script: Script) -> bool:
        """In the transaction that is open: a test's. Whether it has run now."""

    def searching(self, wrapper: Any) -> AbstractContextManager[None]:
        """While SQL of services and views runs, in the transaction that is open: it finds what an engine's would."""
        return nullcontext()

    @abstractmethod
    def register(self, wrapper: Any, registration: Registration) -> None:
        """The same, of what a service says when it starts."""


class Kind(ABC):
    """How such a database comes to have a journal."""

    @abstractmethod
    def check(self, wrapper: Any) -> None:
        """Raise where it can't have one."""

    @abstractmethod
    def url_of(self, wrapper: Any) -> str: ...

    @abstractmethod
    def store_of(self, wrapper: Any) -> Store:
        """Makes its tables where there are none, unless a transaction is open."""

    @abstractmethod
    def make(self, wrapper: Any, services: Sequence[Service[Any]]) -> None:
        """The journal's tables, and those of services that have some; what is there stays as it is."""

    @abstractmethod
    def make_first(self, wrapper: Any) -> bool:
        """The journal's tables, where there are none. Whether."""


def driver_of(wrapper: Any) -> Any:
    """The driver's connection. Django refuses to connect inside of an event loop, but one that is there is used in tests."""
    if wrapper.connection is None:
        wrapper.ensure_connection()
    return wrapper.connection


def in_tests() -> bool:
    return hasattr(testing._TestState, "saved_data")


def clear_all(wrapper: Any, tables: Sequence[str], schema: str = "") -> None:
    """These tables of the journal's, and views, which are made anew by whoever keeps them."""
    of_views = f"from {schema}spine_tables where version like %s or version like %s"
    like = ("view %", "drop view %")  # as state/store.py names them there
    with transaction.atomic(using=wrapper.alias), wrapper.cursor() as cursor:
        for table in tables:
            cursor.execute(f"delete from {schema}{table}")  # noqa: S608 -- names of ours, as below
        cursor.execute(f"select version {of_views}", like)
        for (version,) in cursor.fetchall():
            cursor.execute(f'drop table if exists {schema}"{version.rpartition("view ")[2]}"')
        cursor.execute(f"delete {of_views}", like)
