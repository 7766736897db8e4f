"""A PostgreSQL for the tests of a module, and a schema of its own for each test. Fixtures of every test, by tests/conftest.py."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from eventspine.testing.servers import Server

from .servers import needed

_numbers = count(1)
SETTINGS = {"max_connections": "200"}


@pytest.fixture(scope="module")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with needed("postgres")(tmp_path_factory.mktemp("postgres"), settings=SETTINGS) as server:
        yield server


@pytest.fixture
def schema() -> str:
    return f"spine_{next(_numbers)}"


@pytest.fixture
def postgres_url(postgres_server: Server, schema: str) -> Iterator[str]:
    import psycopg

    yield f"{postgres_server.url}?schema={schema}"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"drop schema if exists {schema} cascade")
