"""A token for reading one's own writes: which events an answer was about, in a text that a client gives back.

    answer  Spine-Token: 1.AaIlbo…     what was published while it was made
    request Spine-Token: 1.AaIlbo…     wait until the view has come that far

It is opaque to clients, and nothing secret: the ids of events. Whatever text comes, it is a token or refused."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from ..errors import HeaderRefused
from ..ids import id_text
from ..observe.written import EVENTS_MAX

if TYPE_CHECKING:
    from ..publishing import Receipt

ID_BYTES = 16
_FORM = re.compile(rf"1\.[A-Za-z0-9_-]{{22,{-(-EVENTS_MAX * ID_BYTES * 4 // 3)}}}\Z")


class Token(NamedTuple):
    """`view.wait(token)` takes it, as it takes receipts; an empty one is there already. `str(token)` is what is sent."""

    ids: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, *receipts: Receipt) -> Token:
        return cls(tuple(receipt.event_id for receipt in receipts))

    @classmethod
    def of_ids(cls, ids: Iterable[bytes]) -> Token:
        return cls(tuple(id for id in ids if len(id) == ID_BYTES))

    @classmethod
    def parse(cls, text: str) -> Token:
        """Raises HeaderRefused for what is none."""
        if not _FORM.match(text):
            raise _refused(text)
        encoded = text[2:]
        try:
            found = urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
        except ValueError as error:
            raise _refused(text) from error
        if len(found) % ID_BYTES:
            raise _refused(text)
        return cls(tuple(found[at : at + ID_BYTES] for at in range(0, len(found), ID_BYTES)))

    @property
    def events(self) -> tuple[str, ...]:
        return tuple(id_text(id) for id in self.ids)

    def __str__(self) -> str:
        return "1." + urlsafe_b64encode(b"".join(self.ids)).decode().rstrip("=") if self.ids else ""


def _refused(text: str) -> HeaderRefused:
    return HeaderRefused(
        f"This is no token: {text!r:.60}. Send back what an answer's Spine-Token said, as it was, or leave it out.",
        header="Spine-Token",
    )
