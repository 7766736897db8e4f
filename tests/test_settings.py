"""Settings: the first place that says one counts, relative paths count from where they were said, and mistakes are told."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from eventspine import Service, Spine, settings, sync
from eventspine.durations import in_words, parse_duration
from eventspine.errors import SettingsError
from eventspine.settings_values import Address


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current one, with nothing said anywhere."""
    for name in os.environ:
        if name.startswith("SPINE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_nothing_said_anywhere_gives_the_defaults(folder):
    found = settings.read()

    assert found.journal == f"sqlite:///{folder}/spine.db"
    assert (found.modules, found.drain_s, found.log_format, found.log_level) == ((), 30.0, "text", "info")
    assert (found.processes, found.health, found.retention, found.file) == (1, None, {}, None)
    assert {origin.kind for origin in found.origins.values()} == {"default"}


FILE = """
journal = "sqlite:///data/spine.db"
broker = "nats://localhost:4222"
modules = ["shop.inventory", "shop.email:email"]
drain_s = 5
log_format = "json"
log_level = "Warning"
processes = 3
health = 8099

[retention]
orders = "90d"
audit = "keep"
"*" = "1h30m"
"""


def assert_all_of_the_file(found: settings.Settings, base: Path) -> None:
    assert found.journal == f"sqlite:///{base}/data/spine.db"
    assert found.broker == "nats://localhost:4222"
    assert found.modules == ("shop.inventory", "shop.email:email")
    assert (found.drain_s, found.log_format, found.log_level, found.processes) == (5.0, "json", "warning", 3)
    assert found.health == Address("127.0.0.1", 8099)
    assert found.retention == {"orders": timedelta(days=90), "audit": None, "*": timedelta(minutes=90)}
    assert (found.folder, found.modules_folder) == (base, base)


def test_every_setting_can_be_said_in_spine_toml(folder):
    write(folder / "spine.toml", FILE)

    assert_all_of_the_file(settings.read(), folder)


def test_every_setting_can_be_said_in_pyproject_toml(folder):
    head, retention = FILE.split("[retention]")
    text = f"[project]\nname = 'shop'\n[tool.eventspine]{head}[tool.eventspine.retention]{retention}"
    write(folder / "pyproject.toml", text)

    assert_all_of_the_file(settings.read(), folder)


def test_every_setting_can_be_said_in_the_environment(folder):
    said = {
        "SPINE_JOURNAL": "sqlite:///data/spine.db",
        "SPINE_BROKER": "nats://localhost:4222",
        "SPINE_MODULES": "shop.inventory, shop.email:email",
        "SPINE_DRAIN_S": "5",
        "SPINE_LOG_FORMAT": "json",
        "SPINE_LOG_LEVEL": "warning",
        "SPINE_PROCESSES": "3",
        "SPINE_HEALTH": "8099",
        "SPINE_RETENTION": "orders=90d, audit=keep *=1h30m",
    }

    assert_all_of_the_file(settings.read(environment=said), folder)
    assert len(said) == len(settings.SETTINGS)


def test_a_flag_comes_before_the_environment_before_the_file_before_the_default(folder):
    file = write(folder / "spine.toml", 'drain_s = 1\nprocesses = 2\nlog_level = "error"\n')
    environment = {"SPINE_DRAIN_S": "2", "SPINE_PROCESSES": "4", "SPINE_LOG_FORMAT": ""}

    found = settings.read({"drain_s": 3.0, "modules": ()}, environment=environment)

    assert (found.drain_s, found.processes, found.log_level, found.log_format) == (3.0, 4, "error", "text")
    told = {name: str(origin) for name, origin in found.origins.items()}
    assert told["drain_s"] == "flag --drain-s"
    assert told["processes"] == "environment SPINE_PROCESSES"
    assert told["log_level"] == f"{file}, line 3"
    assert told["log_format"] == "default"


def test_a_file_in_a_folder_above_is_found_and_its_paths_count_from_there(folder, monkeypatch):
    write(folder / "spine.toml", 'journal = "sqlite:///spine.db"\nmodules = "shop"\n')
    (folder / "deep" / "down").mkdir(parents=True)
    write(folder / "deep" / "pyproject.toml", "[tool.other]\nname = 'not of eventspine'\n")
    monkeypatch.chdir(folder / "deep" / "down")

    found = settings.read()

    assert found.journal == f"sqlite:///{folder}/spine.db"
    assert found.modules_folder == folder
    said_here = settings.read({"journal": "sqlite:///x.db", "modules": ("other",)})
    assert said_here.journal == settings.read(environment={"SPINE_JOURNAL": "sqlite:///x.db"}).journal
    assert said_here.journal == f"sqlite:///{folder}/deep/down/x.db"
    assert said_here.modules_folder == folder / "deep" / "down"


def test_the_default_journal_is_beside_the_settings_file(folder, monkeypatch):
    write(folder / "spine.toml", "")
    (folder / "deep").mkdir()
    monkeypatch.chdir(folder / "deep")

    assert settings.read().journal == f"sqlite:///{folder}/spine.db"


def test_the_nearest_file_is_the_only_one_read(folder, monkeypatch):
    write(folder / "spine.toml", "drain_s = 1\nprocesses = 9\n")
    write(folder / "deep" / "spine.toml", "drain_s = 2\n")
    monkeypatch.chdir(folder / "deep")

    assert (settings.read().drain_s, settings.read().processes) == (2.0, 1)


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_a_named_file_is_read_instead_of_a_found_one(folder, how):
    write(folder / "spine.toml", "drain_s = 1\n")
    write(folder / "deploy" / "production.toml", 'drain_s = 2\njournal = "sqlite:///p.db"\n')
    name = "deploy/production.toml"

    found = settings.read(file=name) if how == "argument" else settings.read(environment={"SPINE_SETTINGS": name})

    assert (found.drain_s, found.journal) == (2.0, f"sqlite:///{folder}/deploy/p.db")


REFUSED = [
    ('journl = "x"', "line 3: there is no setting 'journl'. Did you mean journal? Known are journal, broker, modules,"),
    ("[retentoin]\nx = '1d'", "line 3: there is no setting 'retentoin'. Did you mean retention?"),
    ("drain_s = 'soon'", "line 3: drain_s = 'soon' can't be used; it is to be a number of seconds"),
    ("drain_s = -1", "drain_s = -1 can't be used"),
    ("drain_s = nan", "drain_s = nan can't be used"),
    ("drain_s = true", "drain_s = True can't be used"),
    ("processes = 0", "a whole number from 1"),
    ("processes = 1.5", "a whole number from 1"),
    ("processes = 1001", "a whole number from 1 to 1,000"),
    (f"drain_s = {'[' * 5000}", "is nested too deeply"),
    ("log_level = 'loud'", "one of debug, info, warning, error"),
    ("modules = 5", "a list of modules"),
    ("modules = ['']", "a list of modules"),
    ("journal = 'spine.db'", "a URL, such as sqlite:///spine.db"),
    ("broker = 'kafka'", "the URL of a broker, such as kafka://localhost:9092"),
    ("health = 'http://x'", "a port such as 8099"),
    ("health = 70000", "a port such as 8099"),
    ("retention = '90d'", 'such as "orders=90d'),
    ("[retention]\norders = 90", "for the channel 'orders'"),
    ("[retention]\norders = '0d'", "for the channel 'orders'"),
    ("drain_s = ", "is no TOML:"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "told"), REFUSED)
def test_a_mistake_in_the_file_is_told_with_its_place(folder, line, told):
    file = write(folder / "spine.toml", f"\n# settings\n{line}\n")

    with pytest.raises(SettingsError) as refused:
        settings.read()

    assert str(file) in str(refused.value)
    assert told in str(refused.value)


def test_a_mistake_in_pyproject_toml_is_told_with_its_line(folder):
    write(folder / "pyproject.toml", "drain_s = 1\n[tool.other]\ndrain_s = 1\n[tool.eventspine]\ndrain_s = 'x'\n")

    with pytest.raises(SettingsError, match="pyproject.toml, line 5: drain_s = 'x'"):
        settings.read()


def test_a_mistake_in_the_environment_names_the_variable(folder):
    with pytest.raises(SettingsError, match="SPINE_PROCESSES: processes = 'many'"):
        settings.read(environment={"SPINE_PROCESSES": "many"})


def test_two_settings_files_in_one_folder_are_refused(folder):
    write(folder / "spine.toml", "")
    write(folder / "pyproject.toml", "[tool.eventspine]\n")

    with pytest.raises(SettingsError, match="two settings files"):
        settings.read()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gone.toml", "There is no settings file"),
        (".", "There is no settings file"),
        ("pyproject.toml", "no \\[tool.ev"),
    ],
)
def test_a_named_file_has_to_be_there_and_have_settings(folder, name, told):
    write(folder / "pyproject.toml", "[project]\n")

    with pytest.raises(SettingsError, match=told):
        settings.read(file=name)


def test_a_pyproject_that_is_none_of_ours_may_be_broken(folder):
    write(folder / "pyproject.toml", "this is no TOML")

    assert settings.read().file is None


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="files have no owners here")
def test_a_strangers_file_above_is_refused_unless_it_is_named(folder, monkeypatch):
    file = write(folder / "spine.toml", "modules = 'evil'\n")
    (folder / "mine").mkdir()
    monkeypatch.chdir(folder / "mine")
    owners = {file: 4711}
    real = Path.stat

    class Owned:
        def __init__(self, found: os.stat_result, owner: int) -> None:
            self.st_uid, self.st_mode, self.st_size = owner, found.st_mode, found.st_size

    monkeypatch.setattr(Path, "stat", lambda path, **more: Owned(real(path, **more), owners.get(path, os.getuid())))

    with pytest.raises(SettingsError, match=f"belongs to another user .* --settings {file}"):
        settings.read()
    assert settings.read(file=file).modules == ("evil",)
    monkeypatch.chdir(folder)
    assert settings.read().modules == ("evil",)  # whoever owns the folder may put modules there anyway


def test_a_file_of_a_windows_editor_is_read(folder):
    (folder / "spine.toml").write_bytes(b"\xef\xbb\xbfdrain_s = 1\r\nprocesses = 2\r\n")

    assert (settings.read().drain_s, settings.read().processes) == (1.0, 2)


def test_a_file_that_is_no_text_is_named(folder):
    (folder / "spine.toml").write_bytes(b"drain_s = '\xff'")

    with pytest.raises(SettingsError, match="spine.toml can't be read"):
        settings.read()


def make_pipe(path):
    os.mkfifo(path)


def make_link(path):
    path.symlink_to("nowhere.toml")


def make_loop(path):
    path.symlink_to(path.name)


def make_endless(path):
    path.symlink_to("/dev/zero")


def make_large(path):
    path.write_text("#" * 1_000_001)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (make_pipe, "is a device, a pipe"),
        (make_endless, "is a device, a pipe"),
        (make_link, "is a link to nothing"),
        (make_loop, "is a link to nothing"),
        (Path.mkdir, "is a folder"),
        (make_large, "has 1,000,001 bytes"),
    ],
)
def test_what_stands_there_and_is_no_file_of_settings_is_refused_rather_than_passed_over(folder, make, told):
    make(folder / "spine.toml")

    with pytest.raises(SettingsError, match=told):
        settings.read()


def test_a_current_folder_that_is_gone_is_told(folder, monkeypatch):
    (folder / "gone").mkdir()
    monkeypatch.chdir(folder / "gone")
    (folder / "gone").rmdir()

    with pytest.raises(SettingsError, match="The current folder does not exist any more"):
        settings.read()


def test_no_password_is_ever_shown(folder, monkeypatch):
    url = "postgres://shop:hunter2@hunter/hunter@db/shop?sslpassword=hunter3"
    found = settings.read(environment={"SPINE_JOURNAL": url})

    assert found.journal == url
    assert "hunter" not in repr(found)
    assert "hunter" not in str(found.shown())
    write(folder / "spine.toml", f"journal = ['{url}']\n")
    with pytest.raises(SettingsError) as refused:
        settings.read()
    assert "hunter" not in str(refused.value)


def test_a_misspelt_variable_is_pointed_at_and_others_are_left_alone():
    environment = {"SPINE_JOURNL": "x", "SPINE_PORT": "tcp://10.0.0.1", "SPINE_SERVICE_HOST": "x", "SPINE_DRAIN_S": "1"}

    assert settings.misspelt(environment) == [("SPINE_JOURNL", "SPINE_JOURNAL")]


@pytest.mark.parametrize("text", ["90d", "1h30m", "250ms", "2d3h4m5s"])
def test_a_duration_is_written_as_it_is_read(text):
    assert in_words(parse_duration(text) or timedelta()) == text


# --- from code ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Spine, sync.Spine], ids=["async", "sync"])
def test_a_spine_from_settings_reads_what_the_command_line_reads(folder, make, monkeypatch):
    write(folder / "spine.toml", 'journal = "sqlite:///of_file.db"\ndrain_s = 7\n')
    write(folder / "other.toml", 'journal = "sqlite:///of_other.db"\n')

    def path(spine: Spine | sync.Spine) -> Path:
        return spine.journal.path  # type: ignore[attr-defined]  # every journal here is a file

    assert path(make.from_settings()) == folder / "of_file.db"
    assert path(make.from_settings(file="other.toml")) == folder / "of_other.db"
    monkeypatch.setenv("SPINE_JOURNAL", "sqlite:///of_environment.db")
    assert path(make.from_settings()) == folder / "of_environment.db"


@pytest.mark.parametrize("make", [Spine, sync.Spine], ids=["async", "sync"])
def test_a_spine_of_a_url_reads_nothing(folder, make, monkeypatch):
    write(folder / "spine.toml", "this is no TOML")
    monkeypatch.setenv("SPINE_JOURNAL", "sqlite:///of_environment.db")
    monkeypatch.setenv("SPINE_DRAIN_S", "nonsense")

    assert make("sqlite:///said.db").journal.path == folder / "said.db"
    assert make().journal.path == folder / "spine.db"


async def test_the_drain_time_of_the_settings_reaches_the_drain(folder):
    write(folder / "spine.toml", 'journal = "memory://"\ndrain_s = 0.25\n')
    spine = Spine.from_settings(service=Service("shop"))
    drained: list[float] = []

    async with spine, spine.running(Service("stock")) as running:
        stop = running.runtime.stop

        async def watched(drain_s: float) -> bool:
            drained.append(drain_s)
            return await stop(drain_s)

        running.runtime.stop = watched  # type: ignore[method-assign]

    assert drained == [0.25]


@pytest.mark.parametrize("reads", [True, False])
async def test_retention_of_the_settings_reaches_the_journal_and_only_by_from_settings(folder, reads):
    write(folder / "spine.toml", 'journal = "memory://"\nretention = {orders = "90d"}\n')
    spine = Spine.from_settings() if reads else Spine("memory://")

    async with spine, spine.running(Service("shop", publishes="orders")):
        kept = {keep.channel: keep.keep_us for keep in await spine.journal.keeps()}

    assert kept == ({"orders": 90 * 86_400_000_000} if reads else {})
