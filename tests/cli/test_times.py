"""What is advised where a time is refused is itself accepted."""

from __future__ import annotations

import re
from datetime import datetime

import click
import pytest

from eventspine.cli.times import moment, parse_time, past, place


@pytest.mark.parametrize(
    "typed", ["2026-11-29", "2026-W48-7", "2026-11-29T12", "2026-11-29 12:30", "2026-11-29T12:30:00.5"]
)
@pytest.mark.parametrize("read", [moment, past, place])
def test_a_time_without_a_zone_is_refused_with_two_that_are_not(read: object, typed: str) -> None:
    with pytest.raises(click.BadParameter, match="no time zone") as refused:
        read(typed)  # type: ignore[operator]
    advised = re.search(r"Add one: (.+) is UTC, (.+) two hours", str(refused.value))
    assert advised is not None
    utc, east = (parse_time(text) for text in advised.groups())
    assert isinstance(utc, datetime)
    assert isinstance(east, datetime)
    assert (utc - east).total_seconds() == 7200


@pytest.mark.parametrize("typed", ["yesterday", "2026-13-01T00:00Z", ""])
def test_what_is_advised_for_what_is_no_time_is_one(typed: str) -> None:
    with pytest.raises(click.BadParameter, match="is no time") as refused:
        moment(typed)
    advised = re.search(r"Write it as (.+)\.$", str(refused.value))
    assert advised is not None
    assert moment(advised[1])
