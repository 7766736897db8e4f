"""The delivery being handled, in every standard logging record, and two ways to write the records down.

`add_correlation()` wraps the process's record factory; `CorrelationFilter` does the same for one handler or logger
where the factory belongs to somebody else. Both read `correlation.current` where the record is made, so a record that
a queue or a thread writes later still names its own delivery. Every record gets `spine_correlation`, `spine_key` and
so on (FIELDS), None outside a delivery, so that `%(spine_key)s` may stand in a format of one's own. They are prefixed
because logging raises KeyError when a caller's `extra={"key": ...}` meets an attribute that is there already.

The formatters promise that a record can't be forged or hide another: names, keys and values stay on one line with
control characters escaped; a traceback's lines are indented (text) or one string (JSON).

Only `spine run` calls `write_to`. A spine inside another program never touches its logging.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from .correlation import current
from .printable import printable, printable_lines

FIELDS = (
    "correlation", "causation", "event_id", "handler", "key", "attempt", "traceparent",
    "events", "first_event_id", "last_event_id",
)  # fmt: skip
LogFormat = Literal["text", "json"]
_STAMPS = tuple((f"spine_{name}", name) for name in FIELDS)


def stamp(record: logging.LogRecord) -> None:
    """Give the record what is being handled now. A stamp that it has already stays: it is from where it was made."""
    if "spine_correlation" in record.__dict__:
        return
    cause = current.get()
    for attribute, name in _STAMPS:
        record.__dict__[attribute] = None if cause is None else getattr(cause, name)


class CorrelationFilter(logging.Filter):
    """Lets every record pass, stamped. For one handler or logger: `handler.addFilter(CorrelationFilter())`."""

    def filter(self, record: logging.LogRecord) -> bool:
        stamp(record)
        return True


class _Factory:
    """A record factory around another one. A class, so that a second `add_correlation` knows it again."""

    def __init__(self, make: Any) -> None:
        self.make = make

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record: logging.LogRecord = self.make(*args, **kwargs)
        stamp(record)
        return record


def add_correlation() -> None:
    """Stamp every record of this process, whoever logs it. Calling it again changes nothing."""
    make = logging.getLogRecordFactory()
    if not isinstance(make, _Factory):
        logging.setLogRecordFactory(_Factory(make))


def cause_of(record: logging.LogRecord) -> dict[str, Any]:
    """What a stamped record says about its delivery: only what is known, in the order of FIELDS."""
    found = {name: record.__dict__.get(attribute) for attribute, name in _STAMPS}
    return {name: value for name, value in found.items() if value not in (None, "", 0)}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _traceback(record: logging.LogRecord, formatter: logging.Formatter) -> str:
    parts = []
    if record.exc_info and not record.exc_text:
        record.exc_text = formatter.formatException(record.exc_info)
    if record.exc_text:
        parts.append(record.exc_text)
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)


class TextFormatter(logging.Formatter):
    """One line for people: time, level, logger, message, the delivery as name=value; a traceback indented below."""

    shown = ("handler", "key", "attempt", "event_id", "events", "first_event_id", "last_event_id", "correlation")

    def __init__(self, process: str = "") -> None:
        super().__init__()
        self._process = f"[{printable(process)}] " if process else ""

    def format(self, record: logging.LogRecord) -> str:
        cause = cause_of(record)
        told = [name for name in self.shown if name in cause and _tells(name, cause)]
        pairs = "".join(f" {name}={_quoted(cause[name])}" for name in told)
        message = printable(record.getMessage())
        line = f"{_time(record)} {self._process}{record.levelname:<7} {printable(record.name)}: {message}{pairs}"
        if trace := _traceback(record, self):
            line += "".join(f"\n    {below}" for below in printable_lines(trace).split("\n"))
        return line


def _tells(name: str, cause: dict[str, Any]) -> bool:
    """Whether this pair says something: not a first attempt, nor a correlation that the event itself began."""
    if name == "attempt":
        return bool(cause[name] != 1)
    return name != "correlation" or cause[name] != cause.get("event_id")


def _quoted(value: object) -> str:
    text = printable(value)
    return text if text and not any(mark in text for mark in ' "=') else '"' + text.replace('"', '\\"') + '"'


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the delivery, `extra` values, exception."""

    def __init__(self, process: str = "") -> None:
        super().__init__()
        self._process = {"process": process} if process else {}

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            **self._process,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **cause_of(record),
        }
        for name, value in record.__dict__.items():
            if name not in _STANDARD:
                line[f"extra_{name}" if name in line else name] = value
        if trace := _traceback(record, self):
            line["exception"] = trace
        return _one_line(line)


def _one_line(line: dict[str, Any]) -> str:
    """JSON in ASCII, so that all else is escaped. What JSON has no form for (NaN, a circle) is shown as text."""
    try:
        text = json.dumps(line, default=_text, skipkeys=True, allow_nan=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        plain = {name: value if isinstance(value, str | int) else _text(value) for name, value in line.items()}
        text = json.dumps(plain, separators=(",", ":"))
    return text.replace("\x7f", "\\u007f")


def _text(value: object) -> str:
    """A value that JSON has no form for. A log line must come out even when its value can't be shown."""
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}: can't be shown>"


_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", *dict(_STAMPS)}


def write_to(
    stream: TextIO, format: LogFormat = "text", level: int = logging.INFO, process: str = ""
) -> logging.Handler:
    """Send this process's records to `stream`; for a process that is wholly ours. `process` names it in each of them,
    where several share the stream. Returns the handler."""
    add_correlation()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(process) if format == "json" else TextFormatter(process))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level)
    return handler
