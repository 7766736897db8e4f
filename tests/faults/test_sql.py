"""SQL of handlers that would harm others (R5), and commits of which nobody can say whether they happened (R3)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from .harness import HANDLERS, NOTHING, Place

ROUGH = {f"rough.{name}": "till.Counted" for name in ("rollback", "commit", "deferred", "once", "innocent")} | HANDLERS
DEEDS = [
    "rollback:p-0:2", "rollback:p-1:7", "commit:p-2:3", "commit:p-3:7", "deferred:p-4:2", "deferred:p-5:7", "once:p-0:9",
]  # fmt: skip


def rough(place: Place, *without: str, deeds: Sequence[str] = DEEDS) -> None:
    """Everything waits in the feed, so that many handlers' units share each commit."""
    assert 0 == place.start("publish", "--count", 10, "--pause", 0, "--do", *deeds).end()
    place.start("consume", "--services", "rough", "books", "mail", "--without", *without)
    place.settle(*ROUGH)


@pytest.mark.promise("handler's SQL", "sqlite processes")
def test_r5_sql_that_rolls_back_commits_or_breaks_a_constraint_harms_nobody_else(place: Place) -> None:
    rough(place)

    assert NOTHING == place.reckon(ROUGH)
    dead = place.query(
        "select s.name, d.key, d.reason from spine_deliveries d join spine_subscriptions s on s.number = d.subscription"
        " where d.state = 'dead' order by 1, 2"
    )
    assert [
        ("rough.commit", "p-2", "StatementRefused"),
        ("rough.commit", "p-3", "StatementRefused"),
        ("rough.deferred", "p-4", "IntegrityError"),
        ("rough.deferred", "p-5", "IntegrityError"),
        ("rough.rollback", "p-0", "IntegrityError"),
        ("rough.rollback", "p-1", "IntegrityError"),
    ] == dead
    assert 0 == place.number("select (select count(*) from parents) + (select count(*) from children)")


def test_r3_with_cursors_folded_before_the_verdicts_what_failed_once_is_lost(place: Place) -> None:
    rough(place, "folding", deeds=["once:p-0:9"])

    assert "rough.once ('p-0', 9)" in place.reckon(ROUGH).lost


@pytest.mark.parametrize(
    ("without", "twice"),
    [
        pytest.param([], False, marks=pytest.mark.promise("commit unknown", "sqlite processes")),
        (["repetition"], True),
    ],
)
def test_a_commit_that_can_not_tell_is_asked_again_and_known_as_a_repetition(
    place: Place, without: list[str], twice: bool
) -> None:
    assert 0 == place.start("publish", "--count", 10, "--pause", 0).end()
    for services in (["books"], ["mail"]):
        place.start("consume", "--services", *services, "--at", "at commit", 2, "unknown", "--without", *without)
    place.settle()

    assert twice == bool(place.reckon().twice)
    assert twice == bool(place.reckon())
