"""Real servers: each for one module of tests, which make names of their own on it. One that is not installed is a skip on a
laptop, and a failure in CI."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventspine.testing import servers


def serving(name: str, folder: Path) -> Iterator[servers.Server]:
    server = servers.named(name)(folder)
    if not server.is_installed():
        said = f"{server.name} {server.version} is not installed: spine servers install {name}"
        if os.environ.get("CI"):
            pytest.fail(said)
        pytest.skip(said)
    with server:
        yield server


def _fixture(name: str) -> object:
    @pytest.fixture(scope="module", name=f"{name}_server")
    def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
        yield from serving(name, tmp_path_factory.mktemp(name))

    return server


kafka_server = _fixture("kafka")
rabbitmq_server = _fixture("rabbitmq")
nats_server = _fixture("nats")
pulsar_server = _fixture("pulsar")
moto_server = _fixture("moto")
ministack_server = _fixture("ministack")
