"""A visitor of `fae explore` who leaves ends what he has begun: the job itself ends, not only what is shown of it."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from explore_clicks import NEEDS, Visitor, chromium, png

from fae_eval.explore.turns import Stopped, Work

pytestmark = NEEDS
_SECONDS = 60  # after which a job that still runs fails the test; one that ends needs a step


class Watched(Work):
    """Tells how each job ended, in the thread that runs it."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: queue.SimpleQueue[str] = queue.SimpleQueue()

    def run(self, key: Any, call: Callable[[Any], Any]) -> Iterator[Any]:
        def watched(tell: Any) -> Any:
            try:
                result = call(tell)
            except Stopped:
                self.ends.put("stopped")
                raise
            self.ends.put("done")
            return result

        return super().run(key, watched)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Watched]]:
    """The address of a page of the bundle in this process, and the work behind it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        import gradio as gr
        import uvicorn
        from fastapi import FastAPI

        from fae_eval.explore.find import find_models
        from fae_eval.explore.models import load_models
        from fae_eval.explore.page import page

        work = Watched()
        patch.setattr(page, "Work", lambda: work)
        models = load_models(find_models("cifar10"), "cpu")
        app = gr.mount_gradio_app(FastAPI(), page.make_page(models), path="/", ssr_mode=False)
        with socket.create_server(("127.0.0.1", 0)) as bound:
            server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
            thread.start()
            yield f"http://127.0.0.1:{bound.getsockname()[1]}/", work
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


def began(browser: Any, address: str) -> Visitor:
    """A visitor whose pictures would take many steps, of which some are done."""
    visitor = Visitor(browser, address)
    visitor.fill("sample-steps", 250)
    visitor.fill("sample-count", 16)
    visitor.click("sample-start")
    visitor.wait("sample-status", "t = ")
    return visitor


def falls_to(work: Watched, count: int) -> bool:
    """Whether so many jobs are left; what a visitor is shown ends a moment after his job."""
    until = time.monotonic() + _SECONDS
    while len(work._running) > count and time.monotonic() < until:
        time.sleep(0.02)
    return len(work._running) == count


LEAVES = {
    "closes the page": lambda visitor: visitor.page.close(),
    "closes the browser": lambda visitor: visitor.context.close(),
    "goes to another page": lambda visitor: visitor.page.goto("about:blank"),
    "loads the page again": lambda visitor: visitor.page.reload(),
}


@pytest.mark.parametrize("how", LEAVES)
def test_the_job_of_who_leaves_ends(browser, served: tuple[str, Watched], how: str) -> None:
    address, work = served
    visitor = began(browser, address)
    assert len(work._running) == 1
    LEAVES[how](visitor)
    assert work.ends.get(timeout=_SECONDS) == "stopped"
    assert falls_to(work, 0)
    visitor.context.close()


def test_who_stays_goes_on(browser, served: tuple[str, Watched]) -> None:
    address, work = served
    staying, leaving = began(browser, address), began(browser, address)
    leaving.context.close()
    assert work.ends.get(timeout=_SECONDS) == "stopped"
    assert falls_to(work, 1)
    staying.tab("Pictures")
    staying.upload("A", "a.png", png())
    staying.wait("pictures-status", "a.png")
    staying.click("reconstruct-A")
    staying.wait("pictures-status", "reconstructed")
    assert len(work._running) == 1 and work.ends.empty()
    staying.context.close()
    assert work.ends.get(timeout=_SECONDS) == "stopped"
