# Official checkpoints: the lines of docs/official-checkpoints.md.
# Names in capitals are yours to fill in.

import shlex
import subprocess

import torch
from diffusers import AutoencoderKL

torch.manual_seed(0)
width, depth, side, patch = 64, 2, 8, 2
vae = AutoencoderKL(
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    block_out_channels=(32, 32, 32, 32),
    latent_channels=4,
    sample_size=8 * side,
)
vae.save_pretrained("trial/sd-vae")  # as stabilityai/sd-vae-ft-ema is on the hub

shapes = {
    "pos_embed": (1, (side // patch) ** 2, width),
    "x_embedder.proj": (width, 4, patch, patch),
    "t_embedder.mlp.0": (width, 256),
    "t_embedder.mlp.2": (width, width),
    "y_embedder.embedding_table.weight": (11, width),  # ten classes, and none
    "final_layer.linear": (2 * 4 * patch**2, width),
    "final_layer.adaLN_modulation.1": (2 * width, width),
}
for block in range(depth):
    shapes[f"blocks.{block}.attn.qkv"] = (3 * width, width)
    shapes[f"blocks.{block}.attn.proj"] = (width, width)
    shapes[f"blocks.{block}.mlp.fc1"] = (4 * width, width)
    shapes[f"blocks.{block}.mlp.fc2"] = (width, 4 * width)
    shapes[f"blocks.{block}.adaLN_modulation.1"] = (6 * width, width)
weights = {}
for name, shape in shapes.items():
    whole = name in ("pos_embed", "y_embedder.embedding_table.weight")
    weights[name if whole else f"{name}.weight"] = 0.05 * torch.randn(shape)
    if not whole:
        weights[f"{name}.bias"] = torch.zeros(shape[0])
torch.save({"ema": weights}, "trial/sit.pt")  # as SiT's training writes it

subprocess.run(shlex.split('fae import autoencoder-kl trial/sd-vae --out models/trial-vae'), check=True)
subprocess.run(shlex.split('fae import sit trial/sit.pt --arch S/2 --set input_size=8 --set num_classes=10 --set hidden_size=64 --set depth=2 --set num_heads=4 --spec models/trial-vae --out models/trial-sit'), check=True)
subprocess.run(shlex.split('fae sample --generator models/trial-sit --decoder models/trial-vae --sampling sit --set steps=10 --labels 0,3 --count 4 --out samples/trial'), check=True)

from PIL import Image

Image.open("samples/trial/grid.png")

# Not run by the tests: needs published weights; tests/test_official_pairs.py imports small files of their layouts.
# fae import autoencoder-kl stabilityai/sd-vae-ft-ema --image-size 256 --out models/sd-vae
# fae import sit SiT-XL-2-256.pt --spec models/sd-vae --out models/sit
# fae sample --generator models/sit --decoder models/sd-vae --sampling sit --labels 207,360,387,974 --count 4 --out samples/sit

# Not run by the tests: needs published weights; tests/test_official_pairs.py imports small files of their layouts.
# fae import autoencoder-kl vae-ft-ema-560000-ema-pruned.safetensors --scaling 0.18215 --out models/sd-vae-ldm

# Not run by the tests: needs published weights; tests/test_official_pairs.py imports small files of their layouts.
# fae import autoencoder-kl vavae-imagenet256-f16d32-dinov2.pt --statistics latents_stats.pt --out models/va-vae
# fae import lightningdit lightningdit-xl-imagenet256-800ep.pt --spec models/va-vae --out models/lightningdit
# fae sample --generator models/lightningdit --decoder models/va-vae --sampling lightningdit --count 8 --out samples/lightningdit

# Not run by the tests: needs published weights; tests/test_official_pairs.py imports small files of their layouts.
# fae import rae models/decoders/dinov2/wReg_base/ViTXL_n08/model.pt --encoder facebook/dinov2-with-registers-base \
#     --statistics models/stats/dinov2/wReg_base/imagenet1k/stat.pt --out models/rae
# fae import ditdh models/DiTs/Dinov2/wReg_base/ImageNet256/DiTDH-XL/stage2_model.pt --spec models/rae --out models/ditdh
# fae sample --generator models/ditdh --decoder models/rae --sampling rae --count 8 --out samples/rae

# Not run by the tests: needs published weights; tests/test_official_pairs.py imports small files of their layouts.
# fae import rae nyu-visionx/RAE-dinov2-wReg-base-ViTXL-n08 --out models/rae-diffusers

# Not run by the tests: needs published weights; tests/test_official_pairs.py imports small files of their layouts.
# fae import ditdh models/DiTs/Dinov2/wReg_base/ImageNet256/DiTDH-S_ep14/stage2_model.pt --arch S --spec models/rae \
#     --out models/ditdh-s
# fae sample --generator models/ditdh --decoder models/rae --sampling rae-autoguidance --set weak=models/ditdh-s --count 8 \
#     --out samples/rae-guided

# Not run by the tests: needs published weights; tests/test_official_pairs.py imports small files of their layouts.
# fae import autoencoder-kl stabilityai/sd-vae-ft-mse --image-size 256 --out models/sd-vae-mse
# fae import mmdit 0400000.pt --spec models/sd-vae-mse --out models/mmdit --set model.text_encoder.name=openai/clip-vit-large-patch14 \
#     --set model.text_encoder.max_length=77 --set model.text_encoder.mask_padding=false --set model.text_encoder.dtype=fp32
# fae sample --generator models/mmdit --decoder models/sd-vae-mse --sampling repa --prompts prompts.txt --out samples/mmdit

# Not run by the tests: needs published weights; tests/test_sd3_pipeline.py imports a small pipeline of its layout.
# fae import autoencoder-kl models/sd3-diffusers --image-size 1024 --out models/sd3-vae
# fae import mmdit models/sd3-diffusers --spec models/sd3-vae --out models/sd3
# fae sample --generator models/sd3 --decoder models/sd3-vae --sampling sd3 --prompts prompts.txt --out samples/sd3

# Not run by the tests: needs published weights; tests/test_sd3_pipeline.py imports a small pipeline's weights without its folder.
# fae import autoencoder-kl sd3_medium.safetensors --scaling 1.5305 --shift 0.0609 --image-size 1024 --out models/sd3-file-vae
# fae import mmdit sd3_medium.safetensors --spec models/sd3-file-vae --out models/sd3-file --set model.transport.shift=3 \
#     --set model.text_encoder.name=stabilityai/stable-diffusion-3-medium-diffusers --set model.text_encoder.kind=sd3 \
#     --set model.text_encoder.dtype=fp32
# fae sample --generator models/sd3-file --decoder models/sd3-file-vae --sampling sd3 --prompts prompts.txt --out samples/sd3-file
