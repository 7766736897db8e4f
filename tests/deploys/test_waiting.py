"""Keys that wait move with their rows from process to process, and a replay during a deploy finds them (R10)."""

from __future__ import annotations

from .harness import NOTHING, STILL_S, Deploy, until

KEPT = {"keeper.keep": "till.Counted"}


def test_a_key_that_waits_for_a_dead_event_is_moved_and_replayed_while_it_is_deployed(deploy: Deploy) -> None:
    """Three processes in turn hold the key that stands; nobody handles what is behind it before the replay."""
    publisher = deploy.load("Counted", "p", "--keys", 8, "--pause", 0.05, "--do", "fail:p-0:5", "fail:p-3:9")
    first = deploy.release("keeper1", faults="fail")
    until(lambda: 2 == len(deploy.dead()), deploy.told)
    second = deploy.release("keeper1", faults="fail")
    deploy.leads(first, second, service="keeper")
    deploy.replace(first, second)
    third = deploy.release("keeper2", faults="fail")
    deploy.leads(third, service="keeper")
    second.kill()
    deploy.progress(60, "keeper.keep")
    waiting = {"p-0": 4, "p-3": 8}
    assert waiting == {key: max(n for k, n in deploy.handled("keeper.keep") if k == key) for key in waiting}

    deploy.touch("mended")
    fourth = deploy.begins("keeper1", "--roll-back", faults="fail")
    assert 0 == deploy.spine("dead", "replay", "--handler", "keeper.keep").end()
    deploy.leads(fourth.ready(), service="keeper")
    deploy.replace(third, fourth)
    deploy.progress(60, "keeper.keep")
    deploy.stop_publishing(publisher)
    deploy.settle("keeper.keep")

    assert NOTHING == deploy.reckon(KEPT)
    assert [] == deploy.dead()
    for key in ("p-1", "p-2", "p-4", "p-5", "p-6", "p-7"):
        assert deploy.stood_still_s("keeper.keep", keys=key) < STILL_S
