"""A real broker for the demo, on this machine: installed, started, killed, and started again with what it had stored.

EventBridge is played by an emulator, which keeps everything in its memory. SIGKILL would take what it had acknowledged,
which AWS doesn't do and no client could mend; so it is paused with SIGSTOP instead, and answers nobody meanwhile.
"""

from __future__ import annotations

from pathlib import Path

from eventspine.testing import servers

_SERVERS = {"nats": "nats", "kafka": "kafka", "rabbitmq": "rabbitmq", "pulsar": "pulsar", "eventbridge": "ministack"}
BROKERS = tuple(_SERVERS)


def _settings(name: str, folder: Path) -> dict[str, str]:
    """NATS as it comes: it writes before it acknowledges, and syncs every two minutes. That survives SIGKILL, which is what
    is shown here; it doesn't survive a power cut, for which the servers of the tests sync each message."""
    if name != "nats":
        return {}
    return {"jetstream": f'{{store_dir: "{folder}/data", max_file: 2GB}}'}


class Broker:
    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.kills = 0
        kind = servers.named(_SERVERS[name])
        kind.install()
        self._server = kind(folder, settings=_settings(name, folder.absolute()))
        self.survives = kind.keeps

    @property
    def url(self) -> str:
        return self._server.broker_url

    @property
    def environment(self) -> dict[str, str]:
        """What its clients need beside the URL: to AWS's emulator anybody is welcome, but nobody comes without a name."""
        named = {"AWS_ACCESS_KEY_ID": "shop", "AWS_SECRET_ACCESS_KEY": "shop"}
        return named if self.name == "eventbridge" else {}

    @property
    def how(self) -> str:
        return "killed (SIGKILL)" if self.survives else "paused (SIGSTOP)"

    def start(self) -> None:
        self._server.start()

    def take_away(self) -> None:
        """From one moment to the next, whatever it was doing."""
        if self.survives:
            self._server.kill()
            self.kills += 1
        else:
            self._server.pause()

    def bring_back(self) -> None:
        if self.survives:
            self._server.start()
        else:
            self._server.resume()

    def end(self) -> None:
        self._server.kill()
