"""Settings, each from the first place that says it: a flag, the environment, one settings file, the default.

`read()` gives them all, typed, each with where it came from. A relative path of a file counts from that file's folder,
any other from the folder where the process runs; both are absolute in what comes out. A key that is not known, or a
value of the wrong kind, is an error that names its place, since a setting that is silently not read is worse than none.

Only the command line and `Spine.from_settings()` come here. `Spine(url)` reads nothing. Nothing here opens, creates or
looks at a journal.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NamedTuple

from . import settings_file, settings_values as values
from .errors import SettingsError
from .settings_file import SettingsFile
from .settings_values import Address

JOURNAL_VARIABLE = "SPINE_JOURNAL"
SETTINGS_VARIABLE = "SPINE_SETTINGS"
JOURNAL_DEFAULT = "sqlite:///spine.db"  # beside the settings file, else in the folder where the process runs
_PREFIX = "sqlite:///"

OriginKind = Literal["flag", "environment", "file", "default", "project"]


class Origin(NamedTuple):
    """Where a setting was said."""

    kind: OriginKind
    where: str = ""  # `--journal`, `SPINE_JOURNAL`, `/srv/shop/spine.toml, line 3`

    def __str__(self) -> str:
        return f"{self.kind} {self.where}".rstrip() if self.kind != "file" else self.where


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. Whoever starts something reads what it needs from here."""

    journal: str  # a URL; that of a file is absolute
    broker: str | None  # a URL; None: what is on this journal stays there
    modules: tuple[str, ...]  # what `spine run` runs when it is told nothing else: MODULE or MODULE:NAME
    drain_s: float
    log_format: Literal["text", "json"]
    log_level: Literal["debug", "info", "warning", "error"]
    processes: int  # of `spine run`
    health: Address | None  # where health is answered over HTTP; None: nowhere
    retention: Mapping[str, timedelta | None]  # by channel, "*" for all others; None and what is not named: kept
    folder: Path = field(default_factory=Path.cwd)  # of the settings file, else where the process runs
    file: Path | None = None
    origins: Mapping[str, Origin] = field(default_factory=dict)

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={value!r}" for name, value in self.shown().items())
        return f"Settings({told}, file={str(self.file) if self.file else None!r})"

    def shown(self) -> dict[str, Any]:
        """Each as JSON has it, without secrets."""
        return {name: _shown(name, getattr(self, name)) for name in SETTINGS}

    @property
    def modules_folder(self) -> Path:
        """Where those modules are looked for first: beside the file that names them, else where the process runs."""
        said_in_file = self.origins.get("modules", Origin("default")).kind == "file"
        return self.folder if said_in_file else Path.cwd()


class Setting(NamedTuple):
    read: Callable[[Any], Any]
    default: Any
    says: str  # for help

    def refuse(self, name: str, value: object, place: str, expected: str) -> SettingsError:
        shown = without_secrets(repr(value)) if name in URLS else repr(value)
        return SettingsError(f"{place}: {name} = {shown[:200]} can't be used; it is to be {expected}.", key=name)


URLS = ("journal", "broker")  # which may hold a secret
SETTINGS: Mapping[str, Setting] = {
    "journal": Setting(values.url, JOURNAL_DEFAULT, "The journal to use."),
    "broker": Setting(values.broker, None, "The broker that carries events to and from other journals."),
    "modules": Setting(values.modules, (), "What `spine run` runs when no module is named."),
    "drain_s": Setting(values.seconds, 30.0, "How long to finish what is in hand when told to stop."),
    "log_format": Setting(values.one_of("text", "json"), "text", "How the log is written."),
    "log_level": Setting(values.one_of("debug", "info", "warning", "error"), "info", "What is logged."),
    "processes": Setting(values.count, 1, "How many processes `spine run` keeps at work."),
    "health": Setting(values.address, None, "Where to answer health checks over HTTP; a port alone: this host only."),
    "retention": Setting(values.retention, {}, "How long the events of each channel are kept."),
}
assert list(SETTINGS) == [each.name for each in fields(Settings)][: len(SETTINGS)]


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"SPINE_{name.upper()}"


def read(
    said: Mapping[str, Any] | None = None,
    *,
    file: str | os.PathLike[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """`said` has what flags (or code) gave, already of the right kind; `file` names the settings file instead of looking
    for one. An empty environment variable counts as not said."""
    environment = os.environ if environment is None else environment
    here = _current_folder()
    found = _file(file, environment, here)
    told: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for name, setting in SETTINGS.items():
        told[name], origins[name] = _one(name, setting, said or {}, environment, found)
    folder = here if found is None else found.folder
    beside_file = origins["journal"].kind in ("file", "default")
    told["journal"] = _absolute(told["journal"], folder if beside_file else here)
    return Settings(**told, folder=folder, file=None if found is None else found.path, origins=origins)


def _current_folder() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        raise SettingsError("The current folder does not exist any more. Change to one that does.") from error


def _file(file: str | os.PathLike[str] | None, environment: Mapping[str, str], here: Path) -> SettingsFile | None:
    asked = os.fspath(file or environment.get(SETTINGS_VARIABLE) or "")
    found = settings_file.named(asked, here) if asked else settings_file.find(here)
    if found is not None:
        for key in found.said:
            if key not in SETTINGS:
                raise _unknown(key, found)
    return found


def _unknown(key: str, found: SettingsFile) -> SettingsError:
    close = get_close_matches(key, SETTINGS, n=1)
    meant = f" Did you mean {close[0]}?" if close else ""
    return SettingsError(
        f"{found.place_of(key)}: there is no setting {key!r}.{meant} Known are {', '.join(SETTINGS)}.", key=key
    )


def _one(
    name: str, setting: Setting, said: Mapping[str, Any], environment: Mapping[str, str], found: SettingsFile | None
) -> tuple[Any, Origin]:
    if said.get(name) not in (None, (), ""):
        return said[name], Origin("flag", "MODULE" if name == "modules" else f"--{name.replace('_', '-')}")
    if text := environment.get(variable(name)):
        return _read(name, setting, text, variable(name)), Origin("environment", variable(name))
    if found is not None and name in found.said:
        place = found.place_of(name)
        return _read(name, setting, found.said[name], place), Origin("file", place)
    return setting.default, Origin("default")


def _read(name: str, setting: Setting, value: Any, place: str) -> Any:
    try:
        return setting.read(value)
    except values.Refused as refused:
        raise setting.refuse(name, value, place, str(refused)) from None


def _absolute(url: str, folder: Path) -> str:
    path = url.removeprefix(_PREFIX)
    if path == url or not path or path.startswith(":") or os.path.isabs(path):
        return url
    return f"{_PREFIX}{folder / path}"


def misspelt(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """Variables that look like ours and are read by nobody, each with the one that may be meant. They are no error:
    other programs have such names too (Kubernetes sets SPINE_PORT for a service named spine)."""
    known = [variable(name) for name in SETTINGS] + [SETTINGS_VARIABLE]
    others = [name for name in environment if name.startswith("SPINE_") and name not in known]
    return [(name, close[0]) for name in others if (close := get_close_matches(name, known, n=1, cutoff=0.8))]


def _shown(name: str, value: Any) -> Any:
    return without_secrets(value) if name in URLS and value else values.plain(value)


def without_secrets(url: str) -> str:
    """The URL without passwords, wherever it has them; rather without too much than with one."""
    if not re.match(r"['\"]?sqlite:", url):
        url = _WORD.sub(_without_credentials, url)
    return _PARAMETER.sub(_without_value, url)


# Both take what they match whole and never try again shorter: a long value costs linear time.
_WORD = re.compile(r"[^\s'\"]++")
_PARAMETER = re.compile(r"[?&;][^=?&;]*+=[^&;]*+")
_SECRET = re.compile(r"(?i)password|passwd|secret|token|key")


def _without_credentials(word: re.Match[str]) -> str:
    _, at, rest = word[0].rpartition("@")
    scheme = re.match(r"\w++://", word[0])
    return f"{scheme[0] if scheme else ''}…@{rest}" if at else word[0]


def _without_value(parameter: re.Match[str]) -> str:
    name, _, _ = parameter[0].partition("=")
    return f"{name}=…" if _SECRET.search(name) else parameter[0]
