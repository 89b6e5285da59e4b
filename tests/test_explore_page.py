"""`fae explore` in a browser: each part clicked in headless Chromium, on the bundle and a flow of the same latents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from explore_clicks import NEEDS, Visitor, chromium, png, serving
from PIL import Image

pytestmark = NEEDS


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the bundle, an untrained flow of its latents, and three images."""
    from fae_core.models.load import load_decoder
    from fae_flow import STARFlow

    folder = tmp_path_factory.mktemp("explore")
    spec = load_decoder("cifar10").spec
    STARFlow.from_preset("starflow-tiny", spec=spec).save_pretrained(folder / "flow")
    for i in range(3):
        random = np.random.default_rng(i)
        (folder / "images").mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 48, 3), np.uint8)).save(folder / "images" / f"{i}.png")
    options = ("--model", "cifar10", "--generator", str(folder / "flow"), "--data", str(folder / "images"))
    with serving(folder, *options) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def visitor(browser, address) -> Iterator[Visitor]:
    opened = Visitor(browser, address)
    yield opened
    opened.context.close()


def test_drawing_shows_pictures_and_how_they_form(visitor) -> None:
    visitor.fill("sample-steps", 8)
    visitor.fill("sample-count", 3)
    visitor.choose("sample-class", "ship")
    visitor.click("sample-start")
    visitor.wait("sample-status", "drawn with seed 0")
    first = visitor.pictures("sample-pictures")
    assert len(set(first)) == 3 and visitor.page.inner_text("#sample-pictures").split() == ["ship"] * 3
    assert len(visitor.pictures("sample-states")) == 3 * 9  # noise and eight steps
    assert "t = 1" in visitor.page.inner_text("#sample-states")
    visitor.fill("sample-seed", 5)
    visitor.fill("sample-guidance", 3)
    visitor.choose("sample-method", "heun")
    visitor.click("sample-start")
    visitor.wait("sample-status", "drawn with seed 5")
    assert not set(first) & set(visitor.pictures("sample-pictures"))
    # What it takes follows the generator: a flow has no sampler and no steps.
    visitor.choose("sample-generator", "flow")
    visitor.page.wait_for_selector("#sample-method", state="hidden")
    visitor.click("sample-start")
    visitor.wait("sample-states", "block 1 of")


def test_nothing_is_asked_of_others(visitor, address) -> None:
    visitor.fill("sample-steps", 2)
    visitor.click("sample-start")
    visitor.wait("sample-status", "drawn with")
    for name in ("Pictures", "Interpolate", "Side by side"):
        visitor.tab(name)
    elsewhere = [url for url in visitor.requests if not url.startswith((address, "data:", "blob:"))]
    assert len(visitor.requests) > 10 and elsewhere == []
    assert visitor.page.evaluate("fetch('http://127.0.0.1:1/').catch(() => 'refused')") == "refused"
    policy = visitor.page.evaluate("fetch('/').then(answer => answer.headers.get('content-security-policy'))")
    assert "default-src 'self'" in policy


def test_a_page_under_another_name_gets_no_answer(visitor, address) -> None:
    answer = visitor.context.request.get(address, headers={"host": "elsewhere.example"})
    assert answer.status == 421


def test_an_uploaded_picture_is_reconstructed_with_its_errors(visitor) -> None:
    visitor.tab("Pictures")
    visitor.click("reconstruct-A")
    assert "upload one" in visitor.wait("pictures-status", "there is no picture")
    visitor.upload("A", "squares.png", png())
    visitor.wait("pictures-status", "squares.png")
    visitor.click("reconstruct-A")
    visitor.wait("pictures-status", "reconstructed")
    text = visitor.page.inner_text("#reconstruction-shown")
    assert len(visitor.pictures("reconstruction-shown")) == 4
    for said in ("PSNR in dB", "cosine of features", "error of pixels", "error of features"):
        assert said in text
    assert 5 < float(re.search(r"PSNR in dB\s+([\d.]+)", text)[1]) < 60


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"<svg onload=alert(1)>", "not an image in a known format"), (png()[:60], "cannot read image")],
)
def test_what_readers_refuse_is_refused_on_the_page(visitor, content: bytes, said: str) -> None:
    visitor.tab("Pictures")
    visitor.upload("B", "holiday.png", content)
    assert "holiday.png" in visitor.wait("pictures-status", said)
    assert visitor.page.locator("#pictures-status [role=alert]").count() == 1


def test_a_clicked_patch_shows_what_is_like_it_here_and_in_the_other_picture(visitor) -> None:
    visitor.tab("Pictures")
    for name in "AB":
        visitor.click(f"next-{name}")
        visitor.wait("pictures-status", f"picture {name}: image")
    visitor.tab("Colours")
    box = visitor.page.locator("#picture-A img").bounding_box()
    side = min(box["width"], box["height"])
    left, top = (box["width"] - side) / 2, (box["height"] - side) / 2
    visitor.page.locator("#picture-A img").click(position={"x": left + 0.95 * side, "y": top + 0.3 * side})
    visitor.wait("pictures-status", "patch of picture A: row 3, column 8")
    visitor.page.wait_for_selector("#patches-shown img")
    assert len(set(visitor.pictures("patches-shown"))) == 6
    assert "rebuilt features" in visitor.page.inner_text("#patches-shown")


def test_components_are_shown_as_colours(visitor) -> None:
    visitor.tab("Pictures")
    visitor.upload("A", "a.png", png(1))
    visitor.wait("pictures-status", "a.png")
    visitor.tab("Colours")
    visitor.click("colours-start")
    assert "latents" in visitor.wait("pictures-status", "share of the variance")
    assert len(visitor.pictures("colours-shown")) == 4


def test_between_two_pictures_and_between_two_noises(visitor) -> None:
    visitor.tab("Pictures")
    for name in "AB":
        visitor.upload(name, f"{name}.png", png(ord(name)))
        visitor.wait("pictures-status", f"{name}.png")
    visitor.tab("Interpolate")
    visitor.fill("between-count", 5)
    visitor.click("between-pictures")
    visitor.wait("between-status", "from A to B")
    assert len(set(visitor.pictures("between-shown"))) == 5
    visitor.tab("Two noises")
    visitor.page.locator("#between-count input[type=number] >> visible=true").fill("4")
    visitor.fill("between-steps", 4)
    visitor.fill("between-last", 7)
    visitor.click("between-noises")
    visitor.wait("between-status", "from seed 0 to seed 7")
    assert len(set(visitor.pictures("between-shown"))) == 4


def test_a_diffusion_model_and_a_flow_side_by_side(visitor) -> None:
    visitor.tab("Side by side")
    visitor.choose("pair-class", "frog")
    visitor.click("pair-start")
    visitor.wait("pair-status", "lightningdit on the left, flow on the right")
    left, right = visitor.pictures("pair-left-pictures"), visitor.pictures("pair-right-pictures")
    assert len(left) == len(right) == 4 and not set(left) & set(right)
    # Both begin with the same noise.
    count = [len(visitor.pictures(f"pair-{side}-states")) // 4 for side in ("left", "right")]
    first = [visitor.pictures(f"pair-{side}-states")[0] for side in ("left", "right")]
    assert min(count) > 2 and first[0] == first[1]


def test_visitors_do_not_wait_for_each_other_nor_see_each_others_pictures(browser, address) -> None:
    one, other = (Visitor(browser, address) for _ in range(2))
    one.fill("sample-steps", 250)
    one.fill("sample-count", 16)
    one.click("sample-start")
    one.wait("sample-status", "t = ")
    other.fill("sample-steps", 2)
    other.fill("sample-count", 1)
    other.choose("sample-class", "horse")
    other.click("sample-start")
    other.wait("sample-status", "drawn with")
    other.tab("Pictures")
    other.upload("A", "mine.png", png())
    other.wait("pictures-status", "mine.png")
    assert len(other.pictures("sample-pictures")) == 1
    assert one.pictures("sample-pictures") == [] and "mine.png" not in one.page.content()
    # The long one goes on all the while, until it is stopped; the states so far stay.
    one.wait("sample-status", "t = ")
    one.click("sample-stop")
    one.wait("sample-status", "stopped")
    assert len(one.pictures("sample-states")) > 0 and one.pictures("sample-pictures") == []
    for each in (one, other):
        each.context.close()


def test_fields_out_of_range_are_said_on_the_page(visitor) -> None:
    visitor.fill("sample-guidance", 1000)
    visitor.click("sample-start")
    visitor.wait("sample-status", "the guidance scale must lie between 0 and 20")
    visitor.fill("sample-guidance", 1.5)
    visitor.choose("sample-method", "sde")
    visitor.fill("sample-steps", 1)
    visitor.click("sample-start")
    visitor.wait("sample-status", "at least two steps")


def test_a_phone_shows_all_of_it(browser, address) -> None:
    phone = Visitor(browser, address, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    for name in ("Sample", "Pictures", "Interpolate", "Side by side"):
        phone.tab(name)
        assert phone.page.evaluate("document.documentElement.scrollWidth") <= 390
    phone.context.close()
