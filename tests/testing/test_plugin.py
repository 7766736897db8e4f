"""The plug-in as pytest finds it: with pytest-asyncio in both modes, with anyio's plug-in, and without either."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SHOP = """
import pytest
from eventspine import Event, Service, testing


class Asked(Event, context="oracle", key="who"):
    who: str


class Answered(Event, context="delphi", key="who"):
    who: str


delphi = Service("delphi")


@delphi.on(Asked)
async def answer(event: Asked) -> Answered:
    return Answered(who=event.who)

"""


def run(folder: Path, test: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(SHOP + test)
    if "no:asyncio" not in options:
        options += ("-o", "asyncio_default_fixture_loop_scope=function")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", "test_it.py", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(HERE.parent.parent / "src"), **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


ASYNC = """
async def test_whoever_asks_is_answered(spine_for):
    async with spine_for(delphi) as spine:
        await spine.publish(Asked(who="Croesus"))
        await spine.idle()
        assert spine.published(Answered) == [Answered(who="Croesus")]
"""
FIXTURE = """
@pytest.fixture
async def spine(spine_for):
    async with spine_for(delphi) as spine:
        yield spine


async def test_a_fixture_of_the_tests_own(spine):
    await spine.publish(Asked(who="Croesus"))
    await spine.advance(hours=1)
    assert spine.published(Answered) == [Answered(who="Croesus")]
"""
ON_ASYNCIO = """
@pytest.fixture
def anyio_backend():
    return "asyncio"

"""


def test_with_pytest_asyncio_in_auto_mode(tmp_path: Path) -> None:
    done = run(tmp_path, ASYNC + FIXTURE, "-o", "asyncio_mode=auto")
    assert "2 passed" in done.stdout, done.stdout


def test_with_pytest_asyncio_in_strict_mode(tmp_path: Path) -> None:
    test = "import pytest_asyncio\npytestmark = pytest.mark.asyncio\n" + ASYNC + FIXTURE
    done = run(tmp_path, test.replace("@pytest.fixture", "@pytest_asyncio.fixture"), "-o", "asyncio_mode=strict")
    assert "2 passed" in done.stdout, done.stdout


def test_with_anyio_on_asyncio(tmp_path: Path) -> None:
    test = "pytestmark = pytest.mark.anyio\n" + ON_ASYNCIO + ASYNC + FIXTURE
    done = run(tmp_path, test, "-p", "no:asyncio")
    assert "2 passed" in done.stdout, done.stdout


def test_on_trio_the_error_says_what_to_do(tmp_path: Path) -> None:
    done = run(tmp_path, "pytestmark = pytest.mark.anyio\n" + ASYNC, "-p", "no:asyncio")
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    assert "eventspine runs on asyncio, and this test does not" in done.stdout


def test_without_either_there_is_the_blocking_one(tmp_path: Path) -> None:
    test = """
def test_whoever_asks_is_answered(sync_spine_for):
    with sync_spine_for(delphi) as spine:
        spine.publish(Asked(who="Croesus"))
        spine.idle()
        assert spine.published(Answered) == [Answered(who="Croesus")]
"""
    done = run(tmp_path, test, "-p", "no:asyncio", "-p", "no:anyio")
    assert "1 passed" in done.stdout, done.stdout


FAILING = """
def test_that_fails(sync_spine_for):
    with sync_spine_for(delphi) as spine:
        pass
    print("the seed was", spine.seed)
    assert False


def test_that_fails_inside(sync_spine_for):
    with sync_spine_for(delphi) as spine:
        assert False
"""


def test_the_seed_is_in_the_report_of_a_test_that_failed(tmp_path: Path) -> None:
    done = run(tmp_path, FAILING, "--eventspine-seed=77")
    assert "the seed was 77" in done.stdout, done.stdout
    assert done.stdout.count("seed 77: --eventspine-seed=77 repeats its chances") == 2
    assert "seed=77 (or EVENTSPINE_SEED=77 in the environment)" in done.stdout
    done = run(tmp_path, FAILING, EVENTSPINE_SEED="78")
    assert "the seed was 78" in done.stdout


def test_a_seed_of_the_tests_own_goes_first(tmp_path: Path) -> None:
    test = "def test_it(sync_spine_for):\n    assert sync_spine_for(delphi, seed=5).seed == 5\n"
    done = run(tmp_path, test, "--eventspine-seed=77")
    assert "1 passed" in done.stdout, done.stdout


def test_the_plug_in_loads_neither_the_engine_nor_asyncio() -> None:
    said = subprocess.run(
        [sys.executable, "-c", "import eventspine.testing.plugin, sys; print(*sys.modules)"],
        env={**os.environ, "PYTHONPATH": str(HERE.parent.parent / "src")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "eventspine.testing.plugin" in said
    heavy = {"sqlite3", "eventspine.engine", "eventspine.journal.sqlite", "eventspine.testing.virtual", "rich", "click"}
    assert heavy & set(said) == set()


@pytest.mark.parametrize("name", ["spine", "sync_spine", "delivery", "sync_delivery", "VirtualSpine", "NotIdle"])
def test_names_are_loaded_in_any_order(name: str) -> None:
    """The module behind a name must not come in the name's place."""
    code = f"""
import eventspine.testing.blocking, eventspine.testing.making, eventspine.testing.deliveries
from eventspine import testing
assert callable(testing.{name}) and set(testing.__all__) == {{n for n in testing.__all__ if hasattr(testing, n)}}
"""
    subprocess.run([sys.executable, "-c", code], check=True)
