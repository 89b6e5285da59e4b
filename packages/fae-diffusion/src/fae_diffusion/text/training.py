"""Training a text-conditional generator on a latent store: every sample's caption, embedded once, beside its latent."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from fae_core.cli.training import build_generator
from fae_core.config import parse_config
from fae_core.errors import DataError, FAEError
from fae_core.latent_store import LatentStore
from fae_core.models.draw import check_options
from fae_core.processes import processes
from fae_core.random import SlotRandom
from fae_core.training import GeneratorTask, LiveLatents, PreviewConfig, TrainConfig
from fae_core.training.task import Batch
from fae_diffusion.models import MMDiT, MMDiTConfig, TextCondition
from fae_diffusion.text.cache import TextCache
from fae_diffusion.text.config import TextEncoderConfig
from fae_diffusion.text.encoder import TextEncoder, check_prompts


def captions_of(store: LatentStore, template: str) -> list[str]:
    """One caption per sample: the store's own, else its class's name put into `template` ("a photo of a {}").

    Raises DataError for a store that has neither.
    """
    if store.captions is not None:
        return store.captions
    if store.labels is None or store.classes is None:
        raise DataError(f"{store.folder} has neither captions nor class names: there is no text to train on")
    if template.count("{}") != 1:
        raise DataError(f"a caption template has one {{}} for the class name, unlike {template!r}")
    prompts = [template.replace("{}", name.replace("_", " ")) for name in store.classes]
    return [prompts[label] for label in store.labels]


def captions_hash(captions: list[str]) -> str:
    """What captions are, wherever they came from: SHA-256 of their texts in order."""
    check_prompts(captions)
    digest = hashlib.sha256()
    for caption in captions:
        data = caption.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


class CaptionTask(GeneratorTask):
    """A generator's loss on latents and the embeddings of their captions."""

    def __init__(
        self,
        generator: MMDiT,
        store: LatentStore,
        captions: list[str],
        cache: TextCache,
        preview: PreviewConfig | None = None,
    ) -> None:
        super().__init__(generator, store, preview)
        if len(captions) != len(store):
            raise DataError(f"{len(captions)} captions for {len(store)} samples")
        self.captions, self.cache = captions, cache

    def identity(self) -> dict[str, Any]:
        text = {"captions": captions_hash(self.captions), "text_encoder": self.cache.fingerprint}
        return {**super().identity(), **text}

    def load(self, indices: list[int], random: SlotRandom) -> Batch:
        z, _ = self.store.read(indices, random=random)
        text = self.cache.read([self.captions[index] for index in indices])
        assert text.mask is not None, "a cache knows which tokens are padding"
        return {"z": z, "tokens": text.tokens, "mask": text.mask}

    def preview_conditions(self, indices: range) -> TextCondition:
        """Distinct captions of the data in turn, in the order in which they first appear."""
        distinct = list(dict.fromkeys(self.captions))
        text = self.cache.read([distinct[index % len(distinct)] for index in indices])
        assert self._preview is not None, "asked for by the preview"
        return text.to(self._preview.device)

    def _loss(self, batch: Batch, random: SlotRandom) -> dict[str, torch.Tensor]:
        return self.generator.loss(batch["z"], TextCondition(batch["tokens"], batch["mask"]), random=random)


def caption_task(
    generator_class: type[MMDiT],
    model: dict[str, Any],
    store: LatentStore | LiveLatents,
    config: TrainConfig,
    preview: PreviewConfig | None,
    device: str | None,
    *,
    cache: Path | None = None,
    template: str = "a photo of a {}",
) -> tuple[CaptionTask, dict[str, Any]]:
    """Embed the captions of a latent store once, and make the task of an MMDiT on latents and embeddings.

    The width of the text follows the encoder unless it is given.

    Args:
        model: fields of MMDiTConfig; `text_encoder` is needed.
        cache: the folder of embeddings; by default that of the store with ".text" behind its name.
        template: the caption of a class with its name for {}, in stores without captions.

    Returns:
        the task, and what the run records of it.

    Raises:
        DataError: for settings that are not a text model's, or latents without text.
    """
    if not isinstance(store, LatentStore):
        raise FAEError("text models are trained on a latent store: encode the images first, then pass --latents")
    asked = parse_config(MMDiTConfig, model, "model settings")
    if asked.text_encoder is None:
        raise DataError("a text-conditional model needs model.text_encoder: {name: ..., max_length: ...}")
    if asked.pooled_width is not None:
        raise DataError("captions are embedded token by token: leave model.pooled_width out")
    if preview is not None:
        check_options(MMDiT, preview.options)
    captions = captions_of(store, template)
    text = _embedded(captions, asked.text_encoder, cache or Path(f"{store.folder}.text"), device)
    if model.get("text_width", text.width) != text.width:
        raise DataError(
            f"the embeddings of {asked.text_encoder.name} are {text.width} wide, model.text_width is "
            f"{model['text_width']}: set it to {text.width}, or leave it out"
        )
    encoder_fields = {**model["text_encoder"], "fingerprint": text.fingerprint}
    model = {**model, "text_width": text.width, "text_encoder": encoder_fields}
    generator, _ = build_generator(generator_class, model, store, config)
    generator.set_null(text.read([""]))
    recorded = {"caption_template": template, "model": generator.config.model_dump(mode="json")}
    return CaptionTask(generator, store, captions, text, preview), recorded


def _embedded(captions: list[str], encoder_config: TextEncoderConfig, folder: Path, device: str | None) -> TextCache:
    """The captions' embeddings, by all processes. The encoder is loaded on the first alone where all are there."""
    with processes(device) as group:
        encoder = TextEncoder.from_config(encoder_config, device=group.device) if group.is_main else None
        if not group.broadcast(encoder is not None and TextCache.holds(folder, encoder, captions)):
            encoder = encoder or TextEncoder.from_config(encoder_config, device=group.device)
            TextCache.build(folder, encoder, captions, group=group)
    return TextCache(folder)
