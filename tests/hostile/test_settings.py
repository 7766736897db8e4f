"""Settings from the environment and from files: whatever is said is used or refused, promptly, with its place and without
its secrets."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from eventspine import settings
from eventspine.errors import SettingsError
from eventspine.settings import SETTINGS, variable, without_secrets

from .corpus import EVIL_TEXT, promptly

VALUES = (
    *EVIL_TEXT, "9" * 5_000, ":" + "9" * 5_000, "[::1]:" + "9" * 5_000, "1e400", "nan", "-1", "\u0663", "1_0", "\ud800",
    "x" * 130_000, "?" * 130_000, "?a" * 60_000, "@" * 130_000, "//" * 60_000, "sqlite:///\0", "sqlite:///" + "a" * 5_000,
    "a=" + "9" * 5_000 + "d", "a=1d " * 20_000, "a=0.0000001s",
)  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("value", VALUES, ids=lambda value: ascii(value)[:30])
def test_a_variable_is_used_or_refused(name: str, value: str) -> None:
    with promptly():
        try:
            repr(settings.read(environment={variable(name): value}))
        except SettingsError as refused:
            assert variable(name) in str(refused)
            assert len(str(refused)) < 1_000


@given(st.sampled_from(sorted(SETTINGS)), st.text() | st.sampled_from(VALUES))
def test_any_text_is_used_or_refused(name: str, value: str) -> None:
    try:
        repr(settings.read(environment={variable(name): value}))
    except SettingsError:
        pass


@pytest.mark.parametrize(
    "text",
    [
        "a=" + "[" * 100_000 + "]" * 100_000,
        "a=" + "{a=" * 50_000 + "1" + "}" * 50_000,
        "[" * 1_000,
        "drain_s=" + "9" * 5_000,
        "drain_s=nan",
        "drain_s=2020-01-01",
        "drain_s=true",
        "drain_s=1\ndrain_s=2",
        'a="\\ud800"',
        'journal="sqlite:///\\u0000"',
        '"\\u001b[2J\\u202e"=1',
        "processes=99999999999999999999",
        "health=99999999999999999999999",
        "#" + "x" * 20_000_000,
        "\0",
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_a_file_is_used_or_refused_with_its_name(text: str, tmp_path: Path) -> None:
    file = tmp_path / "spine.toml"
    file.write_text(text)
    with promptly():
        try:
            repr(settings.read(file=file, environment={}))
        except SettingsError as refused:
            assert str(file) in str(refused)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "spine.toml").write_bytes(b"\xff\xfe\0")
    with pytest.raises(SettingsError, match=r"spine\.toml"):
        settings.read(file=tmp_path / "spine.toml", environment={})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgres://me:pa@ss@host/db", "postgres://…@host/db"),
        ("me:pass@host", "…@host"),
        ("kafka://host?a=1&sasl_password=x;b=2", "kafka://host?a=1&sasl_password=…;b=2"),
        ("sqlite:///a@b.db", "sqlite:///a@b.db"),
        ("sqlite:///a.db?key=x", "sqlite:///a.db?key=…"),
    ],
)
def test_secrets_are_left_out_of_what_is_shown(url: str, shown: str) -> None:
    assert shown == without_secrets(url)
