"""Every name on disk: the files of a model, a run, a bundle, a latent store, a folder of samples, an experiment.

docs/architecture.md shows the same as trees. The packages write these names nowhere else; files/ownership.py recognises
by them the folders that FAE made.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

_MOST_DIGITS = 15  # of a step in a name; int() raises at some thousands

CACHE_VARIABLE = "FAE_CACHE"
MEASURED_OPS = "ops"  # in the cache folder: records of `fae_core.ops.tune`

README = "README.md"  # the card of a model or a bundle

# A model
MODEL_CONFIG = "config.json"
MODEL_WEIGHTS = "model.safetensors"
LATENT_SPEC = "latent_spec.json"
ENCODER = "encoder"  # an FAE holds three models
FEATURE_DECODER = "feature_decoder"
PIXEL_DECODER = "pixel_decoder"

# A training run
RUN_CONFIG = "config.yaml"
RUN_IDENTITY = "identity"  # a section of config.yaml: hashes of the data and models that the run reads
RUN_ARGUMENTS = "arguments"  # a section of config.yaml: the words of the training command
RUN_MEASURED = "measured"  # a section of config.yaml: what was measured on the data before the first step
RUN_MICRO_BATCH = "micro_batch"  # in config.yaml, where a loss depends on it: samples that are computed on together
RUN_METRICS = "metrics.jsonl"
RUN_UNREADABLE = "unreadable.txt"  # images that were replaced: place in the data and reason, on one line each
RUN_CHECKPOINTS = "checkpoints"
RUN_MODEL = "model"
RUN_EXPORTS = "exports"
RUN_SAMPLES = "samples"
RUN_TRACKERS = "trackers"
CHECKPOINT_STATE = "state.json"
ANY_CHECKPOINT = "step-*"  # see `checkpoint`
ANY_BAD_BATCH = "bad-batch-*.safetensors"  # see `bad_batch`

# A bundle
BUNDLE_RECORD = "bundle.json"
TOKENIZER, GENERATOR = BUNDLE_PARTS = ("tokenizer", "generator")

# A latent store
STORE_INDEX = "index.json"
STORE_LABELS = "labels.npy"
STORE_SKIPPED = "skipped.txt"
STORE_PROGRESS = ".progress"
ANY_STORE_SHARD = "shard-*.safetensors"  # see `store_shard`
STORE_PLAN = "plan.json"  # in .progress, while the store is being written

# A cache of text embeddings
CACHE_INDEX = "index.json"
CACHE_KEYS = "keys.npy"
CACHE_OFFSETS = "offsets.npy"
CACHE_SUMS = "sums.npy"
CACHE_TOKENS = "tokens.bin"

# Samples, reconstructions and measurements
SAMPLES_RECORD = "samples.json"
SAMPLES_NPZ = "samples.npz"
IMAGES = "images"
GRID = "grid.png"
PAIRS = "pairs.png"
RESULTS = "results"
REPORT = "report.html"

# An experiment of `fae run`
RECIPE_STEPS = "steps.json"
RECIPE_LOGS = "logs"

# In folders of images
IMAGE_CLASSES = "classes.json"
IMAGE_LABELS = "labels.json"
IMAGE_DATASET = "dataset.json"  # of StyleGAN and EDM
IMAGE_METADATA = "metadata.jsonl"
TRAIN, HELD_OUT = "train", "held-out"  # of `fae crops`
PROMPTS = "prompts.jsonl"  # of `fae eval coco`
REFERENCE = "reference.npz"
REFERENCE_VAL2014 = "reference-val2014.npz"


def weights_file(variant: str | None = None) -> str:
    """The file of a model's weights: model.safetensors, or model.VARIANT.safetensors as the hub names a variant."""
    return MODEL_WEIGHTS if variant is None else MODEL_WEIGHTS.replace(".", f".{variant}.", 1)


def checkpoint(step: int) -> str:
    """The folder, in a run's checkpoints, of the checkpoint after `step` updates."""
    return f"step-{step:08d}"


def checkpoint_step(name: str) -> int | None:
    """The step of a checkpoint by its folder's name; None for any other name."""
    return _step_of(name, checkpoint)


def kept_model(step: int) -> str:
    """The model folder, in a run's exports, of the checkpoint that is kept after `step` updates."""
    return f"step-{step}"


def kept_step(name: str) -> int | None:
    """The step of an export by its folder's name; None for any other name."""
    return _step_of(name, kept_model)


def named_step(name: str) -> int | None:
    """The step of a checkpoint or an export by its folder's name; None for any other name."""
    return _step_of(name, checkpoint, kept_model)


def _step_of(name: str, *forms: Callable[[int], str]) -> int | None:
    digits = name.removeprefix("step-")
    is_number = digits.isdecimal() and digits.isascii() and len(digits) <= _MOST_DIGITS
    return int(digits) if is_number and name in [form(int(digits)) for form in forms] else None


def preview_image(step: int) -> str:
    """The preview image, in a run's samples, after `step` updates."""
    return f"step-{step:08d}.png"


def store_shard(shard: int) -> str:
    """The file of a latent store's shard, by its number."""
    return f"shard-{shard:06d}.safetensors"


def bad_batch(step: int) -> str:
    """The file, in a run, of a batch whose gradients were not finite."""
    return f"bad-batch-{step:08d}.safetensors"


def image(index: int) -> str:
    """The file, in a folder of images, of sample `index`."""
    return f"{index:06d}.png"


def cache_folder() -> Path:
    """The folder of what FAE can make again: $FAE_CACHE, or fae/ in the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fae"
