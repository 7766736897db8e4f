"""`within=` Django's own connection, or its alias: the unit shares the fate of `transaction.atomic()`, savepoints included."""

from __future__ import annotations

from typing import Any

from django.db import connections

from ...errors import SettingsError
from ...within import Carrier


class OfDjango(Carrier):
    """`connections["default"]`, `django.db.connection`, or the alias of a database."""

    kind = "Django connection"
    begin_first = (
        'With Django 5.1 or later: "OPTIONS": {"transaction_mode": "IMMEDIATE"} in the settings of this database.'
    )

    def connection(self) -> Any:
        wrapper = self._wrapper()
        check_supported(wrapper)
        if not in_transaction(wrapper):
            raise SettingsError(
                f"No transaction is open on the database {wrapper.alias!r}, so there is nothing to share. Do it inside "
                f"transaction.atomic(using={wrapper.alias!r})."
            )
        wrapper.validate_thread_sharing()
        wrapper.validate_no_broken_transaction()  # the driver would not know of it, and write
        return wrapper.connection

    def _wrapper(self) -> Any:
        return connections[self.within] if isinstance(self.within, str) else connections[self.within.alias]

    def roll_back(self) -> None:
        """Django alone would keep the lock until its outermost block ends, and of a nested one give back a savepoint only. So it is
        the driver that rolls back, and Django is told that the block is broken: it runs no more SQL in it, and finds the
        savepoints of the blocks around gone, which has it give up each of them."""
        wrapper = self._wrapper()
        if not in_transaction(wrapper):
            return
        wrapper.validate_thread_sharing()
        if wrapper.in_atomic_block:
            wrapper.connection.rollback()
            wrapper.set_rollback(True)
        else:
            wrapper.rollback()


def in_transaction(wrapper: Any) -> bool:
    """Whether what is written now waits for a commit of the caller's."""
    return bool(wrapper.in_atomic_block or not wrapper.get_autocommit())


def check_supported(wrapper: Any) -> None:
    if wrapper.vendor == "postgresql":
        from django.db.backends.postgresql.psycopg_any import is_psycopg3

        if is_psycopg3:
            return
        raise SettingsError(
            f"The database {wrapper.alias!r} is used by psycopg 2, and events are written on connections of psycopg 3: pip install "
            '"eventspine[postgres]". Django takes it where it is installed.'
        )
    if wrapper.vendor != "sqlite":
        raise SettingsError(
            f"The database {wrapper.alias!r} is {wrapper.display_name}. The journal is in SQLite or PostgreSQL, and an event "
            f"commits with your rows only when both are in one database: name such a one."
        )
