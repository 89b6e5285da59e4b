"""`fae train diffusion`, `fae import sit|lightningdit|ditdh|mmdit`. Heavy imports stay inside the functions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from fae_core.cli.option_objects import spread
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
    Variant,
    path_there,
)
from fae_core.cli.training_options import TrainingOptions, training_command
from fae_core.commands.output import say

Checkpoint = Annotated[Path, typer.Argument(callback=path_there, help="The original's .pt or .safetensors file.")]
CheckpointOrFolder = Annotated[
    Path,
    typer.Argument(
        callback=path_there, help="The original's .pt or .safetensors file, or the folder that diffusers saved."
    ),
]
Architecture = Annotated[str | None, typer.Option("--arch", help="The original's size and patch, such as XL/2 or B/1.")]
Statistics = Annotated[
    Path | None,
    typer.Option(
        "--statistics", callback=path_there, help="LightningDiT's latents_stats.pt, for a spec without statistics."
    ),
]
Arguments = Annotated[
    Path | None,
    typer.Option("--config", callback=path_there, help="YAML file with the original's constructor arguments."),
]
SetArgument = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="One of the original's constructor arguments, e.g. use_rope=true; model.KEY sets one of ours.",
    ),
]


@training_command("lightningdit-tiny, for latents of its size alone")
def train_diffusion(
    options: TrainingOptions,
    latents: Latents = None,
    data: LiveData = None,
    tokenizer: LiveTokenizer = None,
    flip: LiveFlip = False,
    init: Init = None,
    text_cache: Annotated[
        Path | None,
        typer.Option("--text-cache", help="mmdit: where caption embeddings are kept; default LATENTS.text."),
    ] = None,
    caption_template: Annotated[
        str, typer.Option("--caption-template", help="mmdit: the caption of a class, in stores without captions.")
    ] = "a photo of a {}",
    caption_weights: Annotated[
        str | None,
        typer.Option(
            "--caption-weights",
            help="mmdit: of a sample's several captions, in order, such as 0.3,0.7; default: all are equally likely.",
        ),
    ] = None,
) -> None:
    """Train a SiT, LightningDiT or MMDiT on a latent store; classes follow the store's labels, text its captions.

    Example: fae train diffusion --latents runs/latents --out runs/dit --preset lightningdit-cifar10 --steps 5000
    """
    from fae_core.cli.training import train_generator
    from fae_core.commands.running import is_first_process
    from fae_core.config import parse_config
    from fae_core.errors import FAEError
    from fae_core.images.caption_choice import CaptionChoice
    from fae_core.latent_store.facts import StoreFacts
    from fae_core.models.configs import config_class_of
    from fae_diffusion.text.stored import captions_of, require_cache_place, require_encoder, require_texts, texts_hash

    choice = CaptionChoice.parse(caption_weights)

    def check(model_type: str, model: dict[str, Any]) -> dict[str, str]:
        for name, given in (("--text-cache", text_cache), ("--caption-weights", caption_weights)):
            if model_type != "mmdit" and given is not None:
                raise FAEError(f"{name} is for models of text (mmdit); leave it out")
        if model_type == "mmdit" and (latents is None or data is not None or tokenizer is not None):
            raise FAEError("text models are trained on a latent store: encode the images first, then pass --latents")
        parsed: Any = parse_config(config_class_of(model_type), model, "model settings")
        if model_type != "mmdit" and not options.continues:
            parsed.require_one_guidance()
        if model_type != "mmdit" or latents is None:
            return {}
        require_encoder(parsed)
        if options.dry_run:  # it reads and writes no text
            return {}
        store = StoreFacts(latents, verify=False)  # training compares files with their checksums, when it reads them
        require_texts(store, caption_template, choice)
        if is_first_process():  # by the time another one looks, the first may have begun the cache
            require_cache_place(text_cache or Path(f"{latents}.text"))
        return {"captions": texts_hash(captions_of(store, caption_template))} if options.continues else {}

    def text_task(*arguments: Any) -> tuple[Any, dict[str, Any]]:
        from fae_diffusion.text.training import caption_task

        return caption_task(*arguments, cache=text_cache, template=caption_template, choice=choice)

    names = {"lightningdit": "LightningDiT", "sit": "SiT", "mmdit": "MMDiT"}
    train_generator(
        "diffusion",
        "lightningdit-tiny",
        {model_type: f"fae_diffusion:{name}" for model_type, name in names.items()},
        options,
        latents=latents,
        data=data,
        tokenizer=tokenizer,
        flip=flip,
        init=init,
        task_factories={"mmdit": text_task},
        check=check,
    )


@dataclass(frozen=True)
class Original:
    """What every import of an original's checkpoint takes. The fields are options; see their help."""

    checkpoint: Checkpoint
    out: NewOut
    config: Arguments = None
    overrides: SetArgument = None
    spec: Spec = None
    section: Section = None
    overwrite: Overwrite = False


@spread
def import_sit(options: Original, arch: Architecture = None) -> None:
    """Turn a checkpoint of willisma/SiT or REPA's SiT into a model folder. Without --arch and --config it is SiT-XL/2.

    Example: fae import sit SiT-XL-2-256x256.pt --out models/sit-xl-2
    """
    _import("sit", options, arch)


@spread
def import_lightningdit(options: Original, arch: Architecture = None, statistics: Statistics = None) -> None:
    """Turn a checkpoint of hustvl/LightningDiT into a model folder. Without --config its released options are assumed.

    Example: fae import lightningdit lightningdit-xl-imagenet256-800ep.pt --out models/lightningdit --arch XL/1
    """
    _import("lightningdit", options, arch, statistics)


@spread
def import_ditdh(
    options: Original,
    arch: Annotated[str | None, typer.Option("--arch", help="The original's size: XL or S.")] = None,
) -> None:
    """Turn a checkpoint of RAE's DiT^DH into a model folder. Without --arch and --config it is read as DiTDH-XL at 256.

    Example: fae import ditdh stage2_model.pt --out models/ditdh-xl --spec models/rae
    """
    _import("ditdh", options, arch)


@partial(spread, replaced={"checkpoint": CheckpointOrFolder})
def import_mmdit(options: Original, variant: Variant = None) -> None:
    """Turn an MMDiT into a model folder: of REPA, of SD3 and SD3.5 (their own files), or as diffusers saves it.

    What the weights show need not be said: depth, patches, channels, norms of queries, the pooled text. The folder of a
    whole SD3 pipeline also gives the text encoders, which stay where they are, and the shift of times.

    Example: fae import mmdit sd3.5_medium.safetensors --out models/sd3.5 --set model.transport.shift=3
    """
    _import("mmdit", options, variant=variant)


def _import(
    original: str,
    options: Original,
    arch: str | None = None,
    statistics: Path | None = None,
    variant: str | None = None,
) -> None:
    """Read a checkpoint of one of the originals, and write the model folder."""
    from fae_core.cli.settings import resolve_settings
    from fae_core.commands.running import command_line
    from fae_core.config import require_fields
    from fae_core.errors import InvalidFile
    from fae_core.files import require_new_folder
    from fae_core.models.configs import config_class_of
    from fae_core.spec import LatentSpec
    from fae_diffusion.official.arguments import RELEASED, architecture, derived_spec, official_arguments

    checkpoint, out = options.checkpoint, options.out
    require_new_folder(out, overwrite=options.overwrite)
    arguments = resolve_settings(None, options.config, options.overrides)
    fields = arguments.pop("model", {})
    require_fields(config_class_of("lightningdit" if original == "ditdh" else original), fields, "model settings")
    latent_spec = LatentSpec.load(options.spec) if options.spec is not None else None
    if arch is not None:
        architecture(original, arch)
    from fae_core.config import merge
    from fae_diffusion import LightningDiT, MMDiT, SiT
    from fae_diffusion.official.checkpoint import pipeline_fields, read_checkpoint, read_mmdit, read_statistics
    from fae_diffusion.official.transformer import layout_of

    model_class = {"sit": SiT, "lightningdit": LightningDiT, "ditdh": LightningDiT, "mmdit": MMDiT}[original]
    if original == "mmdit":
        state, stored = read_mmdit(checkpoint, options.section, variant)
        arguments, fields = {**stored, **arguments}, merge(pipeline_fields(checkpoint), fields)
        layout = original
    else:
        state = read_checkpoint(checkpoint, options.section)
        layout = layout_of(model_class.model_type, state)
        if original == "ditdh" and layout != "ditdh":
            raise InvalidFile(f"{checkpoint} is no DiT^DH, it has no s_embedder: see fae import lightningdit")
        released = {} if options.config is not None else RELEASED.get(layout, {})
        size = architecture(layout, arch) if arch is not None else {}
        arguments = official_arguments(layout, {**released, **size, **arguments})
    if statistics is not None:
        latent_spec = latent_spec or derived_spec(layout, arguments)
        latent_spec = latent_spec.with_statistics(*read_statistics(statistics))
    model = model_class.from_official(state, arguments, spec=latent_spec, **fields)
    card = f"Imported from a checkpoint of the original {model_class.__name__} (`{checkpoint.name}`)."
    model.save_pretrained(out, overwrite=options.overwrite, card=card)
    count = sum(p.numel() for p in model.parameters())
    say(
        f"wrote {out} ({count:,} parameters); next: "
        + command_line("sample", generator=out, decoder="TOKENIZER", out="SAMPLES")
    )
