"""Which models `fae explore` finds: in a bundle, a run, a model folder, a folder of runs as `fae demo` leaves it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fae_core.errors import FAEError, InvalidFile, LatentSpecMismatch
from fae_core.models.bundles import bundle_folders
from fae_diffusion import LightningDiT
from fae_eval.explore.drawing import Order, draw
from fae_eval.explore.find import Found, find_models
from fae_eval.explore.models import choices_of, load_models
from fae_flow import STARFlow

pytestmark = pytest.mark.skipif("cifar10" not in bundle_folders(), reason="the bundle cifar10 is not installed")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Path:
    """Runs as those of the demo: a tokenizer without a pixel decoder, a whole one, generators, and other folders."""
    folder = tmp_path_factory.mktemp("demo")
    shutil.copytree(bundle_folders()["cifar10"] / "tokenizer", folder / "tokenizer" / "model")
    shutil.copytree(
        bundle_folders()["cifar10"] / "tokenizer",
        folder / "autoencoder" / "model",
        ignore=shutil.ignore_patterns("pixel_decoder"),
    )
    shutil.copytree(bundle_folders()["cifar10"] / "generator", folder / "diffusion" / "model")
    spec = LightningDiT.from_pretrained(folder / "diffusion").spec
    STARFlow.from_preset("starflow-tiny", spec=spec).save_pretrained(folder / "flow" / "model")
    STARFlow.from_preset("starflow-tiny").save_pretrained(folder / "of-other-latents" / "model")
    (folder / "data").mkdir()
    for run in ("tokenizer", "diffusion", "flow"):
        (folder / run / "config.yaml").write_text("{}")
    return folder


def test_a_bundle_is_both_and_the_one_that_is_installed_needs_no_name() -> None:
    assert find_models("cifar10") == Found("cifar10", "cifar10", {"lightningdit": "cifar10"})
    assert find_models(None) == find_models("cifar10")
    folder = str(bundle_folders()["cifar10"])
    assert find_models(folder) == Found(folder, folder, {"lightningdit": folder})


def test_in_a_folder_of_runs_what_paints_and_what_fits_is_taken(experiment) -> None:
    found = find_models(str(experiment))
    assert found.tokenizer == str(experiment / "tokenizer")
    assert found.generators == {name: str(experiment / name) for name in ("diffusion", "flow")}
    assert "of-other-latents" in found.left_out[0]


def test_a_run_of_a_generator_finds_the_tokenizer_beside_it(experiment, tmp_path) -> None:
    found = find_models(str(experiment / "diffusion"))
    assert found.tokenizer == str(experiment.resolve() / "tokenizer")
    assert found.generators == {"diffusion": str(experiment / "diffusion")}
    assert find_models(str(experiment / "tokenizer")).generators == {}
    shutil.copytree(experiment / "flow", tmp_path / "runs" / "flow")
    with pytest.raises(FAEError, match="give --tokenizer"):
        find_models(str(tmp_path / "runs" / "flow"))
    alone = find_models(str(tmp_path / "runs" / "flow"), str(experiment / "tokenizer"))
    assert alone.tokenizer == str(experiment / "tokenizer")


def test_generators_are_added_by_name(experiment) -> None:
    flow = str(experiment / "flow")
    assert find_models("cifar10", None, [flow]).generators == {"lightningdit": "cifar10", "flow": flow}
    assert list(find_models(str(experiment), None, [flow]).generators) == ["diffusion", "flow", flow]
    assert find_models(None, "cifar10", [flow]) == Found("cifar10", "cifar10", {"flow": flow})


def test_what_is_no_model_is_refused(experiment, tmp_path) -> None:
    with pytest.raises(InvalidFile, match="holds no model and no run"):
        find_models(str(experiment / "data"))
    with pytest.raises(InvalidFile, match="does not exist"):
        find_models("cifar11")
    with pytest.raises(InvalidFile, match=r"is a feature.decoder, neither"):
        find_models(str(experiment / "tokenizer" / "model" / "feature_decoder"))


def test_generators_of_other_latents_are_refused_at_loading(experiment) -> None:
    with pytest.raises(LatentSpecMismatch):
        load_models(find_models("cifar10", None, [str(experiment / "of-other-latents")]), "cpu")


def test_choices_and_pictures_of_the_packages_own_generators(experiment) -> None:
    models = load_models(find_models(str(experiment)), "cpu")
    diffusion, flow = (choices_of(models.generators[name]) for name in ("diffusion", "flow"))
    assert diffusion.classes[0] == "airplane" and "sde" in diffusion.methods and diffusion.steps == 2
    assert diffusion.guidance == 1 and flow.guidance == 1 and flow.methods == () and flow.steps is None
    told = []
    order = Order((diffusion.classes[3],), steps=4, method="dpm++2m")
    drawn = draw(models.generators["diffusion"], models.tokenizer, order, told.append)
    assert [name for name, _ in drawn.states] == ["t = 1", "t = 0.75", "t = 0.5", "t = 0.25", "t = 0"]
    assert len(told) == 5 and drawn.pictures[0].shape == (32, 32, 3)


def test_guidance_in_parts_stays_as_it_is_unless_a_number_is_given() -> None:
    model = LightningDiT.from_preset(
        "lightningdit-tiny", sampling={"guidance": {"parts": [[1.0, 0.5, 1.0], [0.5, 0.0, 2.0]]}}
    )
    choices = choices_of(model)
    assert choices.guided and choices.guidance is None
    assert Order(("0",)).options(choices) == {} and Order(("0",), guidance=2.0).options(choices) == {"guidance": 2.0}
