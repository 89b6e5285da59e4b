"""`fae train patch-flow`."""

from fae_core.cli.options import Latents, LiveData, LiveTokenizer
from fae_core.cli.training_options import TrainingOptions, training_command


@training_command("patch-flow-small", "patch-flow")
def train_patch_flow(
    options: TrainingOptions, latents: Latents = None, data: LiveData = None, tokenizer: LiveTokenizer = None
) -> None:
    """Train a PatchFlow on a latent store."""
    from fae_core.cli.training import train_generator

    classes = {"patch-flow": "patch_flow:PatchFlow"}
    train_generator("patch-flow", "patch-flow-small", classes, options, latents=latents, data=data, tokenizer=tokenizer)
