"""`spine top` on a real terminal, in a pipe and as JSON; and how rates are measured."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess

import pytest

from eventspine.cli import rates
from eventspine.cli.top import told_apart
from eventspine.journal.port import PARTITIONS, Append, Done, Rename, Unit

from .conftest import record

fcntl = pytest.importorskip("fcntl")
pty = pytest.importorskip("pty")
termios = pytest.importorskip("termios")


class Screen:
    """The command on a terminal of a certain size."""

    def __init__(self, spine, *arguments: str, lines: int = 30, columns: int = 140) -> None:
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.before = termios.tcgetattr(theirs)
        self.theirs = theirs
        environment = {name: value for name, value in spine.environment.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            spine.line(arguments), cwd=spine.folder, env=environment | {"TERM": "xterm"},
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        spine.started.append(self.process)
        self.shown = ""

    def until(self, *words: str) -> str:
        """What is shown until all of these have come, from where the last one ended."""
        start = len(self.shown)
        while not all(word in self.shown[start:] for word in words):
            self.shown += os.read(self.ours, 4096).decode(errors="replace")
        return self.shown[start:]

    def type(self, keys: str) -> None:
        os.write(self.ours, keys.encode())

    def end(self) -> int:
        """Its exit code, and the terminal as it has left it."""
        code = self.process.wait(30)
        os.set_blocking(self.ours, False)
        try:
            self.shown += os.read(self.ours, 65536).decode(errors="replace")
        except BlockingIOError:
            pass
        assert termios.tcgetattr(self.theirs) == self.before
        assert self.shown.rindex("\x1b[?1049l") > self.shown.rindex("\x1b[?1049h"), "the screen from before is back"
        os.close(self.ours)
        os.close(self.theirs)
        return code


@pytest.mark.parametrize("leave", ["q", "Q", "\x03"])
def test_a_key_leaves_the_live_screen(spine, story, leave):
    screen = Screen(spine, "top", "--every", "0.2")
    screen.until("email.confirm", "q leaves")

    if leave == "\x03":
        screen.process.send_signal(signal.SIGINT)
    else:
        screen.type(leave)

    assert screen.end() == 0


def test_a_signal_leaves_the_terminal_as_it_was(spine, story):
    screen = Screen(spine, "top", "--every", "0.2")
    screen.until("q leaves")

    screen.process.send_signal(signal.SIGTERM)

    assert screen.end() == 0


def test_a_terminal_that_is_closed_ends_it(spine, story):
    screen = Screen(spine, "top", "--every", "0.2")
    screen.until("q leaves")

    os.close(screen.ours)
    os.close(screen.theirs)

    screen.process.wait(30)


def test_the_screen_follows_what_happens(spine):
    shop = spine.run_shop()
    screen = Screen(spine, "top", "--every", "0.2")
    screen.until("stock.reserve", str(shop.pid), "alive")

    spine("publish", "-m", "bookshop", "BookOrdered", '{"customer": "unlucky", "title": "Emma"}')
    screen.until("2 events")
    shop.send_signal(signal.SIGTERM)
    screen.until("not running")
    screen.type("q")

    assert screen.end() == 0
    assert re.search(r"\x1b\[1;31m *1\x1b", screen.shown), "a dead delivery stands out"


def test_a_process_that_is_gone_is_not_up(spine):
    shop = spine.run_shop()
    assert re.search(rf"^stock +{shop.pid} +alive +\d+", spine.asked_here("top", "--every", "0.1").stdout, re.MULTILINE)
    shop.kill()
    shop.wait()
    told = spine.asked_here("top", "--every", "0.1").stdout
    assert re.search(rf"^stock +{shop.pid} +gone +- ", told, re.MULTILINE), told


def test_no_color_is_honoured(spine, story):
    spine.environment["NO_COLOR"] = "1"
    screen = Screen(spine, "top", "--every", "0.2")
    screen.until("email.confirm", "q leaves")
    screen.type("q")
    screen.end()

    assert "\x1b[1;31m" not in screen.shown
    assert "31m" not in screen.shown


def test_what_a_small_screen_has_no_room_for_is_counted(spine, story):
    screen = Screen(spine, "top", lines=10, columns=60)
    screen.until("more:")
    screen.type("q")

    assert screen.end() == 0


def test_names_that_differ_at_their_ends_are_told_apart_and_leave_the_figures_whole(spine, story):
    story.journal(_long_names)
    screen = Screen(spine, "top", columns=80)
    screen.until("q leaves")
    screen.type("q")

    assert screen.end() == 0
    for name in ("altona", "wandsbek"):
        assert re.search(rf"email\S*…\S*{name}(\x1b\[[0-9;]*m)* +active ", screen.shown), screen.shown
    assert re.search(r"failures +\S*parked +\S*dead", re.sub(r"\x1b\[[0-9;]*m", "", screen.shown))


async def _long_names(journal) -> None:
    for row, name in zip(await journal.subscriptions("email"), ("altona", "wandsbek"), strict=True):
        await journal.control([Rename(row.number, f"email.tell_the_customers_of_the_shop_in_hamburg_{name}")])


def test_names_can_be_told_apart_wherever_they_differ():
    for names in (
        ["a" * 30 + "1", "a" * 30 + "2", "short"],
        ["1" + "a" * 30, "2" + "a" * 30],
        ["a" * 5 + "1" + "a" * 30, "a" * 5 + "2" + "a" * 30],
        ["a" * 25 + "1" + "a" * 5, "a" * 25 + "2" + "a" * 5],
    ):
        shown = told_apart(names, 12)
        assert len(set(names)) == len(set(shown))
        assert all(len(name) <= 12 for name in shown)


def test_names_can_not_act_on_the_terminal(spine, story):
    story.journal(_evil_name)
    screen = Screen(spine, "top")
    screen.until("q leaves")
    screen.type("q")
    screen.end()

    assert "\\x1b[2J" in screen.shown
    assert "evil\x1b[2J" not in screen.shown


async def _evil_name(journal) -> None:
    (row,) = await journal.subscriptions("stock")
    await journal.control([Rename(row.number, "evil\x1b[2J")])


def test_in_a_pipe_it_prints_once_in_plain_lines(say, story):
    shown = say("top", "--every", "0.1").stdout

    assert "\x1b" not in shown
    assert "SERVICE  PID  STATE        UP  LEASES  RELEASE  TO HANDLE" in shown
    assert "email    -    not running" in shown
    assert "SUBSCRIPTION   STATE   POSITION  LAG  RATE  FAILURES  PARKED  DEAD" in shown
    assert "email.confirm  active  6         0    0/s   3         1       2" in shown


def test_on_a_dumb_terminal_too(spine, story):
    from .test_terminal import read, terminal

    with terminal(spine, "top", "--every", "0.1", term="dumb") as ours:
        shown = read(ours)

    assert "email.confirm" in shown
    assert "\x1b" not in shown


def test_as_json(say, story):
    found = json.loads(say("top", "--json", "--every", "0.1", "--service", "email").stdout)

    assert [service["service"] for service in found["services"]] == ["email"]
    (confirm, _) = found["subscriptions"]
    assert (confirm["name"], confirm["dead"], confirm["rate"], confirm["failures_last_minute"]) == (
        "email.confirm", 2, 0.0, 3,
    )  # fmt: skip
    assert say("top", "--service", "emial").exit_code == 4


def test_the_live_processes_are_in_it(spine):
    shop = spine.run_shop()

    found = json.loads(spine("top", "--json", "--every", "0.1").stdout)

    (stock,) = [service for service in found["services"] if service["service"] == "stock"]
    assert [(each["pid"], each["alive"], each["leases"] > 0) for each in stock["processes"]] == [(shop.pid, True, True)]


# --- rates ------------------------------------------------------------------------------------------------------------


def test_a_rate_counts_what_was_wanted_and_finished_in_between(story):
    """Not what was passed, was finished before, or lies beyond a hole; each event once."""

    async def counted(journal) -> dict[str, float]:
        stored = await journal.subscriptions()
        before = await rates.look(journal, stored)
        records = [record(n, "orders.Ordered", f"k{n}") for n in range(100, 140)]
        records += [record(n, "orders.Cancelled", f"k{n}") for n in range(200, 220)]
        await journal.commit([Unit(appends=[Append(records)])])
        (reserve,) = [row for row in stored if row.name == "stock.reserve"]
        head = await journal.head()
        done = [Done(reserve.number, part, [(5, head)], reserve.generation) for part in range(PARTITIONS)]
        await journal.commit([Unit(done=done)])
        after = (await rates.look(journal, stored))._replace(at_us=before.at_us + 2_000_000)
        found = await rates.rates(journal, stored, before, after)
        return {row.name: found[row.number].events_s for row in stored}

    found = story.journal(counted)

    assert found == {"stock.reserve": 20.5, "email.confirm": 0.0, "email.count": 0.0}, (
        "40 and the one that waited, in 2 s"
    )


def test_partitions_far_apart_are_read_apart_and_give_the_same(story, monkeypatch):
    monkeypatch.setattr(rates, "NEAR", 0)

    test_a_rate_counts_what_was_wanted_and_finished_in_between(story)


def test_a_rewind_counts_for_nothing(story):
    async def counted(journal) -> float:
        (reserve,) = await journal.subscriptions("stock")
        before = await rates.look(journal, [reserve])
        rewound = {place: cursor._replace(position=0, beyond=()) for place, cursor in before.cursors.items()}
        after = rates.Look(before.at_us + 1_000_000, before.head, rewound)
        return (await rates.rates(journal, [reserve], before, after))[reserve.number].events_s

    assert story.journal(counted) == 0.0


@pytest.mark.parametrize("busy", [True, False])
def test_the_rate_of_a_subscription_is_that_of_the_handlers_at_work(spine, busy):
    shop = spine.run_shop()
    if not busy:
        shop.kill()
        shop.wait()
    orders = "\n".join(json.dumps({"customer": f"c{n}", "title": "Emma"}) for n in range(20_000))
    (spine.folder / "orders").write_text(orders)
    line = " ".join((*spine.line(("publish", "-m", "bookshop", "BookOrdered", "-")), "< orders > /dev/null"))
    publishing = subprocess.Popen(line, shell=True, cwd=spine.folder, env=spine.environment)
    spine.started.append(publishing)

    seen = 0.0
    for _ in range(40):
        rows = json.loads(spine("subscriptions", "--json", "--window", "0.3").stdout)
        seen = max(seen, *(row["rate"] for row in rows))
        if (seen and busy) or publishing.poll() is not None:
            break

    assert (seen > 10) is busy
    assert "-" in spine("subscriptions", "--window", "0").stdout.splitlines()[1].split()
