"""Each safeguard is there for something: without it, a promise breaks within the histories that docs/why/proof.md says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.simulate.ablations import ABLATIONS, ELSEWHERE, PAGE, Ablation, stated

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda ablation: ablation.off.__name__)
def test_without_a_safeguard_a_promise_breaks_as_soon_as_the_page_says(ablation: Ablation) -> None:
    most = stated(PAGE.read_text())[ablation.safeguard]
    assert ablation.caught(most) is not None


@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda ablation: ablation.off.__name__)
def test_with_it_the_same_histories_are_whole(ablation: Ablation) -> None:
    most = stated(PAGE.read_text())[ablation.safeguard]
    for seed in range(ablation.first, ablation.first + min(most, 10)):
        assert ablation.setup.run(seed).broken is None


@pytest.mark.parametrize("place", [test for _, test, _ in ELSEWHERE])
def test_what_other_suites_catch_is_caught_there(place: str) -> None:
    path, _, name = place.partition("::")
    tree = ast.parse((ROOT / path).read_text())
    found = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert name in found
    assert f"`{place}`" in PAGE.read_text()


def test_the_page_lists_no_others() -> None:
    assert list(stated(PAGE.read_text())) == [ablation.safeguard for ablation in ABLATIONS]
