"""The settings file: `spine.toml`, or `[tool.eventspine]` in `pyproject.toml`; one of them, never a mixture.

It is looked for in the current folder, then in the folders above it, and the first one found is the only one read. A
`pyproject.toml` without that table is somebody else's and passed over. Where a folder has both, nobody could say which
one counts, so that is an error.

The file names modules that are imported, so it is as good as code. One in a folder *above* the current one is therefore
refused when it belongs to another user (who could have put it into /tmp); naming it is a way to say that it is trusted.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .errors import SettingsError

OWN = "spine.toml"
SHARED = "pyproject.toml"
TABLE = ("tool", "eventspine")
BYTES_MAX = 1_000_000  # of a spine.toml


class SettingsFile(NamedTuple):
    path: Path
    said: Mapping[str, Any]
    text: str

    @property
    def folder(self) -> Path:
        """Against which relative paths in it resolve."""
        return self.path.parent

    def place_of(self, *keys: str) -> str:
        """`/srv/shop/spine.toml, line 3`: where a key is said, as far as reading lines can tell."""
        line = _line_of(self.text, (*(TABLE if self.path.name == SHARED else ()), *keys))
        return f"{self.path}, line {line}" if line else str(self.path)


def find(folder: Path) -> SettingsFile | None:
    """The nearest one, from this folder upwards."""
    for place in (folder, *folder.parents):
        found = [file for name in (OWN, SHARED) if (file := _read(place / name, named=False)) is not None]
        if len(found) > 1:
            raise SettingsError(
                f"{place} has two settings files: {OWN}, and [tool.eventspine] in {SHARED}. Keep one of them."
            )
        if found:
            if place != folder:
                _refuse_a_strangers(found[0].path, folder)
            return found[0]
    return None


def named(name: str, folder: Path) -> SettingsFile:
    """The file that was asked for; it has to be there, and to have settings."""
    path = folder / name
    file = _read(path, named=True)
    if file is None:
        raise SettingsError(f"{path} has no [tool.eventspine]. Add it, or name another file: --settings {OWN}.")
    return file


def _read(path: Path, *, named: bool) -> SettingsFile | None:
    if not named:
        _check_kind(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors put a mark before it
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        if not named:
            return None
        raise SettingsError(f"There is no settings file {path}. Write it, or name another with --settings.") from error
    except (OSError, ValueError) as error:
        raise SettingsError(f"The settings file {path} can't be read: {error}.") from error
    if path.name == SHARED and "eventspine" not in text:
        return None  # without reading it: a mistake in it is other tools' business
    said = _table(_toml(path, text), path)
    return None if said is None else SettingsFile(path, said, text)


def _check_kind(path: Path) -> None:
    """What would be waited for, or never ends; and a link to nothing: without it another journal would be used, unnoticed."""
    try:
        kind = path.stat()
    except OSError:
        if path.is_symlink() and not path.exists():
            raise SettingsError(f"The settings file {path} is a link to nothing. Mend it, or remove it.") from None
        return  # it is not there, or reading it says what is wrong
    if path.name == OWN and stat.S_ISDIR(kind.st_mode):
        raise SettingsError(f"The settings file {path} is a folder. Give the folder another name.")
    if not stat.S_ISREG(kind.st_mode) and not stat.S_ISDIR(kind.st_mode):
        raise SettingsError(f"The settings file {path} is a device, a pipe or a socket. Name a file.")
    if path.name == OWN and kind.st_size > BYTES_MAX:
        raise SettingsError(
            f"The settings file {path} has {kind.st_size:,} bytes; settings have at most {BYTES_MAX:,}."
        )


def _toml(path: Path, text: str) -> dict[str, Any]:
    import tomllib  # most processes have no use for it

    try:
        return tomllib.loads(text)
    except ValueError as error:  # TOML's own, or of a number with thousands of digits
        raise SettingsError(f"{path} is no TOML: {error}.") from error
    except RecursionError:
        raise SettingsError(f"{path} is nested too deeply to be read.") from None


def _table(whole: dict[str, Any], path: Path) -> Mapping[str, Any] | None:
    if path.name != SHARED:
        return whole
    table: Any = whole
    for name in TABLE:
        if not isinstance(table, dict) or name not in table:
            return None
        table = table[name]
    if not isinstance(table, dict):
        raise SettingsError(f"{path}: [tool.eventspine] is to be a table.")
    return table


def _refuse_a_strangers(path: Path, folder: Path) -> None:
    if not hasattr(os, "getuid"):
        return
    # The current folder's own user puts modules there that are imported, and is trusted already.
    if (owner := path.stat().st_uid) not in (os.getuid(), 0, folder.stat().st_uid):
        raise SettingsError(
            f"{path} belongs to another user (number {owner}) and names modules to run. "
            f"If you trust it, say so: --settings {path}, or SPINE_SETTINGS."
        )


_HEADER = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?$")
_KEY = re.compile(r"\s*([A-Za-z0-9_.\"'*\s-]+?)\s*=")


def _line_of(text: str, keys: tuple[str, ...]) -> int | None:
    """The line that begins this key. TOML's reader keeps no lines, so they are looked at one by one."""
    inside: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            inside = _parts(header[1])
            if inside == keys:
                return number
        elif (key := _KEY.match(line)) and (*inside, *_parts(key[1]))[: len(keys)] == keys:
            return number
    return None


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))
