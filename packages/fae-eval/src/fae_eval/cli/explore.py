"""`fae explore`: a page on which to draw, reconstruct, compare and interpolate."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from fae_core.cli.options import Device, images_there, model_there, tokenizer_there
from fae_core.commands.output import say

if TYPE_CHECKING:
    import socket


def explore(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            callback=model_there,
            help="A bundle's name, folder or hub id; a run or a model; or the folder of `fae demo`. "
            "Default: the bundle that is installed.",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer", callback=tokenizer_there, help="Run folder, model folder or hub id of a tokenizer, instead."
        ),
    ] = None,
    generator: Annotated[
        list[str] | None,
        typer.Option("--generator", help="The same of a generator, beside those found; may be repeated."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", callback=images_there, help='Images to pick from beside uploads: a folder, ... or "photographs".'
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to answer at; 0.0.0.0 lets the whole network in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any that is free.")] = 7860,
    device: Device = None,
) -> None:
    """Open a page in the browser: sample, reconstruct, compare patches, interpolate. Ends with Ctrl+C.

    Nothing leaves the machine: no links to share, no telemetry, no fonts or scripts from elsewhere. Pictures that are
    uploaded are deleted when the program ends.

    Example: fae explore --model cifar10
    """
    from fae_core.models.stored import require_pair, stored_model
    from fae_eval.explore.find import find_models

    found = find_models(model, tokenizer, generator or ())
    reads = stored_model("tokenizer", found.tokenizer)
    for one in found.generators.values():
        require_pair(stored_model("generator", one), reads, decodes=False)
    _require_gradio()
    with listening(host, port) as bound:
        from fae_core.images import open_images
        from fae_eval.explore.models import load_models
        from fae_eval.explore.page.server import serve

        for sentence in found.left_out:
            say(sentence)
        source = None if data is None else open_images(data)
        models = load_models(found, device)
        where = f"http://{_in_address(host)}:{bound.getsockname()[1]}/"

        def ready() -> None:
            more = "" if host in ("127.0.0.1", "localhost", "::1") else "; whoever reaches this machine can use it"
            say(f"open {where}{more}; Ctrl+C ends it")
            sys.stdout.flush()  # it may be a pipe, and the command does not end

        serve(models, source, bound, host, ready)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens at an address.

    Args:
        host: Its name or number.
        port: 0 takes any that is free.

    Raises:
        FAEError: There is no such address here, or another program has it.
    """
    import errno
    import socket

    from fae_core.errors import FAEError

    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        raise FAEError(f"--host {host} is no address of this machine") from None
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(128)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            reason = f"port {port} of {host} is in use; give another one, or --port 0 for any that is free"
        elif error.errno == errno.EACCES:
            reason = f"port {port} is reserved for programs of the system; give one above 1023"
        else:
            reason = f"--host {host} is no address of this machine ({(error.strerror or str(error)).lower()})"
        raise FAEError(reason) from None
    return bound


def _in_address(host: str) -> str:
    """A host as it is written in an address to open."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    return f"[{shown}]" if ":" in shown and not shown.startswith("[") else shown


def _require_gradio() -> None:
    """Raise MissingPackage where gradio is not installed."""
    import importlib.util

    if importlib.util.find_spec("gradio") is None:
        from fae_core.errors import MissingPackage

        raise MissingPackage("fae explore", "fae-eval[ui]")
