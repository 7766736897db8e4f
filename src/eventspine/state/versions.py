"""Versions of a view: which are kept, and which one is read. A note of the journal, changed by compare-and-set.

    declared ──▶ warming up ──caught up, or switched by hand──▶ active ──the next is switched to──▶ kept ──▶ dropped
                     ▲                                            │
                     └───────────────── rolled back ──────────────┘

The first version that there is is active from its start. A later one is built beside it, in a table and with a cursor of
its own, so neither can harm the other; a switch changes one value. Who reads the note reads one version or the other, and
never none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ..errors import Conflict, RegistrationRefused, SettingsError, SpineError
from ..journal.port import Journal, Note, Noted, Unit, Verdict
from .views import ViewType

KIND = "view"
TRIES = 20


class Version(msgspec.Struct, kw_only=True):
    """One version, as it is stored."""

    subscription: str
    columns: dict[str, str]
    key: list[str]
    tenant: str | None = None
    dropped: bool = False
    code: str = ""  # of its projection and defaults, as a hash; "": nobody knows


class Known(msgspec.Struct, kw_only=True):
    """A view, as it is stored."""

    service: str
    active: int
    previous: int | None = None
    versions: dict[int, Version] = {}
    rolled_back: list[int] = []  # not to be switched to again without a word

    @property
    def kept(self) -> dict[int, Version]:
        return {number: version for number, version in self.versions.items() if not version.dropped}


def _of(note: Noted) -> Known:
    return msgspec.json.decode(note.value, type=Known)


async def known(journal: Journal, name: str) -> Known | None:
    found = await journal.notes("", KIND, [name])
    return _of(found[0]) if found else None


async def every(journal: Journal) -> dict[str, Known]:
    """All views of a journal, by name."""
    views: dict[str, Known] = {}
    after = ""
    while page := await journal.notes("", KIND, after=after):
        views |= {note.key: _of(note) for note in page}
        after = page[-1].key
    return views


async def kept_by(journal: Journal, service: str, subscription: str) -> tuple[str, int] | None:
    """The view, and which version of it, that this subscription keeps."""
    for name, view in (await every(journal)).items():
        for number, version in view.kept.items():
            if (view.service, version.subscription) == (service, subscription):
                return name, number
    return None


async def change(journal: Journal, name: str, decide: Callable[[Known | None], Known | None]) -> Known | None:
    """Store what `decide` makes of what is stored; None: nothing is to change. It is asked again when somebody else was
    quicker, and raises what refuses."""
    for _ in range(TRIES):
        found = await journal.notes("", KIND, [name])
        decided = decide(_of(found[0]) if found else None)
        if decided is None:
            return None
        note = Note("", KIND, name, msgspec.json.encode(decided), found[0].version if found else 0)
        (verdict,) = await journal.commit([Unit(notes=[note])])
        if verdict.ok:
            return decided
        _check(verdict)
    raise Conflict(f"The view {name} is being changed by others all the time; nothing was done. Try again.")


def _check(verdict: Verdict) -> None:
    """What is worth another look: somebody was quicker, or nobody can say whether it was stored."""
    if isinstance(verdict.error, Conflict) or verdict.kind == "unknown":
        return
    raise verdict.error or SpineError(f"The journal answered {verdict.kind}.")


# --- what may become of it: pure ------------------------------------------------------------------------------------


def declared(view: ViewType, service: str, subscription: str, stored: Known | None, code: str = "") -> Known | None:
    """A release that has this version starts."""
    version = Version(
        subscription=subscription, columns=view.signature, key=list(view.key), tenant=view.tenant, code=code
    )
    if stored is None:
        return Known(service=service, active=view.version, versions={view.version: version})
    if stored.service != service:
        raise RegistrationRefused(
            f"{service} would keep the view {view.name}, which {stored.service} keeps. Give one of them another name: "
            f'class {view.where}(View, name="...", ...).',
            service=service,
            view=view.name,
        )
    before = stored.versions.get(view.version)
    if before is None:
        return _with(stored, versions={**stored.versions, view.version: version})
    _check_same(view, service, stored, version)
    if code and code != before.code:
        return _with(stored, versions={**stored.versions, view.version: version})
    return None


def _check_same(view: ViewType, service: str, stored: Known, now: Version) -> None:
    before = stored.versions[view.version]
    following = f"class {view.where}(View, version={max(stored.versions) + 1}, ...)"
    if before.dropped:
        raise RegistrationRefused(
            f"Version {view.version} of the view {view.name} was dropped; version {stored.active} is read. Take its class and "
            f"projection out of the code; or, to build one anew, declare it as {following}.",
            service=service,
            view=view.name,
        )
    if (before.columns, before.key, before.tenant) != (now.columns, now.key, now.tenant):
        others = {name for name, _ in set(before.columns.items()) ^ set(now.columns.items())}
        told = ", ".join(sorted(others)) or "its key"
        raise RegistrationRefused(
            f"The columns of {view.name} are others than its version {view.version} was made with ({told}). Raise the version, "
            f"so that it is built anew beside the old one: {following}.",
            service=service,
            view=view.name,
        )
    if before.subscription != now.subscription:
        raise RegistrationRefused(
            f"Version {view.version} of the view {view.name} is kept by {before.subscription}, and {now.subscription} would keep "
            f'it as well. Keep the name, with name="{before.subscription.partition(".")[2].partition("@")[0]}", or raise the version.',
            service=service,
            view=view.name,
        )


def switched(stored: Known, to: int) -> Known | None:
    """None: it is read already."""
    if to not in stored.kept:
        raise SettingsError(f"There is no version {to}; there are {', '.join(map(str, sorted(stored.kept)))}.")
    if to == stored.active:
        return None
    rolled_back = [number for number in stored.rolled_back if number != to]
    return _with(stored, active=to, previous=stored.active, rolled_back=rolled_back)


def switched_by_itself(stored: Known, to: int) -> Known | None:
    """What has caught up. None also: it is dropped, or not to be switched to without a word."""
    if to not in stored.kept or to < stored.active or to in stored.rolled_back:
        return None
    return switched(stored, to)


def rolled_back(stored: Known) -> Known:
    """Back to the version that was read before; the one that is left is not switched to again by itself."""
    before = stored.previous
    if before is None or before not in stored.kept:
        raise SettingsError("There is no version to go back to: none was read before, or it was dropped.")
    left = [*stored.rolled_back, stored.active]
    return _with(stored, active=before, previous=None, rolled_back=left)


def check_droppable(stored: Known, number: int) -> None:
    if number == stored.active:
        raise SettingsError(f"Version {number} is the one that is read. Switch to another one first.")
    if number not in stored.versions:
        raise SettingsError(f"There is no version {number}; there are {', '.join(map(str, sorted(stored.kept)))}.")


def dropped(stored: Known, number: int) -> Known:
    check_droppable(stored, number)
    gone = msgspec.structs.replace(stored.versions[number], dropped=True)
    previous = None if stored.previous == number else stored.previous
    return _with(stored, versions={**stored.versions, number: gone}, previous=previous)


def _with(stored: Known, **changes: Any) -> Known:
    return msgspec.structs.replace(stored, **changes)
