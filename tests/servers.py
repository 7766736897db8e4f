"""Real servers for tests: on a laptop a missing one is a skip, with CI=true it is a failure."""

from __future__ import annotations

import os

import pytest

from eventspine.testing import servers


def needed(name: str) -> type[servers.Server]:
    """Its class, when it is installed here."""
    kind = servers.named(name)
    if not kind.is_installed():
        missing = f"{name} is not installed: spine servers install {name}"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return kind
