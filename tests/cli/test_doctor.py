"""What `spine doctor` finds, and what it says of the promises of a set-up."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from eventspine.cli import diagnosis, doctor
from eventspine.cli.doctor import Disk, Examined
from eventspine.cli.findings import promises
from eventspine.cli.promised import of_setup
from eventspine.journal import _sqlite_file
from eventspine.journal.port import Lease, Process, SetState
from eventspine.journal.processes import this_host

from .conftest import Story

MINUTE = 60_000_000


def examined(story: Story, **changes: Any) -> Examined:
    return story.journal(doctor.examine)._replace(**changes)


def found(seen: Examined, word: str) -> str:
    """The only finding with this word."""
    (finding,) = [finding for finding in doctor.findings(seen) if word in finding]
    return finding


def process(seen: Examined, pid: int = 7, **changes: Any) -> Process:
    row = Process("p", "email", 1, pid, this_host(), seen.now - 60 * MINUTE, 1, "1.0", until_us=seen.now + 1)
    return row._replace(id=f"p{pid}", **changes)


def test_a_stopped_process_is_named_with_the_way_to_wake_it(spine):
    shop = spine.run_shop()
    story = Story(f"sqlite:///{spine.folder}/spine.db", "", "", "")
    os.kill(shop.pid, signal.SIGSTOP)
    try:
        seen = examined(story)
        later = seen._replace(now=seen.now + MINUTE)
        told = [finding for finding in doctor.findings(later) if f"Process {shop.pid}" in finding]
    finally:
        os.kill(shop.pid, signal.SIGCONT)

    assert len(told) == 3, "one for each of its services"
    assert f"it is stopped, or hangs. Let it go on (kill -CONT {shop.pid}) or end it" in told[0]
    assert [finding for finding in doctor.findings(seen) if f"Process {shop.pid}" in finding] == [], "not at once"


def test_processes_of_a_service_that_are_gone_with_nothing_in_their_name_share_a_line(story):
    """After a night of crashes those that are there would be lost among them; --json has each."""
    seen = examined(story)
    crashed = [(process(seen, pid, until_us=seen.now - pid * MINUTE), False) for pid in range(3, 26)]
    holding, one = process(seen, 50, until_us=seen.now - MINUTE), process(seen, 51, service="stock")
    alive = process(seen, 8000)
    leases = [Lease("email//0", 1, "p50", 0, False)]
    seen = seen._replace(processes=[*crashed, (holding, False), (one, False), (alive, True)], leases=leases)

    lines = list(diagnosis.process_lines(seen))
    assert [line for line in lines if "pid" not in line] == [
        "email  23 processes gone without leaving, the last 3m00s ago; others take their work over  0 leases"
    ]
    assert ["pid 50", "pid 51", "pid 8000"] == [line.split("  ")[1] for line in lines if "pid" in line]
    assert len(doctor._view(seen, [], [])["processes"]) == 26

    without = seen._replace(processes=crashed)
    assert ["their work waits for a process of email  0 leases"] == [
        line.partition("; ")[2] for line in diagnosis.process_lines(without)
    ]


def test_leases_that_nobody_takes_from_a_process_that_is_gone_are_a_finding(story):
    seen = examined(story)
    gone, alive = process(seen, 7, until_us=seen.now - MINUTE), process(seen, 8)
    seen = seen._replace(processes=[(gone, False), (alive, True)], leases=[Lease("email//0", 1, "p7", 0, False)])

    assert "Process 7 of email is gone, and 1 lease is still in its name after 1m00s" in found(seen, "is gone, and")
    assert not [each for each in doctor.findings(seen._replace(leases=[])) if "in its name" in each]
    upkeep = seen._replace(leases=[Lease("upkeep", 1, "p7", 0, False)])
    assert not [each for each in doctor.findings(upkeep) if "in its name" in each], "the next sweep takes it"


def test_what_is_to_handle_tells_for_how_long(story):
    seen = examined(story)
    seen = seen._replace(now=seen.now + 3 * 60 * MINUTE)

    assert "email.count has 2 events to handle, the oldest 3h00m old, and no process of email is alive" in found(
        seen, "email.count"
    )


def test_a_subscription_paused_for_long_with_work_is_a_finding(story):
    async def pause(journal) -> None:
        (row,) = [row for row in await journal.subscriptions() if row.name == "email.count"]
        await journal.control([SetState(row.number, "paused")])

    story.journal(pause)
    seen = examined(story)
    seen = seen._replace(processes=[(process(seen), True)])
    assert not [finding for finding in doctor.findings(seen) if "paused" in finding], "it was paused just now"

    later = found(seen._replace(now=seen.now + 120 * MINUTE, processes=[]), "is paused with 2 events")
    assert "`spine subscriptions resume email.count`" in later


@pytest.mark.parametrize(
    ("disk", "last_hour", "told"),
    [
        (Disk(1000, 10), 0, "The disk has 10 B left."),
        (Disk(10**12, 10**11), 10**9, "at the last hour's rate"),
        (Disk(10**12, 10**11), 0, None),
        (None, 0, None),
    ],
)
def test_a_disk_that_will_be_full_is_a_finding(story, disk, last_hour, told):
    seen = examined(story, disk=disk, last_hour=last_hour)

    findings = [finding for finding in doctor.findings(seen) if "The disk has" in finding]
    assert len(findings) == (told is not None)
    assert told is None or told in findings[0]


def test_code_that_a_deployment_has_left_behind_is_a_finding(story):
    seen = examined(story)
    old, new = process(seen, 7, generation=1), process(seen, 8, generation=2)
    seen = seen._replace(processes=[(old, True), (new, True)])

    assert "Process 7 of email runs older code (generation 1; 2 leads) and has no work any more." in found(
        seen, "older"
    )
    just_now = seen._replace(processes=[(old, True), (new._replace(started_us=seen.now), True)])
    assert not [finding for finding in doctor.findings(just_now) if "older code" in finding], "while it is rolled out"


def test_releases_side_by_side_for_long_are_a_finding(story):
    seen = examined(story)
    old, new = process(seen, 7, release="1.0"), process(seen, 8, release="1.1")
    seen = seen._replace(processes=[(old, True), (new, True)])

    assert "eventspine 1.0, 1.1 side by side" in found(seen, "side by side")
    just_now = seen._replace(processes=[(old, True), (new._replace(started_us=seen.now), True)])
    assert not [finding for finding in doctor.findings(just_now) if "side by side" in finding]


def test_it_says_what_this_set_up_promises(story):
    seen = examined(story)
    seen.facts["file_system"] = "ext4"
    kept = {promise.says: promise.kept for promise in promises(seen)}
    assert kept["Survives process kill, OS crash and power loss; not the loss of the disk (synchronous=FULL)."]
    assert not kept["email: handles anything. No process of it runs."]

    one = {promise.says for promise in promises(seen._replace(processes=[(process(seen), True)]))}
    assert "email: goes on when its process dies. It has one; run two, or have it restarted." in one
    two = [(process(seen, 7), True), (process(seen, 8), True)]
    kept = {promise.says: promise.kept for promise in promises(seen._replace(processes=two))}
    assert kept["email: when one of its 2 processes dies, another goes on at once."]
    older = [(process(seen, 7), True), (process(seen, 8, generation=2), True)]
    told = [each for each in promises(seen._replace(processes=older)) if each.says.startswith("email: goes on at once")]
    assert [False] == [each.kept for each in told]
    assert "an older one waits for two lease times before it leads again" in told[0].says


@pytest.mark.parametrize(("kind", "told"), [("tmpfs", "its file is in memory"), ("overlay", "Ends with the container")])
def test_a_file_that_ends_with_its_machine_or_container_promises_less(say, story, monkeypatch, kind, told):
    monkeypatch.setattr(_sqlite_file, "file_system", lambda folder: kind)

    assert any(
        told in each["says"] and not each["kept"] for each in json.loads(say("doctor", "--json").stdout)["promises"]
    )
    assert told in say("doctor").stdout


def test_a_network_file_system_is_refused_in_clear_words(say, story, monkeypatch):
    monkeypatch.setattr(_sqlite_file, "file_system", lambda folder: "nfs4")

    refused = say("doctor")

    assert refused.exit_code == 2
    assert "is on a network file system (nfs4)" in refused.stderr


def test_the_versions_and_sizes_are_told(spine):
    shop = spine.run_shop()
    spine("publish", "-m", "bookshop", "BookOrdered", '{"customer": "c", "title": "Emma"}')

    seen = json.loads(spine("doctor", "--json").stdout)
    report = spine("doctor").stdout

    assert {row["release"] for row in seen["processes"]} == {"0.1.0"}
    assert f"pid {shop.pid}  eventspine 0.1.0  up " in report
    assert seen["rows"]["events"] >= 1
    assert seen["disk_free_bytes"] > 0
    assert seen["journal"]["schema_version"] >= 1


def test_it_says_what_tests_have_shown_of_this_set_up(say, story):
    told = say("doctor").stdout
    assert "Tested on SQLite, one process:" in told
    assert "not survived      the disk is lost; lost is what is younger than the last backup" in told
    assert "\nschema version    " in told
    assert "\nretention deleted " in told
    faults = {each["fault"]: each for each in json.loads(say("doctor", "--json").stdout)["faults"]}
    assert faults["the disk is full"]["verdict"] == "survived"
    assert faults["the disk is full"]["tests"] == [
        "tests/faults/test_full_disk.py::test_a_disk_that_is_full_at_any_write_refuses_or_stores_and_nothing_between"
    ]


def test_another_set_up_has_another_column():
    def verdicts(journal: str, broker: str | None = None, **processes: bool) -> dict[str, str]:
        return {cell.fault: cell.verdict for cell in of_setup(journal, broker, **processes)}

    fault = "all processes are killed at once"
    assert verdicts("sqlite", processes=True)[fault] == "survived"
    assert verdicts("sqlite", processes=False)[fault] == "does not arise"
    assert verdicts("memory", processes=False)["a process is killed at any moment"] == "not survived"
    assert verdicts("sqlite", "pulsar+ssl", processes=False) == verdicts("sqlite", "pulsar", processes=False)
    assert (
        verdicts("sqlite", "amqps", processes=False)["the server of a broker or journal is killed, and started again"]
        == "survived"
    )
    untried = verdicts("sqlite", "pigeons", processes=False)
    assert untried["whatever happens to the broker (pigeons)"] == "not tested"


def test_two_live_processes_are_several(story):
    seen = examined(story)
    assert {cell.setup for cell in doctor._tested(seen, None)} == {"SQLite, one process"}
    two = seen._replace(processes=[(process(seen, 7), True), (process(seen, 8), True)])
    assert {cell.setup for cell in doctor._tested(two, None)} == {"SQLite, several processes"}
