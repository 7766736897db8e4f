"""moto's server: AWS played by the authors of the mock library. EventBridge and SQS, among others.

One of two emulators; where they differ, neither is AWS. Its state is in memory: kill() and stop() lose it. API destinations
are called (moto leaves that out unless told), though without a body. Calls to a queue are answered one after another
(moto_in_turn.py): by itself moto hands out a message twice, or loses one, when they are not."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import pypi
from .installing import Tell
from .server import Server, answers

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


class Moto(Server):
    """`settings`: environment variables. Clients take any credentials."""

    name = "moto"
    version = "5.2.5"
    url_form = "http://{address}"
    pins = ("moto.txt",)
    keeps = False

    @classmethod
    def _variant(cls) -> str:
        return f"{pypi.python_tag()}-"

    @classmethod
    def _fill(cls, folder: Path, tell: Tell) -> None:
        tell("moto and 27 packages that it needs from PyPI")
        pypi.unpack("moto", folder)

    @property
    def broker_url(self) -> str:
        return f"eventbridge://us-east-1/default?endpoint={self.url}"

    def _command(self) -> Sequence[str]:
        program = Path(__file__).with_name("moto_in_turn.py")
        return [sys.executable, "-P", str(program), "-H", "127.0.0.1", "-p", str(self.port)]

    def _environment(self) -> Mapping[str, str]:
        (self.folder / "tmp").mkdir(exist_ok=True)
        return {
            **CREDENTIALS,
            "PYTHONPATH": str(self.installed()),
            "TMPDIR": str(self.folder / "tmp"),
            "MOTO_EVENTS_INVOKE_HTTP": "true",
            **self.settings,
        }

    def _ready(self) -> bool:
        return answers(f"{self.url}/moto-api/data.json")


SERVER = Moto
