"""Periodic handlers on the command line: what is next, a run out of turn, and what a run leaves to be seen."""

from __future__ import annotations

import json

import pytest

CLOCK = """
from eventspine import Event, Retry, Service

class Struck(Event, context="clock", key=None):
    pass

clock = Service("clock")

@clock.cron("0 3 * * *", zone="Europe/Berlin")
async def chime() -> Struck:
    return Struck()

@clock.every(weeks=1, retry=Retry(attempts=1))
def crack() -> None:
    raise ValueError("the spring is broken")
"""


@pytest.fixture
def clock(spine):
    (spine.folder / "tower.py").write_text(CLOCK)
    process = spine.start("run", "tower")
    spine.until(process, "running clock")
    spine.until_it_shows("schedule", "list", shows="clock.crack")
    return process


def test_the_next_runs_are_listed_with_what_is_scheduled(spine, clock):
    listed = spine("schedule", "list").stdout.splitlines()
    assert ["DUE", "IN", "TYPE", "KEY", "SERVICE", "ID", "DATA"] == listed[0].split()
    (chime,) = [line for line in listed if "clock.chime" in line]
    assert chime.endswith("cron 0 3 * * * (Europe/Berlin)")

    shown = {run["periodic"]["subscription"]: run for run in json.loads(spine("schedule", "list", "--json").stdout)}
    crack = shown["clock.crack"]
    assert crack["due"].endswith("T00:00:00Z")
    assert ("clock", "active", "every 7 days") == tuple(
        crack["periodic"][name] for name in ("service", "state", "schedule")
    )
    assert 1 == len(json.loads(spine("schedule", "list", "--json", "-n", "1").stdout))


def test_a_run_out_of_turn_is_a_run(spine, clock):
    ran = spine("schedule", "run", "chime")
    assert ran.stdout.startswith("clock.chime runs now; `spine trace ")
    tick = ran.stdout.split("`spine trace ")[1].split("`")[0]

    told = spine.until_it_shows("trace", tick, shows="clock.Struck")
    assert "clock.chime/tick" in told and "clock.chime  done" in told
    tailed = spine("tail", "--no-follow").stdout
    assert "clock.Struck" in tailed and "/tick" not in tailed, "ticks are nobody's facts"
    assert "clock.chime/tick" in spine("tail", "--no-follow", "--private").stdout
    assert "clock.chime/tick" in spine("tail", "--no-follow", "--correlation", tick).stdout
    assert "clock.chime/tick" in spine("tail", "--no-follow", "--channel", "clock/ticks").stdout


def test_one_that_fails_is_dead_with_its_reason_and_can_be_replayed(spine, clock):
    assert 0 == spine("schedule", "run", "clock.crack").returncode
    told = spine.until_it_shows("dead", "list", shows="the spring is broken")
    assert "clock.crack" in told
    assert "1 dead delivery to be tried again.\n" == spine("dead", "replay", "--handler", "crack").stdout


def test_a_paused_one_is_shown_as_that_and_one_that_is_none_is_refused(spine, clock):
    assert 0 == spine("subscriptions", "pause", "clock.chime").returncode
    (chime,) = [line for line in spine("schedule", "list").stdout.splitlines() if "clock.chime" in line]
    assert "paused" in chime
    assert 4 == spine("schedule", "run", "nobody").returncode


def test_one_that_is_to_be_cancelled_is_told_how_to_be_stopped(spine, clock):
    refused = spine("schedule", "cancel", "clock.chime")
    assert 4 == refused.returncode
    assert "What is periodic is stopped by `spine subscriptions pause clock.chime`." in refused.stderr


def test_a_tick_can_not_be_published(spine, clock):
    refused = spine("publish", "clock.chime/tick", "{}", "--module", "tower")
    assert 0 != refused.returncode
    assert "It knows: clock.Struck." in refused.stderr


def test_a_run_is_a_line_of_the_log_when_handled_events_are(spine):
    (spine.folder / "tower.py").write_text(CLOCK)
    process = spine.start("run", "tower", "--log-handled")
    spine.until(process, "running clock")
    spine.until_it_shows("schedule", "list", shows="clock.chime")
    assert 0 == spine("schedule", "run", "chime").returncode
    told = spine.until(process, "clock.chime")
    assert "clock.chime/tick handled in " in told


def test_what_a_run_raises_is_in_the_log_from_the_handler_on_when_handled_events_are(spine):
    (spine.folder / "tower.py").write_text(CLOCK)
    process = spine.start("run", "tower", "--log-handled")
    spine.until(process, "running clock")
    spine.until_it_shows("schedule", "list", shows="clock.crack")
    assert 0 == spine("schedule", "run", "crack").returncode
    spine.until(process, "clock.crack raised")
    told = spine.until(process, "ValueError: the spring is broken")
    assert 'raise ValueError("the spring is broken")' in told
    assert "/eventspine/" not in told, "no frames of ours"
