"""What `spine new` writes works as it is: its tests, its lint, and its service at work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from click.testing import CliRunner

from eventspine.cli import new

HERE = Path(__file__).parents[2]


@pytest.fixture
def project(spine) -> Path:
    """A new one, and `spine` called in it."""
    made = spine("new", "my-shop")
    assert made.returncode == 0, made.stderr
    assert "my-shop is a project now." in made.stdout
    spine.folder = spine.folder / "my-shop"
    return spine.folder


def make(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("SPINE_", "MAKE", "PYTEST"))
    }
    return subprocess.run(
        ["make", *arguments, f"PYTHON={sys.executable}"],
        cwd=project, env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def test_its_own_tests_run(project):
    tested = make(project, "test")

    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "1 passed" in tested.stdout


def test_its_own_tests_fail_when_the_handler_is_wrong(project):
    service = project / "my_shop" / "service.py"
    service.write_text(service.read_text().replace("+ 1", "+ 2"))

    assert "1 failed" in make(project, "test").stdout


def test_its_service_handles_what_is_published(spine, project):
    process = spine.start("run")
    spine.until(process, "running my_shop")

    published = spine("publish", "OrderPlaced", '{"order_id": "A-1", "customer_id": "c-1"}')
    assert published.returncode == 0, published.stderr
    told = ""
    while "OrderConfirmed" not in told:
        told = spine("tail", "--no-follow").stdout

    assert '{"order_id":"A-1","customer_id":"c-1","number":1}' in told
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert (project / "spine.db").exists()


@pytest.mark.parametrize("name", ["a", "my-shop", "a" * 40])
def test_it_is_clean_whatever_its_name(spine, name):
    assert spine("new", name).returncode == 0

    for command in (["check"], ["format", "--check"]):
        linted = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "."],
            cwd=spine.folder / name,
            capture_output=True,
            text=True,
            check=False,
        )
        assert linted.returncode == 0, linted.stdout
    typed = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", new.module_of(name)],
        cwd=spine.folder / name, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert typed.returncode == 0, typed.stdout


def test_its_makefile_lists_its_targets(project):
    shown = make(project).stdout

    assert [line.split()[1] for line in shown.splitlines()] == ["help", "setup", "run", "test", "lint", "container"]


def test_its_container_file_names_files_that_are_there(project):
    lines = (project / "Containerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]

    assert copied
    assert [word for word in copied if not (project / word).exists()] == []
    assert 'CMD ["spine", "run"]' in lines, "as process 1, which gets SIGTERM"


@pytest.mark.parametrize("there", ["file", "folder", "link"])
def test_nothing_is_overwritten(say, tmp_path, there):
    target = tmp_path / "shop"
    if there == "file":
        target.write_text("mine")
    elif there == "link":
        target.symlink_to(tmp_path / "nowhere")
    else:
        target.mkdir()
        (target / "mine").write_text("mine")

    refused = say("new", "shop")

    assert refused.exit_code == 2
    assert "is there already and is not an empty folder; nothing was written" in refused.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == (["mine", "shop"] if there == "folder" else ["shop"])


def test_an_empty_folder_may_be_filled(say, tmp_path):
    (tmp_path / "shop").mkdir()

    assert say("new", "shop").exit_code == 0
    assert (tmp_path / "shop" / "shop" / "service.py").exists()


def test_the_folder_that_one_stands_in_may_be_filled(say, tmp_path, monkeypatch):
    here = tmp_path / "shop"
    here.mkdir()
    monkeypatch.chdir(here)

    made = say("new", ".")

    assert made.exit_code == 0, made.stderr
    assert "shop is a project now" in made.stdout
    assert "cd " not in made.stdout
    assert (Path.cwd() / "shop" / "service.py").exists(), "it is still the folder that one stands in"
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("Shop", "lower-case letters"),
        ("2shops", "lower-case letters"),
        ("sh op", "lower-case letters"),
        ("", "Give the project a name"),
        ("a" * 41, "lower-case letters"),
        ("import", "that Python or eventspine has already"),
        ("json", "that Python or eventspine has already"),
        ("eventspine", "that Python or eventspine has already"),
    ],
)
def test_a_name_that_is_no_package_is_refused(say, tmp_path, name, word):
    refused = say("new", name)

    assert (refused.exit_code, word in refused.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(say, tmp_path):
    assert f"The folder {tmp_path}/gone doesn't exist" in say("new", "gone/shop").stderr


def test_what_fails_on_the_way_leaves_nothing(say, tmp_path, monkeypatch):
    def full(folder: Path, name: str) -> None:
        (folder / "half").write_text("")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(new, "write", full)

    assert "Nothing was written." in say("new", "shop").stderr
    assert list(tmp_path.iterdir()) == []


def test_every_template_is_used():
    stored = {path.name for path in (HERE / "src" / "eventspine" / "cli" / "project").glob("*.in")}

    assert stored == {f"{name}.in" for name in new.FILES.values()}


def test_what_its_tests_need_is_named_where_it_is_missing(project):
    bare = project / "bare"
    venv.create(bare, with_pip=False)  # a Python without pytest
    tested = subprocess.run(
        ["make", "test", f"PYTHON={bare / 'bin' / 'python'}"],
        cwd=project, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert tested.returncode != 0
    assert "has no pytest with pytest-asyncio. `make setup` brings them." in tested.stdout


def test_set_up_comes_first_where_the_tests_tools_are_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "make setup" not in CliRunner().invoke(new.command, ["ready"]).output
    monkeypatch.setattr(new, "find_spec", lambda name: None)
    assert "  cd bare\n  make setup" in CliRunner().invoke(new.command, ["bare"]).output

    class Installed:
        def read_text(self, _name: str) -> str:
            return '{"url": "file:///srv/my%20clones/eventspine", "dir_info": {}}'

    monkeypatch.setattr(new, "distribution", lambda name: Installed())
    told = CliRunner().invoke(new.command, ["cloned"]).output
    assert "  make setup EVENTSPINE='/srv/my clones/eventspine'\n  . .venv/bin/activate\n" in told
