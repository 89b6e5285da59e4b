"""Where the names of each former module are now (`MOVED`), and names that changed (`RENAMED`)."""

from __future__ import annotations

MOVED: dict[str, tuple[str, ...]] = {
    "fae_core.bundle.lookup": (
        "fae_core.models.bundles",
        "fae_core.models.sources",
        "fae_core.folders",
    ),
    "fae_core.bundle.rounding": ("fae_core.models.rounding",),
    "fae_core.children": ("fae_core.commands.children",),
    "fae_core.cli.training_cost": ("fae_core.cost.table",),
    "fae_core.command": ("fae_core.commands.running",),
    "fae_core.counter_random": ("fae_core.random.counter",),
    "fae_core.device": ("fae_core.processes",),
    "fae_core.digests": ("fae_core.files.digests",),
    "fae_core.draw": ("fae_core.models.draw",),
    "fae_core.foreign": ("fae_core.models.foreign",),
    "fae_core.generator": (
        "fae_core.models.load",
        "fae_core.protocols",
    ),
    "fae_core.hub": (
        "fae_core.config.base",
        "fae_core.folders",
        "fae_core.models.folder",
        "fae_core.models.sources",
        "fae_core.models.build",
        "fae_core.models.pretrained",
        "fae_core.models.card",
    ),
    "fae_core.images.sources": (
        "fae_core.images.photographs",
        "fae_core.images.open",
        "fae_core.images.source",
    ),
    "fae_core.integrity": ("fae_core.models.identity",),
    "fae_core.limits": ("fae_core.config.limits",),
    "fae_core.lock": ("fae_core.files.lock",),
    "fae_core.ops.library": ("fae_core.ops.operators",),
    "fae_core.ops.triton.accuracy": ("fae_core.testing.kernel_accuracy",),
    "fae_core.ops.triton.resources": ("fae_core.testing.kernel_resources",),
    "fae_core.presets": ("fae_core.models.presets",),
    "fae_core.recipe": ("fae_core.recipes.recipe",),
    "fae_core.recipe_jobs": ("fae_core.recipes.jobs",),
    "fae_core.testing.generator": ("fae_core.testing.conformance",),
    "fae_core.throughput": ("fae_core.cost.measured",),
    "fae_core.token_mask": ("fae_core.layers.token_mask",),
    "fae_core.training.distributed": (
        "fae_core.processes",
        "fae_core.training.parallel",
    ),
    "fae_core.transformers_models": ("fae_core.models.transformers_models",),
    "fae_core.writing": (
        "fae_core.files.disk",
        "fae_core.files.writing",
    ),
}

RENAMED = {
    "ModelConfig": "Config",
    "PARTS": "BUNDLE_PARTS",
    "RECORD": "BUNDLE_RECORD",
    "SPEC_FILE": "LATENT_SPEC",
    "CONFIG_FILE": "MODEL_CONFIG",
    "WEIGHTS_FILE": "MODEL_WEIGHTS",
    "RUN_MODEL_FOLDER": "RUN_MODEL",
}
