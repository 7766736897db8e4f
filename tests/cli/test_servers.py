"""`spine servers` with a real one: it outlives the command that started it, and is found again by the next."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventspine.testing import servers
from tests.cli.conftest import Processes
from tests.servers import needed

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def spine(spine: Processes, tmp_path: Path) -> Iterator[Processes]:
    """With servers of its own: the installation that is there, and no data."""
    there = needed("nats").installed()
    place = tmp_path / "servers"
    place.mkdir()
    (place / there.name).symlink_to(there)
    spine.environment["EVENTSPINE_SERVERS"] = str(place)
    yield spine
    spine("servers", "down")
    shutil.rmtree(place / "data", ignore_errors=True)


def test_one_is_started_found_again_stopped_and_has_its_data_the_next_time(spine):
    assert json.loads(spine("servers", "list", "nats", "--json").stdout) == [
        {"server": "nats", "version": servers.named("nats").version, "installed": True, "running": False, "url": None, "folder": None}
    ]  # fmt: skip
    up = spine("servers", "up", "nats")
    assert (up.returncode, up.stderr) == (0, "")
    name, url = up.stdout.split()
    assert name == "nats"
    assert spine("servers", "up", "nats").stdout == up.stdout, "it runs already"

    (shown,) = json.loads(spine("servers", "list", "nats", "--json").stdout)
    assert (shown["running"], shown["url"]) == (True, url)
    assert "yes" in spine("servers", "list").stdout

    made = spine("topology", "apply", "--broker", url, "bookshop")
    assert made.returncode == 0, made.stderr
    assert "has ended" in spine("servers", "down", "nats").stderr
    assert not json.loads(spine("servers", "list", "nats", "--json").stdout)[0]["running"]

    assert spine("servers", "up", "nats").stdout == up.stdout, "at the same port"
    assert spine("topology", "verify", "--broker", url, "bookshop").returncode == 0, "with what was made on it"


def test_down_deletes_what_it_is_told_to(spine):
    up = spine("servers", "up", "nats", "--port", str(port := servers.free_ports(2)))
    assert f":{port}" in up.stdout
    (shown,) = json.loads(spine("servers", "list", "nats", "--json").stdout)
    assert str(port) in shown["url"]
    other = spine("servers", "up", "nats", "--port", str(port + 2))
    assert other.returncode == 2
    assert f"has port {port}" in other.stderr
    spine("servers", "down", "nats", "--delete")
    assert not Path(shown["folder"]).exists()


def test_one_that_is_there_is_not_installed_again(spine):
    done = spine("servers", "install", "nats")
    assert done.returncode == 0
    assert done.stdout.startswith(f"nats {servers.named('nats').version} is in ")


@pytest.mark.parametrize("name", ["list", "install", "up", "down"])
def test_a_name_that_there_is_not_is_refused_with_those_there_are(spine, name: str):
    done = spine("servers", name, "zeromq")
    assert done.returncode == 2
    assert "kafka, rabbitmq, nats, pulsar, moto, ministack" in done.stderr


def test_up_starts_nothing_that_was_not_named(spine):
    assert spine("servers", "up").returncode == 2
    assert spine("servers", "up", "nats", "kafka", "--port", "4222").returncode == 2
