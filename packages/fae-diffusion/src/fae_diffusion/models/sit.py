"""SiT and LightningDiT: the same network under two names, each able to read its original's checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from torch import Tensor

from fae_core.config import Config
from fae_core.spec import LatentSpec
from fae_diffusion.flow_matching import FlowMatching
from fae_diffusion.models.config import LightningDiTConfig, SiTConfig
from fae_diffusion.models.transformer import DiffusionTransformer


class _ClassConditional(FlowMatching, DiffusionTransformer):
    """What the two share."""

    @classmethod
    def from_official(
        cls,
        state_dict: Mapping[str, Tensor],
        config: Mapping[str, Any],
        *,
        spec: LatentSpec | None = None,
        **fields: Any,
    ) -> Self:
        """The model of an original checkpoint, answering in our convention: m(z, t, y) = -original(z, 1 - t, y).

        state_dict: with the original's names (a "module." or "_orig_mod." in front of them is ignored).
        config: the original's constructor arguments; absent ones have the original's defaults.
        spec: the latent space; None derives one from the arguments. fields: of our config, such as `transport`.
        Raises InvalidFile where names or shapes do not fit. In eval mode, fp32.
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
