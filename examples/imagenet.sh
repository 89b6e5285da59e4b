#!/usr/bin/env bash
# ImageNet as in the paper: the lines of docs/how-to/imagenet.md.
# Names in capitals are yours to fill in.
set -euo pipefail

# Not run by the tests: weeks of GPUs; tests/test_paper_recipes.py runs both recipes at size smoke.
# fae run recipes/paper/tokenizer.yaml --out runs/tokenizer --set data=imagenet/train --set held_out=imagenet/val
# fae run recipes/paper/table2.yaml --out runs/table2 --set tokenizer=runs/tokenizer

fae info lightningdit-xl --gpus 8
fae config lightningdit-xl
