"""Adapters of others, found by the scheme of a URL: what an installed package names as an entry point.

[project.entry-points."eventspine.brokers"]      or "eventspine.journals"
ledger = "ledger_broker:LedgerBroker"            is called with the URL of ledger://…
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from .errors import SettingsError

Kind = Literal["broker", "journal"]


def installed(kind: Kind, url: str) -> Any:
    """What an installed package makes of this URL; None where no package has its scheme."""
    scheme = url.partition("://")[0]
    found = _named(kind, scheme)
    if not found:
        return None
    if len({one.value for one in found}) > 1:
        packages = ", ".join(sorted(map(_package, found)))
        raise SettingsError(f"Several packages have a {kind} for {scheme}://: {packages}. Uninstall all but one.")
    make = _loaded(kind, found[0])
    if not callable(make):
        raise SettingsError(
            f"{found[0].value} of {_package(found[0])} is named as the {kind} for {scheme}://, and can't be called. It has "
            f"to make a {kind} of a URL."
        )
    return make(url)


def schemes(kind: Kind) -> list[str]:
    """That installed packages have."""
    return sorted({one.name for one in entry_points(group=f"eventspine.{kind}s")})


def _named(kind: Kind, scheme: str) -> list[EntryPoint]:
    return list(entry_points(group=f"eventspine.{kind}s", name=scheme))


def _loaded(kind: Kind, found: EntryPoint) -> Any:
    try:
        return found.load()
    except (ImportError, AttributeError) as error:
        raise SettingsError(
            f"The {kind} for {found.name}:// of {_package(found)} ({found.value}) can't be imported: {error}. Install it "
            "again, with what it needs, or uninstall it."
        ) from error


def _package(found: EntryPoint) -> str:
    return found.dist.name if found.dist is not None else found.value
