"""pytest's plug-in: `spine_for`, `sync_spine_for` and `django_spine`, the seed of a test that failed in its report, and the table of
what the conformance suites found.

    async def test_an_order_is_reserved(spine_for):
        async with spine_for(inventory) as spine: ...

The fixtures are plain functions and leave waiting to the test, so they work with whatever runs it: pytest-asyncio in both
modes, anyio's plug-in on asyncio. Nothing of eventspine's engine is loaded before a test asks for it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtra

try:
    import pytest
except ImportError as missing:
    raise MissingExtra("This is a plug-in of pytest's: pip install 'eventspine[testing]'.") from missing

if TYPE_CHECKING:
    from ..integrations.django.testing import Captured
    from .blocking import SyncVirtualSpine
    from .virtual import VirtualSpine

pytest.register_assert_rewrite("eventspine.testing.conformance")
_SEEDS = pytest.StashKey[list[int]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("eventspine")
    group.addoption(
        "--eventspine-seed", type=int, default=None, help="seed of all chance in spines of spine_for and sync_spine_for"
    )
    group.addoption(
        "--eventspine-conformance",
        type=Path,
        metavar="PAGE.md",
        help="write the capability table of the conformance suites that run into this page",
    )


def pytest_configure(config: pytest.Config) -> None:
    if page := config.getoption("--eventspine-conformance"):
        _check(page)
    config.pluginmanager.register(_Conformance(), "eventspine-conformance")


def _check(page: Path) -> None:
    """Before the tests run, not after minutes of them."""
    from .conformance.table import text_of

    try:
        text_of(page)
    except (OSError, ValueError) as error:
        raise pytest.UsageError(f"--eventspine-conformance: {error}") from error


class _Conformance:
    """Gathers what the suites' tests say of themselves; in the process that reports, so that it works with pytest-xdist."""

    def __init__(self) -> None:
        self.reports: list[tuple[dict[str, Any], str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        for name, noted in report.user_properties:
            if name == "eventspine conformance" and isinstance(noted, dict):
                self.reports.append((noted, report.outcome))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        if not self.reports:
            return
        from .conformance.table import Table

        table = Table()
        for noted, outcome in self.reports:
            table.add(noted, outcome)
        terminalreporter.section("eventspine conformance")
        terminalreporter.write_line(table.text())
        page: Path | None = config.getoption("--eventspine-conformance")
        if page is not None:
            table.write(page)
            terminalreporter.write_line(f"written into {page}")


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


@pytest.fixture
def django_spine(request: pytest.FixtureRequest) -> Captured:
    """In tests of pytest-django's: what is published from here on, and `handle()`. With `db`, whether or not it was asked for."""
    from ..integrations.django.testing import Captured

    try:
        request.getfixturevalue("db")
    except pytest.FixtureLookupError:
        pytest.fail(
            "django_spine needs the database of pytest-django's tests: pip install pytest-django", pytrace=False
        )
    return Captured()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and (seeds := item.stash.get(_SEEDS, None)):
        said = ", ".join(str(seed) for seed in seeds)
        report.sections.append(("eventspine", f"seed {said}: --eventspine-seed={seeds[0]} repeats its chances"))
    return report
