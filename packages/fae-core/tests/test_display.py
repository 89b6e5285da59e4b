"""Claims about objects in a notebook: a short repr, and HTML in which nothing that is shown is markup."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from fae_core import LatentSpec, describe, list_presets
from fae_core.commands.groups import invoke
from fae_core.config import Config
from fae_core.display import html_table
from fae_core.errors import UnknownName
from fae_core.images import ImageSource, TolerantImages, open_images
from fae_core.latent_store import write_store
from fae_core.models.pretrained import PretrainedModel

EVIL = "<script>alert('&')</script>"


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)


class Toy(PretrainedModel[Config]):
    model_type, config_class = "toy-shown", Config

    def __init__(self, config: Config, spec: LatentSpec | None = None) -> None:
        super().__init__(config, spec)
        self.layers = nn.ModuleList(nn.Linear(30, 40) for _ in range(40))


def shown(thing: object) -> str:
    """Its HTML, after the checks that hold for all."""
    assert len(repr(thing)) < 200 and "\n" not in repr(thing)
    html = thing._repr_html_()  # pyright: ignore[reportAttributeAccessIssue]
    assert set(Tags(html).tags) <= {"div", "b", "table", "tr", "th", "td", "img"} and len(html) < 500_000
    return html


def spec(name: str = "timm/vit") -> LatentSpec:
    return LatentSpec(3, 2, 4, 32, name, mean=(0.5,) * 3, std=(2.0,) * 3)


def test_what_is_shown_is_never_markup(tmp_path: Path) -> None:
    evil = spec(EVIL + "x" * 300)
    folder = tmp_path / "<b>folder" / ("long" * 50)
    store = write_store(folder, evil, torch.randn(5, 3, 2, 4), labels=[0] * 5, classes=[EVIL])
    for thing in (evil, store, Toy(Config(), evil), store[0]):
        assert EVIL not in shown(thing)
    assert "&lt;script&gt;" in shown(evil)
    assert "aaaa" not in html_table("t", {"token": "hf_" + "a" * 34})
    assert Tags(html_table(EVIL, {EVIL: EVIL, "torn": "\ud800", "none": None})).tags.count("script") == 0


def test_models_and_spaces_state_what_they_are() -> None:
    assert repr(spec()) == "LatentSpec(3x2x4 of images of 32x32, timm/vit, normalised, no fingerprint)"
    model = Toy(Config(), spec())
    assert repr(model) == "Toy(49,600 parameters, 3 x 2 x 4, float32 on cpu)"
    assert "49,600" in shown(model) and "timm/vit" in shown(model)
    with torch.device("meta"):
        shown(Toy(Config(), None))
    assert len(list(model.named_modules())) == 42


def test_sources_show_their_first_images(tmp_path: Path) -> None:
    for index in range(3):
        Image.new("RGB", (40, 20 + index), (255, 0, 0)).save(tmp_path / f"{index}.png")
    (tmp_path / "0.png").write_bytes((tmp_path / "0.png").read_bytes()[:50])
    source = open_images(tmp_path)
    for one in (source, source.select([2, 1]), TolerantImages(source, print)):
        html = shown(one)
        (data,) = re.findall(r"base64,([^']+)'", html)
        assert Image.open(io.BytesIO(base64.b64decode(data))).format == "PNG"
    assert repr(source) == "FolderImages(3 images, no labels, no captions)"

    class Lazy(ImageSource):
        def __len__(self) -> int:
            return 0

        read = name = None  # pyright: ignore

    assert "<img" not in shown(Lazy())


def test_stores_show_sizes(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", spec(), torch.randn(1200, 3, 2, 4))
    assert re.fullmatch(r"LatentStore\('.*/s', 1,200 latents of 3x2x4, float32\)", repr(store))
    assert "1,200" in shown(store) and "captions" in shown(store)
    assert repr(store[0]).startswith("Sample(z=3x2x4 float32, label=None")


def test_presets_are_listed_and_described_in_numbers(capsys: pytest.CaptureFixture) -> None:
    names, bundles = list_presets(), list_presets("bundle")
    assert names == sorted(names) and set(bundles).isdisjoint(names)
    for name in names[:1]:
        facts = describe(name)
        assert type(facts["parameters"]) is int and facts["preset"] == name
        invoke(["info", name])
        assert f"{facts['parameters']:,}" in capsys.readouterr().out
    with pytest.raises(UnknownName, match="model type"):
        list_presets("lightningdit-xxl")
