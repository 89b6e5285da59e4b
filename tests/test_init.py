"""`--init`: a training that begins with a generator's weights, for the same classes, others, or another objective."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small_hub import small_hub

from fae_core import LatentSpec, load_generator
from fae_core.commands.groups import invoke
from fae_core.errors import DataError, InvalidFile, InvalidSettings, LatentSpecMismatch
from fae_core.latent_store import write_store

SPEC = LatentSpec(channels=4, height=8, width=8, image_size=16, backbone="made up")
STILL = "--steps 1 --batch-size 4 --set training.learning_rate=1e-12 --set training.warmup_steps=0 --device cpu"
SIT = "train diffusion --preset sit-tiny"


def latents(folder: Path, spec: LatentSpec = SPEC, **more: Any) -> Path:
    z = torch.randn(12, *spec.shape, generator=torch.Generator().manual_seed(0))
    write_store(folder, spec, z, **more)
    return folder


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents of three classes, and generators after four steps."""
    root = tmp_path_factory.mktemp("line")
    latents(root / "latents", labels=[0, 1, 2] * 4, classes=["cat", "dog", "eel"])
    training = (
        f"--latents {root}/latents --steps 4 --batch-size 4 --seed 5 --set training.learning_rate=0.01 --device cpu"
    )
    invoke(f"{SIT} {training} --out {root}/sit --set model.width=32 --set model.depth=1 --set model.heads=2".split())
    invoke(f"train flow --preset starflow-tiny {training} --out {root}/flow".split())
    return root


def begun(line: Path, out: Path, *more: str, store: Path | None = None, command: str = SIT, init: str = "sit") -> Any:
    where = ["--latents", str(store or line / "latents"), "--out", str(out), "--init", str(line / init)]
    invoke([*command.split(), *where, *STILL.split(), *more])
    return load_generator(out)


def differing(line: Path, generator: Any, init: str = "sit") -> set[str]:
    """Names of weights that are not those of the generator to begin with, which moved by 1e-12 at most."""
    before, after = load_generator(line / init).state_dict(), generator.state_dict()
    assert before.keys() <= after.keys()
    return {
        name
        for name, tensor in after.items()
        if name not in before
        or tensor.shape != before[name].shape
        or not torch.allclose(tensor, before[name], rtol=0, atol=1e-9)
    }


def test_sizes_weights_and_classes_are_those_of_the_generator(line: Path, tmp_path: Path) -> None:
    generator = begun(line, tmp_path / "run")  # the preset is of another size
    assert (generator.config.width, generator.config.depth, generator.config.classes) == (32, 1, 3)
    assert generator.class_names == ("cat", "dog", "eel") and differing(line, generator) == set()
    flow = begun(line, tmp_path / "flow", command="train flow --preset starflow-tiny", init="flow")
    assert differing(line, flow, "flow") == set()


@pytest.mark.parametrize(
    ("labels", "count", "new"),
    [
        ({"labels": [0, 1] * 6, "classes": ["fox", "owl"]}, 2, True),
        ({"labels": [0, 1, 2] * 4, "classes": ["cat", "eel", "dog"]}, 3, True),  # as many, in another order
        ({"labels": [0, 1] * 6}, 3, False),  # numbers mean what they meant
        ({}, 1, True),
    ],
)
def test_other_classes_get_new_weights(labels: dict, count: int, new: bool, line: Path, tmp_path: Path) -> None:
    generator = begun(line, tmp_path / "run", store=latents(tmp_path / "latents", **labels))
    assert generator.config.classes == count
    assert differing(line, generator) == ({"label_embedding.table.weight"} if new else set())


def test_a_checkpoint_of_an_unfinished_run_knows_its_classes(line: Path, tmp_path: Path) -> None:
    shutil.copytree(line / "sit", tmp_path / "sit", ignore=shutil.ignore_patterns("model"))
    store = latents(tmp_path / "latents", labels=[0, 1, 2] * 4, classes=["cat", "eel", "dog"])
    generator = begun(tmp_path, tmp_path / "run", store=store, init="sit/checkpoints/step-00000004")
    assert differing(line, generator) == {"label_embedding.table.weight"}


def test_numbers_are_new_classes_to_a_generator_of_one(line: Path, tmp_path: Path) -> None:
    begun(line, tmp_path / "one", store=latents(tmp_path / "unlabelled"))
    store = latents(tmp_path / "numbered", labels=[0, 1] * 6)
    generator = begun(tmp_path, tmp_path / "run", store=store, init="one")
    assert generator.config.classes == 2
    assert differing(tmp_path, generator, "one") == {"label_embedding.table.weight"}


@pytest.mark.parametrize("init", ["sit", "sit/checkpoints/step-00000004"])
def test_a_dry_run_compares_sizes_and_makes_nothing(
    init: str, line: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*SIT.split(), "--latents", str(line / "latents"), "--out", str(tmp_path / "run"), *STILL.split()]
    planned = [*command, "--init", str(line / init), "--dry-run"]
    invoke(planned)
    assert f"init: {line / init}" in capsys.readouterr().out.replace("\n    ", " ")
    with pytest.raises(InvalidFile, match=r"no place for its blocks\.0"):
        invoke([*planned, "--set", "model.mlp_ratio=2"])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("part", ["", "model"])  # a run, and a model folder
def test_a_generator_on_the_hub_is_one_to_begin_with(part: str, line: Path, tmp_path: Path) -> None:
    shutil.copytree(line / "sit" / part, tmp_path / "hub" / "some" / "sit")
    command = [*SIT.split(), "--latents", str(line / "latents"), "--out", str(tmp_path / "run"), *STILL.split()]
    with small_hub(tmp_path / "hub") as hub:
        code = f"from fae_core.commands.groups import invoke\ninvoke({[*command, '--init', 'some/sit']!r})"
        hub.run(code, tmp_path / "home")
    assert differing(line, load_generator(tmp_path / "run")) == set()


def test_what_the_generator_lacks_is_new_and_what_has_no_place_is_refused(line: Path, tmp_path: Path) -> None:
    generator = begun(line, tmp_path / "run", "--set", "model.mean_flow.share=0.5")
    changed = differing(line, generator)
    assert changed and all(name.startswith("interval_embedding.") for name in changed)
    with pytest.raises(InvalidFile, match=r"no place for its blocks\.0"):
        begun(line, tmp_path / "wide", "--set", "model.mlp_ratio=2")
    assert not (tmp_path / "wide").exists()


def test_a_part_that_is_switched_off_is_left_out_and_blocks_are_not(
    line: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun(line, tmp_path / "mean", "--set", "model.mean_flow.share=0.5")
    with caplog.at_level("INFO", logger="fae"):
        plain = begun(line, tmp_path / "plain", "--set", "model.mean_flow=null", init=f"{tmp_path}/mean")
    assert "left out are interval_embedding.mlp.0.bias" in caplog.text
    assert differing(line, plain) == set()
    begun(line, tmp_path / "deep", "--set", "model.depth=2")
    with pytest.raises(InvalidFile, match=r"no place for its blocks\.1"):
        begun(line, tmp_path / "flat", "--set", "model.depth=1", init=f"{tmp_path}/deep")


def test_a_file_states_settings_as_set_does(line: Path, tmp_path: Path) -> None:
    stated = tmp_path / "stated.yaml"
    stated.write_text("model: {mean_flow: {share: 0.5}, class_dropout: 0.3}\n")
    config = ("--config", str(stated))
    generator = begun(line, tmp_path / "run", *config, "--set", "model.class_dropout=0.2")
    assert (generator.config.mean_flow.share, generator.config.class_dropout) == (0.5, 0.2)
    own = ("--config", str(tmp_path / "run" / "config.yaml"))  # states all, but the classes of its data
    store = latents(tmp_path / "latents", labels=[0, 1] * 6, classes=["fox", "owl"])
    again = begun(line, tmp_path / "again", *own, store=store)
    assert (again.config.mean_flow.share, again.config.classes) == (0.5, 2)
    stated.write_text("model: {mlp_ratio: 2}\n")
    with pytest.raises(InvalidFile, match=r"no place for its blocks\.0.*--config"):
        begun(line, tmp_path / "wide", *config)
    stated.write_text("model_type: lightningdit\n")
    with pytest.raises(DataError, match="is a sit, not a lightningdit"):
        begun(line, tmp_path / "wide", *config)


def test_guidance_that_is_learned_is_not_applied_once_more(line: Path, tmp_path: Path) -> None:
    twice = ["--set", "model.mean_flow.guidance=2", "--set", "model.sampling.guidance=1.5"]
    with pytest.raises(InvalidSettings, match=r"sampling would guide once more: --set model\.sampling\.guidance=1$"):
        begun(line, tmp_path / "run", *twice)
    assert not (tmp_path / "run").exists()
    generator = begun(line, tmp_path / "run", *twice[:2])
    assert not generator.config.sampling.guidance.is_on
    plain = begun(line, tmp_path / "plain", *twice[2:])  # nothing is learned with guidance
    assert plain.config.sampling.guidance.scale == 1.5


def test_a_resumed_run_wants_the_same_weights_wherever_they_lie(line: Path, tmp_path: Path) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"
    begun(line, run, "--set", "training.schedule_steps=4")
    longer = f"{SIT} --latents {line}/latents --out {run} --resume {STILL} --set training.schedule_steps=4 --steps 2"
    begun(line, tmp_path / "other", "--seed", "1", "--set", "training.learning_rate=0.01")
    with pytest.raises(InvalidFile, match="was started on other init"):
        invoke([*longer.split(), "--init", str(tmp_path / "other")])
    moved.symlink_to(line / "sit")
    invoke([*longer.split(), "--init", str(moved)])
    assert differing(line, load_generator(run)) == set()


def test_what_cannot_begin_is_refused_before_anything_is_made(line: Path, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "run")]
    known = ["--latents", str(line / "latents")]
    with pytest.raises(DataError, match="name a --preset"):
        invoke(["train", "diffusion", *known, *out, "--init", str(line / "sit")])
    with pytest.raises(DataError, match="is a sit, not a lightningdit; leave model_type out of"):
        invoke([*SIT.split(), *known, *out, "--init", str(line / "sit"), "--set", "model_type=lightningdit"])
    with pytest.raises(DataError, match="trains lightningdit, sit, mmdit, not starflow"):
        invoke([*SIT.split(), *known, *out, "--init", str(line / "flow")])
    other = LatentSpec(channels=8, height=8, width=8, image_size=16, backbone="made up")
    store = latents(tmp_path / "other", other)
    with pytest.raises(LatentSpecMismatch, match="channels"):
        invoke([*SIT.split(), "--latents", str(store), *out, "--init", str(line / "sit")])
    assert not (tmp_path / "run").exists()


def test_other_statistics_of_the_same_latents_are_told(
    line: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = latents(tmp_path / "latents", SPEC.with_statistics([1.0] * 4, [2.0] * 4), labels=[0, 1, 2] * 4)
    with caplog.at_level("WARNING", logger="fae"):
        begun(line, tmp_path / "run", store=store)
    assert "trained on other latents" in caplog.text
