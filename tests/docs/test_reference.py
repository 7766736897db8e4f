"""The reference leaves nothing out: every public name, option, command and error is on its page."""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path

import pytest

import eventspine
from eventspine import Batch, Delivery, Retry, Service, Spine, errors
from eventspine.cli.app import COMMANDS
from eventspine.decorators import HandlerOptions, PeriodicOptions

DOCS = Path(__file__).parent.parent.parent / "docs"


def page(name: str) -> str:
    return (DOCS / "reference" / f"{name}.md").read_text(encoding="utf-8")


def parameters(function) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "events", "options")]


def public(cls) -> list[str]:
    return [
        name
        for name, value in vars(cls).items()
        if not name.startswith("_") and (callable(value) or isinstance(value, property))
    ]


@pytest.mark.parametrize("name", [name for name in eventspine.__all__ if not name.startswith("__")])
def test_every_public_name_is_somewhere_in_the_reference(name):
    assert any(name in path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md"))


def test_every_error_is_in_the_reference_of_errors():
    ours = [
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    ]
    assert [name for name in ours if f"`{name}" not in page("errors")] == []


def test_every_option_of_a_handler_is_in_the_reference_of_services():
    options = [*HandlerOptions.__annotations__, "batch", *parameters(Service), *parameters(Retry), *parameters(Batch)]
    assert [name for name in options if name not in page("services")] == []


def test_every_option_of_a_periodic_handler_is_there_too():
    own = [name for name in (*parameters(Service.every), *parameters(Service.cron)) if name not in ("interval", "line")]
    assert [name for name in (*PeriodicOptions.__annotations__, *own) if name not in page("services")] == []


def test_every_name_of_a_delivery_is_in_its_reference():
    assert [name for name in public(Delivery) if name not in page("delivery")] == []


def test_every_name_and_argument_of_a_spine_is_in_its_reference():
    wanted = [*public(Spine), *parameters(Spine), *parameters(Spine.publish), *parameters(Spine.running)]
    internal = {"records", "close"}
    assert [name for name in wanted if name not in internal and name not in page("spine")] == []


def test_every_command_is_in_the_reference_of_the_command_line():
    assert [name for name in COMMANDS if f"`spine {name}" not in page("cli")] == []


def test_what_a_page_has_pytest_await_with_is_installed_on_that_page_since_no_extra_brings_it():
    for path in DOCS.rglob("*.md"):
        text = path.read_text(encoding="utf-8")
        installed, found, _ = text.partition("asyncio_mode = auto")
        if found:
            assert re.search(r"^\$ pip install .*pytest-asyncio", installed, re.MULTILINE), path


def test_each_extra_is_on_the_page_of_installing_with_what_it_brings():
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    table = (DOCS / "how-to" / "installing.md").read_text(encoding="utf-8")
    for extra, packages in project["optional-dependencies"].items():
        (row,) = [line for line in table.splitlines() if line.startswith(f"| `eventspine[{extra}]` |")]
        brings = row.split("|")[2].lower()
        for package in packages:
            name = re.split(r"[\[>=]", package)[0]
            assert all(word in brings for word in name.split("-")), f"{extra} brings {name}, and not {brings.strip()}"
