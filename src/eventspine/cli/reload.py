"""`spine run --reload`: a change of a file restarts the process that runs the services.

Always a new process, never the old one with modules imported again. What is in hand gets RELOAD_DRAIN_S to finish; the
rest is handled again, as after any end. Code that can't be started is shown, and the next change tries again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ..errors import MissingExtra
from .supervisor import Supervisor

log = logging.getLogger("eventspine.run")

RELOAD_DRAIN_S = 2.0
WATCHED = (".py", ".sql", ".toml")
IGNORED = {"__pycache__", "node_modules", "site-packages", "venv", "env", "build", "dist"}


def require_watchfiles() -> None:
    try:
        import watchfiles  # noqa: F401
    except ImportError as missing:
        raise MissingExtra('--reload needs watchfiles: pip install "eventspine[reload]".', extra="reload") from missing


def is_watched(path: str, folders: Sequence[Path]) -> bool:
    """Sources and settings; not what tools and environments keep beside them."""
    if not path.endswith(WATCHED):
        return False
    folder = next((one for one in folders if Path(path).is_relative_to(one)), None)
    parts = Path(path).relative_to(folder).parts if folder else Path(path).parts
    return not any(part in IGNORED or part.startswith(".") for part in parts)


async def follow_changes(supervisor: Supervisor, folders: Sequence[Path]) -> None:
    from watchfiles import awatch

    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # which files, and what comes of it, is told below
    log.info("watching %s (%s)", ", ".join(map(str, folders)), ", ".join(f"*{ending}" for ending in WATCHED))
    async for changes in awatch(*folders, watch_filter=lambda _, path: is_watched(path, folders)):
        names = sorted({_shown(path) for _, path in changes})
        log.info(
            "%s changed: starting again", ", ".join(names[:3]) + (f" and {len(names) - 3} more" * (len(names) > 3))
        )
        # Its start is not awaited: code that hangs while it is imported is mended by the next change, too.
        await supervisor.places[0].restart(RELOAD_DRAIN_S)


def _shown(path: str) -> str:
    return str(Path(path).relative_to(Path.cwd())) if Path(path).is_relative_to(Path.cwd()) else path
