"""SiT and LightningDiT: the same network under two names, each reading the checkpoints of its original."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from torch import Tensor

from fae_core.config import Config
from fae_core.spec import LatentSpec
from fae_diffusion.flow_matching import FlowMatching
from fae_diffusion.models.config import LightningDiTConfig, SiTConfig, TransformerConfig
from fae_diffusion.models.transformer import DiffusionTransformer


class _ClassConditional(FlowMatching, DiffusionTransformer):
    """What the two share."""

    config: TransformerConfig

    @classmethod
    def from_official(
        cls,
        state_dict: Mapping[str, Tensor],
        config: Mapping[str, Any],
        *,
        spec: LatentSpec | None = None,
        **fields: Any,
    ) -> Self:
        """The model of an original checkpoint, in our convention.

        m(z, t, y) is -original(z, 1 - t, y) for SiT's and LightningDiT's own, and original(z, t, y) for REPA's SiT and
        RAE's DiT^DH and LightningDiT. The names of their tensors tell them apart.

        Args:
            state_dict: with the original's names (a "module." or "_orig_mod." in front of them is ignored).
            config: the original's constructor arguments; absent ones have the original's defaults.
            spec: the latent space; None: derived from the arguments.
            **fields: of our config, such as `transport`.

        Returns:
            The model, fp32, in eval mode.

        Raises:
            InvalidFile: where names or shapes do not fit.
            UnknownName: for an argument that the original does not have.
        """
        from fae_diffusion.official.transformer import load_official

        return load_official(cls, state_dict, config, spec, fields)


class SiT(_ClassConditional):
    """SiT (Ma et al., 2024). m(z, t, labels) -> velocity, t = 1 is noise; see transport."""

    model_type: ClassVar[str] = "sit"
    config_class: ClassVar[type[Config]] = SiTConfig


class LightningDiT(_ClassConditional):
    """LightningDiT (Yao et al., 2025). m(z, t, labels) -> velocity, t = 1 is noise; see transport."""

    model_type: ClassVar[str] = "lightningdit"
    config_class: ClassVar[type[Config]] = LightningDiTConfig
