"""What `fae sample --resume` and the resumed studies of sampling compare beside generator and decoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fae_core.errors import FAEError
from fae_core.files import read_json
from fae_core.folders import SAMPLES_RECORD
from fae_core.models.load import load_generator
from fae_core.processes import ALONE
from fae_core.sampling.job import SampleJob
from fae_decoders import ConvVAE
from fae_diffusion import LightningDiT, LightningDiTConfig, SiT, SiTConfig
from fae_eval.studies.at_options import AtOptions

SMALL = {"width": 32, "heads": 2, "classes": 3}


def save_weak(folder: Path, spec: object, seed: int) -> None:
    torch.manual_seed(seed)
    weak = SiT(SiTConfig(**SMALL, depth=1), spec)
    with torch.no_grad():
        for parameter in weak.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    weak.save_pretrained(folder, overwrite=True)


@pytest.fixture
def job(tmp_path: Path) -> SampleJob:
    torch.manual_seed(0)
    decoder = ConvVAE.from_preset("conv-vae-tiny")
    decoder.save_pretrained(tmp_path / "decoder")
    LightningDiT(LightningDiTConfig(**SMALL, depth=2), decoder.spec).save_pretrained(tmp_path / "generator")
    save_weak(tmp_path / "weak", decoder.spec, 1)
    options = {"weak": str(tmp_path / "weak"), "steps": 2, "guidance": 2.0}
    parts = (str(tmp_path / "generator"), str(tmp_path / "decoder"), tmp_path / "samples")
    return SampleJob(*parts, count=2, batch_size=1, options=options)


def test_samples_guided_by_a_model_are_not_mixed_with_those_of_another_in_its_folder(job: SampleJob) -> None:
    job.run(device="cpu")
    spec, whole = load_generator(job.generator).spec, job.image_path(1).read_bytes()
    job.image_path(1).unlink()
    save_weak(Path(job.options["weak"]), spec, 2)
    with pytest.raises(FAEError, match="was started with another weak: its images would be mixed"):
        job.run(resume=True, device="cpu")
    save_weak(Path(job.options["weak"]), spec, 1)
    job.run(resume=True, device="cpu")
    assert job.image_path(1).read_bytes() == whole


def test_a_study_knows_the_model_that_guides_by_its_weights(job: SampleJob) -> None:
    def settings() -> str:
        return AtOptions(load_generator(job.generator), {}, ALONE, {}, {}, {}).settings(job.options)

    before = settings()
    save_weak(Path(job.options["weak"]), load_generator(job.generator).spec, 2)
    assert settings() != before
    save_weak(Path(job.options["weak"]), load_generator(job.generator).spec, 1)
    assert settings() == before


def test_samples_go_on_with_other_settings_of_speed_alone(job: SampleJob) -> None:
    job.run(device="cpu")
    replace(job, options={**job.options, "compile": False}).run(resume=True, device="cpu")
    with pytest.raises(FAEError, match="was started with other settings"):
        replace(job, options={**job.options, "steps": 3}).run(resume=True, device="cpu")


def test_a_scale_counts_beside_other_fields_of_guidance_and_the_record_says_both(job: SampleJob) -> None:
    both = replace(job, generator=job.options["weak"], guidance=3.0, options={"steps": 2, "guidance": {"channels": 3}})
    both.run(device="cpu")
    used = read_json(job.out / SAMPLES_RECORD)["sampling"]
    assert (used["steps"], used["guidance"]["scale"], used["guidance"]["channels"]) == (2, 3.0, 3)
    drawn = both.image_path(0).read_bytes()
    for scale, channels in ((3.0, 3), (3.0, None), (1.0, 3)):
        given = {"steps": 2, "guidance": {"scale": scale, "channels": channels}}
        one = replace(both, guidance=None, options=given)
        one.run(overwrite=True, device="cpu")
        assert (one.image_path(0).read_bytes() == drawn) is ((scale, channels) == (3.0, 3))
