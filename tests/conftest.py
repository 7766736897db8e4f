"""What every test can count on: asserts that tell what they saw, the same examples each time in CI, and no time limit
by Hypothesis on a busy machine."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.postgres import postgres_server, postgres_url, schema  # noqa: F401 -- fixtures, for all

# Also in modules that only other tests import, such as the conformance of journals.
pytest.register_assert_rewrite(
    "eventspine.testing.conformance",
    *{f"tests.{folder.name}" for folder in Path(__file__).parent.iterdir() if folder.is_dir()} - sys.modules.keys(),
)

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # as a shell's background jobs have it; our children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("laptop", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "laptop")


HERE = Path(__file__).parent
LONG = (  # many processes for each test, or many histories: more than half of the time, for a twentieth of the tests
    "cli/test_new.py",
    "cli/test_run_reload.py",
    "deploys/",
    "examples/",
    "faults/",
    "hostile/test_command_line.py",
    "integrations/django_project/test_shop.py",
    "integrations/test_fastapi_killed.py",
    "packaging/",
    "promises/",
    "simulate/test_ablations.py",
    "soak/",
    "testing/test_conformance.py",
    "testing/test_plugin.py",
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: left out by `make test` on a laptop (see LONG in tests/conftest.py)")
    config.addinivalue_line(
        "markers", "promise(fault, *setups, lost=''): what it shows, for the table in docs/why/promises.md"
    )
    config.addinivalue_line("markers", "setup(*setups, processes=''): which of the table's columns a test speaks for")


def pytest_itemcollected(item: pytest.Item) -> None:
    if item.path.is_relative_to(HERE) and item.path.relative_to(HERE).as_posix().startswith(LONG):
        item.add_marker(pytest.mark.long)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What was printed crosses to the process that reports as text, which half a character is not."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode("utf-8")) for name, text in report.sections
    ]
    return report
