"""The play: a shop is opened, two of its services are killed, one is deployed anew twice, and the books must agree.

What happens when depends on how far the services have come, never on the clock.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import places
from .broker import Broker
from .oracle import Expected
from .processes import Processes, ServiceFailed
from .progress import Gauge, Progress
from .screen import Screen

MODULES = {
    "storefront": "examples.shop.storefront",
    "inventory": "examples.shop.inventory",
    "email": "examples.shop.email.release_1",
    "analytics": "examples.shop.analytics",
}
RELEASE_2, RELEASE_3 = "examples.shop.email.release_2", "examples.shop.email.release_3"
KILL_AT = (0.25, 0.5)  # of the orders that the victim will handle
DEPLOY_AT = 0.7
AWAY_FROM, AWAY_FOR = 0.1, 0.1  # of the orders: the broker is away while so many are sold
BROKER_KILL_AT = 0.6
ORDERS_PER_SECOND_MAX = 5_000
SELLING_S_MIN = 3  # so that even a short file is still being sold when the killing begins
STALL_LIMIT_S = 60
MARK = "demo.pid"


class Stalled(Exception):
    """No service has moved for a long time, and what was waited for has not come."""


class FolderTaken(Exception):
    """The folder can't be used for a demo; the message says why."""


def emptied(folder: Path) -> Path:
    """The folder, without what an earlier demo left there. Anything else in it is refused, and so is a live demo."""
    mark = folder / MARK
    if folder.exists():
        if not mark.exists() and any(folder.iterdir()):
            raise FolderTaken(f"{folder} holds files that are no demo's; give an empty --folder.")
        if mark.exists() and _alive(int(mark.read_text())):
            raise FolderTaken(f"A demo is running in {folder} (process {mark.read_text()}); give another --folder.")
        print(f"Clearing away what an earlier demo left in {folder} ...", flush=True)
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    mark.write_text(str(os.getpid()))
    return folder


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


@dataclass(slots=True)
class Demo:
    orders_file: Path
    expected: Expected
    processes: Processes
    gauge: Gauge
    screen: Screen
    victims: Sequence[str] = ("inventory", "email")
    broker: Broker | None = None
    dead: int = 0

    def run(self) -> None:
        self.open()
        if self.broker is not None:
            self.sell_without(self.broker)
        for victim, share in zip(self.victims, KILL_AT, strict=True):
            self.until_handled(victim, share)
            self.kill_and_restart(victim)
        if self.broker is not None:
            self.kill_and_restart_broker(self.broker)
        self.until_handled("email", DEPLOY_AT)
        self.deploy_email(RELEASE_2, "one handler renamed, one added that counts from the first answer on")
        died = self.until_all_but_the_dead_is_done()
        self.deploy_email(RELEASE_3, "the bug is mended")
        self.replay(died)
        self.processes.stop_all()
        journals = [word for url in self.processes.journals.several() for word in ("--journal", url)]
        several = journals if self.broker is not None else []
        self.show_command("trace", died[0]["event"], *several)  # one that has lived through all of it

    def open(self) -> None:
        self.screen.say(f"The shop opens; {len(self.expected.numbers):,} orders are to come.")
        for service in MODULES if self.broker is not None else ():
            # Before anything is published: a queue holds what comes from then on.
            self.screen.show_text(self.processes.spine("topology", "apply", MODULES[service], at=service))
        for service in MODULES:
            self.start(service)

    def sell_without(self, broker: Broker) -> None:
        """Publishing needs the journal and nothing else. A slow broker goes while something is still being sold, too."""
        begun = int(AWAY_FROM * len(self.expected.numbers))
        self.until(lambda now: now.inventory > 0 and now.storefront >= begun)
        broker.take_away()
        sold = self.gauge.read().storefront
        self.screen.say(f"{broker.name} is {broker.how} after {sold:,} orders.")
        wanted = min(len(self.expected.numbers), sold + int(AWAY_FOR * len(self.expected.numbers)))
        self.until(lambda now: now.storefront >= wanted)
        self.screen.say(f"{self.gauge.read().storefront - sold:,} more orders were sold without it; it comes back.")
        broker.bring_back()

    def kill_and_restart_broker(self, broker: Broker) -> None:
        self.until_handled("analytics", BROKER_KILL_AT)
        done = self.gauge.read().analytics
        broker.take_away()
        broker.bring_back()
        self.screen.say(f"{broker.name} is {broker.how} again, after {done:,} orders, and comes back at once.")

    def start(self, service: str) -> None:
        rate = min(ORDERS_PER_SECOND_MAX, len(self.expected.numbers) / SELLING_S_MIN)
        of_storefront = (str(self.orders_file), "--orders-per-second", str(rate)) if service == "storefront" else ()
        self.processes.start(service, MODULES[service], *of_storefront)

    def kill_and_restart(self, service: str) -> None:
        self.processes.kill(service)
        done = self.gauge.read().of(service)
        self.screen.say(f"{service} is killed (SIGKILL) after {done:,} orders, and started again.")
        self.start(service)

    def deploy_email(self, release: str, news: str) -> None:
        self.processes.stop("email")
        self.processes.start("email", release)
        self.screen.say(f"email is deployed anew: {news}.")

    def until_all_but_the_dead_is_done(self) -> list[dict[str, Any]]:
        orders = len(self.expected.numbers)
        delayed = len(self.expected.delayed)
        self.until(lambda now: now == Progress(orders, orders, orders - delayed, orders, orders))
        self.until(lambda _: len(self.dead_deliveries()) >= len(self.expected.jammed))
        died = self.dead_deliveries()
        self.dead = len(died)
        self.screen.say(f"All is done but {delayed:,} letters: {self.dead:,} died of a bug, the rest wait behind them.")
        self.show_command("dead", "show", str(died[0]["number"]))
        return died

    def replay(self, died: Sequence[dict[str, Any]]) -> None:
        self.show_command("dead", "replay", "--service", "email")
        self.until(lambda now: now.email >= len(self.expected.numbers))
        if left := [row for service in places.SERVICES for row in self.dead_deliveries(service)]:
            raise ServiceFailed(f"{len(left):,} of {len(died):,} deliveries are dead again: {left[0]['error']}")

    def show_command(self, *arguments: str) -> None:
        self.screen.say(f"$ spine {' '.join(arguments)}")
        self.screen.show_text(self.processes.spine(*arguments))

    def dead_deliveries(self, service: str = "email") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.processes.spine("dead", "list", "--json", at=service))
        return found

    def until_handled(self, service: str, share: float) -> None:
        orders = len(self.expected.numbers)
        wanted = int(share * (orders - len(self.expected.delayed) if service == "email" else orders))
        self.until(lambda now: now.of(service) >= wanted and now.storefront > 0)

    def until(self, reached: Callable[[Progress], bool]) -> None:
        last, moved_at = None, time.monotonic()
        while not reached(now := self.gauge.read()):
            self.screen.show(now)
            self.processes.check()
            if now != last:
                last, moved_at = now, time.monotonic()
            elif time.monotonic() - moved_at > STALL_LIMIT_S:
                raise Stalled(f"Nothing has moved for {STALL_LIMIT_S} s. The services stand at {now}.")
            time.sleep(0.05)
        self.screen.show(now)
