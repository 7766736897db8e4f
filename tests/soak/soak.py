"""A soak: some minutes of load, with processes killed, stopped and told to end, subscriptions paused and rewound; and a
reckoning that leaves nothing open."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.faults.harness import Child, Place, until
from tests.soak.crowd import Crowd, Rewind, bytes_of
from tests.soak.reckoning import Books, One

MB = 1_000_000
EVENT_BYTES_MOST = 2_500  # of the file, for each event with the rows of all that its handlers did
LOG_BYTES_MOST = 64 * MB
MEMORY_BYTES_MOST = 250 * MB
GROWTH_BYTES_MOST = 15 * MB  # of the process that ran from the beginning, after the first third
WARM_S = 60.0  # who has run for less has not found its size yet
SETTLE_S = 180.0
KEPT_FILES = {"spine.db", "spine.db-lock"}


@dataclass
class Outcome:
    seed: int
    seconds: float
    wrong: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    rewinds: list[Rewind] = field(default_factory=list)

    def report(self) -> str:
        minutes = f"{self.seconds / 60:g}"
        last = (
            ["WRONG:", *(f"- {one}" for one in self.wrong)]
            if self.wrong
            else ["Nothing was lost, nothing happened twice, nothing was out of order, nothing was left behind."]
        )
        again = f"The same weather again: make soak MINUTES={minutes} SEED={self.seed}"
        return "\n".join([f"A soak of {minutes} minutes, seed {self.seed}.", "", *self.said, "", *last, "", again])


def soak(place: Place, seed: int, seconds: float, without: tuple[str, ...] = (), only: tuple[str, ...] = ()) -> Outcome:
    """`without` safeguards, if it is to be shown that this would be noticed; of what can happen `only` some."""
    outcome = Outcome(seed, seconds)
    bells = place.folder / "tmp"
    bells.mkdir()
    before, tempfile.tempdir = os.environ.get("TMPDIR"), None
    os.environ["TMPDIR"] = str(bells)
    try:
        crowd = Crowd(place, seed, without, only)
        crowd.begin()
        asyncio.run(crowd.rage(seconds))
        _settle(place, crowd, outcome)
        if not place.path.exists():
            return outcome
    finally:
        place.end()
        os.environ.pop("TMPDIR")
        if before is not None:
            os.environ["TMPDIR"] = before
    outcome.wrong += [*crowd.trouble, *_left_in(place)]  # before anybody reads the file, and so makes a log again
    books = Books(place, crowd.rewinds)
    outcome.wrong += [*books.wrong(), *_too_large(crowd, books)]
    outcome.said, outcome.rewinds = _said(crowd, books), crowd.rewinds
    return outcome


def _settle(place: Place, crowd: Crowd, outcome: Outcome) -> None:
    """Until all is done; then what is dead is replayed, twice; then everybody goes."""
    crowd.end()
    wrong = outcome.wrong
    if not _done(place, wrong):
        return
    wrong += _dead(place)
    place.touch("mended")
    for _ in range(2):
        _command(place, wrong, "dead", "replay", "--all")
        if not _done(place, wrong):
            return
    doctor = _command(place, wrong, "doctor", "--deep", "--json")
    if doctor is not None:
        wrong += [f"spine doctor: {finding}" for finding in json.loads(doctor)["findings"]]
    crowd.end_consumers()
    wrong += [f"process {pid} was left behind" for pid in place.outlived()]


def _done(place: Place, wrong: list[str]) -> bool:
    if not place.path.exists():
        wrong.append(f"nobody has made a journal:\n{place.told()[-3000:]}")
        return False
    try:
        until(lambda: not place.unfinished(), "", SETTLE_S)
    except AssertionError:
        wrong.append(f"{place.unfinished()} deliveries were not finished {SETTLE_S:g} s after the last event")
        return False
    return True


def _dead(place: Place) -> Iterable[str]:
    """Those that fail for good, and no other. An event at work alone in three processes that were killed is one more: the
    engine can't know that it was not the event's fault, and says so."""
    known = Books(place).for_good()
    rows = place.query("select key, reason, deaths, position from spine_deliveries where state = 'dead'")
    number_of = dict(Books(place).feed["till.Counted"])
    died: list[One] = sorted(number_of[position] for _, reason, _, position in rows if reason != "killed-its-process")
    if died != known:
        missing, more = set(known) - set(died), set(died) - set(known)
        yield f"of {len(known)} that fail for good {sorted(missing)[:10]} are not dead, and {sorted(more)[:10]} are"
    yield from (
        f"{key} is dead after {deaths} deaths" for key, why, deaths, _ in rows if deaths < 3 and "killed" in why
    )


def _command(place: Place, wrong: list[str], *words: str) -> str | None:
    """What it printed; None if it failed."""
    child: Child = place.spine(*words)
    if code := child.end():
        wrong.append(f"spine {' '.join(words)} ended with {code}: {child.said()}")
        return None
    return child.errors.read_text()


def _left_in(place: Place) -> Iterable[str]:
    names = {path.name for path in place.folder.glob("spine.db*")}
    if more := sorted(names - KEPT_FILES):
        yield f"files left beside the journal: {', '.join(more)}"
    if left := sorted(path.name for path in (place.folder / "tmp").iterdir()):
        yield f"temporary files left: {', '.join(left[:10])}"


def _too_large(crowd: Crowd, books: Books) -> Iterable[str]:
    sizes, events = crowd.sizes, max(1, books.events)
    for what, bytes, most in (
        ("the file, for each event", bytes_of(crowd.place.path) // events, EVENT_BYTES_MOST),
        ("the log", sizes.log_bytes, LOG_BYTES_MOST),
        ("the largest process", sizes.memory_bytes, MEMORY_BYTES_MOST),
        ("what the oldest process grew by", _growth(crowd), GROWTH_BYTES_MOST),
    ):
        if bytes > most:
            yield f"{what}: {bytes:,} bytes, more than {most:,}"


def _growth(crowd: Crowd) -> int:
    """After its first third; 0 where it did not run for long enough to tell."""
    steady: Sequence[tuple[float, int]] = crowd.sizes.steady
    if not steady or steady[-1][0] < WARM_S:
        return 0
    warm = max(bytes for second, bytes in steady if second <= steady[-1][0] / 3)
    return max(0, steady[-1][1] - warm)


def _said(crowd: Crowd, books: Books) -> list[str]:
    happened, sizes, events = crowd.happened, crowd.sizes, max(1, books.events)
    return [
        (
            f"{len(books.acknowledged):,} events were acknowledged to their publishers. With what came of them there are "
            f"{books.events:,}, handled {books.handled:,} times."
        ),
        (
            f"{happened['killed']:,} processes were killed, {happened['all but one killed at once']} times all but one at once; "
            f"{happened['told to end']} were told to end and drained; {happened['stopped and woken']} times one was stopped, "
            "past its lease or not, and went on."
        ),
        f"{happened['paused']} times a subscription was paused, {happened['rewound']} times one was rewound.",
        (
            f"{books.failed:,} attempts failed and were tried again; {len(books.for_good()):,} deliveries died, were replayed, "
            "and replayed once more."
        ),
        (
            f"The file has {bytes_of(crowd.place.path) / MB:.1f} MB, {bytes_of(crowd.place.path) // events:,} bytes an event; "
            f"its log had {sizes.log_bytes / MB:.1f} MB at most. The largest process had {sizes.memory_bytes / MB:.0f} MB; the "
            f"one that ran all the time grew by {_growth(crowd) / MB:.1f} MB after its first third."
        ),
        f"It took {time.monotonic() - crowd.began:.0f} s, with the reckoning.",
    ]
