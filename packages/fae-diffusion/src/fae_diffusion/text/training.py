"""Training a text-conditional generator on a latent store: every sample's caption, embedded once, beside its latent."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch

from fae_core.cli.training import build_generator
from fae_core.config import parse_config
from fae_core.errors import DataError, FAEError
from fae_core.images.caption_choice import CaptionChoice
from fae_core.images.captions import split_captions
from fae_core.latent_store import LatentStore
from fae_core.models.build import on_meta
from fae_core.models.sample_options import check_options
from fae_core.processes import processes
from fae_core.random import SlotRandom
from fae_core.training import GeneratorTask, LiveLatents, PreviewConfig, TrainConfig
from fae_core.training.task import Batch
from fae_diffusion.models import MMDiT, MMDiTConfig
from fae_diffusion.text.cache import TextCache
from fae_diffusion.text.condition import TextCondition
from fae_diffusion.text.config import TextEncoderConfig
from fae_diffusion.text.encoder import TextEncoder, check_prompts
from fae_diffusion.text.load import load_text_encoder
from fae_diffusion.text.stored import captions_of, require_encoder, texts_hash


def captions_hash(captions: list[str]) -> str:
    """`texts_hash` of captions. Raises DataError for one that is no text."""
    check_prompts(captions)
    return texts_hash(captions)


def distinct_captions(captions: Iterable[str]) -> list[str]:
    """Every caption of samples' texts once, in the order in which they first appear."""
    return list(dict.fromkeys(caption for text in captions for caption in split_captions(text)))


class CaptionTask(GeneratorTask):
    """A generator's loss on latents and the embeddings of their captions.

    Args:
        generator: what to train.
        store: its latents.
        captions: one text per sample, with one or several captions.
        cache: embeddings of all captions.
        preview: what to draw and measure while it trains.
        choice: which of a sample's captions is read; None: each is equally likely.
        batch_size: samples per update, over all processes: it says in which epoch a sample is read.

    Raises:
        DataError: for another number of texts than samples, or of captions than weights.
    """

    def __init__(
        self,
        generator: MMDiT,
        store: LatentStore,
        captions: list[str],
        cache: TextCache,
        preview: PreviewConfig | None = None,
        *,
        choice: CaptionChoice | None = None,
        batch_size: int = 1,
    ) -> None:
        super().__init__(generator, store, preview)
        if len(captions) != len(store):
            raise DataError(f"{len(captions)} captions for {len(store)} samples")
        self.captions, self.cache = captions, cache
        self.choice, self.batch_size = choice or CaptionChoice(), batch_size
        self.choice.require(captions, str(store.folder))

    def identity(self) -> dict[str, Any]:
        text = {"captions": captions_hash(self.captions), "text_encoder": self.cache.fingerprint}
        return {**super().identity(), **text}

    def load(self, indices: list[int], random: SlotRandom) -> Batch:
        z, _ = self.store.read(indices, random=random)
        epochs = [(random.step * self.batch_size + slot) // len(self) for slot in random.slots]
        texts = [self.captions[index] for index in indices]
        text = self.cache.read(self.choice.draw(texts, indices, epochs, random.seed))
        assert text.mask is not None, "a cache knows which tokens are padding"
        return {"z": z, "tokens": text.tokens, "mask": text.mask}

    def preview_conditions(self, indices: range) -> TextCondition:
        """Distinct captions of the data in turn, in the order in which they first appear."""
        distinct = distinct_captions(self.captions)
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
    choice: CaptionChoice | None = None,
) -> tuple[GeneratorTask, dict[str, Any]]:
    """Embed the captions of a latent store once, and make the task of an MMDiT on latents and embeddings.

    The width of the text follows the encoder unless it is given. Under torch.device("meta") nothing is embedded.

    Args:
        model: fields of MMDiTConfig; `text_encoder` is needed.
        cache: the folder of embeddings; by default that of the store with ".text" behind its name.
        template: the caption of a class with its name for {}, in stores without captions.
        choice: which of a sample's captions is read; None: each is equally likely.

    Returns:
        the task, and what the run records of it.

    Raises:
        DataError: for settings that are not a text model's, or latents without text.
    """
    if not isinstance(store, LatentStore):
        raise FAEError("text models are trained on a latent store: encode the images first, then pass --latents")
    asked = parse_config(MMDiTConfig, model, "model settings")
    encoder = require_encoder(asked)
    if preview is not None:
        check_options(MMDiT, preview.options)
    if on_meta():  # a plan, for which nothing is embedded: the text is as wide as the settings say
        planned, _ = build_generator(generator_class, model, store, config)
        recorded = {"caption_template": template, "model": planned.config.model_dump(mode="json")}
        return GeneratorTask(planned, store, preview), recorded
    captions, choice = captions_of(store, template), choice or CaptionChoice()
    choice.require(captions, str(store.folder))  # before anything is embedded
    text = _embedded(distinct_captions(captions), encoder, cache or Path(f"{store.folder}.text"), device)
    if model.get("text_width", text.width) != text.width:
        raise DataError(
            f"the embeddings of {encoder.name} are {text.width} wide, model.text_width is "
            f"{model['text_width']}: set it to {text.width}, or leave it out"
        )
    encoder_fields = {**model["text_encoder"], "fingerprint": text.fingerprint}
    null = text.read([""])
    assert null.mask is not None, "a cache knows which tokens are padding"
    room = max(asked.null_length, int(null.mask.sum())) if "null_length" not in model else asked.null_length
    model = {**model, "text_width": text.width, "text_encoder": encoder_fields, "null_length": room}
    generator, _ = build_generator(generator_class, model, store, config)
    generator.set_null(null)
    weights = None if choice.weights is None else list(choice.weights)
    recorded = {
        "caption_template": template,
        "caption_weights": weights,
        "model": generator.config.model_dump(mode="json"),
    }
    task = CaptionTask(generator, store, captions, text, preview, choice=choice, batch_size=config.batch_size)
    return task, recorded


def _embedded(captions: list[str], encoder_config: TextEncoderConfig, folder: Path, device: str | None) -> TextCache:
    """The captions' embeddings, by all processes. The encoder is loaded on the first alone where all are there."""
    with processes(device) as group:

        def load() -> TextEncoder:
            return cast(TextEncoder, load_text_encoder(encoder_config, group.device))  # `require_encoder` refuses SD3's

        encoder = load() if group.is_main else None
        if not group.broadcast(encoder is not None and TextCache.holds(folder, encoder, captions)):
            TextCache.build(folder, encoder or load(), captions, group=group)
    return TextCache(folder)
