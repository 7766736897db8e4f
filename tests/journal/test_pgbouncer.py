"""Through PgBouncer in transaction mode, with fewer connections to the server than there are to PgBouncer: each transaction may
be given another session. PgBouncer is a system's package (`apt-get install pgbouncer`)."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from eventspine import Delivery, Event, Service, Spine, View
from eventspine.testing.servers import free_ports

pytestmark = pytest.mark.setup("postgres")

WAIT_S = 30
CONNECTIONS = 4  # of PgBouncer to the server; the two spines below have more to it
INSERT = "insert into book_rows values (:who, :cents)"
INI = """
[databases]
postgres = host=127.0.0.1 port={server} dbname=postgres user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {connections}
max_client_conn = 100
"""


@pytest.fixture
def bouncer(postgres_server, tmp_path: Path) -> Iterator[str]:
    """Its address."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        missing = "pgbouncer is not installed: apt-get install pgbouncer"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    port, server = free_ports(), urlsplit(postgres_server.url).port
    config = tmp_path / "pgbouncer.ini"
    config.write_text(INI.format(server=server, port=port, connections=CONNECTIONS))
    user = ["-u", "nobody"] if os.geteuid() == 0 else []  # it refuses to be root
    with (
        (tmp_path / "pgbouncer.log").open("wb") as log,
        subprocess.Popen([program, *user, str(config)], stdout=log, stderr=log) as process,
    ):
        try:
            _until_it_answers(port, process, tmp_path / "pgbouncer.log")
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _until_it_answers(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + WAIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.02)
        else:
            return


class Paid(Event, context="till", key="who"):
    who: str
    cents: int = 1


class Purses(View, key="who"):
    who: str
    cents: int = 0


def tables(db: Any) -> None:
    db.execute("create table book_rows (who text not null, cents integer not null)")


def keeping() -> Service:
    books = Service("books", tables=tables)

    @books.on(Paid)
    async def keep(event: Paid, delivery: Delivery[Paid]) -> None:
        if event.cents > 1:
            async with delivery.transaction() as transaction:
                await transaction.execute(INSERT, who=event.who, cents=event.cents - 1)
                [row] = await transaction.query(
                    "select count(*) as rows from book_rows where who = :who", who=event.who
                )
                assert row["rows"]  # its own, whatever session that was
                await transaction.execute(INSERT, who=event.who, cents=1)
        else:
            delivery.execute(INSERT, who=event.who, cents=event.cents)

    @books.projection(Purses, Paid)
    def add(view: View[Purses], event: Paid) -> None:
        view.row(event.who).cents += event.cents

    return books


@pytest.mark.timeout(120)
async def test_two_spines_through_few_connections_lose_nothing_and_do_nothing_twice(
    bouncer: str, schema: str, postgres_url: str
) -> None:
    url = f"postgresql://postgres@{bouncer}/postgres?schema={schema}&prepare=off"
    paid = [Paid(who=f"w{number % 7}", cents=1 + number % 3) for number in range(300)]
    wanted: Counter[str] = Counter()
    for event in paid:
        wanted[event.who] += event.cents
    async with (
        Spine(url, service=Service("till", publishes="till")) as till,
        Spine(url) as other,
        other.running(keeping()),
    ):
        groups = [paid[at : at + 10] for at in range(0, len(paid), 10)]
        receipts = await asyncio.gather(*[till.publish(*group) for group in groups])
        with closing(
            psycopg.connect(f"postgresql://postgres@{bouncer}/postgres", prepare_threshold=None)
        ) as connection:
            with connection.transaction():
                receipts.append([await till.publish(Paid(who="w0", cents=5), within=connection)])
        wanted["w0"] += 5
        await till.view(Purses).wait(*[receipt for group in receipts for receipt in group], timeout_s=WAIT_S)
        assert {row.who: row.cents for row in await till.view(Purses).all()} == wanted
        end = time.monotonic() + WAIT_S
        while (found := await _rows(till)) != wanted:
            assert time.monotonic() < end, found
            await asyncio.sleep(0.05)


async def _rows(spine: Spine) -> dict[str, int]:
    rows = await spine.journal.query("select who, sum(cents) as cents from book_rows group by who", {})
    return {row["who"]: row["cents"] for row in rows}
