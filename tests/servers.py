"""Real servers for tests: on a laptop a missing one is a skip, with CI=true it is a failure."""

from __future__ import annotations

import os

import pytest

from eventspine.testing import servers


def unproven(why: str) -> pytest.MarkDecorator:
    """What has not been seen to pass again and again yet is no gate; who works on it runs it with UNPROVEN=1."""
    return pytest.mark.skipif(os.environ.get("UNPROVEN") != "1", reason=f"{why}; UNPROVEN=1 runs it")


def needed(name: str) -> type[servers.Server]:
    """Its class, when it is installed here."""
    kind = servers.named(name)
    if not kind.is_installed():
        missing = f"{name} is not installed: spine servers install {name}"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return kind
