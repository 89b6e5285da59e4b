"""Adapters: features (B, N, D) to the mean and log-variance of a latent, (B, N, C) each.

An adapter is the only trained part of an encoder. The paper's is `AttentionAdapter` (section 4.1, figure 7). The
others are the rows of its table 5: linear, a deep transformer, and "direct predict", where the features themselves
are the latent.

Shape suffixes: B batch, N tokens (row-major over a grid), D feature width, H hidden width, C latent channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fae_core import ops
from fae_core.errors import FAEError
from fae_core.layers import RMSNorm, SelfAttention, SwiGLU, axial_tables, swiglu_hidden
from fae_encoder.config import AdapterConfig


def _none(x: Tensor) -> Tensor:
    return x


_ACTIVATIONS = {"gelu": F.gelu, "silu": F.silu, "relu": F.relu, "none": _none}
_HEAD_DIMS = (256, 128, 64, 32, 16, 8, 4)
_POINT_LOGVAR = -30.0  # std 3e-7: a point, in the form of a posterior
_RMS_EPS = 1e-6


class AttentionAdapter(nn.Module):
    """The single-attention encoder of figure 7.

        q, k, v, s  = split(Linear(D -> 4H)(x))
        mean, logvar = split(Linear(H -> 2C)(act(s + attention(q, k, v))))

    The attention's output projection and the bottleneck are one matrix ("merged consecutive linear layers", appendix
    A). D = 1536, H = 6144 in 24 heads of 256, C = 32: 38,166,592 parameters.

    Args:
        config: the adapter's configuration.
        dim: D, width of the features.
        channels: C, channels of the latent.

    Raises:
        FAEError: if the heads do not divide the width.
    """

    def __init__(self, config: AdapterConfig, dim: int, channels: int) -> None:
        super().__init__()
        hidden = config.hidden or 4 * dim
        self.heads = config.heads or _default_heads(hidden, largest=256)
        if hidden % self.heads:
            raise FAEError(f"adapter: hidden width {hidden} is not a multiple of {self.heads} heads")
        self.head_dim = hidden // self.heads
        if config.rope and self.head_dim % 4:
            raise FAEError(f"adapter: rope needs a head dimension that is a multiple of 4, not {self.head_dim}")
        self.rope = config.rope
        self.activation = _ACTIVATIONS[config.activation]
        self.norm = _input_norm(config.input_norm, dim)
        self.qkvs = nn.Linear(dim, 4 * hidden)
        self.moments = _LatentNorm(config.latent_norm, channels)
        self.out = nn.Linear(hidden, self.moments.width)

    def forward(self, x_BND: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Mean and logvar, (B, N, C) each, of features (B, N, D) on a grid (h, w)."""
        q, k, v, skip_BNH = self.qkvs(self.norm(x_BND)).chunk(4, dim=-1)
        q, k, v = (t.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2) for t in (q, k, v))
        if self.rope:
            attended = ops.rope_attention(q, k, v, *axial_tables(*grid, self.head_dim, device=x_BND.device))
        else:
            attended = ops.attention(q, k, v)
        attended_BNH = attended.transpose(1, 2).flatten(2)
        return self.moments(self.out(self.activation(skip_BNH + attended_BNH)))


class LinearAdapter(nn.Module):
    """One projection of each token: mean, logvar = split(Linear(D -> 2C)(x)). Arguments as of `AttentionAdapter`."""

    def __init__(self, config: AdapterConfig, dim: int, channels: int) -> None:
        super().__init__()
        self.norm = _input_norm(config.input_norm, dim)
        self.moments = _LatentNorm(config.latent_norm, channels)
        self.out = nn.Linear(dim, self.moments.width)

    def forward(self, x_BND: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Mean and logvar, (B, N, C) each; see `AttentionAdapter.forward`."""
        return self.moments(self.out(self.norm(x_BND)))


class TransformerAdapter(nn.Module):
    """`depth` transformer layers of the backbone's width, then a projection to 2C. Arguments as of `AttentionAdapter`.

    The layers (RoPE, RMSNorm, SwiGLU) are those of the feature decoder.
    """

    def __init__(self, config: AdapterConfig, dim: int, channels: int) -> None:
        super().__init__()
        heads = config.heads or _default_heads(dim, largest=64)
        if dim % heads or (dim // heads) % 4:
            raise FAEError(f"adapter: width {dim} does not split into {heads} heads of a multiple of 4")
        self.head_dim = dim // heads
        hidden = config.hidden or swiglu_hidden(dim)
        self.norm = _input_norm(config.input_norm, dim)
        self.blocks = nn.ModuleList(_Block(dim, heads, hidden) for _ in range(config.depth))
        self.out_norm = RMSNorm(dim)
        self.moments = _LatentNorm(config.latent_norm, channels)
        self.out = nn.Linear(dim, self.moments.width)

    def forward(self, x_BND: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Mean and logvar, (B, N, C) each; see `AttentionAdapter.forward`."""
        rope = axial_tables(*grid, self.head_dim, device=x_BND.device)
        x_BND = self.norm(x_BND)
        for block in self.blocks:
            x_BND = block(x_BND, rope)
        return self.moments(self.out(self.out_norm(x_BND)))


class IdentityAdapter(nn.Module):
    """Direct predict: the features are the latent, with a fixed variance near 0. Arguments as of `AttentionAdapter`.

    Raises:
        FAEError: unless C = D, and where latents are to be normalised.
    """

    def __init__(self, config: AdapterConfig, dim: int, channels: int) -> None:
        super().__init__()
        if dim != channels:
            raise FAEError(
                f"the identity adapter keeps all {dim} feature channels; set channels to {dim}, not {channels}"
            )
        if config.latent_norm != "none":
            raise FAEError("the identity adapter keeps the features as they are; latent_norm is for the others")
        self.norm = _input_norm(config.input_norm, dim)

    def forward(self, x_BND: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Mean and logvar, (B, N, C) each; see `AttentionAdapter.forward`."""
        mean = self.norm(x_BND)
        return mean, torch.full_like(mean, _POINT_LOGVAR)


class _LatentNorm:
    """From the last projection to mean and logvar.

    Args:
        kind: "none": the projection gives both; "rms": it gives the mean alone, whose root mean square becomes 1.
        channels: C.
    """

    def __init__(self, kind: str, channels: int) -> None:
        self.is_point = kind == "rms"
        self.width = channels if self.is_point else 2 * channels  # of the projection

    def __call__(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logvar, (B, N, C) each."""
        if not self.is_point:
            mean, logvar = projected.chunk(2, dim=-1)
            return mean, logvar
        mean = projected.float()
        mean = mean * torch.rsqrt(mean.square().mean(dim=-1, keepdim=True) + _RMS_EPS)
        return mean, torch.full_like(mean, _POINT_LOGVAR)


class _Block(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attention = RMSNorm(dim), SelfAttention(dim, heads)
        self.norm2, self.mlp = RMSNorm(dim), SwiGLU(dim, hidden)

    def forward(self, x_BND: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        x_BND = x_BND + self.attention(self.norm1(x_BND), rope)
        return x_BND + self.mlp(self.norm2(x_BND))


_ADAPTERS = {
    "attention": AttentionAdapter,
    "linear": LinearAdapter,
    "transformer": TransformerAdapter,
    "identity": IdentityAdapter,
}


def create_adapter(config: AdapterConfig, dim: int, channels: int) -> nn.Module:
    """The adapter of a config.

    Args:
        config: the adapter's configuration.
        dim: D, width of the features.
        channels: C, channels of the latent.

    Returns:
        A module whose forward(x (B, N, D), grid (h, w)) returns mean and logvar, (B, N, C) each.

    Raises:
        FAEError: for widths that do not fit.
    """
    return _ADAPTERS[config.type](config, dim, channels)


def _default_heads(width: int, largest: int) -> int:
    for head_dim in _HEAD_DIMS:
        if head_dim <= largest and width % head_dim == 0:
            return width // head_dim
    raise FAEError(f"adapter: width {width} is not a multiple of 4; set hidden or heads")


def _input_norm(kind: str, dim: int) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    return nn.LayerNorm(dim) if kind == "layer" else RMSNorm(dim)
