"""An ordinary service on a PostgreSQL journal, by the command line: run, publish, follow, trace, and mend what died."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.servers import needed

from .test_run import publish

pytestmark = pytest.mark.setup("postgres", processes="postgres processes")


@pytest.fixture
def journal(spine, postgres_url: str) -> str:
    spine.environment["SPINE_JOURNAL"] = postgres_url.replace(
        "postgres@", "postgres:s3cr3t@"
    )  # which the server ignores
    return postgres_url


@pytest.mark.parametrize("more", [(), ("--processes", "2")])
def test_a_shop_runs_on_postgresql(spine, journal, more):
    process = spine.start("run", "bookshop", *more)
    told = spine.until(process, "running shopfront")
    order = publish(spine, "ann")
    spine.until_it_shows("trace", order, shows="email.confirm  done")

    unlucky = publish(spine, "unlucky")
    spine.until_it_shows("trace", unlucky, shows="email.confirm  dead after 1 attempt")
    assert "email.confirm" in spine("dead", "list").stdout
    (spine.folder / "mended").touch()
    assert "1 dead delivery to be tried again.\n" == spine("dead", "replay", "--handler", "email.confirm").stdout
    spine.until_it_shows("trace", unlucky, shows="email.confirm  settled after 2 attempts")

    tailed = spine("tail", "--from", "earliest", "--no-follow", "--json").stdout.splitlines()
    assert ["BookOrdered", "BookReserved"] * 2 == [json.loads(line)["type"].rpartition(".")[2] for line in tailed]
    health = spine("health")
    assert 0 == health.returncode, health.stdout
    doctor = spine("doctor").stdout
    assert "Serves other hosts" in doctor
    assert re.search(r"kind\s+postgres", doctor)

    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=60)
    assert 0 == process.returncode
    assert "everything in hand was finished" in rest or more
    assert 2 == len((spine.folder / "sent").read_text().splitlines())
    for text in (told, rest, doctor, health.stdout, spine("settings").stdout):
        assert "s3cr3t" not in text


def test_what_reads_a_journal_that_a_broker_fills_is_told_on_postgresql_too(spine, journal):
    """An intake reads no channel of the journal's own feed, which PostgreSQL has no empty list for."""
    with needed("nats")(spine.folder) as server:
        spine.until(spine.start("run", "bookshop:email", "--broker", server.url), "running email")
        for command in ("subscriptions", "health", "top", "doctor"):
            answer = spine(command)
            assert "intake:stock" in answer.stdout, answer.stderr


@pytest.mark.promise("process killed", "postgres processes")
def test_of_two_that_run_a_killed_ones_work_goes_on_in_the_other(spine, journal):
    one, two = spine.run_shop(), spine.run_shop()
    publish(spine, "ann")
    one.kill()
    for customer in ("ben", "cem", "dee"):
        publish(spine, customer)
    deadline = time.monotonic() + 60
    sent = spine.folder / "sent"
    while not sent.exists() or 4 > len(sent.read_text().splitlines()):
        assert time.monotonic() < deadline
        assert two.poll() is None
        time.sleep(0.05)
    assert ["ann", "ben", "cem", "dee"] == sorted(line.split()[0] for line in sent.read_text().splitlines())


def test_there_is_no_journal_until_something_runs_on_it(spine, journal):
    answer = spine("tail", "--no-follow")
    assert "There is no journal at postgres" in answer.stderr
    assert "s3cr3t" not in answer.stderr


def test_a_server_that_is_not_there_is_told_with_what_to_do(spine):
    answer = spine("run", "bookshop", "--journal", "postgresql://shop:s3cr3t@127.0.0.1:1/shop")
    assert 0 != answer.returncode
    assert "can't be reached" in answer.stderr
    assert "?." not in answer.stderr
    assert "s3cr3t" not in answer.stderr
    assert "Traceback" not in answer.stderr


def test_what_only_a_file_can_do_is_refused_with_what_it_is(spine, journal):
    spine.run_shop()
    told = {
        "only a file can be reset": ["reset", "--yes"],
        "puts a file in place": ["restore", "copy.db"],
    }
    for why, command in told.items():
        answer = spine(*command)
        assert 2 == answer.returncode, answer.stderr
        assert "is no SQLite file; " in answer.stderr
        assert why in answer.stderr
        assert "In PostgreSQL: " in answer.stderr, "what to do instead"
        assert "s3cr3t" not in answer.stderr


def test_streams_are_listed_truncated_and_deleted(spine, journal):
    (spine.folder / "town.py").write_text(TOWN)
    made = subprocess.run(
        [sys.executable, "town.py", journal], cwd=spine.folder, env=spine.environment, check=False, capture_output=True
    )
    assert 0 == made.returncode, made.stderr
    listed = json.loads(spine("streams", "list", "--json").stdout)
    assert [("town", "garage-g1", 2), ("town", "garage-g2", 2)] == [
        (row["service"], row["stream"], row["version"]) for row in listed
    ]
    assert [False, False] == [row["deleted"] for row in listed]
    truncated = spine("streams", "truncate", "town", "garage-g1", "--before", "2", "--unchecked", "--yes")
    assert "1 event deleted; it begins with version 2" in truncated.stdout, truncated.stderr
    deleted = spine("streams", "delete", "town", "garage-g2", "--yes")
    assert "2 events deleted" in deleted.stdout, deleted.stderr
    assert [3] == [row["version"] for row in json.loads(spine("streams", "show", "town", "garage-g2", "--json").stdout)]
    assert [False, True] == [row["deleted"] for row in json.loads(spine("streams", "list", "--json").stdout)]


TOWN = """
import asyncio, sys
from eventspine import Aggregate, Event, Service, Spine, applies

class Filled(Event, context="town", key="garage"):
    garage: str

class Garage(Aggregate):
    @applies(Filled)
    def _filled(self, event): ...

async def main():
    async with Spine(sys.argv[1], service=Service("town")) as spine:
        for id in ("g2", "g1"):
            garage = Garage(id)
            garage.record(Filled(garage=id))
            garage.record(Filled(garage=id))
            await spine.save(garage)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "words",
    [
        ("run", "bookshop"),
        ("subscriptions",),
        ("tail", "--no-follow"),
        ("doctor",),
        ("dead", "list"),
    ],
)
def test_what_waiting_does_not_mend_ends_with_2_and_says_what_does(spine, postgres_server, words):
    spine.environment["SPINE_JOURNAL"] = f"{postgres_server.url.rpartition('/')[0]}/nowhere?schema=shop"
    ended = spine(*words)
    assert 2 == ended.returncode, ended.stdout + ended.stderr
    assert 'database "nowhere" does not exist. Make it, createdb NAME' in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_url_of_sqlalchemys_ends_with_2(spine):
    spine.environment["SPINE_JOURNAL"] = "postgresql+psycopg://shop:s3cr3t@localhost/shop"
    ended = spine("subscriptions")
    assert (2, True) == (ended.returncode, "write 'postgresql://" in ended.stderr)
    assert "s3cr3t" not in ended.stderr
