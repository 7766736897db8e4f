"""Servers in Java: their jars come from Maven Central, by Maven, in the versions of pins/<name>.pom.xml.

Maven resolves what they depend on and refuses a jar whose published checksum it doesn't fit. It keeps its own copies in a
folder that is removed afterwards; `~/.m2/settings.xml` (a mirror, a proxy) is heeded."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

from .installing import NotInstalled, program, run
from .pypi import PINS

JAVA = 17
_ADVICE = (
    "Debian and Ubuntu: apt-get install -y --no-install-recommends openjdk-17-jre-headless maven; "
    "macOS: brew install openjdk@17 maven, and have its bin folder on the PATH."
)


def java() -> str:
    """A Java that is new enough."""
    found = program("java", f"Java {JAVA} or newer runs this server. {_ADVICE}")
    said = subprocess.run([found, "-version"], capture_output=True, text=True, check=False)  # noqa: S603  just found
    version = re.search(r'version "(\d+)', said.stderr)
    if version is None or int(version[1]) < JAVA:
        first = (said.stderr.strip() or "nothing at all").splitlines()[0]
        raise NotInstalled(f"Java {JAVA} or newer is needed; {found} says: {first}. {_ADVICE}", program="java")
    return found


def jars(name: str, folder: Path) -> None:
    """All jars of pins/<name>.pom.xml, into the folder."""
    maven = program("mvn", f"Maven fetches this server's jars. {_ADVICE}")
    with tempfile.TemporaryDirectory(prefix="eventspine-maven-") as repository:
        command = [
            maven,
            *("--batch-mode", "--quiet", "--strict-checksums"),
            f"-Dmaven.repo.local={repository}",
            *("-f", str(PINS / f"{name}.pom.xml")),
            "dependency:copy-dependencies",
            "-DincludeScope=runtime",
            f"-DoutputDirectory={folder}",
        ]
        run(command, f"Fetching the jars of {name} from Maven Central", cwd=Path(repository))
