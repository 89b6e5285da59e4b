"""Training a text-conditional generator on a latent store: every sample's caption, embedded once, beside its latent."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fae_core.config import parse_config
from fae_core.cost.counted import require_room
from fae_core.errors import DataError
from fae_core.models.build import seeded
from fae_core.models.draw import check_options
from fae_core.processes import processes
from fae_core.random import SlotRandom
from fae_core.training import GeneratorTask, PreviewConfig, TrainConfig, train
from fae_core.training.task import Batch
from fae_diffusion.models import MMDiT, MMDiTConfig, TextCondition
from fae_diffusion.text.cache import TextCache
from fae_diffusion.text.encoder import TextEncoder, check_prompts

if TYPE_CHECKING:
    from fae_core.latent_store import LatentStore


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
        return {"z": z, "tokens": text.tokens, "mask": text.mask}

    def preview_conditions(self, indices: range) -> TextCondition:
        """Distinct captions of the data in turn, in the order in which they first appear."""
        distinct = list(dict.fromkeys(self.captions))
        text = self.cache.read([distinct[index % len(distinct)] for index in indices])
        return text.to(self._preview.device)

    def _loss(self, batch: Batch, random: SlotRandom) -> dict[str, torch.Tensor]:
        return self.generator.loss(batch["z"], TextCondition(batch["tokens"], batch["mask"]), random=random)


def train_with_captions(
    latents: Path,
    out: Path,
    model: dict[str, Any],
    training: dict[str, Any],
    *,
    preview: dict[str, Any] | None = None,
    cache: Path | None = None,
    template: str = "a photo of a {}",
    resume: bool = False,
    overwrite: bool = False,
    device: str | None = None,
) -> None:
    """Embed the captions of a latent store (once, into `cache`, by default LATENTS.text), then train an MMDiT on it.

    model, training: fields of MMDiTConfig and TrainConfig; the text's width follows the encoder unless it is given.
    """
    from fae_core.latent_store import LatentStore

    config: TrainConfig = parse_config(TrainConfig, training, "training settings")
    asked: MMDiTConfig = parse_config(MMDiTConfig, model, "model settings")
    shown = None if preview is None else parse_config(PreviewConfig, preview, "preview settings")
    if asked.text_encoder is None:
        raise DataError("a text-conditional model needs model.text_encoder: {name: ..., max_length: ...}")
    if asked.pooled_width is not None:
        raise DataError("captions are embedded token by token: leave model.pooled_width out")
    if shown is not None:
        check_options(MMDiT, shown.options)
    store = LatentStore(latents, verify=config.verify)
    captions = captions_of(store, template)
    folder = cache or Path(f"{str(latents).rstrip('/')}.text")
    with processes(device) as group:
        # Where everything is embedded already, the first process alone needs the encoder, to see that.
        encoder = TextEncoder.from_config(asked.text_encoder, device=group.device) if group.is_main else None
        if not group.broadcast(encoder is not None and TextCache.holds(folder, encoder, captions)):
            encoder = encoder or TextEncoder.from_config(asked.text_encoder, device=group.device)
            TextCache.build(folder, encoder, captions, group=group)
        del encoder
        text = TextCache(folder)
        if model.get("text_width", text.width) != text.width:
            raise DataError(
                f"the embeddings of {asked.text_encoder.name} are {text.width} wide, model.text_width is {model['text_width']}: "
                f"set it to {text.width}, or leave it out"
            )
        encoder_fields = {**model["text_encoder"], "fingerprint": text.fingerprint}
        model = {**model, "text_width": text.width, "text_encoder": encoder_fields}
        chosen = parse_config(MMDiTConfig, model, "model settings")
        require_room(lambda: MMDiT(chosen, store.spec), "model settings")
        generator = seeded(config.seed, lambda: MMDiT(chosen, store.spec))
        generator.set_null(text.read([""]))
        recorded = {"command": "fae train diffusion", "data": str(latents), "caption_template": template}
        recorded |= {"model_type": "mmdit", "model": generator.config.model_dump(mode="json")}
        if shown is not None:
            recorded["preview"] = shown.model_dump(mode="json")
        task = CaptionTask(generator, store, captions, text, shown)
        train(task, config, out, settings=recorded, resume=resume, overwrite=overwrite, device=device)
