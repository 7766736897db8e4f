"""What a stream may be asked for by, and how much one unit may store: judged the same in every journal, before a store has
its own word for it.

A name is text that every store keeps and finds again. A number counts versions, or how many of them are wanted. A unit
is stored as one, and everybody waits meanwhile: PostgreSQL ends what takes it more than 5 seconds, and drops who sends 1 GB at
once. It would be so each time that the unit is asked for again."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from ..errors import StreamRefused, UnitFailed
from ..wording import plural
from .port import Append, Unit

NAME_BYTES_MAX = 1024  # of a stream's name, and of its service's: the two fit into an index together
NUMBER_MAX = 2**63 - 1
# Of its events, timers and notes. An intake stores what it holds and what it has fetched as one, which is less.
UNIT_BYTES_MAX = 128_000_000
BESIDE_BYTES = 800  # of an event, counted for all but its data; small ones take PostgreSQL so much longer
# None that is published has so many, so what are few are not counted. What a broker has brought may; it counts as this, for an
# intake that were refused what it has fetched would fetch the same again, without end.
PLENTY_BYTES = 4_000_000


def check_names(service: str | None, *streams: str) -> None:
    for name in (service, *streams):
        if name is not None and (why := _unfit(name)):
            raise StreamRefused(why, name=name)


def check_number(name: str, value: int, *, most: int | None = NUMBER_MAX) -> None:
    if type(value) is not int or value < 0 or (most is not None and value > most):
        upto = "" if most is None else f" to {most:,}"
        raise StreamRefused(f"{name}={value!r:.80} is no number of versions. Give a whole number from 0{upto}.")


def check_cut(service: str, stream: str, before: int, expected: int | None) -> None:
    """What is beyond its version is refused with that; see cutting.py."""
    check_names(service, stream)
    check_number("before", before, most=None)
    if expected is not None:
        check_number("expected", expected, most=None)


def refuse_appends(appends: Sequence[Append]) -> UnitFailed | None:
    for append in appends:
        if append.stream is None:
            continue
        for name in (append.service, append.stream):
            if why := _unfit(name):
                return UnitFailed(why, name=name)
    return None


def refuse_weight(unit: Unit) -> UnitFailed | None:
    count = len(unit.timers) + len(unit.notes)
    for append in unit.appends:
        count += len(append.records)
    if count * PLENTY_BYTES <= UNIT_BYTES_MAX:
        return None  # nearly all
    records = [record for append in unit.appends for record in append.records] + [one.record for one in unit.timers]
    size = BESIDE_BYTES * len(records) + sum(map(len, filter(None, map(_meta, records))))
    size += sum(min(len(data), PLENTY_BYTES) for data in map(_data, records))
    size += sum(len(note.value or b"") for note in unit.notes)
    if size <= UNIT_BYTES_MAX:
        return None
    return UnitFailed(
        f"{plural(len(records), 'event')} of {size:,} bytes were to be stored as one; that takes {UNIT_BYTES_MAX:,}. Publish them in "
        "several calls. What a handler publishes and saves is one, however many calls it makes: have it publish less, such as "
        "events for another handler to publish the rest. Nothing of it was stored.",
        size_bytes=size,
        limit_bytes=UNIT_BYTES_MAX,
    )


_meta, _data = itemgetter(13), itemgetter(14)


def _unfit(name: str) -> str | None:
    if len(name) <= NAME_BYTES_MAX and name.isascii() and "\0" not in name:
        return None  # nearly all
    size = len(name.encode("utf-8", "surrogatepass"))
    if size <= NAME_BYTES_MAX and "\0" not in name and not any("\ud800" <= letter <= "\udfff" for letter in name):
        return None
    return (
        f"{name!r:.80} can't be the name of a stream or of its service: that is up to {NAME_BYTES_MAX:,} bytes of text, without "
        f"NUL or halves of surrogate pairs, and this has {size:,}. No stream is called so."
    )
