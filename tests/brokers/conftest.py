"""Real servers: each for one module of tests, which make names of their own on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eventspine.testing.servers import Server
from tests.servers import needed

SETTINGS = {"pulsar": {"backlogQuotaCheckIntervalInSeconds": "1"}}  # once a minute, unless it is told


def _fixture(name: str) -> object:
    @pytest.fixture(scope="module", name=f"{name}_server")
    def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
        server = needed(name)(tmp_path_factory.mktemp(name), settings=SETTINGS.get(name))
        try:
            yield server.start()
        finally:
            server.kill()  # some take seconds to end, and nobody will ask for what they have

    return server


kafka_server = _fixture("kafka")
rabbitmq_server = _fixture("rabbitmq")
nats_server = _fixture("nats")
pulsar_server = _fixture("pulsar")
moto_server = _fixture("moto")
ministack_server = _fixture("ministack")
