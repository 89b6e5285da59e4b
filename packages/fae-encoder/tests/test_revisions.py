"""Claims about pretrained weights: the commit is recorded, and fetched and compared when they are loaded again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="the extra `transformers` is not installed")

# In a process of its own: the libraries read where their cache lies when they are imported.
SCRIPT = """
import json, sys
from pathlib import Path
import timm, torch
from safetensors.torch import save_file
from transformers import AutoModel, ViTConfig
from fae_core.errors import InvalidFile
from fae_encoder import FAEEncoder

work = Path(sys.argv[1])

def publish(repository, commit, write):
    folder = work / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / (commit * 40)
    snapshot.mkdir(parents=True)
    write(snapshot)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit * 40)

def vit(seed):
    def write(folder):
        torch.manual_seed(seed)
        small = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
        AutoModel.from_config(ViTConfig(**small, image_size=32, patch_size=16)).save_pretrained(folder)
        settings = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 32}
        settings["image_processor_type"] = "ViTImageProcessor"
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return write

def of_timm(seed):
    def write(folder):
        torch.manual_seed(seed)
        save_file(timm.create_model("test_vit").state_dict(), folder / "model.safetensors")
    return write

said = {}
for kind, name, repository, publisher in (
    ("hf", "hf/someone/vit", "someone/vit", vit),
    ("timm", "timm/test_vit", timm.get_pretrained_cfg("test_vit").hf_hub_id, of_timm),
):
    publish(repository, "a", publisher(0))
    fields = {"name": name, "weights": "pretrained", "image_size": 32 if kind == "hf" else 64}
    encoder = FAEEncoder.from_preset("fae-tiny", weights="pretrained", backbone=fields)
    encoder.save_pretrained(work / kind)
    stored = json.loads((work / kind / "config.json").read_text())["config"]["backbone"]
    publish(repository, "b", publisher(1))
    newest = FAEEncoder.from_preset("fae-tiny", weights="pretrained", backbone=fields)
    again = FAEEncoder.from_pretrained(work / kind)
    pinned = FAEEncoder.from_preset("fae-tiny", weights="pretrained", backbone={**fields, "revision": "a" * 40})
    (work / kind / "config.json").write_text((work / kind / "config.json").read_text().replace("a" * 40, "b" * 40))
    try:
        FAEEncoder.from_pretrained(work / kind)
        refused = ""
    except InvalidFile as error:
        refused = str(error)
    try:
        FAEEncoder.from_preset("fae-tiny", weights="pretrained", backbone={**fields, "revision": "c" * 40})
        absent = ""
    except InvalidFile as error:
        absent = str(error)
    said[kind] = {
        "revision": stored["revision"], "weights": stored["weights"], "newest": newest.config.backbone.revision,
        "same": again.backbone.fingerprint() == encoder.backbone.fingerprint() == pinned.backbone.fingerprint(),
        "moved": newest.backbone.fingerprint() != encoder.backbone.fingerprint(), "refused": refused, "absent": absent,
    }
print(json.dumps(said))
"""


@pytest.mark.slow
def test_the_commit_of_pretrained_weights_is_recorded_pinned_and_compared(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=600
    )
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout.splitlines()[-1])
    for kind in ("hf", "timm"):
        found = said[kind]
        assert (found["weights"], found["revision"], found["newest"]) == ("pretrained", "a" * 40, "b" * 40)
        assert found["same"] and found["moved"]
        assert "are not those that" in found["refused"]
        assert found["absent"] and "\n" not in found["absent"]
