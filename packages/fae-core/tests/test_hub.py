"""Model folders: whole or absent, loaded exactly, and refused with one line when damaged or of another model."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from fae_core import LatentSpec
from fae_core.config import Config, parse_config
from fae_core.errors import FAEError, InvalidFile, LatentSpecMismatch, OutputExists, UnknownName
from fae_core.models.folder import load_state
from fae_core.models.pretrained import PretrainedModel
from fae_core.models.sources import resolve_model_folder

SPEC = LatentSpec(4, 2, 2, 32, "toy", mean=(0.1, 0.2, 0.3, 0.4), std=(1.0, 2.0, 3.0, 4.0))


class ToyConfig(Config):
    width: int = 8
    rate: float = 0.5


class Toy(PretrainedModel):
    model_type: ClassVar[str] = "toy"
    config_class: ClassVar[type[Config]] = ToyConfig

    def __init__(self, config: ToyConfig, spec: LatentSpec | None = None) -> None:
        super().__init__(config, spec)
        self.layer = nn.Linear(4, config.width)
        self.register_buffer("steps", torch.tensor(3))


class Other(Toy):
    model_type: ClassVar[str] = "other"


@pytest.fixture
def model() -> Toy:
    torch.manual_seed(0)
    return Toy(ToyConfig(width=6), SPEC)


@pytest.fixture
def folder(model: Toy, tmp_path: Path) -> Path:
    return model.save_pretrained(tmp_path / "model")


def test_what_is_saved_is_what_is_loaded(model: Toy, folder: Path) -> None:
    loaded = Toy.from_pretrained(folder)
    assert loaded.config == model.config
    assert loaded.spec == SPEC
    assert not loaded.training
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_a_folder_holds_what_the_hub_expects(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "config.json",
        "latent_spec.json",
        "model.safetensors",
    ]
    stored = json.loads((folder / "config.json").read_text())
    assert (stored["model_type"], stored["config"]) == ("toy", {"width": 6, "rate": 0.5})
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: fae\n")
    assert "parameters: 30" in card  # 4 x 6 weights and 6 biases
    assert "4x2x2" in card


def test_device_and_dtype_are_applied(folder: Path) -> None:
    assert Toy.from_pretrained(folder, dtype=torch.bfloat16, device="cpu").layer.weight.dtype == torch.bfloat16


def test_a_run_folder_stands_for_its_model(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    folder.rename(tmp_path / "run" / "model")
    assert Toy.from_pretrained(tmp_path / "run").config.width == 6


def test_another_kind_of_model_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidFile, match="holds a 'toy' model, not 'other'"):
        Other.from_pretrained(folder)


def test_another_latent_space_is_refused(folder: Path) -> None:
    Toy.from_pretrained(folder, spec=SPEC)
    with pytest.raises(LatentSpecMismatch, match="std"):
        Toy.from_pretrained(folder, spec=SPEC.with_statistics(SPEC.mean, (1.0,) * 4))


@pytest.mark.parametrize("name", ["config.json", "latent_spec.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InvalidFile, match=name.replace(".", r"\.")):
        Toy.from_pretrained(folder)


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_truncated_weights_are_refused(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InvalidFile, match="is damaged") as caught:
        Toy.from_pretrained(folder)
    assert "\n" not in str(caught.value)


class Bomb:
    """What a malicious checkpoint does when it is unpickled."""

    def __reduce__(self) -> tuple:
        return (pytest.fail, ("the file was unpickled",))


def test_a_pickle_in_place_of_the_weights_is_never_opened(folder: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"layer.weight": Bomb()}, buffer)
    (folder / "model.safetensors").write_bytes(buffer.getvalue())
    with pytest.raises(InvalidFile, match="is damaged"):
        Toy.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"width": 7}, "has another shape for layer.bias, layer.weight"),
        ({"width": "wide"}, "width"),
        ({"depth": 3}, "depth"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(folder: Path, change: dict, complaint: str) -> None:
    stored = json.loads((folder / "config.json").read_text())
    stored["config"].update(change)
    (folder / "config.json").write_text(json.dumps(stored))
    with pytest.raises(InvalidFile, match=complaint):
        Toy.from_pretrained(folder)


def test_keys_that_do_not_fit_are_named_three_at_a_time(model: Toy) -> None:
    state = {f"block.{i}": torch.zeros(1) for i in range(5)} | {"steps": torch.tensor(1)}
    with pytest.raises(InvalidFile) as caught:
        load_state(model, state, "foreign.pt")
    assert str(caught.value) == (
        "foreign.pt is of another model: lacks layer.bias, layer.weight; "
        "has unknown block.0, block.1, block.2 and 2 more"
    )


class Adapted(nn.Module):
    """A layer with an addition, as peft puts it in the place of one."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer, self.added = base_layer, nn.Linear(4, base_layer.out_features)


class Packed(torch.Tensor):
    """Weights of the same shape in another form, as quantised ones are."""


class Counting(Toy):
    """Its constructor needs numbers, so that it has no counterpart on the meta device."""

    def __init__(self, config: ToyConfig, spec: LatentSpec | None = None) -> None:
        super().__init__(config, spec)
        self.three = int(self.steps)


def test_weights_that_a_model_of_the_config_has_not_are_refused(model: Toy, folder: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    plain, layer = model.layer.weight, model.layer
    model.layer.weight = nn.Parameter(plain.detach().as_subclass(Packed), requires_grad=False)
    with pytest.raises(FAEError, match=r"such as layer\.weight: .*quantise after loading"):
        model.save_pretrained(folder, overwrite=True)
    layer.weight, model.layer = plain, Adapted(layer)
    with pytest.raises(FAEError, match=r"such as layer\.added\.bias: merge the adapters first") as caught:
        model.save_pretrained(folder, overwrite=True)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert Counting.from_pretrained(Counting(ToyConfig(), SPEC).save_pretrained(tmp_path / "counting")).three == 3


def test_an_existing_folder_is_kept(model: Toy, folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    with torch.no_grad():
        model.layer.weight.add_(1)
    with pytest.raises(OutputExists, match="--overwrite"):
        model.save_pretrained(folder)
    assert (folder / "model.safetensors").read_bytes() == before
    model.save_pretrained(folder, overwrite=True)
    assert torch.equal(Toy.from_pretrained(folder).layer.weight, model.layer.weight)


def test_a_save_that_fails_leaves_the_old_model(model: Toy, folder: Path) -> None:
    class Failing(Toy):
        def _saved_state(self) -> dict[str, torch.Tensor]:
            raise MemoryError

    with pytest.raises(MemoryError):
        Failing(model.config, SPEC).save_pretrained(folder, overwrite=True)
    assert [p.name for p in folder.parent.iterdir()] == ["model"]
    assert torch.equal(Toy.from_pretrained(folder).layer.weight, model.layer.weight)


@pytest.mark.parametrize("source", ["no/such/folder", "./nowhere", "/nowhere", "name", "owner/"])
def test_what_is_neither_a_folder_nor_a_hub_name_does_not_exist(source: str) -> None:
    with pytest.raises(InvalidFile, match="does not exist"):
        resolve_model_folder(source)


def test_an_unreachable_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InvalidFile, match="nobody/nothing is neither a local folder nor") as caught:
        resolve_model_folder("nobody/nothing", token="hf_secret")
    assert "\n" not in str(caught.value)
    assert "hf_secret" not in str(caught.value)


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=r"holds no model \(config\.json is missing\)"):
        resolve_model_folder(tmp_path)


@pytest.mark.parametrize("source", ["here", "cifar10", "nobody/nothing", "no/such/folder"])
def test_an_unknown_option_is_refused_wherever_the_model_is(source: str, folder: Path) -> None:
    where = folder if source == "here" else source
    with pytest.raises(UnknownName, match="unknown option 'revison'; did you mean revision"):
        Toy.from_pretrained(where, revison="v2")  # pyright: ignore[reportCallIssue]
    with pytest.raises(UnknownName, match="unknown option 'devise'; did you mean device"):
        Toy.from_pretrained(where, devise="cpu")  # pyright: ignore[reportCallIssue]
    with pytest.raises(UnknownName, match="unknown option 'device'"):  # which this one does not take
        resolve_model_folder(where, device="cpu")  # pyright: ignore[reportCallIssue]


def test_configs_are_typed_frozen_and_finite() -> None:
    with pytest.raises(InvalidFile, match=r"here: rate: .*finite"):
        parse_config(ToyConfig, {"rate": float("nan")}, "here")
    with pytest.raises(InvalidFile, match=r"depth: Extra inputs"):
        parse_config(ToyConfig, {"depth": 1}, "here")
    with pytest.raises(ValueError, match="frozen"):
        ToyConfig().width = 3


def test_a_model_of_sizes_that_torch_cannot_make_is_one_line(tmp_path: Path) -> None:
    from fae_core.models.build import built

    for size in (-1, 2**62, 10**30):
        with pytest.raises(InvalidFile, match="here: no model of these sizes can be made") as caught:
            built("here", lambda n=size: torch.nn.Linear(n, n))
        assert "\n" not in str(caught.value)
