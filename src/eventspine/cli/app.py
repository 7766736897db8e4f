"""The command `spine`: what it is called with, and which module does what.

Only click is imported here. A subcommand's module is imported when it is called; `spine --help` reads the table.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn, TypeVar

import click

from .. import settings, settings_values
from .exits import Misused, PipeClosed, explain, guarded

F = TypeVar("F", bound=Callable[..., Any])

COMMANDS = {
    "run": "Run the services of one or more modules until told to stop.",
    "publish": "Publish events, given as JSON.",
    "tail": "Print events as they are published.",
    "trace": "Show all that one event caused, as a tree.",
    "audit-trail": "Show who had what done, when and why.",
    "dead": "Deliveries that were given up: list, show, replay, drop.",
    "parked": "Deliveries that wait for their next attempt: list, show, retry, skip.",
    "subscriptions": "What each service reads and how far it has come.",
    "schedule": "What is not due yet: list, cancel; run a periodic handler now.",
    "replay": "Copy chosen history into a scratch journal, to reproduce a bug with a debugger attached.",
    "streams": "The events of one entity.",
    "top": "A live screen of services, subscriptions and what fails.",
    "health": "Whether the services are at work.",
    "doctor": "Look at the journal and say what is wrong with it; and at the broker, where one is named.",
    "topology": "What services need on the broker: plan, apply, verify; and replay, of a broker with an archive.",
    "servers": "Real brokers on this machine, for tests and to try things out: install, up, down, list.",
    "views": "Views: which versions there are, and which one is read.",
    "retention": "For how long events are kept; what was deleted, and what holds it back.",
    "backup": "Copy the journal while services run, and verify the copy.",
    "restore": "Verify a backup, say what it lacks, and put it in the journal's place.",
    "settings": "Show each setting and where it came from.",
    "new": "Make a working project: an event, a handler, a test.",
    "reset": "Start over with an empty journal, in development.",
    "completion": "Print the script that completes commands, options and names in a shell.",
}


class Invocation:
    """What flags said, of whatever command: settings, their file, and whether to show tracebacks."""

    def __init__(self) -> None:
        self.debug = False
        self.journals: tuple[str, ...] = ()  # of a command that reads several
        self.settings_file: str | None = None
        self.said: dict[str, Any] = {}  # settings, by name
        self.explains: Callable[[Exception, bool], None] = explain  # what ended the command, with its traceback or not
        self._read: settings.Settings | None = None

    @property
    def settings(self) -> settings.Settings:
        """Read when they are first asked for, when all flags have been seen."""
        if self._read is None:
            self._read = settings.read(self.said, file=self.settings_file)
        return self._read

    @property
    def url(self) -> str:
        return self.settings.journal

    def explain(self, error: Exception) -> None:
        self.explains(error, self.debug)


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value and parameter.name:
        setattr(context.ensure_object(Invocation), parameter.name, value)


def _said(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    name = parameter.name or ""
    if value:
        try:
            context.ensure_object(Invocation).said[name] = settings.SETTINGS[name].read(value)
        except settings_values.Refused as refused:
            shown = settings.without_secrets(repr(value))
            raise click.BadParameter(f"{shown} can't be used; it is to be {refused}.") from None


def _setting(name: str, metavar: str, help: str | None = None) -> click.Option:
    """The flag of a setting. Not said, it leaves the word to the environment and the settings file."""
    setting = settings.SETTINGS[name]
    default = settings_values.plain(setting.default)
    told = (
        f"{help or setting.says} [env: {settings.variable(name)}{'' if default is None else f'; default: {default}'}]"
    )
    flag = f"--{name.replace('_', '-')}"
    return click.Option([flag, name], metavar=metavar, expose_value=False, callback=_said, help=told)


def _several_journals() -> click.Option:
    def said(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> None:
        invocation = context.ensure_object(Invocation)
        for value in values:
            _said(context, parameter, value)
            invocation.journals += (invocation.said["journal"],)

    option = _setting("journal", "URL")
    told = f"{option.help} May be repeated."
    return click.Option(["--journal"], metavar="URL", multiple=True, expose_value=False, callback=said, help=told)


def setting_option(name: str, metavar: str, help: str | None = None) -> Callable[[F], F]:
    """Gives a command the flag of this setting; its value is in `invocation.settings`."""

    def add(function: F) -> F:
        option = _setting(name, metavar, help)
        if isinstance(function, click.Command):
            function.params.append(option)
        else:  # as click's own decorators keep them until the command is made
            function.__dict__.setdefault("__click_params__", []).append(option)
        return function

    return add


def _common_options() -> list[click.Parameter]:
    """They may stand before the command as well as after it."""
    file_help = (
        f"The settings file. [env: {settings.SETTINGS_VARIABLE}; default: spine.toml or pyproject.toml, here or above]"
    )
    return [
        _setting("journal", "URL"),
        click.Option(
            ["--settings", "settings_file"], metavar="FILE", expose_value=False, callback=_remember, help=file_help
        ),
        click.Option(["--debug"], is_flag=True, expose_value=False, callback=_remember, help="Show tracebacks."),
    ]


class Command(click.Command):
    """`several_journals`: --journal may be repeated, and `invocation.journals` has them all."""

    def __init__(self, *args: Any, several_journals: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        journal, *others = _common_options()
        self.params.extend([_several_journals() if several_journals else journal, *others])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        for parameter in self.params:
            if isinstance(parameter.type, click.types.StringParamType):
                _refuse_what_is_no_text(parameter, ctx.params.get(parameter.name or ""))
        return rest


def _refuse_what_is_no_text(parameter: click.Parameter, value: Any) -> None:
    """Bytes of the command line that are no UTF-8 reach Python as lone surrogates, which no journal can be asked for."""
    for text in value if isinstance(value, tuple) else (value,):
        if isinstance(text, str) and any("\ud800" <= character <= "\udfff" for character in text):
            name = parameter.opts[0] if isinstance(parameter, click.Option) else parameter.human_readable_name
            raise Misused(f"{name} is not UTF-8. Set the terminal to it.")


class _Suggesting(click.Group):
    """Of a command that there is not, it names the one that may be meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args[0] in known or args[0].startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        close = get_close_matches(args[0], known, n=1)
        meant = f" Did you mean {close[0]}?" if close else ""
        raise click.UsageError(f"No such command {args[0]!r}.{meant}", ctx)


class Group(_Suggesting):
    """A command with subcommands, such as `spine dead`."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(_common_options())


class Spine(_Suggesting):
    """The root: finds subcommands in their modules, and ends the process as `exits` says."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = cmd_name.replace("-", "_")
        found: click.Command = import_module(f".{module}", __package__).command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # before click sees it, who would call it a failure
            raise PipeClosed from error

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        invocation = Invocation()
        extra.pop("standalone_mode", None)
        call = super().main
        code = guarded(
            lambda: call(args, prog_name, standalone_mode=False, obj=invocation, **extra),
            invocation.explain,
        )
        sys.exit(code)


def _show_version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version

        click.echo(f"spine {version('eventspine')}")
        context.exit()


@click.group("spine", cls=Spine, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Show the release."
)
def spine() -> None:
    """Event-driven services on one journal: run them, and see what they did."""


spine.params.extend(_common_options())


def json_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


pass_invocation = click.make_pass_decorator(Invocation, ensure=True)
