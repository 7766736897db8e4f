"""MiniStack: AWS played by another author, so that no test is written to one emulator's errors.

Its state is in memory: kill() and stop() lose it. It would listen to everybody's network if it weren't told otherwise."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import pypi
from .installing import Tell
from .moto import CREDENTIALS
from .server import Server, answers


class MiniStack(Server):
    """`settings`: environment variables. Clients take any credentials."""

    name = "ministack"
    version = "1.5.33"
    url_form = "http://{address}"
    pins = ("ministack.txt",)
    keeps = False

    @classmethod
    def _variant(cls) -> str:
        return f"{pypi.python_tag()}-"

    @classmethod
    def _fill(cls, folder: Path, tell: Tell) -> None:
        tell("ministack and 16 packages that it needs from PyPI")
        pypi.unpack("ministack", folder)

    @property
    def broker_url(self) -> str:
        return f"eventbridge://us-east-1/default?endpoint={self.url}"

    def _command(self) -> Sequence[str]:
        return [sys.executable, "-P", "-c", "from ministack.app import main; main()"]

    def _environment(self) -> Mapping[str, str]:
        (self.folder / "tmp").mkdir(exist_ok=True)
        return {
            **CREDENTIALS,
            "PYTHONPATH": str(self.installed()),
            "TMPDIR": str(self.folder / "tmp"),
            "BIND_HOST": "127.0.0.1",
            "MINISTACK_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self.port),
            "PERSIST_STATE": "0",
            "STATE_DIR": str(self.folder / "state"),
            "S3_DATA_DIR": str(self.folder / "s3"),
            "LAMBDA_EXECUTOR": "local",
            "LAMBDA_STATE_TRANSITION_SECONDS": "0",
            **self.settings,
        }

    def _ready(self) -> bool:
        return answers(f"{self.url}/_ministack/ready")


SERVER = MiniStack
