#!/usr/bin/env bash
# Many GPUs and SLURM: the lines of docs/how-to/many-gpus.md.
# Names in capitals are yours to fill in.
set -euo pipefail

fae encode --data IMAGES --model TOKENIZER --out runs/latents --processes 8
fae train diffusion --latents runs/latents --preset lightningdit-xl --out runs/dit --processes 8
fae sample --generator runs/dit --decoder TOKENIZER --out runs/samples --count 50000 --processes 8

# Not run by the tests: needs four machines; tools/trials/two_machines.py runs it on two network namespaces.
# torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 --rdzv-id fae \
#   -m fae_core.cli.main train diffusion --latents LATENTS --out RUN --preset lightningdit-xl --resume

# Not run by the tests: needs SLURM; the test of the page reads the file's command.
# LATENTS=runs/latents RUN=runs/dit sbatch examples/train.sbatch
