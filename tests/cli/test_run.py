from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

ORDER = '{"customer": "%s", "title": "Emma"}'


def publish(spine, customer: str) -> str:
    receipt = spine.asked_here("publish", "BookOrdered", ORDER % customer, "--module", "bookshop", "--json")
    assert 0 == receipt.exit_code, receipt.stderr
    return json.loads(receipt.stdout)["id"]


def test_services_run_until_told_to_stop(spine):
    process = spine.start("run", "bookshop")
    told = spine.until(process, "running")
    assert f"journal {spine.folder}/spine.db (new)" in told
    assert "running shopfront, stock, email" in told

    order = publish(spine, "ann")
    spine.until_it_shows("trace", order, shows="email.confirm  done")
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)

    assert 0 == process.returncode
    assert "SIGTERM: draining for at most 30s" in told
    assert "everything in hand was finished" in told
    assert 1 == len((spine.folder / "sent").read_text().splitlines())


def test_a_journal_that_can_not_be_is_refused_before_it_is_named_as_new(spine):
    refused = spine("run", "bookshop", "--journal", f"sqlite:///{spine.folder}/nowhere/x.db")
    assert 2 == refused.returncode
    assert "eventspine.run: journal" not in refused.stderr


def test_dead_then_mended_then_replayed(spine):
    spine.run_shop()
    order = publish(spine, "unlucky")
    spine.until_it_shows(
        "trace", order, shows="email.confirm  dead after 1 attempt: ValueError: no address \\x1b[31m for unlucky"
    )
    assert "test_run" not in spine("dead", "show", "1").stdout
    assert "raise ValueError" in spine("dead", "show", "1").stdout

    (spine.folder / "mended").touch()
    assert "1 dead delivery to be tried again.\n" == spine("dead", "replay", "--handler", "email.confirm").stdout

    spine.until_it_shows("trace", order, shows="email.confirm  settled after ")
    assert "[]\n" == spine("dead", "list", "--json").stdout


def test_one_service_of_a_module(spine):
    process = spine.start("run", "bookshop:stock")
    assert "running stock as process" in spine.until(process, "running")


def test_logs_in_json_name_the_delivery(spine):
    process = spine.run_shop("--log-format", "json")
    publish(spine, "unlucky")

    last = spine.until(process, '"email.confirm"').splitlines()[-1]
    line = json.loads(last)
    assert ("email.confirm", "unlucky") == (line["handler"], line["key"])
    assert "\\u001b" in last


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (["nowhere"], {}),
        (["nowhere", "--log-level", "error"], {}),
        (["bookshop", "--processes", "2", "--journal", "sqlite://"], {}),
        (["bookshop"], {"SPINE_DRAIN_S": "soon"}),
    ],
    ids=["no module", "whatever the level", "a journal that none can share", "a setting"],
)
def test_what_refuses_a_start_is_a_line_of_the_log_in_json_with_the_same_text_and_code(spine, words, environment):
    spine.environment.update(environment)
    told = spine("run", *words)
    assert told.stderr.startswith("spine: ")

    said = spine("run", *words, "--log-format", "json")
    spine.environment["SPINE_LOG_FORMAT"] = "json"
    for refused in (said, spine("run", *words)):
        (line,) = map(json.loads, refused.stderr.splitlines())
        assert ("error", "eventspine.run") == (line["level"], line["logger"])
        assert (told.returncode, told.stderr) == (refused.returncode, f"spine: {line['message']}\n")


def test_its_traceback_is_in_that_line_too(spine):
    refused = spine("run", "nowhere", "--log-format", "json", "--debug")

    (line,) = map(json.loads, refused.stderr.splitlines())
    assert "There is no module 'nowhere'" in line["message"]
    assert line["exception"].startswith("Traceback")


def test_a_paused_handler_gets_nothing_until_it_is_resumed(spine):
    spine.run_shop()
    publish(spine, "ann")
    spine.until_it_shows(
        "subscriptions",
        "--json",
        shows='"name":"email.confirm","state":"active","order":"key","on_dead":"goes_on",',
    )
    assert 0 == spine("subscriptions", "pause", "email.confirm").returncode
    order = publish(spine, "bob")
    spine.until_it_shows("trace", order, shows="stock.reserve  done")
    assert "email.confirm  waiting (the subscription is paused)" in spine("trace", order).stdout

    spine("subscriptions", "resume", "email.confirm")
    spine.until_it_shows("trace", order, shows="email.confirm  done")


def test_a_start_that_may_be_a_rename_is_refused_with_3(spine):
    process = spine.run_shop()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    module = spine.folder / "bookshop.py"
    module.write_text(module.read_text().replace("async def confirm", "async def write_to_customer"))

    refused = spine("run", "bookshop")

    assert 3 == refused.returncode
    assert "--retire email.confirm" in refused.stderr
    assert "Traceback" not in refused.stderr
    logged = json.loads(spine("run", "bookshop", "--log-format", "json").stderr.splitlines()[-1])
    assert refused.stderr.endswith(f"spine: {logged['message']}\n")
    retired = spine.start("run", "bookshop", "--retire", "email.confirm")
    assert "running shopfront" in spine.until(retired, "running shopfront")


def test_what_can_not_be_run(spine):
    (spine.folder / "empty.py").write_text("")
    (spine.folder / "twins.py").write_text("from eventspine import Service\na = Service('a')\nb = Service('a')\n")
    for place, word in (
        ("empty", "empty has no Service"),
        ("nowhere", "There is no module 'nowhere'"),
        ("bookshop:nothing", "bookshop:nothing does not exist. It has shopfront, stock, email."),
        ("bookshop:Event", "is no Service"),
        ("twins", "Several Service objects are named 'a'"),
    ):
        refused = spine("run", place)
        assert 2 == refused.returncode
        assert word in refused.stderr
    assert not (spine.folder / "spine.db").exists()


OWN_FUNCTIONS = """
from contextlib import asynccontextmanager
from eventspine import Service
@asynccontextmanager
async def pool():
    raise ValueError("no database")
    yield
def make(connection):
    raise ValueError("no such file")
first = Service("first", lifespan=pool)
second = Service("second", tables=make)
"""


def test_what_a_service_s_own_functions_raise_at_the_start_names_it(spine):
    (spine.folder / "own.py").write_text(OWN_FUNCTIONS)
    for place, told, where in (
        ("own:first", "no database", "raised by the lifespan= of the service 'first'"),
        ("own:second", "no such file", "raised by the tables= of the service 'second'"),
    ):
        refused = spine("run", place)
        assert 1 == refused.returncode
        assert f"spine: unexpected ValueError: {told}\n{where}\nRun it again with --debug" in refused.stderr


PART = """
from bookshop import BookReserved
from eventspine import Event, Service
class LetterWritten(Event, context="letters", key="customer"):
    customer: str
part = Service("letters")
@part.on(BookReserved)
async def write(event: BookReserved) -> LetterWritten:
    return LetterWritten(customer=event.customer)
"""
WHOLE = """
from bookshop import stock
from eventspine import Service
from writing import LetterWritten, part
letters = Service("letters")
letters.include(part)
"""


def test_a_part_of_a_service_runs_with_the_one_that_includes_it_and_by_itself_never(spine):
    (spine.folder / "writing.py").write_text(PART)
    (spine.folder / "letters.py").write_text(WHOLE)
    process = spine.start("run", "letters", "writing")
    assert "running stock, letters as" in spine.until(process, "running")
    publish(spine, "ann")
    spine.until_it_shows("tail", "--no-follow", shows="letters.LetterWritten")
    byhand = spine("publish", "LetterWritten", '{"customer": "bob"}', "--module", "letters")
    assert byhand.stdout.startswith("letters.LetterWritten  key=bob"), byhand.stderr

    refused = spine("run", "letters:part")
    assert 2 == refused.returncode
    assert "letters:part is a part of the service 'letters', which includes it" in refused.stderr


SLOW_TO_IMPORT = """
import sys, threading
from bookshop import stock
print("importing", file=sys.stderr, flush=True)
threading.Event().wait()
"""


STUCK = """
import logging, time
from pathlib import Path
from bookshop import BookOrdered
from eventspine import Service
stuck = Service("stuck")
@stuck.on(BookOrdered)
async def hold_up(event: BookOrdered) -> None:
    logging.warning("holding the loop up")
    while not Path("told").exists():
        time.sleep(0.01)
"""


@pytest.mark.parametrize("more", [(), ("--processes", "2")])
def test_a_signal_that_interrupts_a_handler_is_not_logged_as_that_handlers(spine, more):
    (spine.folder / "stuck.py").write_text(STUCK)
    process = spine.start("run", "stuck", *more)
    spine.until(process, "running stuck")
    publish(spine, "ann")
    assert "key=ann" in spine.until(process, "holding")
    process.send_signal(signal.SIGTERM)
    if more:
        spine.until(process, "; once more to end at once")
    (spine.folder / "told").touch()
    told = [line for line in process.communicate(timeout=60)[1].splitlines() if "SIGTERM: draining" in line]
    assert told
    assert "key=ann" not in "".join(told)


@pytest.mark.parametrize("more", [(), ("--processes", "2")])
def test_one_that_is_told_to_end_before_it_is_at_work_ends_well_and_at_once(spine, more):
    """As when a deploy is taken back: there is nothing in hand yet, and nothing went wrong."""
    (spine.folder / "slow.py").write_text(SLOW_TO_IMPORT)
    process = spine.start("run", "slow", *more)
    spine.until(process, "importing")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert 0 == process.returncode
    assert not (spine.folder / "spine.db").exists()


def test_so_does_one_that_waits_for_a_journal_which_another_holds(spine):
    spine("publish", "BookOrdered", ORDER % "ann", "--module", "bookshop")
    with closing(sqlite3.connect(spine.folder / "spine.db", isolation_level=None)) as other:
        other.execute("begin immediate")
        process = spine.start("run", "bookshop")
        assert "running" not in spine.until(process, "journal ")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert 0 == process.returncode


def test_a_second_signal_ends_at_once(spine):
    (spine.folder / "stuck.py").write_text(
        "import asyncio\n"
        "from bookshop import BookOrdered\n"
        "from eventspine import Service\n"
        "stuck = Service('stuck')\n"
        "@stuck.on(BookOrdered)\n"
        "async def hang(event: BookOrdered) -> None:\n"
        "    import logging; logging.warning('hanging')\n"
        "    await asyncio.Event().wait()\n"
    )
    process = spine.start("run", "stuck")
    spine.until(process, "running")
    publish(spine, "ann")
    spine.until(process, "hanging")

    process.send_signal(signal.SIGTERM)
    assert "draining" in spine.until(process, "draining")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)

    assert -signal.SIGTERM == process.returncode


def test_tail_wakes_when_another_process_publishes(spine):
    publish(spine, "first")
    tail = spine.start("tail", "--json", "--from", "earliest")
    assert tail.stdout is not None
    assert "first" in tail.stdout.readline()

    publish(spine, "second")
    published = time.time()
    event = json.loads(tail.stdout.readline())
    print(f"tail had it {(time.time() - published) * 1000:.0f} ms after the publisher's process ended")
    assert "second" == event["subject"]


def ask(process_told: str, path: str) -> tuple[int, dict]:
    address = process_told.split("health at ")[1].split("/healthz", maxsplit=1)[0]
    try:
        with urllib.request.urlopen(address + path, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_health_over_http_is_answered_on_this_host_when_asked_for(spine):
    process = spine.start("run", "bookshop", "--health", ":0")
    told = spine.until(process, "running shopfront")
    assert "health at http://127.0.0.1:" in told
    assert 1 == len(_listening(process.pid))

    status, body = ask(told, "/readyz")
    assert (200, True, True, "ok") == (status, body["live"], body["ready"], body["status"])
    assert ["shopfront", "stock", "email"] == [one["service"] for one in body["services"]]


def test_without_the_option_nothing_listens(spine):
    process = spine.run_shop()
    assert not _listening(process.pid)


def _listening(pid: int) -> set[str]:
    """Its listening sockets, as Linux tells."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}
    return listening & {os.readlink(one) for one in Path(f"/proc/{pid}/fd").iterdir()}


def test_a_handler_that_blocks_the_loop_is_seen(spine):
    (spine.folder / "blocking.py").write_text(
        "import time\n"
        "from bookshop import BookOrdered\n"
        "from eventspine import Service\n"
        "from eventspine.observe import health_http\n"
        "health_http.LIVE_S = 1.5\n"
        "blocking = Service('blocking')\n"
        "@blocking.on(BookOrdered)\n"
        "async def block(event: BookOrdered) -> None:\n"
        "    import logging; logging.warning('blocking')\n"
        "    time.sleep(3600)\n"
    )
    process = spine.start("run", "blocking", "--health", "0")
    told = spine.until(process, "running blocking")
    assert 200 == ask(told, "/healthz")[0]
    publish(spine, "ann")
    spine.until(process, ": blocking")
    give_up = time.monotonic() + 60
    while 503 != (answer := ask(told, "/healthz"))[0]:
        assert time.monotonic() < give_up, answer
    assert not answer[1]["ready"]

    process.send_signal(signal.SIGTERM)  # the first can't be heard by the loop; the second ends it all the same
    process.send_signal(signal.SIGTERM)
    give_up = time.monotonic() + 60
    while process.poll() is None:
        assert time.monotonic() < give_up
        process.send_signal(signal.SIGTERM)
    assert -signal.SIGTERM == process.returncode


def test_a_line_for_each_handled_event_when_asked_for(spine):
    process = spine.run_shop("--log-handled")
    publish(spine, "ann")
    assert "stock.BookReserved handled in " in (line := spine.until(process, "email.confirm"))
    assert "key=ann" in line


def test_nobody_subscribes_to_what_a_handler_publishes_and_the_log_says_so(spine):
    process = spine.start("run", "bookshop:stock")
    spine.until(process, "running stock")
    publish(spine, "ann")
    assert "stock.BookReserved has no subscriber yet in this journal" in spine.until(process, "no subscriber")


def test_settings_say_how_many_processes_and_where_health_is_answered(spine):
    (spine.folder / "spine.toml").write_text('modules = ["bookshop"]\nprocesses = 2\nhealth = "127.0.0.1:0"\n')
    process = spine.start("run")
    told = spine.until(process, "[2] INFO    eventspine.run: running shopfront")
    assert 1 == told.count("health at http://127.0.0.1:"), "the parent's alone"
    assert "[1] INFO    eventspine.run: running shopfront" in told
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert 0 == process.returncode
