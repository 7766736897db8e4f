"""What a journal can do beyond what every journal must."""

from __future__ import annotations

from dataclasses import dataclass

from ..running import capability


@dataclass(frozen=True, slots=True)
class JournalCapabilities:
    """Nothing is declared unless it is said."""

    sql: bool = capability("handlers may use SQL on it: statements of a unit, `query`, `begin`, `run_tables`")
    within: bool = capability("a unit can be written on a connection of the caller's (`write_within`)")
    backups: bool = capability("`backup` copies it while it is in use")
    persistent: bool = capability("what it holds outlives who opened it, and several may have it open")
    processes: bool = capability("other processes may open it by its url, and may be killed at any moment")
