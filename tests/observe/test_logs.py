from __future__ import annotations

import io
import json
import logging
import threading

import pytest

from eventspine.observe.correlation import Cause, correlate, current
from eventspine.observe.logs import CorrelationFilter, JsonFormatter, TextFormatter, add_correlation
from eventspine.observe.printable import printable, printable_json, printable_lines

CAUSE = Cause("c-1", "e-0", "e-1", 2, None, "stock.reserve", "ann", 3)


@pytest.fixture
def logger():
    """One with a stream of its own, as `spine run` would set it up; the process's record factory is put back."""
    factory = logging.getLogRecordFactory()
    add_correlation()
    logger = logging.getLogger("tests.observe")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)
    logging.setLogRecordFactory(factory)


def lines(logger) -> list[str]:
    return logger.handlers[0].stream.getvalue().splitlines()


@pytest.fixture
def handling():
    token = current.set(CAUSE)
    yield CAUSE
    current.reset(token)


def test_a_record_names_the_delivery_being_handled(logger, handling):
    logger.info("reserved %s", "Emma")

    line = json.loads(lines(logger)[0])
    assert ("reserved Emma", "info", "tests.observe") == (line["message"], line["level"], line["logger"])
    assert ("stock.reserve", "ann", "c-1", "e-0", "e-1", 3) == tuple(
        line[name] for name in ("handler", "key", "correlation", "causation", "event_id", "attempt")
    )


def test_outside_of_a_delivery_a_record_names_none(logger):
    logger.info("hello")

    assert {"time", "level", "logger", "message"} == set(json.loads(lines(logger)[0]))


def test_a_web_request_has_a_correlation_too(logger):
    with correlate("request-7"):
        logger.info("hello")
    logger.info("bye")

    assert "request-7" == json.loads(lines(logger)[0])["correlation"]
    assert "correlation" not in json.loads(lines(logger)[1])


def test_a_correlation_needs_an_id():
    with pytest.raises(ValueError, match="needs an id"), correlate(""):
        pass


def test_a_callers_own_extra_is_kept(logger, handling):
    logger.info("x", extra={"key": "mine", "order": {1: "a"}})

    line = json.loads(lines(logger)[0])
    assert ("ann", "mine", {"1": "a"}) == (line["key"], line["extra_key"], line["order"])


def test_a_record_that_is_written_elsewhere_names_its_own_delivery(logger, handling):
    record = logger.makeRecord("x", logging.INFO, "f", 1, "x", (), None)
    written = []
    thread = threading.Thread(
        target=lambda: written.append(CorrelationFilter().filter(record) and JsonFormatter().format(record))
    )
    thread.start()
    thread.join()

    assert "ann" == json.loads(written[0])["key"]


def test_a_filter_stamps_where_the_factory_is_somebody_elses(handling):
    record = logging.LogRecord("x", logging.INFO, "f", 1, "x", (), None)
    CorrelationFilter().filter(record)

    assert "ann" == record.spine_key
    assert "[ann]" == logging.Formatter("[%(spine_key)s]").format(record)


def test_adding_correlation_twice_changes_nothing(logger):
    before = logging.getLogRecordFactory()
    add_correlation()

    assert before is logging.getLogRecordFactory()


def test_a_line_can_not_be_forged(logger, handling):
    logger.handlers[0].setFormatter(TextFormatter())
    try:
        raise ValueError("2026 ERROR\n2026-01-01 ERROR forged \x1b[2J")
    except ValueError:
        logger.exception("x\n2026-01-01 ERROR forged \x1b[2J \u202e")

    first, *below = lines(logger)
    assert "x\\n2026-01-01 ERROR forged \\x1b[2J \\u202e handler=stock.reserve key=ann attempt=3" in first
    assert all(line.startswith("    ") for line in below)
    assert "\x1b" not in "".join(lines(logger))


def test_without_the_escapes_it_could(logger, monkeypatch):
    monkeypatch.setattr("eventspine.observe.logs.printable", str)
    logger.handlers[0].setFormatter(TextFormatter())
    logger.info("x\n2026-01-01 ERROR forged")

    assert 2 == len(lines(logger))


def test_json_is_one_line_of_ascii_whatever_is_logged(logger):
    circle: list[object] = []
    circle.append(circle)

    class Awkward:
        def __str__(self) -> str:
            raise RuntimeError

    for value in (float("nan"), circle, Awkward(), {1, 2}, "a\nb\u202e\x7f"):
        logger.info("x", extra={"value": value})

    assert 5 == len(lines(logger))
    assert all(line.isascii() and line.isprintable() and json.loads(line)["message"] == "x" for line in lines(logger))


def test_printable_leaves_text_and_escapes_the_rest():
    assert "naïve 漢字 €" == printable("naïve 漢字 €")
    assert "\\x1b\\x9b\\n\\t\\x7f\\u202e\\u2028\\ud800\\U000e0041" == printable(
        "\x1b\x9b\n\t\x7f\u202e\u2028\ud800\U000e0041"
    )
    assert "a\nb\\x00" == printable_lines("a\r\nb\x00")
    assert "a\u202eb\x7f\x9b\U000e0041" == json.loads(
        printable_json(json.dumps("a\u202eb\x7f\x9b\U000e0041", ensure_ascii=False))
    )
    assert printable_json('"\x7f\u202e"').isascii()
