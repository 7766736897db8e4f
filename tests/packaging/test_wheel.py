"""What people install: the wheel, alone in a clean environment, on every Python that this machine has."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
CORE = {"msgspec", "click", "rich"}
USE = Path(__file__).with_name("first_use.py").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since building leaves nothing beside the sources of others."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def interpreters() -> dict[str, str]:
    """By version; one that doesn't run, such as a launcher without its Python, is not there."""
    found = {".".join(map(str, sys.version_info[:2])): sys.executable}
    beside = [str(path) for path in Path(sys.base_prefix).parent.glob("3.*/bin")]  # as version managers put them
    for version in VERSIONS:
        path = os.pathsep.join([*beside, os.environ.get("PATH", "")])
        if (program := shutil.which(f"python{version}", path=path)) and _runs(program):
            found.setdefault(version, program)
    return found


def _runs(program: str) -> bool:
    return subprocess.run([program, "-c", "import venv, sqlite3, ensurepip"], capture_output=True).returncode == 0


FOUND = interpreters()


@pytest.fixture(scope="session", params=VERSIONS)
def installed(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment that holds the wheel and what it depends on, and nothing else."""
    if request.param not in FOUND:
        pytest.skip(f"this machine has no Python {request.param}")
    folder: Path = tmp_path_factory.mktemp(f"python{request.param}")
    subprocess.run([FOUND[request.param], "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-input", str(wheel)], check=True, env=_clean())
    return folder / "bin"


def _clean() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SPINE", "COVERAGE"))}
    return {**kept, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=_clean(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_installed_wheel_publishes_runs_and_handles(installed, tmp_path):
    (tmp_path / "first_use.py").write_text(USE, encoding="utf-8")
    assert "handled order-1" in run(installed / "python", "-W", "error", "first_use.py", cwd=tmp_path)
    assert "desk" in run(installed / "spine", "subscriptions", "--journal", "sqlite:///first.db", cwd=tmp_path)


def test_the_installed_command_and_package_say_the_same_version(installed, tmp_path):
    version = run(installed / "python", "-c", "import eventspine; print(eventspine.__version__)", cwd=tmp_path).strip()
    assert version in run(installed / "spine", "--version", cwd=tmp_path)


def test_every_module_imports_without_the_extras_or_names_the_line_that_installs_one(installed, tmp_path):
    told = run(installed / "python", "-W", "error", "-c", IMPORT_ALL, cwd=tmp_path)
    assert "eventspine.spine" in told
    assert "failed" not in told, told


IMPORT_ALL = """
import importlib, pkgutil, eventspine
from eventspine.brokers import _MODULES, open_broker
from eventspine.errors import MissingExtra
from eventspine.journal import open_journal
told = {}  # clients of brokers and of PostgreSQL, which open_broker and open_journal are the doors to
try:
    open_journal("postgresql://localhost/shop")
except MissingExtra as error:
    assert "eventspine[postgres]" in str(error), error
    told["postgres"] = "postgres"
for scheme, (broker, extra, _) in _MODULES.items():
    try:
        if extra:
            open_broker(f"{scheme}://localhost")
    except MissingExtra as error:
        assert f"eventspine[{extra}]" in str(error), error
        told[broker] = extra
for module in pkgutil.walk_packages(eventspine.__path__, "eventspine.", onerror=lambda name: None):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
        print(module.name)
    except MissingExtra as error:
        assert "eventspine[" in str(error), error
        assert "integrations.fastapi" not in module.name or "eventspine[fastapi]" in str(error), error
        print(module.name, "needs an extra")
    except ModuleNotFoundError as error:
        store = module.name.removeprefix("eventspine.brokers.").removeprefix("eventspine.journal.")
        client = store.strip("_").partition("_")[0]
        print(module.name, "needs an extra" if client in told else f"failed: {error!r}")
    except ImportError as error:
        print(module.name, f"failed: {error!r}")
"""


def test_the_wheel_carries_types_licence_and_few_dependencies(wheel):
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        told = email.message_from_bytes(opened.read(metadata))
    assert "eventspine/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests", "bench", "examples"))]
    required = told.get_all("Requires-Dist", [])
    assert {line.split(">")[0] for line in required if "extra ==" not in line} == CORE
    assert told["License-Expression"] == "Apache-2.0"


def test_every_extra_is_named_in_the_wheel_and_on_the_page_that_lists_them(wheel):
    with zipfile.ZipFile(wheel) as opened:
        (metadata,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        extras = email.message_from_bytes(opened.read(metadata)).get_all("Provides-Extra", [])
    page = (ROOT / "docs" / "how-to" / "installing.md").read_text(encoding="utf-8")
    assert extras
    assert [extra for extra in extras if f"eventspine[{extra}]" not in page] == []
