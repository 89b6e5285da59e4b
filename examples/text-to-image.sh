#!/usr/bin/env bash
# Text to image: the lines of docs/how-to/text-to-image.md.
# Names in capitals are yours to fill in.
set -euo pipefail

fae encode --data IMAGES --model TOKENIZER --out runs/latents
fae train diffusion --latents runs/latents --preset mmdit-tiny --caption-template "a photo of {}" --out runs/mmdit

echo "a photo of a cat" > prompts.txt
fae sample --generator runs/mmdit --decoder TOKENIZER --prompts prompts.txt --guidance 3 --out runs/samples

# Not run by the tests: weeks of GPUs; tests/test_paper_recipes.py runs the recipe at size smoke.
# fae run recipes/paper/table3.yaml --out runs/table3 --set tokenizer=runs/tokenizer
