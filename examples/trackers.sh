#!/usr/bin/env bash
# Trackers: the lines of docs/how-to/trackers.md.
# Names in capitals are yours to fill in.
set -euo pipefail

fae train diffusion --latents LATENTS --preset lightningdit-tiny --out runs/tracked --track tensorboard
ls runs/tracked/trackers/tensorboard

# Not run by the tests: a server that does not end.
# tensorboard --logdir runs

fae train diffusion --latents LATENTS --preset lightningdit-tiny --out runs/shown \
    --set training.preview_every=2 --set preview.decoder=TOKENIZER --set preview.count=8
