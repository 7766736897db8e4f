"""The services as processes of the operating system: started, killed, stopped and watched.

Each runs in the demo's folder, or below it in one of its own, so that `spine.db` and `mail/` are found there without a
word, and writes to its own log in `logs/`. None outlives the demo.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from . import places
from .journals import Journals

CODE = Path(__file__).resolve().parents[2]  # what `examples.shop` is imported from
STOP_TIMEOUT_S = 60
SENDING_S_MAX = 7200  # that a program which is done waits for a slow broker; of one that takes nothing the demo sees it


class ServiceFailed(Exception):
    """A process ended otherwise than it was meant to; the message has the end of its log."""


class Processes:
    def __init__(
        self, folder: Path, journals: Journals, broker_url: str = "", environment: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.journals = journals
        self.broker_url = broker_url
        self.environment = environment or {}
        self.kills = 0
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "logs").mkdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()

    def start(self, service: str, module: str, *arguments: str) -> None:
        """`spine run` for a service that reacts; a program of its own for one that doesn't."""
        command = ["eventspine.cli", "run", module] if not arguments else [module, *arguments]
        patience = {"SPINE_DRAIN_S": str(SENDING_S_MAX)} if arguments else {}
        with self._log(service).open("ab") as log:
            self._running[service] = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=places.home(self.folder, service),
                env=self._environment(service) | patience,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo, which then ends them
            )

    def kill(self, service: str) -> None:
        process = self._running.pop(service, None)
        if process is None:
            raise ServiceFailed(f"{service} had finished before it could be killed.")
        process.kill()
        if process.wait() != -signal.SIGKILL:
            raise ServiceFailed(f"{service} ended by itself before it could be killed.\n{self._last_words(service)}")
        self.kills += 1

    def stop(self, service: str) -> None:
        """SIGTERM: it finishes what it has begun, and takes nothing new."""
        process = self._running.pop(service)
        process.terminate()
        try:
            code = process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise ServiceFailed(
                f"{service} didn't stop within {STOP_TIMEOUT_S} s.\n{self._last_words(service)}"
            ) from None
        if code not in (0, -signal.SIGTERM):
            raise ServiceFailed(f"{service} stopped with code {code}.\n{self._last_words(service)}")

    def stop_all(self) -> None:
        for service in list(self._running):
            self.stop(service)

    def check(self) -> None:
        """Nobody may end unasked, except with success: the storefront, when all is sold."""
        for service, process in list(self._running.items()):
            code = process.poll()
            if code:
                raise ServiceFailed(f"{service} ended with code {code}.\n{self._last_words(service)}")
            if code == 0:
                del self._running[service]

    def spine(self, *arguments: str, at: str = "email") -> str:
        """What this `spine` command prints, where this service is at home."""
        done = subprocess.run(
            [sys.executable, "-m", "eventspine.cli", *arguments],
            cwd=places.home(self.folder, at),
            env=self._environment(at),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        if done.returncode:
            raise ServiceFailed(f"`spine {' '.join(arguments)}` ended with code {done.returncode}.\n{done.stderr}")
        return done.stdout

    def _environment(self, service: str) -> dict[str, str]:
        path = os.pathsep.join(filter(None, [str(CODE), os.environ.get("PYTHONPATH")]))
        own = {"SPINE_JOURNAL": self.journals.url(service), "SPINE_BROKER": self.broker_url}
        return {**os.environ, "PYTHONPATH": path, "PYTHONUTF8": "1", **own, **self.environment}

    def _log(self, service: str) -> Path:
        return self.folder / "logs" / f"{service}.log"

    def _last_words(self, service: str) -> str:
        return "\n".join(self._log(service).read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
