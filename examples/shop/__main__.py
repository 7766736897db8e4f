"""`make demo`: run the shop on a file of orders, reconcile its books, and say with the exit code whether they agree.

python -m examples.shop --orders orders.csv --report report.json --folder shop
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from eventspine.testing.servers import NotInstalled, ServerError

from . import places
from .broker import BROKERS, Broker
from .demo import Demo, FolderTaken, Stalled, emptied
from .journals import InFiles, InPostgres, Journals
from .kept import kept_by
from .oracle import Expected, expect
from .orders import OrdersUnreadable, read_orders
from .processes import Processes, ServiceFailed
from .progress import Gauge
from .reconcile import Events, Reconciliation, reconcile
from .screen import Screen

ORDERS = Path(__file__).with_name("cdnow_orders.csv.gz")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the services are ended, too
    try:
        expected = expect(read_orders(options.orders))
        folder = options.check or emptied(options.folder)
        screen = Screen(len(expected.numbers))
        with closing(_journals(options.journal, folder)) as journals:
            events = Events() if options.check else _play(expected, options, folder, journals, screen)
            result = reconcile(expected, kept_by(folder, journals), events)
    except (OrdersUnreadable, FolderTaken, NotInstalled, ServerError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    _conclude(result, options, screen)
    return 0 if result.ok else 1


def _journals(name: str, folder: Path) -> Journals:
    if name == "sqlite":
        return InFiles(folder)
    journals = InPostgres(folder)
    journals.start()
    return journals


def _play(expected: Expected, options: argparse.Namespace, folder: Path, journals: Journals, screen: Screen) -> Events:
    failures: list[str] = []
    with ExitStack() as stack:
        broker = _opened(options.broker, folder, stack)
        screen.begin()  # a server that was installed for the first time took its time before
        url, environment = ("", {}) if broker is None else (broker.url, broker.environment)
        processes = stack.enter_context(Processes(folder, journals, url, environment))
        stack.enter_context(screen)
        demo = Demo(options.orders.resolve(), expected, processes, Gauge(journals), screen, options.kill, broker)
        try:
            demo.run()
        except (ServiceFailed, Stalled, ServerError) as error:
            failures.append(str(error))
    kills = 0 if broker is None else broker.kills
    return Events(demo.dead, processes.kills, options.broker, kills, screen.seconds, failures)


def _opened(name: str | None, folder: Path, stack: ExitStack) -> Broker | None:
    """With a broker each service has a folder of its own, and a journal there."""
    if name is None:
        return None
    for service in places.SERVICES:
        (folder / service).mkdir()
    broker = Broker(name, folder / "broker")
    stack.callback(broker.end)
    broker.start()
    return broker


def _conclude(result: Reconciliation, options: argparse.Namespace, screen: Screen) -> None:
    screen.show_books(result)
    if options.check is None and options.journal == "sqlite":  # a server has ended with the demo
        screen.say("Look around:")
        print(*_looks(options.folder), sep="\n")  # not through the screen, which would break lines
    if options.report is not None:
        options.report.write_bytes(result.report_json())


def _looks(folder: Path) -> Iterator[str]:
    """Commands that work as they are printed, whether or not the environment of this interpreter is activated."""
    beside = Path(sys.executable).with_name("spine")
    spine = shlex.quote(str(beside)) if beside.exists() else f"{shlex.quote(sys.executable)} -m eventspine.cli"
    yield f"  cd {shlex.quote(str(places.home(folder, 'email')))}"
    for look in ("subscriptions", "dead list", "tail --no-follow --last 5", "doctor"):
        yield f"  {spine} {look}"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "examples.shop", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--orders", type=Path, default=ORDERS, help="customer_id,date,units,amount; plain or gzip")
    parser.add_argument("--report", type=Path, help="write the reconciliation here, as JSON")
    parser.add_argument(
        "--folder", type=Path, default=Path("shop"), help="where the shop runs; left for you to look at"
    )
    parser.add_argument(
        "--broker",
        choices=BROKERS,
        help="a journal for each service, and this broker between them: installed, started and killed",
    )
    parser.add_argument(
        "--journal", choices=("sqlite", "postgres"), default="sqlite", help="a PostgreSQL is installed and started"
    )
    parser.add_argument("--kill", nargs=2, choices=places.SERVICES, default=("inventory", "email"), help="whom to kill")
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="only reconcile what a demo has left there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
