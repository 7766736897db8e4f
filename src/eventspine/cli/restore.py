"""`spine restore`: whether a backup is whole, what it lacks, and putting it in place."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..errors import JournalError, SettingsError
from ..journal import open_journal
from ..journal._sqlite_aside import free_name
from ..journal._sqlite_restore import Newer, Verified, newer, put_in_place, verify
from ..observe.printable import printable
from ..wording import plural
from .app import Command, Invocation, json_option, pass_invocation
from .at_work import refuse_beside_others
from .backup import progress_bar
from .exits import FAILED, Refused
from .journals import existing_file, existing_journal, file_of
from .output import confirm, json_document, note, say, size
from .times import iso

_SEALS = {
    "holds": "its events are those that were sealed",
    "none": "it has no seal, so what its events say can't be checked: only `spine backup` makes sealed copies",
    "written since": "it was written to since it was made, so that its seal says nothing of it",
    "broken": "DAMAGED: its events are not those that were sealed",
}

NAMED_MAX = 20  # streams; --json has all

IN_POSTGRES = (
    "In PostgreSQL: end what runs on it, let pg_restore put back what pg_dump made, and do the steps of how-to/postgresql.md, "
    '"After a failover".'
)


def wrong(found: Verified) -> list[str]:
    broken = ["its events are not those that were sealed"] if found.seal == "broken" and not found.damaged else []
    return [*found.damaged, *broken]


def view(found: Verified, elsewhere: Newer | None) -> dict[str, Any]:
    shown = found._asdict() | {
        "ok": not wrong(found),
        "recorded": None if found.recorded_us is None else iso(found.recorded_us),
        "damaged": wrong(found),
        "newer": None if elsewhere is None else _newer_view(elsewhere),
    }
    del shown["recorded_us"]
    return shown


def _newer_view(found: Newer) -> dict[str, Any]:
    first, last = (None if us is None else iso(us) for us in (found.first_us, found.last_us))
    return {
        "events": found.events,
        "first": first,
        "last": last,
        "differs_at": found.differs_at,
        "same": found.same,
        "deleted": [{"service": service, "stream": stream} for service, stream in found.deleted],
    }


def in_words(found: Verified) -> list[str]:
    upto = "" if found.recorded_us is None else f" of {iso(found.recorded_us)}"
    counted = (
        f"{plural(found.events, 'event')} up to position {found.position:,}{upto}, {plural(found.streams, 'stream')}, "
        f"{plural(found.subscriptions, 'subscription')}, {plural(found.deliveries, 'open delivery', 'open deliveries')}"
    )
    return [
        f"{printable(found.path)}: {size(found.bytes)}, {counted}; {_SEALS[found.seal]}.",
        *(f"DAMAGED: {printable(one)}" for one in found.damaged),
    ]


def stranger(place: Path, found: Verified, elsewhere: Newer | None) -> str | None:
    """Why it is no backup of the journal in place, however whole it is."""
    if found.scratch:
        return f"{printable(found.path)} is a scratch journal of `spine replay`: chosen history, and no backup."
    if elsewhere is not None and not elsewhere.same:
        return f"{place} is another journal, by its identity: this is no backup of it."
    return None


def lacks(place: Path, found: Newer) -> list[str]:
    """What would be lost, or would have to be looked for elsewhere."""
    told = []
    if found.differs_at is not None and found.same:
        told.append(
            f"From position {found.differs_at:,} on the two hold different events: one of them was put in place before and "
            "went on by itself."
        )
    if found.events:
        told.append(
            f"{place} has {plural(found.events, 'event')} that the backup lacks, recorded from {iso(found.first_us or 0)} to "
            f"{iso(found.last_us or 0)}. They would be lost here; a broker, or other services' journals, may have them."
        )
    if found.deleted:
        names = ", ".join(
            f"{printable(stream)} of {printable(service)}" for service, stream in found.deleted[:NAMED_MAX]
        )
        more = f" and {len(found.deleted) - NAMED_MAX:,} more" if len(found.deleted) > NAMED_MAX else ""
        told.append(
            f"The backup still has {plural(len(found.deleted), 'stream')} that {place} knows as deleted: {names}{more}. Delete "
            "them again once it is in place (`spine streams delete`)."
        )
    return told


async def _refuse_beside_others(invocation: Invocation) -> None:
    try:
        async with existing_journal(invocation) as journal:
            await refuse_beside_others(journal)
    except JournalError as error:
        raise Refused(
            f"{error} Nothing was changed. Once nothing runs on it any more, move it away by hand, with its -wal and -shm, "
            "and say this again."
        ) from error


def _compared(backup: Path, place: Path) -> tuple[Newer | None, Sequence[str]]:
    if not place.exists():
        return None, [f"There is no {place}."]
    try:
        found = newer(backup, place)
    except Exception as error:  # the journal in place may be the reason why somebody restores
        return None, [f"What {place} has beyond it can't be told: {error}"]
    return found, lacks(place, found) or [f"{place} has nothing that the backup lacks."]


@click.command(cls=Command)
@click.argument("backup", type=click.Path(path_type=Path))
@click.option("--verify", "only_verify", is_flag=True, help="Only look; change nothing.")
@click.option("--stranger", "any_journal", is_flag=True, help="Also where it is no backup of the journal in place.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@json_option
@pass_invocation
def command(
    invocation: Invocation, backup: Path, only_verify: bool, any_journal: bool, yes: bool, as_json: bool
) -> int:
    """Verify a backup, say what it lacks, and put it in the journal's place.

    The file that is there is moved aside to FILE.bak. Refused while a process is at work on it, for a backup that is not
    whole, and, unless you say --stranger, for one of another journal. With --verify nothing is changed, and the exit code is
    1 for a backup that is not whole, 3 for one of another journal."""
    journal = file_of(open_journal(invocation.url), f"`spine restore` puts a file in place. {IN_POSTGRES}")
    existing_file(backup)
    with progress_bar() as progress:
        found = verify(backup, progress=progress)
    elsewhere, told = _compared(backup, journal.path) if not wrong(found) else (None, [])
    if as_json:
        say(json_document(view(found, elsewhere)))
    else:
        for line in [*in_words(found), *told]:
            say(line)
    if wrong(found):
        note("It is not whole; nothing was changed. Take another backup, or see how-to/recovery.md.")
        return FAILED
    if (strange := stranger(journal.path, found, elsewhere)) and not any_journal:
        raise Refused(
            f"{strange} Nothing was changed. Name a backup of this journal; or, if it is to be that one, say --stranger."
        )
    if not only_verify:
        if journal.path.exists() and journal.path.samefile(backup):
            raise SettingsError(f"{backup} is the journal itself. Name a backup of it.")
        _restore(invocation, backup, journal.path, yes)
    return 0


def _restore(invocation: Invocation, backup: Path, place: Path, yes: bool) -> None:
    aside = None
    if place.exists():
        asyncio.run(_refuse_beside_others(invocation))
        aside = free_name(place)
    confirm(f"Put it in place of {place}, which is moved to {aside}?" if aside else f"Put it at {place}?", yes)
    with progress_bar() as progress:
        put_in_place(backup, place, aside, progress=progress)
    kept = f" What was there is {aside}." if aside else ""
    note(
        f"{place} is now this backup, as another incarnation.{kept} Where there is a broker, start once with --take-over."
    )
