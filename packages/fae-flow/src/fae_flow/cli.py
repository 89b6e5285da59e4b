"""`fae train flow` and `fae import starflow`. Heavy imports stay inside the functions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fae_core.cli.options import (
    Init,
    Latents,
    LiveData,
    LiveFlip,
    LiveTokenizer,
    NewOut,
    Overwrite,
    Section,
    Spec,
    path_there,
)
from fae_core.cli.training_options import TrainingOptions, training_command
from fae_core.commands.output import say


@training_command("starflow-tiny, for latents of its size alone", "starflow")
def train_flow(
    options: TrainingOptions,
    latents: Latents = None,
    data: LiveData = None,
    tokenizer: LiveTokenizer = None,
    flip: LiveFlip = False,
    init: Init = None,
) -> None:
    """Train a STARFlow on a latent store; classes follow the store's labels.

    When sampling, --guidance is the scale of diffusion models (1 = off): STARFlow's own w is that scale - 1.

    Example: fae train flow --latents runs/latents --out runs/flow --preset starflow-cifar10 --steps 5000
    """
    from fae_core.cli.training import train_generator

    source = {"latents": latents, "data": data, "tokenizer": tokenizer, "flip": flip}
    train_generator("flow", "starflow-tiny", {"starflow": "fae_flow:STARFlow"}, options, **source, init=init)


def import_starflow(
    checkpoint: Annotated[
        Path, typer.Argument(callback=path_there, help="The original's .pth, .pt or .safetensors file.")
    ],
    out: NewOut,
    config: Annotated[
        Path,
        typer.Option(
            "--config", callback=path_there, help="The released YAML file, or one with the constructor's arguments."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="An argument of the original; model.KEY sets a field of STARFlowConfig."
        ),
    ] = None,
    spec: Spec = None,
    classes: Annotated[
        int | None,
        typer.Option(
            "--classes", min=1, max=1_000_000, help="Read a model of one-hot labels as one of this many classes."
        ),
    ] = None,
    section: Section = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert a checkpoint of apple/ml-starflow's image models to a model folder.

    Example: fae import starflow starflow_3B.pth --config starflow_3B_t2i_256x256.yaml --out models/starflow-3b
    """
    from fae_core.cli.settings import resolve_settings
    from fae_core.commands.running import command_line
    from fae_core.config import require_fields
    from fae_core.files import require_new_folder
    from fae_core.spec import LatentSpec
    from fae_flow.config import STARFlowConfig

    require_new_folder(out, overwrite=overwrite)
    settings = resolve_settings(None, config, overrides)
    fields = settings.pop("model", {})
    require_fields(STARFlowConfig, fields, "model settings")
    latent_spec = LatentSpec.load(spec) if spec is not None else None
    from fae_core.models.foreign import read_state_dict
    from fae_flow import STARFlow
    from fae_flow.official.checkpoint import constructor_arguments

    state = read_state_dict(checkpoint, section=section)
    arguments = constructor_arguments(settings, state)
    for name in ("noise_std", "drop_label", "latent_norm_regularization"):
        if name in arguments:
            own = {"drop_label": "label_dropout", "latent_norm_regularization": "regularization"}.get(name, name)
            fields.setdefault(own, arguments[name])
    if classes is not None:
        fields["classes"] = classes
    model = STARFlow.from_official(state, arguments, latent_spec, **fields)
    card = f"Imported from a checkpoint of the original STARFlow (`{checkpoint.name}`)."
    model.save_pretrained(out, overwrite=overwrite, card=card)
    count = sum(p.numel() for p in model.parameters())
    say(
        f"wrote {out} ({count:,} parameters); next: "
        + command_line("sample", generator=out, decoder="TOKENIZER", out="SAMPLES")
    )
