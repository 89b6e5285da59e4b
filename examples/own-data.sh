#!/usr/bin/env bash
# Your own data: the lines of docs/how-to/own-data.md.
# Names in capitals are yours to fill in.
set -euo pipefail

fae check IMAGES --out survey.json
fae train autoencoder --data IMAGES --survey survey.json --preset feature-decoder-demo --out runs/folder

tar -C IMAGES -cf photos.tar .
fae encode --data photos.tar --model TOKENIZER --out runs/tar-latents
fae encode --data 'IMAGES[:16]' --model TOKENIZER --out runs/part-latents

# Not run by the tests: needs an object store; packages/fae-core/tests/test_images_tar.py reads shards from fsspec's memory.
# pip install s3fs
# export AWS_PROFILE=mine
# fae encode --data 's3://my-bucket/train-{0000..1023}.tar' --model TOKENIZER --out runs/s3-latents --processes 8
