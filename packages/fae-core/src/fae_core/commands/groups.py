"""`fae`: one command whose subcommands come from the installed packages.

An entry point named "encode" is `fae encode`, one named "train.flow" is `fae train flow`. Each is a function with typer
annotations, or a typer app. Their modules import large packages inside the functions, so that help stays fast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from fae_core.commands.output import choose, command_output
from fae_core.commands.running import command_in_force, require_separate_output, resumed_arguments
from fae_core.errors import FAEError, MissingPackage, UnknownName
from fae_core.plugins import load_plugins, own_versions

HELP = "FAE: turn a frozen vision encoder into a latent space, and generate images in it."
# Packages to install for commands that are absent.
_PROVIDERS = {
    "encode": ("fae-encoder",),
    "train": ("fae-decoders", "fae-diffusion", "fae-flow"),
    "train.autoencoder": ("fae-decoders",),
    "train.pixel": ("fae-decoders",),
    "train.vae": ("fae-decoders",),
    "train.diffusion": ("fae-diffusion",),
    "train.flow": ("fae-flow",),
    "reconstruct": ("fae-decoders",),
    "import": ("fae-diffusion", "fae-flow", "fae-decoders"),
    "eval": ("fae-eval",),
    "explore": ("fae-eval[ui]",),
}
_GROUP_HELP = {
    "train": "Train a tokenizer's parts or a generator.",
    "import": "Import a checkpoint of an original implementation.",
}
_PLAIN = None  # help without rich, which takes as long to import as all else that help needs
_INTERRUPTED = 130  # what typer returns for a KeyboardInterrupt


class PluginGroup(TyperGroup):
    """A group whose commands are the entry points below a prefix; each is loaded when it is named.

    Attributes:
        prefix: Common beginning of the entry points' names, such as "train.", or "" for `fae` itself.
    """

    prefix = ""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the group's commands and of the groups below it, sorted."""
        return sorted(
            {
                name[len(self.prefix) :].split(".")[0]
                for name in load_plugins("fae.commands")
                if name.startswith(self.prefix)
            }
        )

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command or group of that name; None for an option, and for what a shell cannot complete.

        Raises:
            MissingPackage: The command belongs to a package that is not installed.
            UnknownName: There is no such command.
        """
        full = self.prefix + cmd_name
        points = load_plugins("fae.commands")
        if full in points:
            return _as_command(cmd_name, points[full].load())
        if any(name.startswith(f"{full}.") for name in points):
            return _plugin_group(f"{full}.", _GROUP_HELP.get(full, ""))
        if ctx.resilient_parsing or cmd_name.startswith("-"):
            return None  # a shell that completes a line, or an option, which click reports
        if full in _PROVIDERS:
            raise MissingPackage(f"fae {full.replace('.', ' ')}", *_PROVIDERS[full])
        raise UnknownName(f"command of fae {self.prefix.rstrip('.')}".rstrip(), cmd_name, self.list_commands(ctx))

    def invoke(self, ctx: Any) -> None:
        """Run the command that was named. What it returns is dropped: typer returns a status in the same way."""
        super().invoke(ctx)


def invoke(arguments: Sequence[str], *, complete: bool = False) -> None:
    """Run one `fae` command inside this process.

    Args:
        arguments: What follows `fae`.
        complete: Add nothing from the run's record to a `train ... --resume`; for the steps of recipes.

    Raises:
        FAEError: Wrong arguments, what the command raises, or the message that it gives to sys.exit.
        KeyboardInterrupt: The command was interrupted.
        SystemExit: The command ended with a status other than 0, by typer.Exit or sys.exit. A number that it returns is
            no status, as everywhere in typer.
    """
    _require_text(arguments)
    arguments = arguments if complete else resumed_arguments(arguments)
    try:
        with command_in_force(arguments), command_output():
            require_separate_output()
            status = _application().main(args=list(arguments), standalone_mode=False, prog_name="fae")
        if status == _INTERRUPTED:
            raise KeyboardInterrupt
        if status:
            raise SystemExit(status)
    except SystemExit as end:
        if isinstance(end.code, str):
            raise FAEError(end.code) from None
        if end.code:
            raise
    except Exception as error:
        message = getattr(error, "format_message", None)  # of click's errors about arguments
        if message is not None:
            if type(error).__name__ == "NoArgsIsHelpError":
                raise FAEError("no command is given; fae --help lists them") from error
            command = getattr(getattr(error, "ctx", None), "command_path", "fae")
            raise FAEError(f"{command}: {message()} (see {command} --help)") from None
        raise


def every_command() -> dict[str, Any]:
    """Every command of the installed packages by its words, such as "train flow"; imports their modules.

    Returns:
        Words -> the command as typer has made it, in alphabetical order.
    """
    found: dict[str, Any] = {}

    def walk(group: Any, words: tuple[str, ...]) -> None:
        for name in group.list_commands(None):
            inner = group.get_command(None, name)
            if hasattr(inner, "list_commands"):
                walk(inner, (*words, name))
            else:
                found[" ".join((*words, name))] = inner

    walk(_application(), ())
    return found


def providers(words: Sequence[str]) -> tuple[str, ...]:
    """The packages that provide a command, as far as this version knows.

    Args:
        words: The arguments after `fae`.
    """
    full = ".".join(words[:2])
    return _PROVIDERS.get(full) or (_PROVIDERS.get(words[0], ()) if words[0] not in _GROUP_HELP else ())


def _require_text(arguments: Sequence[str]) -> None:
    """Raise FAEError for an argument that no record could hold: bytes that are not UTF-8, or a NUL."""
    for argument in arguments:
        if "\0" in argument or any("\ud800" <= letter <= "\udfff" for letter in argument):
            raise FAEError(f"the argument {argument[:60]!r} is not UTF-8 text; a file of that name must be renamed")


def _application() -> Any:
    return _plugin_group("", HELP)


def _plugin_group(prefix: str, text: str) -> Any:
    class Group(PluginGroup):
        pass

    Group.prefix = prefix
    app = typer.Typer(
        cls=Group,
        help=text,
        add_completion=not prefix,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=_PLAIN,
    )

    def callback() -> None:
        pass

    def with_version(
        version: Annotated[
            bool, typer.Option("--version", is_eager=True, callback=_print_versions, help="Show versions and exit.")
        ] = False,
    ) -> None:
        pass

    app.callback()(callback if prefix else with_version)
    callback.__doc__ = with_version.__doc__ = text
    command = get_command(app)
    command.name = prefix.rstrip(".").rpartition(".")[2] or "fae"
    return command


def _print_versions(wanted: bool) -> None:
    if wanted:
        typer.echo(", ".join(f"{name} {version}" for name, version in own_versions().items()))
        raise typer.Exit


def _as_command(name: str, target: Any) -> Any:
    command = get_command(target if isinstance(target, typer.Typer) else _function_app(name, target))
    command.name = name
    _complete(command)
    return command


def _function_app(name: str, function: Any) -> typer.Typer:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(name)(function)
    return app


def _complete(command: Any) -> None:
    """Give a command, or those of a group, plain help and the options that all have; let it refuse numbers that are not
    finite."""
    command.rich_markup_mode = _PLAIN
    command.short_help = " ".join((command.help or "").split("\n\n")[0].split())  # in a group's list: not cut
    inner = getattr(command, "commands", None)
    for one in (inner or {}).values():
        _complete(one)
    for parameter in command.params:
        parameter.callback = partial(_finite, parameter.callback)
    if inner is None:
        command.params += get_command(_function_app("options", _shared_options)).params


def _shared_options(
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            is_eager=True,
            expose_value=False,
            callback=lambda wanted: choose(as_json=wanted),
            help="Print one JSON document instead of text.",
        ),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet",
            is_eager=True,
            expose_value=False,
            callback=lambda wanted: choose(quiet=wanted),
            help="Print warnings and errors only.",
        ),
    ] = False,
) -> None:
    """Options of every command, which act before it runs."""


def _finite(then: Any, context: Any, parameter: Any, value: Any) -> Any:
    """The value, by way of the option's own callback `then`; raises FAEError where a number is not finite."""
    for number in value if isinstance(value, list | tuple) else [value]:
        if isinstance(number, float) and not math.isfinite(number):
            raise FAEError(f"{parameter.opts[0]} must be a finite number, not {number}")
    return value if then is None else then(context, parameter, value)
