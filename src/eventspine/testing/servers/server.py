"""What every server does: start and be ready, stop, be killed, be paused, and come back with the same data.

Its folder holds all of it: configuration, data, `log`, and `server.json` with the port and the process, so that another
process can find it, stop it or start it again. `start` returns when clients are answered; when that fails the error
carries the end of the log. A server never outlives a failed start.

A subclass says how it is installed (`_fill`), configured (`_prepare`), run (`_command`, `_environment`) and asked whether it
is ready (`_ready`)."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from types import TracebackType
from typing import Any, ClassVar, Self

from ...errors import SpineError
from . import installing, processes
from .ports import free_ports, taken
from .proxy import Proxy
from .pypi import PINS


class ServerError(SpineError):
    """The server did not start or stop; the message says where its log is."""


class Server:
    """`folder` is the server's own; made when it isn't there. Without a port it takes free ones, and keeps them."""

    name: ClassVar[str]
    version: ClassVar[str]
    url_form: ClassVar[str]
    pins: ClassVar[Sequence[str]] = ()  # files under pins/: what is installed is named by what they say
    port_count: ClassVar[int] = 1  # consecutive ones, from `port` on
    proxy_ports: ClassVar[int] = 0  # the last of them, which are a proxy's and not the server's
    keeps: ClassVar[bool] = True  # its data, through kill() and start()
    ready_s: ClassVar[float] = 180.0  # a machine may be busy
    stop_s: ClassVar[float] = 30.0

    def __init__(
        self, folder: str | os.PathLike[str], port: int | None = None, *, settings: Mapping[str, str] | None = None
    ) -> None:
        self.folder = Path(folder).absolute()
        self.settings = dict(settings or {})  # of its own configuration, in its own words; they come last and win
        self._child: subprocess.Popen[bytes] | None = None
        port = port or self._state().get("port")
        self._may_move = port is None  # to other ports: nobody has been told of these
        self.port = port or free_ports(self.port_count)

    # installed

    @classmethod
    def installed(cls) -> Path:
        """Where this version is, or would be, installed."""
        said = b"".join((PINS / name).read_bytes() for name in cls.pins)
        return (
            installing.installed_folder() / f"{cls.name}-{cls.version}-{cls._variant()}{sha256(said).hexdigest()[:8]}"
        )

    @classmethod
    def is_installed(cls) -> bool:
        return installing.is_installed(cls.installed())

    @classmethod
    def install(cls, tell: installing.Tell = installing.tell) -> Path:
        """Returns at once when it is done already. `tell` is given a line for each step."""
        cls._check_needs()
        installing.install(cls.installed(), cls._fill, tell)
        return cls.installed()

    @classmethod
    def _variant(cls) -> str:
        return ""

    @classmethod
    def _check_needs(cls) -> None:
        """Raises NotInstalled when the machine lacks what can't be installed here."""

    @classmethod
    def _fill(cls, folder: Path, tell: installing.Tell) -> None:
        raise NotImplementedError

    # what it is called by

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return self.url_form.format(address=self.address)

    @property
    def broker_url(self) -> str:
        """What `--broker` takes for it."""
        return self.url

    def proxy(self) -> Proxy:
        """A network between clients, who take its `url`, and this server."""
        return Proxy(self.port, url_form=self.url_form)

    @property
    def log(self) -> Path:
        return self.folder / "log"

    # started and stopped

    @property
    def running(self) -> bool:
        return bool(self._family())

    @property
    def pid(self) -> int | None:
        """Of the process that is the server, as far as signals mean it."""
        return self._state().get("pid") if self.running else None

    def start(self) -> Self:
        """Returns when it answers. When it runs already, that is all."""
        if self.pid is not None and self._ready():
            return self
        if not self.is_installed():
            raise installing.NotInstalled(
                f"{self.name} {self.version} is not installed in {installing.installed_folder()}: spine servers install {self.name}",
                server=self.name,
            )
        self._check_needs()
        self.kill()  # what may be left of one whose leader died by itself
        self._look_at_ports()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._prepare()
        self._launch()
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise
        self._may_move = False
        return self

    def _look_at_ports(self) -> None:
        if (port := taken(self.port, self.port_count - self.proxy_ports)) is None:
            return
        if not self._may_move:
            raise ServerError(f"{self.name} can't start: somebody else has port {port} of 127.0.0.1.", port=port)
        self.port = free_ports(self.port_count)

    def stop(self) -> None:
        """Asks it to end, as an administrator would; kills what has not ended in time."""
        if not self.running:
            return
        processes.send(self._family(), SIGCONT)  # a paused one would never hear of it
        pid = self.pid
        self._ask_to_end()
        processes.wait_for_the_end([] if pid is None else [pid], self.stop_s)
        self.kill()  # one that did not end in time, and what others leave behind

    def kill(self) -> None:
        """SIGKILL to all its processes at once; returns when they are gone."""
        family = self._family()
        processes.send(family, SIGKILL)
        self._collect(family)

    def restart(self) -> Self:
        self.stop()
        return self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing is answered, until `resume`."""
        processes.send(self._family(), SIGSTOP)

    def resume(self) -> None:
        processes.send(self._family(), SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # for subclasses

    def _prepare(self) -> None:
        """Writes configuration and whatever a first start needs."""

    def _command(self) -> Sequence[str]:
        raise NotImplementedError

    def _environment(self) -> Mapping[str, str]:
        """Beside that of the caller."""
        return {}

    def _ready(self) -> bool:
        raise NotImplementedError

    def _ask_to_end(self) -> None:
        if (pid := self.pid) is not None:
            processes.send([pid], SIGTERM)

    # how

    def _launch(self) -> None:
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(  # noqa: S603  the subclass's own command
                self._command(),
                env={**os.environ, **self._environment()},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        pid = self._child.pid
        state = {
            "server": self.name,
            "version": self.version,
            "port": self.port,
            "pid": pid,
            "born": processes.born(pid),
        }
        written = self.folder / "server.json.new"
        written.write_text(json.dumps(state), encoding="utf-8")
        written.replace(self.folder / "server.json")

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.ready_s
        while not self._ready():
            if self._child is not None and self._child.poll() is not None:
                raise self._failed(f"ended with exit code {self._child.returncode}")
            if time.monotonic() > deadline:
                raise self._failed(f"was not ready within {self.ready_s:.0f} s")
            time.sleep(0.05)

    def _failed(self, what: str) -> ServerError:
        end = "\n".join(self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-15:])
        return ServerError(f"{self.name} {what}. The end of {self.log}:\n{end}", server=self.name, log=str(self.log))

    def _state(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.folder / "server.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found

    def _family(self) -> list[int]:
        state = self._state()
        return processes.family(state["pid"], state["born"]) if state.get("pid") else []

    def _collect(self, pids: Sequence[int]) -> None:
        left = processes.wait_for_the_end(pids, self.stop_s)
        if self._child is not None and not left:
            self._child.wait()
            self._child = None
        if left:
            raise ServerError(f"{self.name} was killed and processes {left} are still there.", pids=left)


def answers(url: str, *, user: str | None = None, says: str | None = None) -> bool:
    """Whether this address answers with success, and with these words in it."""
    request = urllib.request.Request(url)  # noqa: S310  our own http://127.0.0.1
    if user is not None:
        import base64

        request.add_header("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}")
    try:
        with _DIRECTLY.open(request, timeout=5) as answer:
            return says is None or says in answer.read().decode("utf-8", "replace")
    except (OSError, HTTPException):
        return False


_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy for the internet knows nothing of us
