"""Ports: who was given one has it, also while its server is down."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventspine.testing.servers import ServerError, free_ports, ports
from eventspine.testing.servers.server import Server

DRAWS = """
import sys
from eventspine.testing.servers import ports
ports._LOWEST, ports._HIGHEST = int(sys.argv[1]), int(sys.argv[2])
try:
    print(ports.free_ports(2), flush=True)
except OSError:
    print(0, flush=True)
sys.stdin.read()
"""


def drawing(lowest: int, highest: int) -> subprocess.Popen[str]:
    """A process that draws two ports of these, and keeps them until it is told to end."""
    command = [sys.executable, "-c", DRAWS, str(lowest), str(highest)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def drawn(child: subprocess.Popen[str]) -> int:
    assert child.stdout is not None
    return int(child.stdout.readline())


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """So few that whoever draws two of them has the only ones."""
    first = free_ports(3)
    ports._ours.difference_update(range(first, first + 3))
    monkeypatch.setattr(ports, "_LOWEST", first)
    monkeypatch.setattr(ports, "_HIGHEST", first + 3)
    yield first, first + 3


def test_a_process_draws_no_port_twice_although_nobody_listens_on_it(few: tuple[int, int]) -> None:
    assert few[0] == free_ports(2)
    with pytest.raises(OSError, match="No 2 consecutive ports"):
        free_ports(2)


def test_others_do_not_draw_it_until_the_process_whose_it_is_has_ended() -> None:
    first = free_ports(4) + 1  # which this process keeps others from only by its own lock
    with drawing(first, first + 3) as beside:
        assert 0 == drawn(beside), "ours"
        beside.communicate()
    low = _given_back()
    with drawing(low, low + 3) as one:
        assert low == drawn(one)
        with drawing(low, low + 3) as two:
            assert 0 == drawn(two), "another's"
            two.communicate()
        one.communicate()
    with drawing(low, low + 3) as three:
        assert low == drawn(three)
        three.communicate()


def _given_back() -> int:
    """Ports that were a process's that has ended."""
    with drawing(20_000, 32_000) as child:
        found = drawn(child)
        child.communicate()
    return found


class Listening(Server):
    """The smallest server: it listens."""

    name = "listening"
    version = "1"
    url_form = "http://{address}"

    @classmethod
    def is_installed(cls) -> bool:
        return True

    def _command(self) -> list[str]:
        listen = f"import socket, time; s = socket.create_server(('127.0.0.1', {self.port})); time.sleep(600)"
        return [sys.executable, "-c", listen]

    def _ready(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except OSError:
            return False
        return True


def test_a_server_whose_port_another_program_took_before_its_first_start_takes_another(tmp_path: Path) -> None:
    server = Listening(tmp_path / "one")
    with socket.create_server(("127.0.0.1", server.port)) as other, server:
        assert server.port != other.getsockname()[1]
        assert server.port == Listening(tmp_path / "one").port, "whoever finds its folder finds it"


def test_one_that_was_told_its_port_or_had_it_before_stays_there(tmp_path: Path) -> None:
    with Listening(tmp_path / "one") as server:
        port = server.port
    for stays in (server, Listening(tmp_path / "one"), Listening(tmp_path / "two", port=port)):
        with socket.create_server(("127.0.0.1", port)), pytest.raises(ServerError, match=f"port {port}"):
            stays.start()
