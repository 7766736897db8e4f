"""A real uvicorn in a process of its own. Its socket is made here, so that a client's first request waits for it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parent.parent.parent


class Server:
    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process, self.url, self._log = process, url, log

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(60)


@contextmanager
def serving(app: str, folder: Path, **environment: str) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        log = folder / "server.log"
        port = listening.getsockname()[1]
        command = [sys.executable, "-m", "uvicorn", app, "--fd", str(listening.fileno()), "--lifespan", "on"]
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
                pass_fds=[listening.fileno()],
                stdout=output,
                stderr=output,
            )
    try:
        yield Server(process, f"http://127.0.0.1:{port}", log)
    finally:
        process.kill()
        process.wait()


def until(condition: Callable[[], Any], log: Callable[[], str] = str) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, f"waited in vain\n{log()}"
        time.sleep(0.02)
