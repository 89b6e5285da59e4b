"""What is wrong with models that a command is given is said before torch is loaded, as far as their files show it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from early_errors import Ending, cases, endings, refused_before_torch
from PIL import Image

# `tokenizer` is an FAE on latents 8x4x4, `stage-one` the same without a pixel decoder, `generator` a SiT of its latents
# with the classes cat, dog and sea; `vae`, `generator-vae` and `store` are of latents 8x8x8. `pixel` is a decoder of
# the FAE's features, `pixel-other` one of another backbone's.
DRAWS = "--generator generator --decoder tokenizer"
MEASURES = f"{DRAWS} --reference images"
FINETUNE = "train pixel --stage finetune --data images --preset pixel-decoder-tiny"
PREVIEW = "--set training.preview_every=1 --set preview.decoder"
MISTAKES = {
    "classes": [
        (f"sample {DRAWS} --labels no --out out", "unknown class 'no'; did you mean dog?"),
        (f"sample {DRAWS} --labels cat,7 --out out", "must lie between 0 and 2"),
        ("sample --model cifar10 --labels catt --out out", "did you mean cat"),
        (f"eval generation {MEASURES} --labels dogg", "did you mean dog"),
        (f"eval generation {MEASURES} --limit 9 --count 10", "--limit 9 is below --count 10; what is drawn"),
        (f"eval sampling-grid {MEASURES} --vary steps=1 --limit 9", "--limit 9 is below --count 5000"),
        (f"eval guidance-search {MEASURES} --labels dogg", "did you mean dog"),
        (f"eval sampling-grid {MEASURES} --vary steps=1,2 --labels 3", "must lie between 0 and 2"),
    ],
    "latents": [
        ("sample --generator generator --decoder vae --out out", "height: wanted 8, found 4"),
        ("eval generation --generator generator --decoder vae --reference images", "height: wanted 8, found 4"),
        ("eval generation --samples store --decoder tokenizer --reference images", "height: wanted 4, found 8"),
        ("eval generation --samples store --reference images", "store holds latents; give a model folder"),
        ("eval guidance-search --generator generator --decoder vae --reference images", "wanted 8, found 4"),
        ("eval sampling-grid --generator generator --decoder vae --reference images --vary steps=1", "wanted 8, found"),
        ("explore --model generator --tokenizer vae", "height: wanted 8, found 4"),
        ("explore --tokenizer tokenizer --generator generator-vae", "height: wanted 4, found 8"),
        ("bundle --tokenizer tokenizer --generator generator-vae --out out", "height: wanted 4, found 8"),
    ],
    "kinds": [
        ("sample --generator tokenizer --decoder tokenizer --out out", "tokenizer holds a tokenizer (fae), not a gen"),
        ("sample --generator pixel --decoder tokenizer --out out", "pixel holds a pixel-decoder, not a generator"),
        ("sample --generator generator --decoder generator --out out", "generator holds a generator (sit), not a tok"),
        ("explore --tokenizer generator", "not a tokenizer"),
        ("bundle --tokenizer generator --generator generator --out out", "not a tokenizer"),
        ("encode --data images --model generator --out out", "not a tokenizer"),
        ("encode --data images --model vae --weights random --out out", "vae holds a conv-vae, which has no backbone"),
        ("encode --data images --model vae --features store --out out", "which has no backbone"),
        ("reconstruct --data images --model generator --out out", "not a tokenizer"),
        ("train flow --data images --tokenizer generator --out out", "not a tokenizer"),
        ("train autoencoder --data images --encoder vae --out out", "which has no backbone"),
        ("train pixel --data images --autoencoder vae --out out", "which has no backbone"),
        ("train pixel --data images --autoencoder stage-one --init vae --out out", "not a pixel decoder"),
        ("assemble --autoencoder encoder --pixel pixel --out out", "not an 'fae'"),
        ("assemble --autoencoder stage-one --pixel vae --out out", "not a pixel decoder"),
        ("eval generation --generator vae --decoder tokenizer --reference images", "not a generator"),
        ("eval convergence --generator images --decoder tokenizer --reference images", "images has no checkpoints"),
        ("eval probe --model generator --data images", "not a tokenizer"),
        ("eval probe --model vae --data images", "vae (conv-vae) gives latents but no features"),
        ("eval pca --model vae --data images --out out", "gives latents but no features"),
        ("eval similarity --model generator --data images --out out", "not a tokenizer"),
    ],
    "sampling": [
        (f"sample {DRAWS} --set method=mean_flow --out out", "needs a network trained with mean_flow"),
        (f"sample {DRAWS} --sampling rae-autoguidance --out out", "guides by a worse model"),
        (f"sample {DRAWS} --guidance 3 --set guidance.scale=2 --out out", "guidance is given twice"),
        (f"sample {DRAWS} --guidance 3 --set guidance=2 --out out", "guidance is given twice"),
        (f"sample {DRAWS} --guidance 1 --set guidance.parts=[[1,0,2]] --out out", "guidance is given twice"),
        (f"sample {DRAWS} --set weak=/nope --out out", "/nope does not exist"),
        (f"sample {DRAWS} --set weak=generator-vae --out out", "height: wanted 4, found 8"),
        (f"sample {DRAWS} --set weak=weak --out out", "a weak model guides at a scale other than 1"),
        (f"sample {DRAWS} --guidance 2 --set weak=weak-names --out out", "names or the order of these differ"),
        (f"sample {DRAWS} --guidance 2 --set weak=weak-flow --out out", "weak-flow cannot guide: it gives no vel"),
        (f"eval sampling-grid {MEASURES} --vary guidance=1,2 --set weak=weak-flow", "weak-flow cannot guide"),
        (f"eval guidance-search {MEASURES} --set weak=weak-flow", "weak-flow cannot guide"),
        (f"sample {DRAWS} --prompts images/words.txt --out out", "generator does not draw what a text says"),
        (f"eval sampling-grid {MEASURES} --vary method=euler,mean_flow", "needs a network trained with mean_flow"),
        ("sample --model cifar10 --resume --out images", "images exists"),
        (f"sample {DRAWS} --resume --count 3 --out begun", "begun was started with other settings"),
        (f"eval sampling-grid {MEASURES} --vary steps=1 --resume --out record.json", "not one of a sampling grid"),
        (f"eval guidance-search {MEASURES} --resume --out record.json", "not one of a guidance search"),
    ],
    "training": [
        ("train diffusion --latents store --out out", "made for latents of 16x4x4, and these are of 8x8x8"),
        ("train flow --latents store --out out", "made for latents of 16x4x4, and these are of 8x8x8"),
        ("train flow --data images --tokenizer vae --out out", "made for latents of 16x4x4, and these are of 8x8x8"),
        ("train diffusion --latents store --preset sit-tiny --set model.patch_size=3 --out out", "do not tile latents"),
        ("train flow --latents store --preset starflow-tiny --set model.patch_size=3 --out out", "patches of 3"),
        ("train diffusion --latents store --preset mmdit-tiny --out out", "neither captions nor class names"),
        (
            f"train diffusion --latents store --preset sit-tiny {PREVIEW}=tokenizer --out out",
            "height: wanted 4, found 8",
        ),
        ("train pixel --data images --autoencoder stage-one --out out", "made for features of 176x8x8"),
        ("train autoencoder --data empty --out out", "empty holds no images"),
        ("train vae --data images --split half --out out", "images has no split 'half'"),
    ],
    "originals": [
        ("import sit images/0.png --arch XXL/9 --out out", "did you mean XL/4"),
        ("import lightningdit images/0.png --spec images --out out", "images/latent_spec.json does not exist"),
        ("import mmdit /nope --out out", "/nope does not exist"),
    ],
    "damage": [
        ("sample --generator no-weights --decoder tokenizer --out out", "no-weights/model.safetensors does not exist"),
        ("sample --generator no-config --decoder tokenizer --out out", "no-config/config.json"),
        ("reconstruct --data images --model no-spec --out out", "no-spec/latent_spec.json"),
    ],
    # `images` is a folder, so these are paths with an error in them; no hub can be asked.
    "paths that could be names on the hub": [
        ("sample --model images/dit --out out", "images/dit is neither a local folder nor"),
        ("sample --generator generator --decoder images/fae --out out", "images/fae is neither"),
        ("sample --generator images/dit --decoder tokenizer --out out", "images/dit is neither"),
        ("sample --generator generator --decoder images/f.a.e. --out out", "images/f.a.e. does not exist"),
        ("encode --data images --model images/fae --out out", "images/fae is neither"),
        ("reconstruct --data images --model images/fae --out out", "images/fae is neither"),
        ("train diffusion --data images --tokenizer images/fae --preset sit-tiny --out out", "images/fae is neither"),
        ("train diffusion --latents store --preset sit-tiny --init images/dit --out out", "images/dit is neither"),
        (f"train diffusion --latents store --preset sit-tiny {PREVIEW}=images/fae --out out", "is neither"),
        ("train autoencoder --data images --encoder images/fae --out out", "images/fae does not exist"),
        ("info images/fae", "images/fae does not exist"),
        ("config images/words.txt", "images/words.txt is a path, not the name of a preset"),
        (f"{FINETUNE} --autoencoder images/fae --init pixel --out out", "images/fae is neither"),
        (f"{FINETUNE} --autoencoder stage-one --init images/pixel --out out", "images/pixel is neither"),
        ("assemble --autoencoder stage-one --pixel images/pixel --out out", "images/pixel is neither"),
        ("bundle --tokenizer tokenizer --generator images/dit --out out", "images/dit is neither"),
        ("explore --model images/dit", "images/dit is neither"),
        ("eval guidance-search --generator images/dit --decoder tokenizer --reference images", "images/dit is neither"),
        ("eval probe --model images/fae --data images", "images/fae is neither"),
    ],
    "decoding": [
        ("sample --generator generator --decoder stage-one --out out", "stage-one has no pixel decoder and cannot"),
        ("sample --generator generator --decoder encoder --out out", "encoder encodes but cannot paint"),
        ("reconstruct --data images --model stage-one --out out", "cannot paint"),
        ("bundle --tokenizer encoder --generator generator --out out", "cannot paint"),
        ("eval sampling-grid --generator generator --decoder stage-one --reference images --vary steps=1", "cannot"),
        (f"train diffusion --latents store --preset sit-tiny {PREVIEW}=stage-one --out out", "cannot paint"),
    ],
    "features": [
        ("assemble --autoencoder stage-one --pixel pixel-other --out out", "feature spaces differ"),
        ("assemble --encoder fae-tiny --pixel pixel --out out", "this encoder has an adapter to train"),
        (
            "assemble --encoder fae-tiny --set encoder.adapter.type=identity --pixel pixel-other --out out",
            "backbone: wanted timm/test_vit, found timm/other",
        ),
        (
            f"{FINETUNE} --autoencoder stage-one --init pixel-other --out out",
            "feature spaces differ",
        ),
        ("train pixel --data images --encoder fae-tiny --features store --out out", "store holds features of conv-vae"),
        ("train autoencoder --data images --encoder fae-tiny --features store --out out", "features of conv-vae"),
        ("encode --data images --model fae-tiny --features store --out out", "features of conv-vae"),
    ],
    "backbones": [
        ("encode --data images --model encoder --weights pip --out out", "holds its backbone's weights itself"),
        ("reconstruct --data images --model tokenizer --extractor incepton --out out", "did you mean inception"),
        (
            "encode --data images --model vae --resume --out images",
            "images holds no latent store that could be",
        ),
        ("import autoencoder-kl images --out out", "images holds no config.json, neither itself nor in vae/"),
        ("info generator --gpus 3", "unknown preset 'generator'"),
        ("encode --data images --model fae-tiny --weights /nope.pt --out out", "/nope.pt does not exist"),
        ("encode --data images --model fae-tiny --set encoder.backbone.name=vit --out out", "a backbone is named"),
        ("train autoencoder --data images --encoder fae-tiny --weights /nope.pt --out out", "/nope.pt does not exist"),
        (
            "train autoencoder --data images --encoder fae-tiny --set encoder.backbone.name=hf/x --weights pip --out o",
            "no pip package carries weights of hf/x",
        ),
    ],
    "pictures": [
        ("eval similarity --model tokenizer --data images --query 3 --out out", "--query takes Y,X"),
        ("eval similarity --model tokenizer --data images --indices 3 --out out", "must lie between 0 and 1"),
        ("eval probe --model tokenizer --data images --cls orginal", "'orginal' is not one of 'original', 'mean'"),
        ("eval matching --model tokenizer --data images --indices 0 --out out", "matching needs two images"),
    ],
}


def save_models() -> None:
    """Write the models into the current folder."""
    import torch

    from fae_core.latent_store import write_store
    from fae_decoders import FAE, ConvVAE, FeatureDecoder, PixelDecoder
    from fae_decoders.fae.feature_space import FeatureSpace
    from fae_diffusion import SiT
    from fae_encoder import FAEEncoder
    from fae_flow import STARFlow

    encoder = FAEEncoder.from_preset("fae-tiny", seed=0)
    encoder.stamp()
    space = FeatureSpace.of(encoder)
    features = FeatureDecoder.from_preset("feature-decoder-tiny", spec=encoder.spec, features=space, seed=0)
    pixels = PixelDecoder.from_preset("pixel-decoder-tiny", features=space, seed=0)
    other = PixelDecoder.from_preset(
        "pixel-decoder-tiny", features=space.model_copy(update={"backbone": "timm/other"}), seed=0
    )
    vae = ConvVAE.from_preset("conv-vae-tiny", seed=0)
    generator = SiT.from_preset("sit-tiny", spec=encoder.spec, classes=3, seed=0)
    generator.class_names = ("cat", "dog", "sea")
    weak_names = SiT.from_preset("sit-tiny", spec=encoder.spec, classes=3, seed=0)
    weak_names.class_names = ("dog", "cat", "sea")
    saved = {
        "encoder": encoder,
        "stage-one": FAE(encoder, features),
        "tokenizer": FAE(encoder, features, pixels),
        "pixel": pixels,
        "pixel-other": other,
        "vae": vae,
        "generator": generator,
        "weak": SiT.from_preset("sit-tiny", spec=encoder.spec, classes=3, seed=0),
        "weak-names": weak_names,
        "weak-flow": STARFlow.from_preset("starflow-tiny", spec=encoder.spec, classes=3, seed=0),
        "generator-vae": SiT.from_preset("sit-tiny", spec=vae.spec, classes=3, seed=0),
    }
    for name, model in saved.items():
        model.save_pretrained(name)
    write_store("store", vae.spec, torch.zeros(2, *vae.spec.shape))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Ending]]:
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        save_models()
        for name in ("images", "empty"):
            Path(name).mkdir()
        Path("images/words.txt").write_text("a cat\n")
        for name, source in (("no-weights", "generator"), ("no-config", "generator"), ("no-spec", "tokenizer")):
            shutil.copytree(source, name)
        Path("no-weights/model.safetensors").unlink()
        Path("no-config/config.json").write_text("{")
        Path("no-spec/latent_spec.json").write_text('{"channels": 8}')
        Path("begun").mkdir()
        job = {"count": 4, "labels": "equal", "guidance": None, "seed": 0, "options": {}, "prompts": []}
        Path("begun/samples.json").write_text(json.dumps({"job": job}))
        Path("record.json").write_text(json.dumps({"kind": "generation", "title": "x"}))
        for number in range(2):
            Image.new("RGB", (48, 48), (number * 90, 0, 0)).save(f"images/{number}.png")
        yield endings(MISTAKES, folder)


@pytest.mark.parametrize(("command", "said"), cases(MISTAKES))
def test_models_that_do_not_fit_are_refused_before_torch_is_loaded(
    command: str, said: str, found: dict[str, Ending]
) -> None:
    refused_before_torch(found[command], said)
