from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.conftest import file_store, store

from .harness import Deploy

__all__ = ["deploy", "file_store", "store"]
collect_ignore_glob = [] if os.name == "posix" else ["test_*.py"]  # there are no such signals


@pytest.fixture
def deploy(tmp_path: Path) -> Iterator[Deploy]:
    """Whatever happens in the test, nothing is left running after it."""
    deploy = Deploy(tmp_path)
    try:
        yield deploy
    finally:
        deploy.end()
