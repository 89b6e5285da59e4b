"""The path from data to noise, and the conventions of time, velocity and shift. They are stated here and nowhere else.

    time        t in [0, 1]; t = 0 is data, t = 1 is noise.
    state       x = alpha(t) z0 + sigma(t) eps; linear path: alpha = 1 - t, sigma = t.
    velocity    v = dx/dt = alpha' z0 + sigma' eps; linear path: v = eps - z0. Sampling follows it from t = 1 down to 0.
    shift       f(s, t) = s t / (1 + (s - 1) t); s > 1 spends more time at high noise; 1 - f(s, 1 - t) = f(1/s, t).

The conventions of other code, in terms of ours:

    SD3, RAE            the same time, the same shift.
    SiT, LightningDiT   t' = 1 - t (their t = 1 is data), v' = -v, shift s' = 1 / s ("timestep_shift" acts on t').

torch is imported where it computes, so that settings are read without it.

The paths and predictions follow SiT (Ma et al., 2024); the shift and the logit-normal times follow SD3 (Esser et al.,
2024).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fae_core.config import Config

if TYPE_CHECKING:
    from torch import Tensor

Prediction = Literal["velocity", "noise", "data"]
PathName = Literal["linear", "gvp", "vp"]

# Where a quantity has a pole at an end of the path, times stay this far from it (SiT's train_eps and sample_eps).
MARGIN = 1e-3


def time_of(t: float) -> Tensor:
    """A time as a float64 scalar on the CPU, whose coefficients multiply tensors on any device without a wait."""
    import torch

    return torch.tensor(t, dtype=torch.float64, device="cpu")


def shift_time(shift: float, t: Tensor) -> Tensor:
    """The shifted times f(s, t) = s t / (1 + (s - 1) t); `shift_time(1 / s, ...)` is the inverse.

    Args:
        shift: s > 0; above 1 moves times towards noise.
        t: times in [0, 1], any shape.

    Returns:
        Times in [0, 1], of the same shape.
    """
    return shift * t / (1 + (shift - 1) * t)


def shift_from_lightningdit(timestep_shift: float) -> float:
    """Our shift for LightningDiT's `timestep_shift`, which acts on times where t = 1 is data."""
    return 1.0 / timestep_shift


def shift_from_sd3(shift: float) -> float:
    """Our shift for SD3's: the same number, because t = 1 is noise in SD3 too."""
    return shift


def shift_for_size(numbers: int, base: int = 4096) -> float:
    """The shift sqrt(numbers / base) for latents of a size: derived by SD3, applied by RAE.

    Args:
        numbers: C * h * w of a latent.
        base: the size whose shift is 1.
    """
    return math.sqrt(numbers / base)


@dataclass(frozen=True)
class Coefficients:
    """alpha, sigma and their derivatives in t, shaped to multiply a batch; conversions between predictions.

    Attributes:
        alpha: factor of the data.
        sigma: factor of the noise.
        d_alpha: d alpha / dt.
        d_sigma: d sigma / dt.
    """

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor

    @property
    def determinant(self) -> Tensor:
        """alpha sigma' - alpha' sigma: 1 on the linear path, pi / 2 on GVP; positive everywhere."""
        return self.alpha * self.d_sigma - self.d_alpha * self.sigma

    def state(self, z0: Tensor, noise: Tensor) -> Tensor:
        """x = alpha z0 + sigma eps."""
        return self.alpha * z0 + self.sigma * noise

    def velocity(self, z0: Tensor, noise: Tensor) -> Tensor:
        """v = alpha' z0 + sigma' eps."""
        return self.d_alpha * z0 + self.d_sigma * noise

    def velocity_to_noise(self, velocity: Tensor, x: Tensor) -> Tensor:
        """eps, from the velocity at the state x."""
        return (self.alpha * velocity - self.d_alpha * x) / self.determinant

    def velocity_to_data(self, velocity: Tensor, x: Tensor) -> Tensor:
        """z0, from the velocity at the state x."""
        return (self.d_sigma * x - self.sigma * velocity) / self.determinant

    def noise_to_velocity(self, noise: Tensor, x: Tensor) -> Tensor:
        """v, from the noise at the state x; infinite where alpha is 0."""
        return (self.d_alpha * x + self.determinant * noise) / self.alpha

    def data_to_velocity(self, z0: Tensor, x: Tensor) -> Tensor:
        """v, from the data at the state x; infinite where sigma is 0."""
        return (self.d_sigma * x - self.determinant * z0) / self.sigma

    def noise_to_score(self, noise: Tensor) -> Tensor:
        """The score, the gradient of log p_t(x), from the noise; infinite where sigma is 0."""
        return -noise / self.sigma


def path(name: PathName, t: Tensor, like: Tensor | None = None) -> Coefficients:
    """The coefficients of a path at some times.

    Args:
        name: "linear": alpha, sigma = 1 - t, t. "gvp": cos and sin of pi t / 2, variance preserving on data of unit
            variance. "vp": DDPM's linear beta schedule from 0.1 to 20 (Song et al., 2021); its sigma' is infinite at
            t = 0, so t is at least 1e-5.
        t: times, a scalar or (B,).
        like: a tensor (B, ...) for which coefficients of t (B,) are reshaped and cast, to multiply it.
    """
    import torch

    t = t if t.dtype == torch.float64 else t.float()
    coefficients = _PATHS[name](t)
    if like is not None and t.ndim:  # a scalar multiplies any tensor on any device
        shape = (-1, *(1,) * (like.ndim - 1))
        coefficients = tuple(c.to(like.device, like.dtype).view(shape) for c in coefficients)
    return Coefficients(*coefficients)


def _linear(t: Tensor) -> tuple[Tensor, ...]:
    one = t.new_ones(t.shape)
    return 1 - t, t, -one, one


def _gvp(t: Tensor) -> tuple[Tensor, ...]:
    quarter = math.pi / 2
    cos, sin = (quarter * t).cos(), (quarter * t).sin()
    return cos, sin, -quarter * sin, quarter * cos


def _vp(t: Tensor, beta_min: float = 0.1, beta_max: float = 20.0) -> tuple[Tensor, ...]:
    t = t.clamp_min(1e-5)
    log_alpha = -0.25 * t.square() * (beta_max - beta_min) - 0.5 * t * beta_min
    d_log_alpha = -0.5 * vp_beta(t, beta_min, beta_max)
    alpha = log_alpha.exp()
    sigma = (-(2 * log_alpha).expm1()).sqrt()
    return alpha, sigma, alpha * d_log_alpha, -alpha.square() * d_log_alpha / sigma


def vp_beta(t: Tensor, beta_min: float = 0.1, beta_max: float = 20.0) -> Tensor:
    """The beta(t) of the VP path, where d log alpha / dt = -beta / 2."""
    return beta_min + t * (beta_max - beta_min)


_PATHS = {"linear": _linear, "gvp": _gvp, "vp": _vp}


class Transport(Config):
    """What the network predicts, along which path, and at which times it is trained."""

    path: PathName = Field(default="linear", description="from data (t = 0) to noise (t = 1); see `path`")
    prediction: Prediction = Field(default="velocity", description="what the network's output is")
    time: Literal["uniform", "logit_normal"] = Field(
        default="uniform", description="distribution of training times, before the shift"
    )
    time_mean: float = Field(
        default=0.0, ge=-100, le=100, description="of the logit-normal; LightningDiT's shifted_mu with the other sign"
    )
    time_std: float = Field(default=1.0, ge=1e-3, le=100, description="of the logit-normal")
    shift: float = Field(
        default=1.0, ge=1e-3, le=1e3, description="of training times, in SD3's direction: above 1 is more noise"
    )
    cosine: float = Field(default=0.0, ge=0, le=1e3, description="weight of LightningDiT's velocity-direction term")
    weighting: Literal["none", "velocity"] = Field(
        default="none",
        description="noise and data prediction: 'velocity' measures their error as a velocity, as SiT can",
    )

    def coefficients(self, t: Tensor, like: Tensor) -> Coefficients:
        """The coefficients of the path at times t, clamped to `range`; see `path` for the shapes.

        Args:
            t: Times, a scalar or (B,), in [0, 1]; 1 is noise.
            like: A tensor (B, ...) that the coefficients are to multiply.
        """
        low, high = self.range
        return path(self.path, t.clamp(low, high) if (low, high) != (0.0, 1.0) else t, like)

    @property
    def range(self) -> tuple[float, float]:
        """The times (lowest, highest) at which the velocity exists for this path and prediction."""
        if self.prediction != "velocity":
            return MARGIN, 1 - MARGIN
        return (MARGIN, 1.0) if self.path == "vp" else (0.0, 1.0)

    def times(self, uniform: Tensor) -> Tensor:
        """Training times from uniform numbers, logit-normal and shifted as configured.

        Args:
            uniform: numbers in [0, 1), any shape; the times increase with them.

        Returns:
            Times in `range`, of the same shape.
        """
        t = uniform
        if self.time == "logit_normal":
            import torch

            t = torch.sigmoid(self.time_mean + self.time_std * torch.special.ndtri(t))
        low, high = self.range
        return shift_time(self.shift, t) * (high - low) + low

    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The velocity that the network's output stands for.

        Args:
            output: the prediction, (B, ...).
            x: the state at which it was made, (B, ...).
            t: times, (B,) or a scalar.
        """
        if self.prediction == "velocity":
            return output
        at = self.coefficients(t, x)
        return at.noise_to_velocity(output, x) if self.prediction == "noise" else at.data_to_velocity(output, x)

    def loss(self, output: Tensor, z0: Tensor, noise: Tensor, t: Tensor) -> dict[str, Tensor]:
        """The loss of each sample, and its terms.

        Args:
            output: the prediction, (B, C, ...).
            z0: the data, (B, C, ...).
            noise: the noise, (B, C, ...).
            t: times, (B,).

        Returns:
            Tensors (B,): "mse" of the predicted quantity; where its weight is not 0, "cosine": 1 - cosine similarity
            of the predicted and the true vector over channels, averaged over positions; "loss": their weighted sum.
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
        from torch.nn import functional as F

        cosine = 1 - F.cosine_similarity(output, target, dim=1).flatten(1).mean(1)
        return {"loss": mse + self.cosine * cosine, "mse": mse, "cosine": cosine}
