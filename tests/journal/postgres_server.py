"""A PostgreSQL for the tests of a module, and a schema of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import psycopg
import pytest

from eventspine.testing.servers import Server
from tests.servers import needed

_numbers = count(1)
SETTINGS = {"fsync": "on", "max_connections": "200"}


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with needed("postgres")(tmp_path_factory.mktemp("postgres"), settings=SETTINGS) as server:
        yield server


@pytest.fixture
def schema() -> str:
    return f"spine_{next(_numbers)}"


@pytest.fixture
def url(postgres: Server, schema: str) -> Iterator[str]:
    yield f"{postgres.url}?schema={schema}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"drop schema if exists {schema} cascade")
