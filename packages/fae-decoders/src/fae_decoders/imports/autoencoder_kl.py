"""The weights of KL autoencoders (diffusers' AutoencoderKL, LDM's files, VA-VAE) in a ConvVAE, without their code.

Of diffusers it reads a folder as it writes it: config.json and diffusion_pytorch_model.safetensors, or a whole
pipeline's with vae/ in it. LDM's layout comes as one file, alone or within a whole diffusion model's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fae_core.errors import InvalidFile, InvalidSettings
from fae_core.models.foreign import read_weights
from fae_decoders.baselines.conv_vae import ConvVAE
from fae_decoders.imports.diffusers_folder import DiffusersFolder
from fae_decoders.imports.statistics import read_statistics
from fae_decoders.official.autoencoder_kl import convert_state, require_supported

__all__ = ["convert_state", "load_autoencoder_kl"]


def load_autoencoder_kl(
    source: str | Path,
    *,
    image_size: int | tuple[int, int] | None = None,
    variant: str | None = None,
    section: str | None = None,
    statistics: str | Path | None = None,
    scaling: float | None = None,
    shift: float | None = None,
) -> ConvVAE:
    """The autoencoder in a folder, file or hub repository as a ConvVAE in eval mode, with its own scale as statistics.

    The spec's statistics are such that normalised latents are those that its generators work with. In diffusers'
    pipelines these are (z - shift_factor) * scaling_factor, or with latents_mean and latents_std where it has them; in
    LightningDiT (z - mean) / std * scaling; in SiT and SD z * scaling; in SD3 and Flux (z - shift) * scaling.

    Args:
        source: A folder of diffusers', a file in LDM's layout, or "owner/name" on the hub.
        image_size: Pixels of the images that latents stand for; None is diffusers' `sample_size`, or LDM's 256.
        variant: Of a folder's weights, as "fp16"; None takes the plain file, or the only variant that there is.
        section: Part of a file to read; None: as `read_state_dict` chooses.
        statistics: A file of mean and std, LightningDiT's latents_stats.pt; replaces the model's own scale.
        scaling: What normalised latents are multiplied by; replaces the model's own scaling_factor.
        shift: What is subtracted from latents before; replaces the model's own shift_factor or latents_mean.

    Raises:
        InvalidFile: There is no such model, it is of another class or structure, or the statistics do not fit it.
        InvalidSettings: The scale is 0, shift and statistics are both given, or a file's option with a
            folder.
    """
    if scaling == 0:
        raise InvalidSettings("a scaling of 0 would make all latents equal; give another number")
    if shift is not None and statistics is not None:
        raise InvalidSettings("statistics have a mean of their own; leave the shift out")
    stated = {} if scaling is None else {"scaling_factor": scaling}
    if Path(source).is_file():
        vae = _from_file(Path(source), image_size, variant, section, stated)
    else:
        folder = DiffusersFolder(source, variant)
        try:
            stored = folder.config()
            require_supported(stored)
            vae = ConvVAE.from_official(folder.weights(section), {**stored, **stated}, image_size=image_size)
        except InvalidFile as error:
            raise InvalidFile(f"{folder.path}: {error}") from None
    if statistics is not None:
        mean, std = read_statistics(statistics, vae.spec.shape)
        vae.with_statistics(mean, [s / (scaling or 1.0) for s in std])
    elif shift is not None:
        vae.with_statistics([shift] * vae.spec.channels, vae.spec.std)
    return vae


def _from_file(
    path: Path,
    image_size: int | tuple[int, int] | None,
    variant: str | None,
    section: str | None,
    stated: Mapping[str, float],
) -> ConvVAE:
    """The autoencoder in a file of LDM's layout, with the stated entries of a config, which the file does not have."""
    state = read_weights(path, section=section, variant=variant)
    if any("encoder.down_blocks." in name for name in state):
        raise InvalidFile(f"{path} is in diffusers' layout; give its folder, whose config.json says its scale")
    try:
        return ConvVAE.from_official(state, stated, image_size=image_size)
    except InvalidFile as error:
        raise InvalidFile(f"{path}: {error}") from None
