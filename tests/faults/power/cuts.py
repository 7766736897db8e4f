"""What a disk may hold after the power failed: everything that was synced, and of what was written since, nothing, all,
or any part, the last write torn at a sector. Rebuilt from a record of every write and sync (recorder.c)."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
HEAD = struct.Struct("=c64s7xqq")
SECTOR = 512
APART = 1_000_000  # the numbers of two processes' events


class Step(NamedTuple):
    kind: str  # w: write, t: truncate, s: sync, f: a sync that failed, u: unlink
    file: str  # "" the database, "-wal", ".acks"
    offset: int
    length: int
    data: bytes


def build(folder: Path) -> Path:
    library = folder / "recorder.so"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "recorder.c"), "-ldl", "-lpthread"]
    subprocess.run(command, check=True, capture_output=True)
    return library


def record(folder: Path, events: int, *settings: str, processes: int = 1) -> list[Step]:
    """Run the child, or several, on a recorded disk."""
    log = folder / "steps"
    environment = {**os.environ, "LD_PRELOAD": str(build(folder)), "RECORD_PREFIX": str(folder / "spine.db")}
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.faults.power.child", str(folder), str(events), str(number * APART), *settings],
            cwd=ROOT, env={**environment, "RECORD_LOG": str(log)},
        )
        for number in range(processes)
    ]  # fmt: skip
    assert [0] * processes == [child.wait(100) for child in children]
    return list(steps(log.read_bytes()))


def steps(log: bytes) -> Iterator[Step]:
    at = 0
    while at < len(log):
        kind, file, offset, length = HEAD.unpack_from(log, at)
        at += HEAD.size
        data = log[at : at + length] if kind == b"w" else b""
        at += len(data)
        yield Step(kind.decode(), file.rstrip(b"\0").decode(), offset, length, data)


@dataclass
class File:
    synced: bytearray = field(default_factory=bytearray)
    since: list[Step] = field(default_factory=list)

    def then(self, step: Step) -> None:
        if step.kind == "s":
            for each in self.since:
                _apply(self.synced, each)
            self.since.clear()
        elif step.kind == "f":
            self.since.clear()  # the system takes it for written from now on, and no other sync brings it to the disk
        else:
            self.since.append(step)

    def after_the_cut(self, chance: random.Random) -> bytearray:
        image = bytearray(self.synced)
        survived = list(_survivors(self.since, chance))
        for step in survived:
            _apply(image, step)
        return image


def _survivors(since: list[Step], chance: random.Random) -> Iterator[Step]:
    how = chance.choice(["none", "all", "first", "any"])
    if how in ("all", "first"):
        kept = since if how == "all" else since[: chance.randrange(len(since) + 1)]
        yield from kept[:-1]
        if kept:
            yield _torn(kept[-1], chance) if how == "first" else kept[-1]
    elif how == "any":
        yield from (step for step in since if chance.random() < 0.5)


def _torn(step: Step, chance: random.Random) -> Step:
    if step.kind != "w" or step.length <= SECTOR:
        return step
    return step._replace(data=step.data[: SECTOR * chance.randrange(1, -(-step.length // SECTOR) + 1)])


def _apply(image: bytearray, step: Step) -> None:
    if step.kind == "u":
        image.clear()
    elif step.kind == "t":
        del image[step.length :]
        image.extend(bytes(step.length - len(image)))
    else:
        image.extend(bytes(max(0, step.offset - len(image))))
        image[step.offset : step.offset + len(step.data)] = step.data


class Cut(NamedTuple):
    at: int
    promised: frozenset[int]  # numbers whose publishing had been acknowledged
    images: dict[str, bytearray]


def cuts(recorded: list[Step], first: int, every: int, seed: int) -> Iterator[Cut]:
    """The disk after the power failed behind each of these steps."""
    chance, files, promised = random.Random(seed), {"": File(), "-wal": File()}, set[int]()
    for at, step in enumerate(recorded):
        if step.file == ".acks":
            promised.add(int(step.data))
        elif step.file in files:
            files[step.file].then(step)
        if at >= first and (at - first) % every == 0:
            yield Cut(at, frozenset(promised), {name: file.after_the_cut(chance) for name, file in files.items()})


def put_down(cut: Cut, folder: Path) -> Path:
    folder.mkdir()
    for name, image in cut.images.items():
        (folder / f"spine.db{name}").write_bytes(image)
    return folder / "spine.db"
