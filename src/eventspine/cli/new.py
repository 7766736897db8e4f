"""`spine new`: a project that works as it is written: an event, a handler, a test, a Makefile, a container file.

It is written into a folder that doesn't exist yet, or is empty; nothing is ever overwritten. The folder appears whole or
not at all, unless it was there.
"""

from __future__ import annotations

import json
import keyword
import os
import re
import shlex
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import click

from .app import Command
from .exits import Failed, Misused
from .output import say

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
FILES = {
    "pyproject.toml": "pyproject.toml",
    "spine.toml": "spine.toml",
    "Makefile": "Makefile",
    "Containerfile": "Containerfile",
    "wheels/.gitkeep": "gitkeep",
    ".gitignore": "gitignore",
    "README.md": "README.md",
    "{module}/__init__.py": "init.py",
    "{module}/events.py": "events.py",
    "{module}/service.py": "service.py",
    "{module}/tables.sql": "tables.sql",
    "tests/test_service.py": "test_service.py",
}


def module_of(name: str) -> str:
    """The package's name; refuses one that could not be imported, or would stand before another's."""
    module = name.replace("-", "_")
    if not _NAME.fullmatch(name):
        raise Misused(f"{name!r} can't name a project: use lower-case letters, digits, - and _, such as my-shop.")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or module in {"eventspine", "tests", "wheels"}:
        raise Misused(f"{module!r} is the name of a module that Python or eventspine has already. Choose another one.")
    return module


def write(folder: Path, name: str) -> list[Path]:
    """The files, in their order."""
    module, written = module_of(name), []
    for path, template in FILES.items():
        target = folder / path.format(module=module)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = files(f"{__package__}.project").joinpath(f"{template}.in").read_text(encoding="utf-8")
        target.write_text(text.replace("MODULE", module).replace("NAME", name), encoding="utf-8")
        written.append(target)
    return written


@click.command(cls=Command)
@click.argument("place", metavar="NAME")
def command(place: str) -> None:
    """Make a working project: an event, a handler, a test.

    NAME is that of a new folder; its last part names the project."""
    if not place.strip():
        raise Misused("Give the project a name, such as my-shop.")
    target = Path(place)
    name = target.resolve().name
    module = module_of(name)
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise Misused(f"{target.absolute()} is there already and is not an empty folder; nothing was written.")
    if not target.absolute().parent.is_dir():
        raise Misused(f"The folder {target.absolute().parent} doesn't exist. Make it first.")
    _appear(target, name)
    go_there = "" if target.resolve() == Path.cwd() else f"  cd {target}\n"
    say(f"{name if not go_there else target} is a project now. Go on with\n")
    say(f"{go_there}{_set_up()}  make test\n  spine run\n")
    say(f"and read {target / 'README.md'}. The service is in {module}/service.py.")


def _set_up() -> str:
    """What brings the tests their tools, where they are missing; with where pip had eventspine from, if from no index."""
    if find_spec("pytest") and find_spec("pytest_asyncio"):
        return ""
    try:
        origin = json.loads(distribution("eventspine").read_text("direct_url.json") or "{}").get("url", "")
    except (PackageNotFoundError, ValueError):
        origin = ""
    path = url2pathname(urlsplit(origin).path) if origin.startswith("file:") else ""
    setup = f"make setup EVENTSPINE={shlex.quote(path)}" if path else "make setup"
    return f"  {setup}\n  . .venv/bin/activate\n"


def _appear(target: Path, name: str) -> None:
    """Written beside its place and moved there whole; a folder that is not empty by then is left alone."""
    try:
        beside = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target.absolute().parent))
    except OSError as error:
        raise Failed(f"{target} can't be made: {error}. Nothing was written.") from error
    try:
        write(beside, name)
        os.chmod(beside, 0o777 & ~_umask())
        if target.exists():
            for child in beside.iterdir():  # somebody may stand in it, and is to find it where it was
                child.rename(target / child.name)
        else:
            os.rename(beside, target)
    except OSError as error:
        raise Failed(f"{target} can't be made: {error}. Nothing was written.") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
