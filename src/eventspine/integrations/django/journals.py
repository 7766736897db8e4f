"""The journal of the project: tables in one of its databases.

`migrate` makes the tables, and so does whoever publishes first outside of a transaction. What is published later needs
nothing but Django's own connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from django.db import connections

from ...errors import SettingsError
from ...service import Service
from . import settings
from .store import Kind, Store
from .within import check_supported


def wrapper() -> Any:
    """Django's connection, of this thread, to the database that has the journal."""
    alias = settings.read().database
    if alias not in connections:
        raise SettingsError(f"EVENTSPINE['DATABASE'] is {alias!r}; DATABASES has {', '.join(connections)}.")
    found = connections[alias]
    kind_of(found).check(found)
    return found


def kind_of(wrapper: Any) -> Kind:
    check_supported(wrapper)
    return _kind(wrapper.vendor)


@cache
def _kind(vendor: str) -> Kind:
    """Each in a module of its own, which imports its driver."""
    if vendor == "postgresql":
        from .postgres import Postgres

        return Postgres()
    from .sqlite import Sqlite

    return Sqlite()


def journal_of(wrapper: Any) -> Store:
    """Ready to be written to on this connection."""
    return kind_of(wrapper).store_of(wrapper)


def url_of(wrapper: Any) -> str:
    """For whoever connects by itself, such as the processes that run handlers."""
    return kind_of(wrapper).url_of(wrapper)


def make(wrapper: Any, services: Sequence[Service[Any]] = ()) -> None:
    """The journal's tables, and those of services that have some; what is there stays as it is."""
    kind_of(wrapper).make(wrapper, [service for service in services if service.tables is not None])


def make_first(wrapper: Any) -> bool:
    """The journal's tables, where there are none. Whether."""
    return kind_of(wrapper).make_first(wrapper)
