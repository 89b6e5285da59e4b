"""`fae`: one command whose subcommands come from the installed packages.

An entry point named "encode" is `fae encode`, one named "train.flow" is `fae train flow`. Each is a plain function with
typer annotations, or a typer app; modules that hold them import heavy things inside the functions, so help stays quick.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from fae_core.children import follow_parent
from fae_core.cli.process import keep_freed_memory, tame_threads
from fae_core.command import arguments_in_force, require_separate_output
from fae_core.errors import FAEError, MissingPackage
from fae_core.plugins import load_plugins
from fae_core.redact import redact

HELP = "FAE: turn a frozen vision encoder into a latent space, and generate images in it."

# Who provides a command that is not installed.
_PROVIDERS = {
    "encode": "fae-encoder",
    "train": "fae-decoders (autoencoder, pixel, vae), fae-diffusion (diffusion), fae-flow (flow)",
    "train.autoencoder": "fae-decoders",
    "train.pixel": "fae-decoders",
    "train.vae": "fae-decoders",
    "train.diffusion": "fae-diffusion",
    "train.flow": "fae-flow",
    "reconstruct": "fae-decoders",
    "import": "fae-diffusion (sit, lightningdit, mmdit), fae-flow (starflow), fae-decoders (autoencoder-kl, rae)",
    "eval": "fae-eval",
}
_GROUP_HELP = {
    "train": "Train a tokenizer's parts or a generator.",
    "import": "Import a checkpoint of an original implementation.",
}


class _RedactingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class PluginGroup(TyperGroup):
    """A group whose commands are entry points below a prefix, loaded when they are named."""

    prefix = ""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(
            {
                name[len(self.prefix) :].split(".")[0]
                for name in load_plugins("fae.commands")
                if name.startswith(self.prefix)
            }
        )

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        full = self.prefix + cmd_name
        points = load_plugins("fae.commands")
        if full in points:
            return _as_command(cmd_name, points[full].load())
        if any(name.startswith(f"{full}.") for name in points):
            return _plugin_group(f"{full}.", _GROUP_HELP.get(full, ""))
        if full in _PROVIDERS:
            raise MissingPackage(f"fae {full.replace('.', ' ')}", _PROVIDERS[full])
        return None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong input (one line says what), 130 interrupted, 143 terminated."""
    follow_parent()
    tame_threads()
    keep_freed_memory()
    sys.exit(_run(list(sys.argv[1:] if arguments is None else arguments)))


def invoke(arguments: Sequence[str]) -> Any:
    """Run one `fae` command inside this process; errors are raised as FAEError."""
    token = arguments_in_force.set(tuple(arguments))
    try:
        return _application().main(args=list(arguments), standalone_mode=False, prog_name="fae")
    except Exception as error:
        if hasattr(error, "format_message"):  # click's own complaints about arguments
            raise FAEError(f"fae {arguments[0] if arguments else ''}: {error.format_message()}") from None
        raise
    finally:
        arguments_in_force.reset(token)


def providers(words: Sequence[str]) -> str | None:
    """The package that provides the command whose words these are, as far as this version knows."""
    full = ".".join(words[:2])
    return _PROVIDERS.get(full) or (_PROVIDERS.get(words[0]) if words[0] not in _GROUP_HELP else None)


def _run(arguments: list[str]) -> int:
    handler = logging.StreamHandler()
    handler.setFormatter(_RedactingFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("fae").setLevel(logging.INFO)
    # Hub clients print bars of their own for every small file.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    arguments_in_force.set(tuple(arguments))
    try:
        with _orderly_end():
            require_separate_output()
            _application().main(args=arguments, prog_name="fae")
    except Terminated:
        print("terminated", file=sys.stderr)  # noqa: T201
        return Terminated.status
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        return 130
    except Exception as error:
        return _explain(error)
    return 0


class Terminated(SystemExit):
    """SIGTERM, where nobody waits for it: folders that are not complete are removed, and locks released, on the way out."""

    status = 128 + signal.SIGTERM

    def __init__(self, *_: object) -> None:
        super().__init__(self.status)


@contextmanager
def _orderly_end() -> Iterator[None]:
    """Raise Terminated at SIGTERM, where the program that we are in does nothing about it."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _explain(error: Exception) -> int:
    """Print an error that a user can mend as one line; raise any other."""
    if isinstance(error, FAEError):
        print(f"error: {redact(str(error))}", file=sys.stderr)  # noqa: T201
        return getattr(error, "exit_code", 2)
    if type(error).__name__ == "OutOfMemoryError":
        line = str(error).splitlines()[0]
        print(  # noqa: T201
            f"error: out of memory ({line}); lower --batch-size or raise training.accumulation, "
            "or use --set training.precision=bf16",
            file=sys.stderr,
        )
        return 2
    raise error


def _application() -> Any:
    return _plugin_group("", HELP)


def _plugin_group(prefix: str, text: str) -> Any:
    class Group(PluginGroup):
        pass

    Group.prefix = prefix
    app = typer.Typer(cls=Group, help=text, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

    @app.callback()
    def callback() -> None:
        pass

    callback.__doc__ = text
    return get_command(app)


def _as_command(name: str, target: Any) -> Any:
    if isinstance(target, typer.Typer):
        command = get_command(target)
    else:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command(name)(target)
        command = get_command(app)
    command.name = name
    return command


if __name__ == "__main__":
    main()
