"""Which notes a unit may write: judged the same in every journal.

A note is for what is small and looked up by name: a snapshot, the answer to a command, which version of a view is read.
What is larger than the bounds here belongs into tables of the service's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import Conflict, SpineError, UnitFailed
from .port import Note

SCRATCH = "scratch"  # the kind of the note by which a copy of history is known: it is never carried by a broker
VALUE_BYTES_MAX = 1024 * 1024
KEY_BYTES_MAX = 512  # of its key, and of its kind

Place = tuple[str, str, str]  # service, kind, key


def refuse(notes: Sequence[Note], version: Callable[[Place], int]) -> SpineError | None:
    """Why a unit with these notes can't be accepted: UnitFailed, or Conflict. `version` tells what a note is at before
    the unit; 0: there is none."""
    meanwhile: dict[Place, int] = {}
    for note in notes:
        place = note[:3]
        if error := _unfit(note):
            return error
        at = meanwhile[place] if place in meanwhile else version(place)
        if note.expected not in (None, at):
            return Conflict(
                f"The note {note.kind} {note.key!r} is at version {at}, not {note.expected}. Read it again and decide again.",
                service=note.service,
                kind=note.kind,
                key=note.key,
                expected=note.expected,
                version=at,
            )
        meanwhile[place] = after(note, at)
    return None


def after(note: Note, version: int) -> int:
    """The version that it is at when this note is written."""
    return 0 if note.value is None else version + 1


def _unfit(note: Note) -> UnitFailed | None:
    for text, name in ((note.kind, "kind"), (note.key, "key")):
        size = len(text.encode("utf-8", "surrogatepass"))
        if not 0 < size <= KEY_BYTES_MAX or "\0" in text or (not text.isascii() and _is_broken(text)):
            return UnitFailed(
                f"The {name} of a note is {size:,} bytes: {text!r:.80}. It takes 1 to {KEY_BYTES_MAX} bytes of text, without "
                "NUL or halves of surrogate pairs; give a shorter name, such as a hash of it.",
                size_bytes=size,
                limit_bytes=KEY_BYTES_MAX,
            )
    if note.value is not None and len(note.value) > VALUE_BYTES_MAX:
        return UnitFailed(
            f"The note {note.kind} {note.key!r} is {len(note.value):,} bytes; a note takes {VALUE_BYTES_MAX:,}. Keep what is "
            "that large in a table of the service, and a note of where it is.",
            size_bytes=len(note.value),
            limit_bytes=VALUE_BYTES_MAX,
        )
    return None


def _is_broken(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)
