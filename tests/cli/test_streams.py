"""`spine streams`: which there are, and one that is named by its entity alone is found out."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from eventspine import Aggregate, Event, Service, Spine, applies


class Filled(Event, context="town", key="garage"):
    garage: str


class Garage(Aggregate):
    cars: int = 0

    def fill(self) -> None:
        self.record(Filled(garage=self.id))

    @applies(Filled)
    def _filled(self, event: Filled) -> None:
        self.cars += 1


@pytest.fixture
def town(tmp_path: Path, say: Any) -> Any:
    async def fill() -> None:
        async with Spine(f"sqlite:///{tmp_path}/spine.db", service=Service("town")) as spine:
            for id in ("g1", "g2", "g1"):
                garage = await spine.load_or_new(Garage, id)
                garage.fill()
                await spine.save(garage)

    asyncio.run(fill())
    return lambda *arguments: say("streams", *arguments)


def test_they_are_listed_with_their_versions(town: Any) -> None:
    listed = json.loads(town("list", "--json").stdout)
    assert listed == [
        {"service": "town", "stream": "garage-g1", "version": 2},
        {"service": "town", "stream": "garage-g2", "version": 1},
    ]
    assert [row["stream"] for row in json.loads(town("list", "--prefix", "garage-g2", "--json").stdout)] == [
        "garage-g2"
    ]
    assert json.loads(town("list", "--service", "nobody", "--json").stdout) == []
    assert "garage-g1" in town("list").stdout


@pytest.mark.parametrize(
    ("service", "stream", "told"),
    [
        ("town", "g1", "Did you mean garage-g1?"),
        ("town", "garage-g", "Did you mean garage-g"),
        ("town", "house-7", "`spine streams list --service town` shows them"),
        ("garage", "g1", "garage has no streams. There are some of town."),
    ],
)
def test_a_name_that_is_none_is_answered_with_what_may_be_meant(
    town: Any, service: str, stream: str, told: str
) -> None:
    result = town("show", service, stream)
    assert result.exit_code == 4
    assert told in result.output


def test_where_there_are_none_it_says_so(say: Any, story: Any) -> None:
    assert say("streams", "list", "--json").stdout.strip() == "[]"
    assert "Nobody has any" in say("streams", "show", "garage", "g1").output
