"""Where a service keeps what it knows: `spine.db` and what else it writes, in the shop's folder, or in one of its own."""

from __future__ import annotations

from pathlib import Path

SERVICES = ("storefront", "inventory", "email", "analytics")


def home(folder: Path, service: str) -> Path:
    """Its own folder, when the shop was opened with a broker; else that of all."""
    own = folder / service
    return own if own.is_dir() else folder


def journal(folder: Path, service: str) -> Path:
    return home(folder, service) / "spine.db"


def journals(folder: Path) -> list[Path]:
    """Each once, in the order in which an order comes by."""
    return list(dict.fromkeys(journal(folder, service) for service in SERVICES))
