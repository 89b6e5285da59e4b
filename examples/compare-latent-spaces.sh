#!/usr/bin/env bash
# Compare latent spaces: the lines of docs/how-to/compare-latent-spaces.md.
# Names in capitals are yours to fill in.
set -euo pipefail

fae train vae --data IMAGES --preset conv-vae-cifar10 --image-size 64 --set model.channels=16 \
    --set 'model.widths=[16,32,64,64]' --out runs/vae
fae encode --data IMAGES --model runs/vae --out runs/latents-vae
fae encode --data IMAGES --model TOKENIZER --out runs/latents-fae

fae train diffusion --latents runs/latents-fae --preset lightningdit-tiny --seed 0 --out runs/fae-0
fae train diffusion --latents runs/latents-fae --preset lightningdit-tiny --seed 1 --out runs/fae-1
fae train diffusion --latents runs/latents-vae --preset lightningdit-tiny --seed 0 --out runs/vae-0
fae train diffusion --latents runs/latents-vae --preset lightningdit-tiny --seed 1 --out runs/vae-1

fae eval generation --generator runs/fae-0 --decoder TOKENIZER --count 16 --reference HELD_OUT --size 64 \
    --out runs/results/fae-0.json
fae eval generation --generator runs/fae-1 --decoder TOKENIZER --count 16 --reference HELD_OUT --size 64 \
    --out runs/results/fae-1.json
fae eval generation --generator runs/vae-0 --decoder runs/vae --count 16 --reference HELD_OUT --size 64 \
    --out runs/results/vae-0.json
fae eval generation --generator runs/vae-1 --decoder runs/vae --count 16 --reference HELD_OUT --size 64 \
    --out runs/results/vae-1.json
fae eval compare 'FAE=runs/results/fae-*.json' 'VAE=runs/results/vae-*.json' --out runs/results/compared.json
