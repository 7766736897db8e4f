"""`spine topology` and `spine doctor` against a real server: what is missing, what is different, what it survives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from uuid import uuid4

import pytest
from nats.aio.client import Client
from nats.js.api import StreamConfig

from tests.servers import needed

pytestmark = pytest.mark.timeout(300)  # a dozen processes, on machines that others use too
STREAMS = ["orders", "stock"]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    with needed("nats")(tmp_path_factory.mktemp("nats")) as running:
        yield running.url


@pytest.fixture
def url(server: str) -> str:
    return f"{server}/?prefix={uuid4().hex[:8]}."


def prefix_of(url: str) -> str:
    return url.partition("prefix=")[2].partition("&")[0].replace(".", "_")


def streams(server: str, *, update: StreamConfig | None = None) -> dict[str, int]:
    """How many partitions each stream of the live server has."""

    async def ask() -> dict[str, int]:
        client = Client()
        await client.connect(server)
        try:
            if update is not None:
                await client.jetstream().update_stream(update)
            found = await client.jetstream().streams_info()
            return {info.config.name or "": len(info.config.subjects or ()) for info in found}
        finally:
            await client.close()

    return asyncio.run(ask())


def test_without_a_module_it_says_how_this_command_is_given_one(spine, url):
    refused = spine("topology", "plan", "--broker", url)
    assert (2, True) == (refused.returncode, "spine topology plan MODULE" in refused.stderr), refused.stderr


def test_what_is_left_out_since_services_are_taken_to_share_a_journal_is_told(spine, url):
    """A queue that nobody makes before it is published to has nothing of what came before it."""
    said = "stock reads orders, which shopfront publishes: named together they are taken to be on one journal"
    assert said in spine("topology", "plan", "bookshop:shopfront", "bookshop:stock", "--broker", url).stderr
    assert "named together" not in spine("topology", "plan", "bookshop:stock", "--broker", url).stderr


def test_what_is_missing_is_planned_made_once_and_then_there(spine, server, url):
    def topology(verb: str, *more: str):
        return spine("topology", verb, "bookshop", "--broker", url, *more)

    plan = topology("plan", "--json")
    assert 0 == plan.returncode, plan.stderr
    missing = json.loads(plan.stdout)
    assert {"orders", "stock"} <= {one["what"].removeprefix("stream ").removeprefix(prefix_of(url)) for one in missing}
    assert all(one["safe"] and not one["found"] for one in missing)
    assert not [name for name in streams(server) if name.startswith(prefix_of(url))], "plan changes nothing"
    missing_told = topology("verify")
    assert (1, True) == (missing_told.returncode, "nothing" in missing_told.stdout)

    made = topology("apply", "--json")
    assert 0 == made.returncode, made.stderr
    assert [one["what"] for one in missing] == [one["what"] for one in json.loads(made.stdout)["made"]]
    there = streams(server)
    assert [8, 8] == [there[prefix_of(url) + name] for name in STREAMS]

    again = topology("apply")
    assert (0, "") == (again.returncode, again.stdout)
    assert "Nothing was missing." in again.stderr
    assert there == streams(server)

    verified = topology("verify")
    assert 0 == verified.returncode, verified.stdout + verified.stderr
    assert "1 replica: the loss of its disk loses it" in verified.stdout
    assert "0 differences." in verified.stderr
    assert "Everything is there." in topology("plan").stderr


def test_what_is_different_is_reported_and_left_alone(spine, server, url):
    assert 0 == spine("topology", "apply", "bookshop", "--broker", url).returncode
    drifted = f"{url}&partitions=4"

    verified = spine("topology", "verify", "bookshop", "--broker", drifted, "--json")
    assert 1 == verified.returncode
    told = json.loads(verified.stdout)
    orders = next(one for one in told["differences"] if one["what"].endswith("orders"))
    assert ("4 partitions, 1 replica", "8 partitions, 1 replica", False) == (
        orders["wanted"], orders["found"], orders["safe"],
    )  # fmt: skip
    applied = spine("topology", "apply", "bookshop", "--broker", drifted)
    assert 1 == applied.returncode
    assert "by hand" in applied.stdout
    assert "left as they are" in applied.stderr
    assert 8 == streams(server)[f"{prefix_of(url)}orders"]


def test_without_a_broker_or_with_one_that_is_away_it_says_so(spine):
    unnamed = spine("topology", "plan", "bookshop")
    assert (2, True) == (unnamed.returncode, "Name the broker: --broker" in unnamed.stderr)
    away = spine("topology", "plan", "bookshop", "--broker", "nats://user:s3cret@127.0.0.1:9/?timeout_s=1")
    assert 1 == away.returncode
    assert "nats://user:…@127.0.0.1:9" in away.stderr
    assert "s3cret" not in away.stderr + away.stdout


def test_doctor_looks_at_the_live_broker(spine, server, url):
    away = "nats://user:s3cret@127.0.0.1:9/?timeout_s=1"
    process = spine.run_shop("--broker", url)
    report = spine("doctor", "--broker", url)
    told = json.loads(spine("doctor", "--broker", url, "--json").stdout)
    lost = spine("doctor", "--broker", away)
    unnamed = spine("doctor")
    health = json.loads(spine("health", "--json").stdout)
    listed = spine("subscriptions", "--window", "0").stdout
    process.terminate()
    process.wait(60)

    assert 0 == report.returncode, report.stdout + report.stderr
    assert "NATS JetStream, nats://127.0.0.1" in report.stdout
    assert {"ok", "warning"} >= {one["level"] for one in told["broker"]["findings"]}
    assert "stream of orders" in {one["what"] for one in told["broker"]["findings"]}
    assert {"kept": True, "says": "NATS JetStream keeps what it acknowledged when it is restarted."} in told["promises"]
    assert 1 == lost.returncode
    assert "can't be reached" in lost.stdout
    assert "s3cret" not in lost.stdout + lost.stderr
    assert "name it with --broker" in unnamed.stderr
    assert {"relay:orders", "relay:stock"} <= {one["service"] for one in health["services"]}
    assert "relay:orders" in listed

    stopped = spine("health")
    assert 1 == stopped.returncode
    assert "Nobody sends orders to the broker" in stopped.stdout
    assert "Where they run, they wait for the broker, and their log says why." in stopped.stdout

    missing = spine("doctor", "--broker", f"{server}/?prefix=empty.")
    assert 1 == missing.returncode
    assert "is not there" in missing.stdout
