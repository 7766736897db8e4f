"""Commands in memory and in a file: what holds on one holds on the other."""

from __future__ import annotations

from tests.state.conftest import file, journal

__all__ = ["file", "journal"]
