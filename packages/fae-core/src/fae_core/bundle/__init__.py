"""Bundles: a tokenizer and a generator in one folder, found by name in an installed package, on disk or on the hub.

    FOLDER/bundle.json  README.md
           tokenizer/   a tokenizer that decodes, e.g. an FAE with encoder/, feature_decoder/ and pixel_decoder/
           generator/   a generator of exactly its latents

Where a command takes one model, the name of a bundle means its tokenizer or its generator.
"""
