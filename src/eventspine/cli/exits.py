"""How a command ends: its exit code, and one message on stderr that says what to do next.

    0    done
    1    failed: something went wrong on the way
    2    usage: the command line, a setting or a declaration is wrong, or the journal's server lets nobody in like this
    3    the journal refused: registration, busy, or written by a release that this one can't share it with; or another journal
         has this one's place at the broker
    4    nothing found: the journal, backup, event, delivery, subscription or view that was named does not exist
    130  interrupted from the keyboard, or a question was answered with no
    141  whoever read the output left (as a shell reports it)

A traceback is printed with --debug only.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress

import click

from .. import errors
from ..observe.printable import printable_lines

FAILED, USAGE, REFUSED, NOTHING_FOUND, INTERRUPTED, PIPE_CLOSED = 1, 2, 3, 4, 130, 141

_NO_ARGUMENTS: tuple[type[click.UsageError], ...] = tuple(
    filter(None, [getattr(click.exceptions, "NoArgsIsHelpError", None)])
)  # click 8.2 raises it; click 8.1 prints the help by itself


class NothingFound(click.ClickException):
    exit_code = NOTHING_FOUND


class Refused(click.ClickException):
    exit_code = REFUSED


class PipeClosed(Exception):
    """Whoever read our output left."""


class Misused(click.ClickException):
    """The command line is well formed and still can't be meant; the message says what can."""

    exit_code = USAGE


class Failed(click.ClickException):
    exit_code = FAILED


_CODES: tuple[tuple[type[Exception], int], ...] = (
    (errors.RegistrationRefused, REFUSED),
    (errors.BrokerTaken, REFUSED),
    (errors.JournalBusy, REFUSED),
    (errors.JournalVersion, REFUSED),
    (errors.DeclarationError, USAGE),
    (errors.SettingsError, USAGE),
    (errors.JournalDenied, USAGE),
    (errors.MissingExtra, USAGE),
)


def code_of(error: Exception) -> int:
    if isinstance(error, click.ClickException):
        return error.exit_code
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)


def guarded(command: Callable[[], object], explain: Callable[[Exception], None]) -> int:
    """Run the command; its exit code, whatever happens."""
    open_standard_streams()
    try:
        answer = command()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except click.Abort:  # a question that was not answered
        return INTERRUPTED
    except (PipeClosed, BrokenPipeError):
        _forget_output()
        return PIPE_CLOSED
    except Exception as error:
        explain(error)
        return code_of(error)
    return answer if isinstance(answer, int) else 0


def open_standard_streams() -> None:
    """Give closed standard streams somewhere to go, lest a journal's file takes their number; escape what the
    terminal's encoding can't show rather than fail on it."""
    for descriptor, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            null = os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: the one that was closed
            setattr(sys, name, os.fdopen(null, "r" if descriptor == 0 else "w"))
        elif descriptor and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _forget_output() -> None:
    """Nobody reads any more: keep the interpreter's own flush at exit from complaining."""
    with suppress(OSError, ValueError):  # a stdout that is no file has no flush to fear
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def explain(error: Exception, debug: bool) -> None:
    if debug:
        complain("".join(traceback.format_exception(error)).rstrip())
        return
    if isinstance(error, _NO_ARGUMENTS) and error.ctx is not None:
        complain(error.ctx.get_help())  # a bare `spine dead` asks what there is, and that is all it is told
        return
    if isinstance(error, click.UsageError) and error.ctx is not None:
        complain(error.ctx.get_usage())
        complain(f"Try '{error.ctx.command_path} --help' for help.")
    complain(f"spine: {words_of(error)}")


def words_of(error: Exception) -> str:
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, errors.SpineError):
        return str(error)
    told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return "\n".join(
        (f"unexpected {told}", *getattr(error, "__notes__", ()), "Run it again with --debug to see where.")
    )


def complain(message: str) -> None:
    try:
        click.echo(printable_lines(message), err=True)
    except OSError:
        pass  # nobody reads stderr; the exit code still tells
