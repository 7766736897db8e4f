"""A relay and an intake among the subscriptions: what can be done to them, and what is refused before it does harm."""

from __future__ import annotations

import time
from uuid import uuid4

import pytest

from tests.servers import needed


@pytest.fixture
def nats_url(tmp_path):
    with needed("nats")(tmp_path / "nats") as server:
        yield f"{server.url}/?prefix={uuid4().hex}."


def test_a_place_at_the_broker_that_another_journal_has_is_refused_as_a_start_is(spine, nats_url):
    assert 0 == spine("topology", "apply", "bookshop", "--broker", nats_url).returncode
    spine.until(spine.start("run", "bookshop:shopfront", "--broker", nats_url), "running ")
    deadline = time.monotonic() + 60
    while True:  # it leaves its name there once it is connected
        other = spine("publish", "-m", "bookshop", "BookOrdered", '{"customer": "ann", "title": "Emma"}', "--broker", nats_url,
                      "--journal", "sqlite:///other.db")  # fmt: skip
        if other.returncode != 0 or time.monotonic() > deadline:
            break
    assert (3, True) == (other.returncode, "Another journal" in other.stderr), other.stderr


def test_a_relay_and_an_intake_are_not_taken_from_under_who_works_with_them(spine, nats_url):
    process = spine.start("run", "bookshop:shopfront", "bookshop:email", "--broker", nats_url)
    assert "broker nats://" in spine.until(process, "running ")
    spine("publish", "-m", "bookshop", "BookOrdered", '{"customer": "ann", "title": "Emma"}')
    for name in ("relay:orders", "email.stock"):
        refused = spine("subscriptions", "retire", name, "--yes")
        assert (3, True) == (refused.returncode, f"is at work (pid {process.pid})" in refused.stderr), refused.stderr

    told = spine("subscriptions", "retire", "email.confirm", "--yes")
    assert f"A process that declares it is at work (pid {process.pid})" in told.stderr, told.stderr
    assert 0 == told.returncode
    refused = spine("subscriptions", "rewind", "email.stock", "--to", "earliest", "--repeat-effects")
    assert (2, True) == (refused.returncode, "spine subscriptions rewind relay:stock" in refused.stderr)
    refused = spine("subscriptions", "rename", "relay:orders", "other")
    assert (2, True) == (refused.returncode, "can't be renamed" in refused.stderr)

    spine.until_it_shows("subscriptions", "--service", "relay:orders", shows="active  1")
    refused = spine("subscriptions", "rewind", "relay:orders", "--to", "earliest")
    assert (2, True) == (refused.returncode, "under new numbers" in refused.stderr), refused.stderr
    again = spine("subscriptions", "rewind", "relay:orders", "--to", "earliest", "--repeat-effects", "--wait")
    assert 0 == again.returncode, again.stderr

    process.terminate()
    process.communicate(timeout=60)
    assert "is retired" in spine("subscriptions", "retire", "relay:orders", "--yes").stdout
