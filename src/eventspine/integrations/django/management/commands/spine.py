"""`manage.py spine …`: all of `spine`, with Django set up and the journal of the settings.

    manage.py spine run              the services of the project
    manage.py spine tail             and so on, as `spine` itself

What is done here reaches the processes that `run` starts: the journal and what to run stand in the environment and in
the name of a module, which sets Django up by itself.
"""

from __future__ import annotations

import os
import sys
from argparse import REMAINDER, ArgumentParser
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from django.core.management.base import BaseCommand, CommandError, SystemCheckError
from django.db import connections

from eventspine.cli.app import spine
from eventspine.cli.inside import Inside, inside
from eventspine.errors import SettingsError, SpineError
from eventspine.integrations.django import journals, settings
from eventspine.integrations.django.discovery import NAMED
from eventspine.settings import variable

PACKAGE = "eventspine.integrations.django"


class Command(BaseCommand):
    help = "Runs the project's services, and shows what they did: `spine` on the journal of this project."

    def run_from_argv(self, argv: Sequence[str]) -> None:
        try:
            self._spine(_without_djangos(argv[2:]), f"{os.path.basename(argv[0])} {argv[1]}")
        except (CommandError, SpineError) as error:
            self.stderr.write(str(error) if isinstance(error, SystemCheckError) else f"spine: {error}")
            sys.exit(2)

    def print_help(self, prog_name: str, subcommand: str) -> None:
        try:
            spine.main(["--help"], prog_name=f"{os.path.basename(prog_name)} {subcommand}")
        except SystemExit:
            pass

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("arguments", nargs=REMAINDER, help="as those of `spine`")

    def handle(self, *_: Any, arguments: Sequence[str], **__: Any) -> None:
        """For `call_command("spine", "tail", "--no-follow")`."""
        try:
            self._spine(list(arguments), "spine")
        except SpineError as error:
            raise CommandError(str(error), returncode=2) from error
        except SystemExit as end:
            if end.code:
                raise CommandError(f"spine {' '.join(arguments)} ended with {end.code}.", returncode=end.code) from end

    def _spine(self, arguments: list[str], program: str) -> None:
        command = next((word for word in arguments if not word.startswith("-")), "")
        _refuse_other_journal(arguments)
        if command in ("", "new", "completion"):
            spine.main(arguments, prog_name=program)
        if command == "reset":
            raise SettingsError(
                "`spine reset` is for a file, which it puts aside, and here the journal is in the project's own database. Stop what "
                "runs, put the database aside by hand, and `manage.py migrate`."
            )
        os.environ[variable("journal")] = journals.url_of(journals.wrapper())
        inside.set(_in_this_project())
        if command == "run":
            self.check()
            self.check_migrations()  # a word, as of `runserver`: handlers would fail on tables that are not there
            self._make_journal()
            os.environ["PYTHONPATH"] = os.pathsep.join(_project_paths())
            arguments = _run_of_project(arguments)
        elif command == "publish" and not any(word.startswith(("-m", "--module")) for word in arguments):
            arguments = [*arguments, "--module", f"{PACKAGE}.declared"]
        connections.close_all()  # of this thread, which will use none
        spine.main(arguments, prog_name=program)

    def _make_journal(self) -> None:
        if journals.make_first(journals.wrapper()):
            self.stderr.write(
                "The tables of the journal were not there yet; they have been made. `python manage.py migrate` makes them with those "
                "of your models: run it before the first start."
            )


def _in_this_project() -> Inside:
    alias = settings.read().database
    return Inside(
        f"DATABASES[{alias!r}]",
        "`python manage.py migrate` makes its tables, in the database that EVENTSPINE['DATABASE'] names.",
        f"{PACKAGE}.declared",
        "This project",
    )


def _without_djangos(arguments: Sequence[str]) -> list[str]:
    """Without --settings and --pythonpath, which `manage.py` has read by now."""
    left, skip = [], False
    for word in arguments:
        if skip or word.startswith(("--settings=", "--pythonpath=")):
            skip = False
        elif word in ("--settings", "--pythonpath"):
            skip = True
        else:
            left.append(word)
    return left


def _refuse_other_journal(arguments: Sequence[str]) -> None:
    if any(word.split("=")[0] == "--journal" for word in arguments):
        raise SettingsError(
            "manage.py spine works on the journal of this project, in the database of EVENTSPINE['DATABASE']. For another one "
            "there is `spine --journal` itself."
        )


def _project_paths() -> list[str]:
    """Where this process finds the project: the folder of manage.py, --pythonpath, PYTHONPATH. They come before Python's
    own, and the processes that `run` starts know nothing of the first two."""
    library = f"python{sys.version_info.major}{sys.version_info.minor}.zip"
    return [path for path in takewhile(lambda path: os.path.basename(path) != library, sys.path) if path]


def _run_of_project(arguments: list[str]) -> list[str]:
    """The modules that were named, if any, are found by the module that sets Django up first."""
    run = spine.get_command(None, "run")  # type: ignore[arg-type]  # it looks at no context
    assert run is not None
    at = arguments.index("run") + 1
    parser = run.make_parser(run.make_context("run", [], resilient_parsing=True))
    try:
        named = parser.parse_args(list(arguments[at:]))[0].get("modules")
    except Exception:  # noqa: BLE001 -- it is said properly, with the usage, when it runs
        return arguments
    left = arguments[at:]
    if isinstance(named, tuple) and named:  # of click 8.3, a sentinel where there are none
        os.environ[NAMED] = " ".join(named)
        for place in named:
            left.remove(place)
    return [*arguments[:at], f"{PACKAGE}.services", *left]
