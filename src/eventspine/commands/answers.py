"""What a command did, by its id: noted in the unit that did it, so that it is answered again and not done again.

    id ──▶ nothing noted ──▶ handle ──▶ commit, expecting that nothing is noted ──▶ the result
     │                                        └── noted meanwhile: somebody else was first ──▶ what is noted
     └───▶ noted ──▶ the same command: its result │ another one: CommandReused

A refusal leaves no note: nothing was done, and the same command under the same id may be tried again.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

from ..errors import CommandReused
from ..journal.port import Note
from ..state.changing import ANSWERS_KEPT

if TYPE_CHECKING:
    from ..journal.port import Journal

KIND = "answer"
KEPT_US = ANSWERS_KEPT // timedelta(microseconds=1)  # at least


class Answer(msgspec.Struct, array_like=True, frozen=True):
    sent: bytes  # the id of the one that was handled, which says whether it was ours
    same: bytes  # of the command; see CommandType.same
    result: bytes
    events: list[bytes] = msgspec.field(default_factory=list)  # the last of them, for a token: see observe/written.py


def note_of(service: str, command_id: str, answer: Answer, now_us: int) -> Note:
    value = msgspec.msgpack.encode(answer)
    return Note(service, KIND, command_id, value, expected=0, until_us=now_us + KEPT_US)


async def find(journal: Journal, service: str, command_id: str) -> Answer | None:
    noted = await journal.notes(service, KIND, [command_id])
    return msgspec.msgpack.decode(noted[0].value, type=Answer) if noted else None


def check_same(answer: Answer, same: bytes, type: str, command_id: str) -> None:
    if answer.same != same:
        raise CommandReused(
            f"The command id {command_id!r} was given to another command before, and now to this {type}. Make a new id for each "
            "command, and use it again only to send the same one again.",
            command_id=command_id,
            type=type,
        )
