# In a diffusers pipeline: the lines of docs/how-to/diffusers.md.
# Names in capitals are yours to fill in.

import torch
from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

from fae_decoders import DiffusersVAE

vae = DiffusersVAE.from_pretrained("runs/fae")  # encode(x).latent_dist, decode(z).sample; images in [-1, 1]
channels, size = vae.config.latent_channels, vae.tokenizer.spec.height
transformer = DiTTransformer2DModel(  # yours, trained on such latents
    num_attention_heads=2,
    attention_head_dim=16,
    num_layers=2,
    in_channels=channels,
    out_channels=channels,
    sample_size=size,
    patch_size=1,
    num_embeds_ada_norm=1000,
)
pipeline = DiTPipeline(transformer, vae, DDIMScheduler())
picture = pipeline(class_labels=[3], num_inference_steps=2, generator=torch.manual_seed(0)).images[0]
picture.save("sample.png")
