"""What a stream may be asked for by: judged the same in every journal, before a store has its own word for it.

A name is text that every store keeps and finds again. A number counts versions, or how many of them are wanted."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import StreamRefused, UnitFailed
from .port import Append

NAME_BYTES_MAX = 1024  # of a stream's name, and of its service's: the two fit into an index together
NUMBER_MAX = 2**63 - 1


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
