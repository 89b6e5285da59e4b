"""Bundles: a whole line in one folder, found by name in an installed package, on disk or on the hub.

    FOLDER/bundle.json  README.md
           tokenizer/   a tokenizer that decodes, e.g. an FAE with encoder/, feature_decoder/ and pixel_decoder/
           generator/   a generator of exactly its latents

Wherever one model is asked for, the name of a bundle stands for its tokenizer or its generator.
"""
