"""EventBridge with SQS, on two emulators by different authors: where they differ, neither is AWS."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from eventspine.testing.servers import Server
from tests.servers import needed

from .faults import FaultyWay


@pytest.fixture(scope="package", params=["moto", "ministack"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with needed(request.param)(tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture
def way(server: Server) -> Iterator[FaultyWay]:
    with FaultyWay(server.port) as way:
        yield way


@pytest.fixture
def bus() -> str:
    return f"b{uuid4().hex[:8]}"
