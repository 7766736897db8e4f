"""Journals: `open_journal(url)` gives the one that a URL names, not yet opened; `check_journal` says whether a user's own is
one."""

from __future__ import annotations

import re

from .. import adapters
from ..errors import MissingExtra, SettingsError
from ..ports import missing
from .port import Journal


def open_journal(url: str) -> Journal:
    """`sqlite:///relative.db`, `sqlite:////absolute.db`, `postgresql://user@host/database?schema=name`, `memory://`; and what
    installed packages have."""
    scheme = url.partition("://")[0]
    if scheme == "memory":
        from .memory import MemoryJournal

        return MemoryJournal()
    if scheme == "sqlite":
        from .sqlite import SQLiteJournal

        return SQLiteJournal(url)
    if scheme in ("postgres", "postgresql"):
        try:
            from .postgres import PostgresJournal
        except ModuleNotFoundError as error:
            if error.name != "psycopg":
                raise
            raise MissingExtra('A PostgreSQL journal needs its driver: pip install "eventspine[postgres]"') from error
        return PostgresJournal(url)
    if scheme.startswith(("postgres+", "postgresql+")):
        raise SettingsError(
            f"{without_password(url)!r} is written as for SQLAlchemy. The journal has its own driver: write "
            f"{without_password('postgresql' + url[len(scheme) :])!r}."
        )
    if (found := adapters.installed("journal", url)) is not None:
        check_journal(found)
        return found  # type: ignore[no-any-return]  # checked just now
    others = "".join(f", {name}://…" for name in adapters.schemes("journal"))
    raise SettingsError(
        f"{without_password(url)!r} names no journal. Use sqlite:///spine.db, sqlite:////absolute/spine.db, "
        f"postgresql://user@host/database{others} or memory://."
    )


def check_journal(given: object) -> None:
    """An adapter of a user's own: raises SettingsError for what isn't one."""
    if isinstance(given, type):
        raise SettingsError(f"The journal {given.__name__} is a class. Give one that is made: {given.__name__}(…).")
    if lacks := missing(given, Journal):
        raise SettingsError(
            f"The journal {given!r:.100} is neither a URL, such as sqlite:///spine.db, nor a journal: it has no "
            f"{', '.join(lacks[:3])}{', …' * (len(lacks) > 3)}. eventspine.journal.port.Journal says what one has to have."
        )


def without_password(url: str) -> str:
    """For people: neither what stands before the host, nor a password among the options."""
    # Up to the last @ of what isn't options: a password that should have been percent-encoded may hold @, / and more.
    before, mask = ("//[^/@]*@" if url.startswith("sqlite:") else "//[^?]*@"), "//…@"
    if "//" not in url:  # the scheme was forgotten
        before, mask = "^[^?]*@", "…@"
    url = re.sub(before, mask, url)
    return re.sub(r"([?&](?:ssl)?password=)[^&]*", r"\1…", url)


class Url(str):
    """A URL that is whole where it is used, and without its password wherever it is shown."""

    __slots__ = ()

    def __str__(self) -> str:
        return without_password(str.__str__(self))

    def __repr__(self) -> str:
        return repr(without_password(str.__str__(self)))

    def __format__(self, spec: str) -> str:
        return format(without_password(str.__str__(self)), spec)
