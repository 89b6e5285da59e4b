"""Every name on disk: what stands in a model, a run, a bundle, a latent store, a folder of samples, an experiment.

docs/architecture.md shows the same as trees. Nothing else in the packages spells these names; files/ownership.py tells from them
which folders are FAE's own.
"""

from __future__ import annotations

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
RUN_IDENTITY = "identity"  # the section of it that says by content what the run learns from
RUN_ARGUMENTS = "arguments"  # the words of the command that trains it
RUN_METRICS = "metrics.jsonl"
RUN_CHECKPOINTS = "checkpoints"
RUN_MODEL = "model"
RUN_SAMPLES = "samples"
CHECKPOINT_STATE = "state.json"

# A bundle
BUNDLE_RECORD = "bundle.json"
TOKENIZER, GENERATOR = BUNDLE_PARTS = ("tokenizer", "generator")

# A latent store
STORE_INDEX = "index.json"
STORE_LABELS = "labels.npy"
STORE_SKIPPED = "skipped.txt"
STORE_PROGRESS = ".progress"
STORE_PLAN = "plan.json"  # in .progress, while it is being written

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

# An experiment that `fae run` made
RECIPE_STEPS = "steps.json"
RECIPE_LOGS = "logs"

# Beside other people's images
IMAGE_CLASSES = "classes.json"
IMAGE_LABELS = "labels.json"
IMAGE_METADATA = "metadata.jsonl"
TRAIN, HELD_OUT = "train", "held-out"  # of `fae crops`
PROMPTS = "prompts.jsonl"  # of `fae eval coco`
REFERENCE = "reference.npz"


def checkpoint(step: int) -> str:
    """The folder, in a run's checkpoints, of the one after `step` updates."""
    return f"step-{step:08d}"


def checkpoint_step(name: str) -> int | None:
    """The step of a checkpoint's folder; None for any other name."""
    digits = name.removeprefix("step-")
    is_number = name != digits and digits.isdecimal() and digits.isascii()
    return int(digits) if is_number and checkpoint(int(digits)) == name else None


def preview_image(step: int) -> str:
    """The picture, in a run's samples, that was drawn after `step` updates."""
    return f"step-{step:08d}.png"


def store_shard(shard: int) -> str:
    """A latent store's file of that number."""
    return f"shard-{shard:06d}.safetensors"


def image(index: int) -> str:
    """The file, in a folder of images, of sample `index`."""
    return f"{index:06d}.png"
