"""Words in messages: one event, two events; and what of a text can be kept."""

from __future__ import annotations

# To who gives a connection in autocommit to a journal in PostgreSQL, in the words of the drivers; SQLAlchemy has its own.
BEGIN_ONE = "Begin a transaction on it first: with connection.transaction(): ..."


def plural(count: int, one: str, several: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def storable(text: str) -> str:
    """With what some database can't keep in a text written out: halves of surrogate pairs, and NUL, which PostgreSQL refuses."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", r"\x00")
