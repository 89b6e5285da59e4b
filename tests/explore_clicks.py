"""A browser that clicks in the page of `fae explore`, and a server of that page."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fae_core.models.bundles import bundle_folders

pytest.importorskip("gradio", reason="the extra fae-eval[ui] is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
NEEDS = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium: apt-get install chromium"),
    pytest.mark.skipif("cifar10" not in bundle_folders(), reason="the bundle cifar10 is not installed"),
]
_MOST = 120_000  # milliseconds that a part may take on a busy machine; none comes near


@contextmanager
def serving(folder: Path, *options: str, end: signal.Signals = signal.SIGTERM, **environment: str) -> Iterator[str]:
    """The address of a server of `fae explore`; it has to end when told to, without a fault and leaving nothing.

    Args:
        folder: Of its messages and temporary files.
        options: Of the command.
        end: The signal that tells it to end.
        environment: More variables.
    """
    (folder / "temporary").mkdir()
    own = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "temporary"), **environment}
    command = [sys.executable, "-m", "fae_core.cli.main", "explore", "--port", "0", "--device", "cpu", *options]
    with (folder / "errors.txt").open("w") as errors:
        # Under nohup, and in a shell's background, signals are ignored, which children inherit.
        heed = partial(signal.signal, end, signal.SIG_DFL)
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=own, preexec_fn=heed)
        assert server.stdout is not None
        line = next((line for line in server.stdout if "http://" in line), "")
        found = re.search(r"http://[\d.:]+/", line)
        assert found, (folder / "errors.txt").read_text()
        threading.Thread(target=server.stdout.read, daemon=True).start()
        yield found[0]
        server.send_signal(end)
        assert server.wait(60) == 143
    assert "Traceback" not in (folder / "errors.txt").read_text()
    assert not list((folder / "temporary").glob("fae-explore-*")), "uploads are left behind"


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser."""
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Visitor:
    """A page of its own session, and what it has asked for."""

    def __init__(self, browser: Any, address: str, first: str = "sample-start", **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(_MOST)
        self.requests: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        self.page.wait_for_selector(f"#{first}")

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def click(self, element: str) -> None:
        self.page.click(f"#{element}")

    def fill(self, element: str, value: object) -> None:
        self.page.locator(f"#{element} input[type=number]").fill(str(value))
        self.page.locator(f"#{element} input[type=number]").blur()

    def choose(self, element: str, name: str) -> None:
        self.page.click(f"#{element} input")
        self.page.get_by_role("option", name=name, exact=True).click()

    def wait(self, element: str, text: str) -> str:
        """The text of an element once it contains `text`."""
        self.page.wait_for_function(
            "([id, text]) => document.getElementById(id)?.innerText.includes(text)", arg=[element, text]
        )
        return self.page.inner_text(f"#{element}")

    def pictures(self, element: str) -> list[str]:
        """The pictures in an element, as they are in the page."""
        images = self.page.locator(f"#{element} img")
        assert images.evaluate_all("all => all.every(one => one.complete && one.naturalWidth > 0)")
        return images.evaluate_all("all => all.map(one => one.src)")

    def upload(self, name: str, file: str, content: bytes) -> None:
        chosen = {"name": file, "mimeType": "image/png", "buffer": content}
        self.page.set_input_files(f":has(> #upload-{name}) > input[type=file]", chosen)


def png(seed: int = 0, size: tuple[int, int] = (48, 40)) -> bytes:
    """A picture of coarse squares."""
    coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8))
    file = io.BytesIO()
    coarse.resize(size, Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()
