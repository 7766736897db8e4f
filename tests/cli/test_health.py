"""`spine health`: whether the services are at work, by the journal and by HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import time

import pytest

from eventspine.journal import _sqlite_locks as locks
from eventspine.journal.lockfile import read_holder
from eventspine.journal.processes import is_stopped
from eventspine.observe.health_http import Answer, HealthServer
from eventspine.settings_values import Address

needs_a_list = pytest.mark.skipif(not locks.LOCKS.exists(), reason="this system doesn't tell who holds a lock")


def until(condition) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)  # between two looks


def test_services_at_work_are_healthy_and_those_that_stopped_are_not(spine):
    assert 4 == spine("health").returncode, "no journal"
    process = spine.run_shop()
    well = spine("health")
    assert 0 == well.returncode
    assert "healthy" == well.stdout.splitlines()[-1]
    assert re.search(r"^stock +1 +0 +0 +0$", well.stdout, re.MULTILINE)

    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    ill = spine("health")
    assert 1 == ill.returncode
    assert "No process of stock is at work: spine run." in ill.stdout


def test_one_that_was_killed_is_not_at_work(spine):
    process = spine.run_shop()
    process.kill()
    process.wait()
    assert 1 == spine("health").returncode


def test_one_that_is_stopped_is_named(spine):
    process = spine.run_shop()

    def stopped_outside_a_commit() -> bool:
        """In the middle of one it would hold the lock for writing, which is told instead."""
        os.kill(process.pid, signal.SIGSTOP)
        until(lambda: is_stopped(process.pid))
        if (read_holder(spine.folder / "spine.db-lock") or [None])[0] != process.pid:
            return True
        os.kill(process.pid, signal.SIGCONT)
        return False

    until(stopped_outside_a_commit)
    until(lambda: 1 == spine.asked_here("health").exit_code)
    assert f"Process {process.pid} of stock has not renewed its leases for" in spine("health").stdout
    assert f"Process {process.pid} of stock is there and has not renewed its leases for" in spine("doctor").stdout
    assert f"{process.pid}  silent " in spine("top", "--every", "0.1").stdout


KEEPER = """
import asyncio, sqlite3
from eventspine import Event, Service

class Asked(Event, context="questions"):
    pass

keeper = Service("keeper", publishes="questions")

@keeper.on(Asked)
async def keep(event: Asked) -> None:
    own = sqlite3.connect("spine.db", isolation_level=None)
    own.execute("begin immediate")
    await asyncio.Event().wait()
"""


@needs_a_list
def test_a_handler_that_keeps_the_write_lock_is_named_and_nobody_is_called_stopped(spine):
    (spine.folder / "keeping.py").write_text(KEEPER)
    process = spine.start("run", "keeping")
    spine.until(process, "running keeper")
    assert 0 == spine("publish", "-m", "keeping", "Asked", "{}").returncode
    ill = spine.until_it_shows("health", shows="has not renewed its leases")
    for _ in range(5):  # it waits for itself in its turn at some of these looks, and not at others
        assert f"Process {process.pid} has held the write lock for " in ill
        assert f"it can't while process {process.pid} keeps the write lock." in ill
        assert "stopped" not in ill
        assert f"Process {process.pid} has held the write lock for " in spine.asked_here("doctor").stdout
        ill = spine.asked_here("health").stdout


def test_a_service_that_is_asked_for_has_to_be_there(spine):
    process = spine.run_shop()
    assert 0 == spine("health", "--service", "stock").returncode
    process.kill()
    process.wait()
    assert 1 == spine("health", "--service", "stock").returncode
    unknown = spine("health", "--service", "stock", "--service", "shipping")
    assert (4, "") == (unknown.returncode, unknown.stdout)
    assert "spine: No service 'shipping' has registered here. There is email, shopfront, stock." in unknown.stderr
    assert "Did you mean stock?" in spine("health", "--service", "stok").stderr


def test_being_behind_counts_when_told(story, say):
    far = say("health", "--service", "stock", "--lag-max", "0", "--json")
    assert 1 == far.exit_code
    told = json.loads(far.stdout)
    assert (False, 1) == (told["healthy"], told["services"][0]["lag"])
    assert "stock is 1 event behind; 0 are allowed." in told["problems"]
    assert "behind" not in say("health", "--service", "stock", "--lag-max", "1").stdout


def test_a_pause_is_told_with_what_waits_for_its_end(spine):
    spine.run_shop()
    spine.asked_here("subscriptions", "pause", "stock.reserve")
    order = '{"customer": "ann", "title": "Emma"}'
    spine.asked_here("publish", "BookOrdered", order, "-m", "bookshop")
    told = spine.asked_here("health")
    assert re.search(r"^stock +1 +1 +0 +0$", told.stdout, re.MULTILINE)
    assert "stock.reserve is paused, with 1 event to handle. `spine subscriptions resume stock.reserve`" in told.stdout
    assert (0, "healthy") == (told.exit_code, told.stdout.splitlines()[-1]), "somebody wanted it so"

    services = json.loads(spine.asked_here("health", "--json").stdout)["services"]
    (stock,) = [one for one in services if one["service"] == "stock"]
    assert (1, ["stock.reserve"]) == (stock["lag"], stock["paused"])
    assert 1 == spine.asked_here("health", "--lag-max", "0").exit_code


def test_a_service_that_is_all_paused_needs_nobody_unless_it_is_asked_for(story, say):
    say("subscriptions", "pause", "stock.reserve")
    assert "stock.reserve is paused, with 1 event to handle." in say("health").stdout
    assert "No process of stock" not in say("health").stdout
    assert "No process of stock" in say("health", "--service", "stock").stdout


def test_dead_deliveries_are_told_and_are_not_ill_health(spine):
    spine.run_shop()
    order = '{"customer": "unlucky", "title": "Emma"}'
    assert 0 == spine("publish", "BookOrdered", order, "-m", "bookshop").returncode
    spine.until_it_shows("dead", "list", shows="email")
    answer = spine("health", "--json")
    assert 0 == answer.returncode
    assert 1 == next(one["dead"] for one in json.loads(answer.stdout)["services"] if one["service"] == "email")


def test_an_address_is_asked_instead(say):
    answers = [Answer(True, True, {"status": "ok", "problems": []})]
    server = HealthServer(Address("127.0.0.1", 0), lambda: answers[-1])
    try:
        port = server.address.port
        for url in (str(port), f":{port}", f"127.0.0.1:{port}", f"http://127.0.0.1:{port}"):
            well = say("health", "--url", url)
            assert (0, "ready\n") == (well.exit_code, well.stdout)
        answers.append(Answer(True, False, {"draining": True, "problems": ["process 1: \x1b[2J"]}))
        ill = say("health", "--url", str(port))
        assert (1, "process 1: \\x1b[2J\nnot ready: it drains\n") == (ill.exit_code, ill.stdout)
        assert 0 == say("health", "--url", f"http://127.0.0.1:{port}/healthz").exit_code
        assert json.loads(say("health", "--url", str(port), "--json").stdout)["draining"]
    finally:
        server.close()
    silent = say("health", "--url", str(port))
    assert 1 == silent.exit_code
    assert "does not answer" in silent.stdout


def test_what_can_not_be_asked_is_refused(say):
    for words in (["--url", "ftp://x"], ["--url", "eighty"], ["--url", "1", "--service", "x"]):
        assert 2 == say("health", *words).exit_code
