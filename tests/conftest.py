"""What every test can count on: asserts that tell what they saw, the same examples each time in CI, and no time limit
by Hypothesis on a busy machine."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.postgres import postgres_server, postgres_url, schema  # noqa: F401 -- fixtures, for all

# Also in modules that only other tests import, such as the conformance of journals.
pytest.register_assert_rewrite(
    "eventspine.testing.conformance",
    *{f"tests.{folder.name}" for folder in Path(__file__).parent.iterdir() if folder.is_dir()} - sys.modules.keys(),
)

# A shell's background jobs ignore the one, and what nohup starts the other; our children would inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if os.name == "posix" and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)  # ignored all the same

settings.register_profile("laptop", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "laptop")


HERE = Path(__file__).parent
LONG = (  # many processes for each test, or many histories: most of the time, for a tenth of the tests
    "brokers/test_memory_conformance.py::TestMemoryQueueWithoutOrder",
    "cli/test_new.py",
    "cli/test_run_reload.py",
    "cli/test_top.py::test_the_rate_of_a_subscription_is_that_of_the_handlers_at_work",
    "deploys/",
    "examples/",
    "faults/",
    "hostile/test_command_line.py",
    "integrations/django_project/test_postgres.py::test_manage_py_spine_runs_a_project_whose_processes_are_killed_and_each_order_is_packed_once",
    "integrations/django_project/test_shop.py",
    "integrations/test_fastapi_killed.py",
    "integrations/test_flask.py::test_the_orm_in_a_handler_is_exactly_once_however_often_it_is_killed",
    "integrations/test_jupyter.py",
    "journal/test_postgres_failover.py",
    "journal/test_sqlite_processes.py::test_r20_left_alone_it_would_not_stay_small",
    "packaging/",
    "promises/",
    "simulate/test_ablations.py",
    "simulate/test_simulate.py::test_a_history_does_not_depend_on_hashes_addresses_or_the_process",
    "simulate/test_simulate.py::test_they_hold_between_journals_too_with_a_broker_that_loses_answers_and_doubles_and_delays[queue]",
    "simulate/test_simulate.py::test_they_hold_between_journals_too_with_a_broker_that_loses_answers_and_doubles_and_delays[unordered]",
    "simulate/test_simulate.py::test_they_hold_for_every_kind_of_handler_and_every_way_out_of_one",
    "soak/",
    "state/test_versions.py::test_a_process_that_is_killed_while_it_builds_leaves_no_row_twice_and_none_missing",
    "testing/test_conformance.py",
    "testing/test_plugin.py",
    "test_schedules.py::test_the_times_of_a_cron_line_ascend_and_the_way_back_meets_the_same_ones",
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: left out by `make test` on a laptop (see LONG in tests/conftest.py)")
    config.addinivalue_line(
        "markers", "promise(fault, *setups, lost=''): what it shows, for the table in docs/why/promises.md"
    )
    config.addinivalue_line("markers", "setup(*setups, processes=''): which of the table's columns a test speaks for")


def pytest_itemcollected(item: pytest.Item) -> None:
    if not item.path.is_relative_to(HERE):
        return
    _, _, name = item.nodeid.partition("::")
    if f"{item.path.relative_to(HERE).as_posix()}::{name}".startswith(LONG):
        item.add_marker(pytest.mark.long)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        from tests.scheduling import in_order

        in_order(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from tests.scheduling import FileByFile

    return FileByFile(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_finish() -> None:
    """Thousands of tests are a million objects, and every collection of garbage would look through all of them."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What was printed crosses to the process that reports as text, which half a character is not."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode("utf-8")) for name, text in report.sections
    ]
    return report
