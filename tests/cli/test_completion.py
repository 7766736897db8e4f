"""Completion, in the shells themselves where they are installed."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

ASK = """
source bin/completion
COMP_WORDS=({words})
COMP_CWORD={index}
_spine_completion spine
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def complete(spine):
    """What bash would offer for the last word of a line."""
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    bin = spine.folder / "bin"
    bin.mkdir()
    (bin / "spine").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m eventspine.cli "$@"\n')
    (bin / "spine").chmod(0o755)
    (bin / "completion").write_text(spine("completion", "bash").stdout)
    spine.environment["PATH"] = f"{bin}:{spine.environment['PATH']}"

    def ask(*words: str) -> list[str]:
        quoted = " ".join(f"'{word}'" for word in ("spine", *words))
        script = ASK.format(words=quoted, index=len(words))
        answer = subprocess.run(
            ["bash", "--noprofile", "--norc", "-c", script],
            cwd=spine.folder, env=spine.environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert answer.stderr == ""
        return answer.stdout.split()

    return ask


def test_bash_completes_commands_and_options(complete):
    assert complete("sub") == ["subscriptions"]
    assert {"pause", "resume", "rewind", "rename", "retire"} <= set(complete("subscriptions", ""))
    assert complete("tail", "--corr") == ["--correlation"]
    assert complete("completion", "") == ["bash", "zsh", "fish"]


def test_bash_completes_what_is_stored(complete, story):
    assert complete("subscriptions", "pause", "email.") == ["email.confirm", "email.count"]
    assert complete("dead", "show", "") == ["1", "2"]
    assert complete("parked", "retry", "") == ["3"]
    assert complete("dead", "list", "--handler", "stock") == ["stock.reserve"]
    assert complete("dead", "list", "--service", "") == ["email", "stock"]


def test_bash_completes_in_the_journal_that_was_named(complete, story, spine):
    (spine.folder / "spine.db").rename(spine.folder / "other.db")

    assert complete("subscriptions", "pause", "email.") == []
    assert complete("--journal", "sqlite:///other.db", "subscriptions", "pause", "stock") == ["stock.reserve"]


def test_bash_completes_modules(complete):
    assert complete("run", "book") == ["bookshop"]


def test_without_a_journal_and_with_a_broken_one_it_is_silent(complete, spine):
    assert complete("subscriptions", "pause", "") == []
    (spine.folder / "spine.db").write_text("this is no database")
    assert complete("subscriptions", "pause", "") == []
    (spine.folder / "spine.toml").write_text("nonsense")
    assert complete("subscriptions", "pause", "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_says_where_it_goes_and_is_one_that_the_shell_reads(say, shell, tmp_path):
    script = say("completion", shell).stdout

    assert script.startswith("# To have it in every new shell, put this line into ")
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        assert subprocess.run([shell, "-n", tmp_path / "script"], check=False).returncode == 0
