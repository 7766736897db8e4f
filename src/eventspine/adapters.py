"""Adapters of others: what an installed package names as an entry point, by the scheme of its URLs.

In the group `eventspine.brokers` or `eventspine.journals`, an entry `ledger = "ledger_broker:LedgerBroker"` is called with
the URL of `ledger://…`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from .errors import SettingsError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Kind = Literal["broker", "journal"]


def installed(kind: Kind, url: str) -> Any:
    """What an installed package makes of this URL; None where no package has its scheme."""
    scheme = url.partition("://")[0]
    found = [one for one in _points(kind) if one.name == scheme]
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
    return sorted({one.name for one in _points(kind)})


def _points(kind: Kind) -> list[EntryPoint]:
    from importlib.metadata import entry_points  # slow to import, and seldom asked

    return list(entry_points(group=f"eventspine.{kind}s"))


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
