"""The path from data to noise, and every convention that hangs on it. This page is the only one that states them.

    time        t in [0, 1]; t = 0 is data, t = 1 is noise.
    state       x = alpha(t) z0 + sigma(t) eps; linear path: alpha = 1 - t, sigma = t.
    velocity    v = dx/dt = alpha' z0 + sigma' eps; linear path: v = eps - z0. Sampling follows it from t = 1 down to 0.
    shift       f(s, t) = s t / (1 + (s - 1) t); s > 1 spends more time at high noise; 1 - f(s, 1 - t) = f(1/s, t).

Others' conventions, in terms of ours:

    SD3, RAE            the same time, the same shift.
    SiT, LightningDiT   t' = 1 - t (their t = 1 is data), v' = -v, shift s' = 1 / s (their "timestep_shift" acts on t').

After SiT (Ma et al., 2024) for the paths and predictions, SD3 (Esser et al., 2024) for the shift and the logit-normal times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fae_core.config import Config

Prediction = Literal["velocity", "noise", "data"]
PathName = Literal["linear", "gvp", "vp"]

# Where a quantity has a pole at an end of the path, times stay this far from it (SiT's train_eps and sample_eps).
MARGIN = 1e-3


def shift_time(shift: float, t: Tensor) -> Tensor:
    """f(s, t) = s t / (1 + (s - 1) t). Maps [0, 1] to itself; `shift_time(1 / s, ...)` is the inverse."""
    return shift * t / (1 + (shift - 1) * t)


def shift_from_lightningdit(timestep_shift: float) -> float:
    """Our shift for LightningDiT's `timestep_shift`, which acts with t = 1 as data."""
    return 1.0 / timestep_shift


def shift_from_sd3(shift: float) -> float:
    """Our shift for SD3's: the same number, since t = 1 is noise there too."""
    return shift


def shift_for_size(numbers: int, base: int = 4096) -> float:
    """The shift sqrt(n / base) that SD3 derives and RAE applies to latents of n numbers: C * h * w."""
    return math.sqrt(numbers / base)


@dataclass(frozen=True)
class Coefficients:
    """alpha, sigma and their derivatives in t, shaped to multiply a batch."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor

    @property
    def determinant(self) -> Tensor:
        """alpha sigma' - alpha' sigma: 1 on the linear path, pi / 2 on GVP; positive everywhere."""
        return self.alpha * self.d_sigma - self.d_alpha * self.sigma

    def state(self, z0: Tensor, noise: Tensor) -> Tensor:
        return self.alpha * z0 + self.sigma * noise

    def velocity(self, z0: Tensor, noise: Tensor) -> Tensor:
        return self.d_alpha * z0 + self.d_sigma * noise

    def velocity_to_noise(self, velocity: Tensor, x: Tensor) -> Tensor:
        return (self.alpha * velocity - self.d_alpha * x) / self.determinant

    def velocity_to_data(self, velocity: Tensor, x: Tensor) -> Tensor:
        return (self.d_sigma * x - self.sigma * velocity) / self.determinant

    def noise_to_velocity(self, noise: Tensor, x: Tensor) -> Tensor:
        return (self.d_alpha * x + self.determinant * noise) / self.alpha

    def data_to_velocity(self, z0: Tensor, x: Tensor) -> Tensor:
        return (self.d_sigma * x - self.determinant * z0) / self.sigma

    def noise_to_score(self, noise: Tensor) -> Tensor:
        return -noise / self.sigma


def path(name: PathName, t: Tensor, like: Tensor | None = None) -> Coefficients:
    """The coefficients of a path at times t, a scalar or (B,); reshaped to multiply `like` (B, ...) where it is given.

    linear: 1 - t, t. gvp: cos and sin of pi t / 2 (variance preserving on data of unit variance). vp: DDPM's linear beta
    schedule from 0.1 to 20 (Song et al., 2021); its sigma' is infinite at t = 0, so t is at least 1e-5 there.
    """
    t = t if t.dtype == torch.float64 else t.float()
    coefficients = _PATHS[name](t)
    if like is not None and t.ndim:  # scalars multiply any tensor on any device as they are
        shape = (-1, *(1,) * (like.ndim - 1))
        coefficients = tuple(c.to(like.device, like.dtype).view(shape) for c in coefficients)
    return Coefficients(*coefficients)


def _linear(t: Tensor) -> tuple[Tensor, ...]:
    one = torch.ones_like(t)
    return 1 - t, t, -one, one


def _gvp(t: Tensor) -> tuple[Tensor, ...]:
    quarter = math.pi / 2
    cos, sin = torch.cos(quarter * t), torch.sin(quarter * t)
    return cos, sin, -quarter * sin, quarter * cos


def _vp(t: Tensor, beta_min: float = 0.1, beta_max: float = 20.0) -> tuple[Tensor, ...]:
    t = t.clamp_min(1e-5)
    log_alpha = -0.25 * t.square() * (beta_max - beta_min) - 0.5 * t * beta_min
    d_log_alpha = -0.5 * vp_beta(t, beta_min, beta_max)
    alpha = log_alpha.exp()
    sigma = (-torch.expm1(2 * log_alpha)).sqrt()
    return alpha, sigma, alpha * d_log_alpha, -alpha.square() * d_log_alpha / sigma


def vp_beta(t: Tensor, beta_min: float = 0.1, beta_max: float = 20.0) -> Tensor:
    """beta(t) of the VP path: d log alpha / dt = -beta / 2."""
    return beta_min + t * (beta_max - beta_min)


_PATHS = {"linear": _linear, "gvp": _gvp, "vp": _vp}


class Transport(Config):
    """What the network predicts, along which path, and at which times it is trained."""

    path: PathName = "linear"
    prediction: Prediction = "velocity"
    time: Literal["uniform", "logit_normal"] = "uniform"
    time_mean: float = Field(
        0.0, ge=-100, le=100, description="of the logit-normal; LightningDiT's shifted_mu with the other sign"
    )
    time_std: float = Field(1.0, ge=1e-3, le=100)
    shift: float = Field(
        1.0, ge=1e-3, le=1e3, description="of training times, in SD3's direction: above 1 is more noise"
    )
    cosine: float = Field(0.0, ge=0, le=1e3, description="weight of LightningDiT's velocity-direction term")
    weighting: Literal["none", "velocity"] = Field(
        "none", description="noise and data prediction: 'velocity' measures their error as a velocity, as SiT can"
    )

    def coefficients(self, t: Tensor, like: Tensor) -> Coefficients:
        """The path at times t, kept off its poles where the prediction has one."""
        low, high = self.range
        return path(self.path, t.clamp(low, high) if (low, high) != (0.0, 1.0) else t, like)

    @property
    def range(self) -> tuple[float, float]:
        """The times (lowest, highest) at which the velocity exists for this path and prediction."""
        if self.prediction != "velocity":
            return MARGIN, 1 - MARGIN
        return (MARGIN, 1.0) if self.path == "vp" else (0.0, 1.0)

    def times(self, uniform: Tensor) -> Tensor:
        """Training times from uniform numbers in [0, 1): increasing in them, logit-normal and shifted as configured."""
        t = uniform
        if self.time == "logit_normal":
            t = torch.sigmoid(self.time_mean + self.time_std * torch.special.ndtri(t))
        low, high = self.range
        return shift_time(self.shift, t) * (high - low) + low

    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The velocity that the network's output stands for. x, output: (B, ...); t: (B,) or a scalar."""
        if self.prediction == "velocity":
            return output
        at = self.coefficients(t, x)
        return at.noise_to_velocity(output, x) if self.prediction == "noise" else at.data_to_velocity(output, x)

    def loss(self, output: Tensor, z0: Tensor, noise: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Per-sample terms (B,): "mse" of the predicted quantity, "cosine" where it is on, and "loss", their sum.

        cosine: 1 - cosine similarity of the predicted and the true vector over channels, averaged over positions.
        """
        at = self.coefficients(t, z0)
        target = {"velocity": at.velocity(z0, noise), "noise": noise, "data": z0}[self.prediction]
        output, target = output.float(), target.float()
        mse = (output - target).square().flatten(1).mean(1)
        if self.weighting == "velocity" and self.prediction != "velocity":
            divisor = at.alpha if self.prediction == "noise" else at.sigma
            mse = mse * (at.determinant / divisor).flatten().square()
        if not self.cosine:
            return {"loss": mse, "mse": mse}
        cosine = 1 - torch.nn.functional.cosine_similarity(output, target, dim=1).flatten(1).mean(1)
        return {"loss": mse + self.cosine * cosine, "mse": mse, "cosine": cosine}
