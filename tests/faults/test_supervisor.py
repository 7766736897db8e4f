"""`spine run --processes N`, with real processes and signals: what dies is started again, what holds everybody up is
killed, and nothing is left over, whichever end the parent finds."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from .harness import Child, Place, until

SERVICES = "tests.faults.supervised"


def start(place: Place, *words: str) -> Child:
    return place.spine("run", SERVICES, *words)


def said(parent: Child) -> str:
    """All that it and its children said; `Child.said` has the end of it."""
    return parent.errors.read_text()


def at_work(parent: Child) -> dict[str, int]:
    """Pids of its children by their names, as its log has them; of each the one that came last."""
    return {name: int(pid) for name, pid in re.findall(r"\[(\d)\] .*running .* as process (\d+)", said(parent))}


def started(parent: Child, count: int) -> dict[str, int]:
    until(lambda: len(at_work(parent)) >= count or not parent.alive, parent.said)
    assert parent.alive, said(parent)
    return at_work(parent)


def publish(place: Place, key: str, count: int) -> None:
    lines = "".join(json.dumps({"key": key, "number": number}) + "\n" for number in range(count))
    (place.folder / "lines").write_text(lines)
    publisher = place.begin(
        "publisher",
        ["sh", "-c", f"{_python()} -m eventspine.cli publish Counted - -m {SERVICES} --journal {place.url} < $0",
         str(place.folder / "lines")],
        "",
    )  # fmt: skip
    assert 0 == publisher.end(), publisher.said()


def _python() -> str:
    import sys

    return sys.executable


def booked(place: Place) -> Counter[tuple[str, int]]:
    return Counter((key, number) for key, number in place.query("select key, number from books"))


def until_booked(place: Place, key: str, count: int) -> None:
    wanted = {(key, number) for number in range(count)}
    until(lambda: wanted <= set(booked(place)), place.told)
    assert all(times == 1 for times in booked(place).values())


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def until_gone(parent: Child, *pids: int) -> None:
    until(lambda: all(gone(pid) for pid in pids), parent.said)


def test_children_share_the_work_and_drain_with_their_parent(place: Place) -> None:
    parent = start(place, "--processes", "3")
    children = started(parent, 3)
    assert 3 == len(set(children.values()))
    for key in "abcdefgh":
        publish(place, key, 3)
    for key in "abcdefgh":
        until_booked(place, key, 3)
    until(lambda: place.owners() == set(children.values()), "the leases to be shared")

    assert 0 == parent.terminate(), said(parent)
    until_gone(parent, *children.values())
    assert 3 == said(parent).count("stopped; everything in hand was finished")
    assert not place.owners() - {None}


@pytest.mark.promise("process killed", "sqlite processes")
def test_a_child_that_dies_is_started_again_and_nothing_is_lost(place: Place) -> None:
    parent = start(place, "--processes", "2")
    before = started(parent, 2)
    place.touch("die")
    publish(place, "a", 20)
    until(lambda: "killed by SIGKILL; it is started again" in said(parent), parent.said)
    until(lambda: at_work(parent) != before, parent.said)
    until_booked(place, "a", 20)
    until(lambda: "is at work again" in said(parent), parent.said)

    assert 0 == parent.terminate(), said(parent)


@pytest.mark.promise("stopped in a commit", "sqlite processes")
def test_r6_a_child_stopped_inside_a_commit_is_killed_and_the_others_go_on(place: Place) -> None:
    parent = start(place, "--processes", "2", "--lock-limit-s", "1")
    children = started(parent, 2)
    place.touch("stop-inside")
    publish(place, "a", 1)
    until(lambda: place.lines("stopped"), parent.said)
    stopped = int(place.lines("stopped")[0])
    assert stopped in children.values()

    until_gone(parent, stopped)
    assert f"(pid {stopped}, which is stopped) has held the write lock" in said(parent)
    until_booked(place, "a", 1)
    publish(place, "b", 5)
    until_booked(place, "b", 5)
    assert 0 == parent.terminate(), said(parent)


def test_were_it_not_killed_nobody_could_write(place: Place) -> None:
    parent = start(place, "--processes", "2", "--lock-limit-s", "3600")
    started(parent, 2)
    place.touch("stop-inside")
    publish(place, "a", 1)
    until(lambda: place.lines("stopped"), parent.said)
    stopped = int(place.lines("stopped")[0])
    waiting = place.spine("publish", "Counted", '{"key": "b", "number": 0}', "-m", SERVICES)
    until(lambda: "held the write lock" in _doctor(place), place.told)
    assert waiting.alive
    assert not gone(stopped)

    os.kill(stopped, signal.SIGCONT)
    assert 0 == waiting.end(), waiting.said()
    assert 0 == parent.terminate(), said(parent)


def _doctor(place: Place) -> str:
    doctor = place.spine("doctor", "--json")
    doctor.end()
    return str(json.loads(doctor.errors.read_text())["findings"])


def test_a_child_that_is_stopped_outside_a_commit_is_left_alone_and_its_work_taken_over(place: Place) -> None:
    parent = start(place, "--processes", "2", "--lock-limit-s", "0.5")
    children = started(parent, 2)
    until(lambda: place.owners() == set(children.values()), "the leases to be shared")
    late = children["2"]
    os.kill(late, signal.SIGSTOP)
    until(lambda: place.owners() == {children["1"]}, place.told)
    assert not gone(late)
    os.kill(late, signal.SIGCONT)
    until(lambda: place.owners() == set(children.values()), place.told)
    assert 0 == parent.terminate(), said(parent)


def test_children_drain_and_end_when_their_parent_is_killed(place: Place) -> None:
    place.touch("wait")
    parent = start(place, "--processes", "2")
    children = started(parent, 2)
    publish(place, "a", 1)
    until(lambda: list(place.folder.glob("waits-*")), parent.said)
    parent.kill()
    until(lambda: 2 == said(parent).count("the process that started this one is gone"), parent.said)
    (place.folder / "wait").unlink()

    until_gone(parent, *children.values())
    until_booked(place, "a", 1)
    assert 2 == said(parent).count("stopped; everything in hand was finished")


def test_without_the_lifeline_they_would_go_on_for_ever(place: Place) -> None:
    place.touch("no-lifeline")
    parent = start(place, "--processes", "2")
    children = started(parent, 2)
    parent.kill()
    publish(place, "a", 3)
    until_booked(place, "a", 3)
    for pid in children.values():
        os.kill(pid, signal.SIGTERM)
    until_gone(parent, *children.values())


def test_a_parent_that_is_told_to_stop_while_its_children_start_leaves_nothing_behind(place: Place) -> None:
    parent = start(place, "--processes", "2", "--health", "127.0.0.1:0")
    until(lambda: "health at" in said(parent), parent.said)
    children = until(lambda: ask(parent, "/healthz")[1]["processes"][0]["pid"], parent.said)

    assert 0 == parent.terminate(), said(parent)
    until_gone(parent, children)


def test_what_is_said_once_is_not_said_again_to_those_started_later(place: Place) -> None:
    parent = start(place, "--processes", "2", "--roll-back", "--retire", "books.old")
    until(lambda: _lines_of_children(parent), parent.said)
    assert all("--roll-back --retire books.old" in line for line in _lines_of_children(parent))
    children = started(parent, 2)
    assert "--roll-back" in _line_of(children["1"])
    assert "--roll-back" not in _line_of(children["2"])
    os.kill(children["1"], signal.SIGKILL)
    until(lambda: at_work(parent)["1"] != children["1"], parent.said)
    assert "--roll-back" not in _line_of(at_work(parent)["1"])
    assert 0 == parent.terminate(), said(parent)


def _line_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def _lines_of_children(parent: Child) -> list[str]:
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    return [line for pid in children if "run" in (line := _line_of(int(pid)))]


def test_a_child_whose_event_loop_is_stuck_does_not_outlive_its_parent(place: Place) -> None:
    parent = start(place, "--processes", "2", "--drain-s", "0")
    children = started(parent, 2)
    place.touch("block")
    publish(place, "a", 1)
    until(lambda: not (place.folder / "block").exists(), parent.said)
    parent.kill()
    until_gone(parent, *children.values())


def test_a_second_signal_ends_everybody_at_once(place: Place) -> None:
    place.touch("wait")
    parent = start(place, "--processes", "2")
    children = started(parent, 2)
    publish(place, "a", 1)
    until(lambda: list(place.folder.glob("waits-*")), parent.said)
    parent.signal(signal.SIGTERM)
    until(lambda: "processes drain" in said(parent), parent.said)
    assert parent.alive
    parent.signal(signal.SIGTERM)

    assert -signal.SIGTERM == parent.end()
    until_gone(parent, *children.values())


def test_a_child_that_does_not_drain_in_time_is_killed_and_the_exit_code_says_so(place: Place) -> None:
    parent = start(place, "--processes", "2", "--drain-s", "0.5")
    children = started(parent, 2)
    place.touch("block")
    publish(place, "a", 1)
    until(lambda: not (place.folder / "block").exists(), parent.said)
    parent.signal(signal.SIGTERM)

    assert 1 == parent.end(), said(parent)
    assert "did not end well: killed by SIGKILL" in said(parent)
    until_gone(parent, *children.values())


def test_when_no_child_can_start_the_parent_ends_with_its_error(place: Place) -> None:
    place.touch("broken")
    parent = start(place, "--processes", "2")

    assert 1 == parent.end()
    assert 3 == said(parent).count("this module can't be imported")
    assert "could not start: exit code 1; giving up" in said(parent)
    assert not place.path.exists()


def test_a_start_that_fails_once_is_tried_again(place: Place) -> None:
    place.touch("broken-once")
    parent = start(place, "--processes", "2")
    started(parent, 2)
    assert "process 1 (pid " in said(parent)
    assert "could not start: exit code 1; it is started again in 0.5s" in said(parent)
    assert 0 == parent.terminate(), said(parent)


def test_one_that_can_not_start_again_does_not_end_those_at_work(place: Place) -> None:
    parent = start(place, "--processes", "2")
    children = started(parent, 2)
    place.touch("broken")
    os.kill(children["2"], signal.SIGKILL)
    until(lambda: 3 <= said(parent).count("could not start: exit code 1; it is started again"), parent.said)
    assert not gone(children["1"])
    (place.folder / "broken").unlink()
    until(lambda: at_work(parent)["2"] != children["2"], parent.said)
    assert at_work(parent)["1"] == children["1"]
    assert 0 == parent.terminate(), said(parent)


def test_sighup_replaces_one_child_after_another(place: Place) -> None:
    parent = start(place, "--processes", "2")
    before = started(parent, 2)
    parent.signal(signal.SIGHUP)
    until(lambda: "all processes are replaced" in said(parent), parent.said)
    after = at_work(parent)
    assert not set(before.values()) & set(after.values())
    told = said(parent)
    ends = [told.index(f"[{number}] INFO    eventspine.run: stopped") for number in (1, 2)]
    assert ends[0] < told.index(f"as process {after['1']}") < ends[1]
    until_gone(parent, *before.values())
    assert 0 == parent.terminate(), said(parent)


def ask(parent: Child, path: str) -> tuple[int, dict[str, Any]]:
    found = until(lambda: re.search(r"health at (http://[\d.]+:\d+)/", said(parent)), parent.said)
    try:
        with urllib.request.urlopen(found[1] + path, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_the_parent_answers_for_its_children(place: Place) -> None:
    parent = start(place, "--processes", "2", "--health", "127.0.0.1:0")
    children = started(parent, 2)
    until(lambda: 2 == sum(one["ready"] for one in ask(parent, "/readyz")[1]["processes"]), parent.said)
    status, report = ask(parent, "/readyz")
    assert (200, "ok") == (status, report["status"])
    assert set(children.values()) == {one["pid"] for one in report["processes"]}
    books = [one for one in report["processes"][0]["services"] if one["service"] == "books"]
    assert "leads" == books[0]["state"]

    place.touch("block")
    publish(place, "a", 1)
    until(lambda: 503 == ask(parent, "/healthz")[0], parent.said)
    assert any("its event loop is stuck" in problem for problem in ask(parent, "/healthz")[1]["problems"])


def test_a_parent_that_drains_is_alive_and_not_ready(place: Place) -> None:
    place.touch("wait")
    parent = start(place, "--processes", "2", "--health", "127.0.0.1:0")
    started(parent, 2)
    until(lambda: 200 == ask(parent, "/readyz")[0], parent.said)
    publish(place, "a", 1)
    until(lambda: list(place.folder.glob("waits-*")), parent.said)
    parent.signal(signal.SIGTERM)
    until(lambda: 503 == ask(parent, "/readyz")[0], parent.said)
    assert ask(parent, "/readyz")[1]["draining"]
    assert 200 == ask(parent, "/healthz")[0]
    (place.folder / "wait").unlink()
    assert 0 == parent.end(), said(parent)


def test_logs_name_the_process(place: Place) -> None:
    parent = start(place, "--processes", "2", "--log-format", "json")
    until(lambda: 2 == said(parent).count("running counter, books"), parent.said)
    assert 0 == parent.terminate()
    lines = [json.loads(line) for line in said(parent).splitlines()]
    assert {"1", "2"} == {line["process"] for line in lines if "running counter, books" in line["message"]}


def test_several_signals_at_once_are_one_drain_as_service_managers_send_them(place: Place) -> None:
    """systemd signals the parent and its children, and the parent signals its children again."""
    place.touch("wait")
    parent = start(place, "--processes", "2")
    started(parent, 2)
    publish(place, "a", 1)
    until(lambda: list(place.folder.glob("waits-*")), parent.said)
    os.killpg(parent.pid, signal.SIGTERM)
    until(lambda: "processes drain" in said(parent), parent.said)
    began = time.monotonic()
    (place.folder / "wait").unlink()
    assert 0 == parent.end(), said(parent)
    assert time.monotonic() - began < 30
    until_booked(place, "a", 1)
    assert 2 == said(parent).count("stopped; everything in hand was finished")


def test_a_terminal_that_is_closed_drains_what_ran_in_it(place: Place) -> None:
    """SIGHUP goes to the children as well; and a terminal that is gone can't be asked for any more."""
    terminal, inside = os.openpty()
    parent = place.begin("shell", [_python(), "-c", IN_TERMINAL, os.ttyname(inside), place.url, SERVICES], "")
    children = started(parent, 2)
    os.close(inside)
    os.close(terminal)

    assert 0 == parent.end(), said(parent)
    until_gone(parent, *children.values())
    assert 2 == said(parent).count("stopped; everything in hand was finished")


IN_TERMINAL = """
import fcntl, os, sys, termios
terminal, url, services = sys.argv[1:]
fcntl.ioctl(os.open(terminal, os.O_RDWR), termios.TIOCSCTTY, 0)
words = ["-m", "eventspine.cli", "run", services, "--processes", "2", "--journal", url]
os.execv(sys.executable, [sys.executable, *words])
"""
