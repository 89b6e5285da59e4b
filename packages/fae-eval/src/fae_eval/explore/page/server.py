"""The server of the page: one address, nothing from elsewhere, nothing left behind."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fae_core.commands.signals import ENDING, asked_to_end
from fae_eval.explore.models import Models
from fae_eval.explore.uploads import MOST_BYTES

# Whatever gradio's pages name, a browser fetches nothing but from this server.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
_LOCAL = ("localhost", "127.0.0.1", "[::1]", "::1")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class OnlyHere:
    """Adds the policy to every answer, and answers no request that was meant for a host of another name.

    Args:
        app: What answers.
        hosts: Names under which the server is asked for; () for any. A page elsewhere could give its own name this
            machine's address, and would then be let in as if it were this page.
    """

    def __init__(self, app: Any, hosts: tuple[str, ...] = ()) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        asked = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
        name = asked.rsplit(":", 1)[0] if not asked.endswith("]") else asked
        if self.hosts and name not in self.hosts:
            await send({"type": "http.response.start", "status": 421, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"this server answers for its own address alone"})
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        await self.app(scope, receive, answer)


def serve(models: Models, source: Any, bound: socket.socket, host: str, ready: Callable[[], None]) -> None:
    """Answer until the process is ended.

    Args:
        models: What is explored.
        source: Images that are offered beside uploads; None for none.
        bound: The socket, listening.
        host: As the user gave it.
        ready: Called when the page is built, just before it is served.
    """
    with tempfile.TemporaryDirectory(prefix="fae-explore-") as folder:
        # Read by gradio and by the hub's client as they are imported.
        os.environ.update(
            GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=folder, HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1"
        )
        import gradio as gr
        import uvicorn
        from fastapi import FastAPI
        from uvicorn.server import HANDLED_SIGNALS

        from fae_eval.explore.page.markup import STYLE
        from fae_eval.explore.page.page import make_page, theme

        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        app.add_middleware(OnlyHere, hosts=(*_LOCAL, host) if host in _LOCAL else ())  # pyright: ignore[reportArgumentType]
        gr.mount_gradio_app(
            app,
            make_page(models, source),
            path="/",
            footer_links=[],
            max_file_size=MOST_BYTES,
            show_error=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            theme=theme(),
            head=f"<style>{STYLE}</style>",  # gradio would rewrite its argument css
        )

        class Server(uvicorn.Server):
            """Ends without a word about the pages that are open then: their streams are cut off."""

            async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
                logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
                await super().shutdown(sockets)

        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, access_log=False)
        server = Server(config)
        # A signal that the server does not handle itself would end the process with the uploads on the disk.
        others = set(ENDING) - set(HANDLED_SIGNALS)
        with asked_to_end(lambda number: server.handle_exit(number, None), signals=others):
            ready()
            server.run(sockets=[bound])
