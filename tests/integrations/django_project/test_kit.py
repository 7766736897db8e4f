"""`eventspine.integrations.django.testing`, in Django's own test runner: in memory and in a file, alone and in parallel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from eventspine.testing.servers import Server

KIT = Path(__file__).parent / "kit"
PROJECT = Path(__file__).parents[3] / "examples" / "django_shop"

SETTINGS = """
from project.settings import *
DATABASES["default"]["TEST"] = {"NAME": %s}
%s
INSTALLED_APPS = [*INSTALLED_APPS, "django.contrib.contenttypes", "django.contrib.auth"]
"""

IN_A_TRANSACTION, REAL = "in_a_transaction.py", "real_engine.py"


def manage_test(
    tmp_path: Path,
    tests: str,
    *options: str,
    file: bool,
    code: int = 0,
    database: dict[str, object] | None = None,
    schema: str = "",
    refused: str = "",
) -> str:
    folder = tmp_path / "kit"
    folder.mkdir()
    (folder / "__init__.py").touch()
    shutil.copy(KIT / "material.py", folder)
    shutil.copy(KIT / tests, folder / "test_kit.py")
    instead = f"DATABASES['default'] = {database!r}" if database else ""
    if schema:
        instead += f"\nEVENTSPINE = {{**EVENTSPINE, 'SCHEMA': {schema!r}}}"
    (tmp_path / "kit_settings.py").write_text(
        SETTINGS % (repr(str(tmp_path / "test.sqlite3")) if file else None, instead)
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "manage.py", "test", "kit", "--settings=kit_settings", *options],
        cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]), "SHOP_FOLDER": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", "REFUSED": refused},
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    return done.stdout


@pytest.mark.parametrize("file", [False, True], ids=["in memory", "in a file"])
def test_inside_the_transaction_of_a_test_case(tmp_path, file):
    refused = "never committed" if file else "in memory"
    manage_test(tmp_path, IN_A_TRANSACTION, file=file, refused=refused)


def test_with_the_real_engine_on_a_file(tmp_path):
    manage_test(tmp_path, REAL, file=True)


def test_with_the_real_engine_in_parallel_processes(tmp_path):
    manage_test(tmp_path, REAL, "--parallel", "2", file=True)


def test_without_a_file_the_real_engine_says_what_to_do(tmp_path):
    said = manage_test(tmp_path, REAL, "--failfast", file=False, code=1)
    assert "TEST = {'NAME'" in said
    assert "self.handle()" in said


def test_a_test_database_that_is_kept_is_used_again(tmp_path):
    manage_test(tmp_path, REAL, "--keepdb", file=True)
    (tmp_path / "again").mkdir()
    (tmp_path / "test.sqlite3").rename(tmp_path / "again" / "test.sqlite3")
    manage_test(tmp_path / "again", REAL, "--keepdb", file=True)


# --- on PostgreSQL ------------------------------------------------------------------------------------------------------


@pytest.fixture
def database(postgres_server: Server) -> dict[str, object]:
    where = urlsplit(postgres_server.url)
    return {
        "ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": "postgres", "HOST": where.hostname,
        "PORT": where.port, "TEST": {"NAME": "test_kit"},
    }  # fmt: skip


@pytest.mark.parametrize("schema", ["", "spine"])
def test_on_postgres_inside_the_transaction_of_a_test_case(tmp_path, database, schema):
    manage_test(tmp_path, IN_A_TRANSACTION, file=False, database=database, schema=schema, refused="never committed")


@pytest.mark.parametrize(("parallel", "schema"), [("1", ""), ("2", ""), ("1", "spine")])
def test_on_postgres_with_the_real_engine(tmp_path, database, parallel, schema):
    manage_test(tmp_path, REAL, "--parallel", parallel, file=False, database=database, schema=schema)


# --- pytest-django --------------------------------------------------------------------------------------------------------


def test_with_pytest_django(tmp_path):
    pytest.importorskip("pytest_django", reason="scripts/setup test: it is in the lock")
    shutil.copy(KIT / "by_pytest.py", tmp_path / "test_by_pytest.py")
    (tmp_path / "kit_settings.py").write_text(SETTINGS % (repr(str(tmp_path / "test.sqlite3")), ""))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "--ds=kit_settings", "-W", "error", str(tmp_path)],
        cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{PROJECT}", "SHOP_FOLDER": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": ""},
    )  # fmt: skip
    assert "5 passed" in done.stdout, done.stdout


def test_without_pytest_django_its_fixture_says_so(tmp_path):
    (tmp_path / "test_by_pytest.py").write_text("def test_it(django_spine):\n    pass\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:django", str(tmp_path)],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100,
    )  # fmt: skip
    assert "pip install pytest-django" in done.stdout
