"""The screenshots of docs/explorer.md: what a browser shows of a running `fae explore`, on a desktop and on a phone.

    fae explore --model cifar10 --generator FLOW &
    python tools/trials/screenshots.py http://127.0.0.1:7860/ docs/explorer PHOTOGRAPH PHOTOGRAPH

Playwright clicks through the tabs in Chromium; each picture is a WebP of less than 300 kB.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

_MOST_BYTES = 300_000
_SECONDS = 1.0  # until what has been told is drawn


def main() -> int:
    if len(sys.argv) != 5:
        print(__doc__, file=sys.stderr)
        return 2
    address, out, *photographs = sys.argv[1:]
    Path(out).mkdir(parents=True, exist_ok=True)
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        desktop(_page(browser, address, 1200, 800), photographs, Path(out))
        phone(_page(browser, address, 390, 844, device_scale_factor=2, has_touch=True), photographs, Path(out))
        browser.close()
    return 0


def desktop(page: Any, photographs: list[str], out: Path) -> None:
    """One picture for each thing that can be done."""
    page.click("#sample-start")
    _shoot(page, ("sample-status", "drawn with"), out / "sample.webp")
    _upload(page, photographs)
    page.click("#reconstruct-A")
    _shoot(page, ("pictures-status", "reconstructed"), out / "reconstruction.webp")
    _click_patch(page)
    _shoot(page, ("pictures-status", "patch of"), out / "patches.webp")
    _tab(page, "Colours")
    page.click("#colours-start")
    _shoot(page, ("pictures-status", "share of"), out / "colours.webp")
    _tab(page, "Interpolate")
    page.click("#between-pictures")
    _shoot(page, ("between-status", "from A"), out / "between.webp")
    _tab(page, "Side by side")
    page.click("#pair-start")
    _shoot(page, ("pair-status", "on the left"), out / "pair.webp")


def phone(page: Any, photographs: list[str], out: Path) -> None:
    """The tab with most in it."""
    _upload(page, photographs)
    _click_patch(page)
    _shoot(page, ("pictures-status", "patch of"), out / "phone.webp")


def _page(browser: Any, address: str, width: int, height: int, **options: Any) -> Any:
    page = browser.new_context(viewport={"width": width, "height": height}, **options).new_page()
    page.set_default_timeout(120_000)
    page.goto(address)
    page.wait_for_selector("#sample-start")
    return page


def _tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def _upload(page: Any, photographs: list[str]) -> None:
    _tab(page, "Pictures")
    for name, file in zip("AB", photographs, strict=True):
        page.set_input_files(f":has(> #upload-{name}) > input[type=file]", file)
        _wait(page, "pictures-status", Path(file).name)


def _click_patch(page: Any) -> None:
    """A patch a little left of the middle of picture A and above it."""
    box = page.locator("#picture-A img").bounding_box()
    side = min(box["width"], box["height"])
    where = {"x": box["width"] / 2 - 0.2 * side, "y": box["height"] / 2 - 0.12 * side}
    page.locator("#picture-A img").click(position=where)


def _wait(page: Any, element: str, text: str) -> None:
    found = "([id, text]) => document.getElementById(id)?.innerText.includes(text)"
    page.wait_for_function(found, arg=[element, text])


def _shoot(page: Any, until: tuple[str, str], path: Path) -> None:
    _wait(page, *until)
    page.wait_for_timeout(1000 * _SECONDS)
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True)))
    picture.convert("RGB").save(path, "WEBP", quality=80, method=6)
    size = path.stat().st_size
    assert size < _MOST_BYTES, f"{path} has {size} bytes"
    print(f"{path}: {picture.width}x{picture.height}, {size} bytes")


if __name__ == "__main__":
    sys.exit(main())
