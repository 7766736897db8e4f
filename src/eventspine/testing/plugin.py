"""pytest's plug-in: `spine_for` and `sync_spine_for`, and the seed of a test that failed in its report.

    async def test_an_order_is_reserved(spine_for):
        async with spine_for(inventory) as spine: ...

The fixtures are plain functions and leave waiting to the test, so they work with whatever runs it: pytest-asyncio in both
modes, anyio's plug-in on asyncio. Nothing of eventspine's engine is loaded before a test asks for it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtra

try:
    import pytest
except ImportError as missing:
    raise MissingExtra("This is a plug-in of pytest's: pip install 'eventspine[testing]'.") from missing

if TYPE_CHECKING:
    from .blocking import SyncVirtualSpine
    from .virtual import VirtualSpine

_SEEDS = pytest.StashKey[list[int]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("eventspine").addoption(
        "--eventspine-seed", type=int, default=None, help="seed of all chance in spines of spine_for and sync_spine_for"
    )


def _noting(request: pytest.FixtureRequest, make: Callable[..., Any]) -> Callable[..., Any]:
    seeds = request.node.stash.setdefault(_SEEDS, [])
    chosen: int | None = request.config.getoption("--eventspine-seed")

    def made(*services: Any, **options: Any) -> Any:
        spine = make(*services, **{"seed": chosen, **options})
        seeds.append(spine.seed)
        return spine

    return made


@pytest.fixture
def spine_for(request: pytest.FixtureRequest) -> Callable[..., VirtualSpine]:
    """`eventspine.testing.spine`, with the seed of `--eventspine-seed`: `async with spine_for(inventory) as spine:`."""
    from .making import spine

    return _noting(request, spine)


@pytest.fixture
def sync_spine_for(request: pytest.FixtureRequest) -> Callable[..., SyncVirtualSpine]:
    """`eventspine.testing.sync_spine`, with the seed of `--eventspine-seed`: `with sync_spine_for(inventory) as spine:`."""
    from .blocking import sync_spine

    return _noting(request, sync_spine)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and (seeds := item.stash.get(_SEEDS, None)):
        said = ", ".join(str(seed) for seed in seeds)
        report.sections.append(("eventspine", f"seed {said}: --eventspine-seed={seeds[0]} repeats its chances"))
    return report
