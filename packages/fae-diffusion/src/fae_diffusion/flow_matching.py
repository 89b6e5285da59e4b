"""The Generator protocol for flow-matching networks: a loss on noised latents, and sampling by integration.

`FlowMatching` is mixed into a network whose forward(z, t, condition) gives what its transport predicts. What a
condition is (labels here, text in MMDiT) is decided by the last methods of the class, which a network may override.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import AfterValidator
from torch import Tensor

from fae_core.autocast import autocast
from fae_core.config import Config
from fae_core.errors import FAEError
from fae_core.layers import class_labels
from fae_core.layers.condition_rows import sample_count
from fae_core.models.draw import check_samples
from fae_core.models.load import load_generator
from fae_core.models.sample_options import require_known
from fae_core.models.stored import stored_model
from fae_core.protocols import Observer
from fae_core.random import SlotRandom
from fae_core.spec import LatentSpec
from fae_diffusion.fast_sampling import FastSampling
from fae_diffusion.guided_velocity import GuidedVelocity
from fae_diffusion.integration import descending, grid_of, integrated
from fae_diffusion.models.config import MeanFlow, require_guides
from fae_diffusion.samplers import ADAPTIVE
from fae_diffusion.samplers.config import NAMED, Sampling, SamplingName
from fae_diffusion.transport import Transport

NOISE_LEVELS = 4  # equally likely ranges of training times, for each of which the loss is logged too


class FlowMatching(FastSampling):
    """loss() and sample() for a network with a `spec`, `config.transport`, `config.sampling` and `blocks`."""

    spec: LatentSpec
    config: Any  # of the network; a subclass names its class
    sample_config: ClassVar[type[Config]] = Sampling  # the options of `sample`
    named_sampling: ClassVar[dict[SamplingName, dict[str, Any]]] = NAMED
    _weak: tuple[tuple[Any, ...], FlowMatching] | None = None

    @property
    def mean_flow(self) -> MeanFlow | None:
        """How mean velocities over intervals are learned; None: the velocity alone is."""
        return getattr(self.config, "mean_flow", None)

    @property
    def transport(self) -> Transport:
        """What the network predicts, along which path, at which times."""
        return self.config.transport

    def loss(self, z: Tensor, condition: Any, *, random: SlotRandom | None = None) -> dict[str, Tensor]:
        """The loss on a batch, at one random time per sample.

        While the module is in training mode, a share `condition_dropout` of the conditions is replaced by the null
        condition.

        Args:
            z: normalised latents, (B, C, h, w).
            condition: one per latent; None: the null condition for all.
            random: draws times, noise and dropout; None: torch's global generator.

        Returns:
            Means over the batch: "loss"; its terms "mse" and, where its weight is not 0, "cosine"; and "loss_q1" ..
            "loss_q4", the loss in each quarter of the training times, cleanest first. loss_qN is the mean over the
            batch of 4 times the loss of the samples in that quarter, so that it averages over steps and processes
            without bias, and the mean of the four is "loss".

        Raises:
            FAEError: for latents or conditions that do not fit the model.
        """
        self.spec.check(z)
        drawn = _Draws(random, len(z), z.device)
        uniform = drawn.uniform("time")
        noise = drawn.normal(z.shape[1:], "noise").to(z.dtype)
        if condition is not None:
            self._check_data(condition, len(z))
        condition = self._check_condition(condition, len(z), z.device)
        if self.training and self.condition_dropout > 0:
            condition = self._drop_condition(condition, drawn.uniform("condition_dropout") < self.condition_dropout)
        t = self.transport.times(uniform)
        if self.mean_flow is None:
            x = self.transport.coefficients(t, z).state(z, noise)
            terms = self.transport.loss(self(x, t, condition), z, noise, t)
        else:
            from fae_diffusion.mean_flow import interval, mean_flow_loss  # with torch's compiler, seconds to import

            second = drawn.uniform("second_time")
            t, until = interval(self.mean_flow, t, self.transport.times(second), drawn.uniform("interval"))
            uniform = torch.maximum(uniform, second).square()  # of the later time, uniform again
            at = self.transport.coefficients(t, z)
            null = self._null_like(condition) if self.mean_flow.guidance != 1 else None
            ends = (t, until, condition, null)
            terms = mean_flow_loss(self, self.mean_flow, at.state(z, noise), at.velocity(z, noise), *ends)
        level = (uniform * NOISE_LEVELS).long()
        levels = {
            f"loss_q{i + 1}": (terms["loss"].detach() * (level == i)).mean() * NOISE_LEVELS for i in range(NOISE_LEVELS)
        }
        return {name: value.mean() for name, value in terms.items()} | levels

    def velocity(
        self, z: Tensor, t: Tensor | float, condition: Any, until: float | None = None, skip: Sequence[int] = ()
    ) -> Tensor:
        """The velocity dz/dt, whatever the network predicts. Shapes as in forward.

        With `until`, of a network of mean velocities, the mean over the times from t down to it. With `skip` that of
        the network without these blocks. Raises FAEError where it has no such blocks.
        """
        self.config.require_blocks(skip)
        options = {"skip": skip} if skip else {}
        if until is not None:
            return self(z, t, condition, until, **options)
        output = self(z, t, condition, **options)
        if self.transport.prediction == "velocity":
            return output
        return self.transport.velocity(output, z, torch.as_tensor(t, device=z.device).expand(z.shape[0]))

    def sample(
        self,
        condition: Any,
        *,
        noise: Tensor | None = None,
        random: SlotRandom | None = None,
        times: Annotated[Tensor | Sequence[float] | None, AfterValidator(descending)] = None,
        weak: FlowMatching | str | Path | None = None,
        sampling: SamplingName | None = None,
        observe: Observer | None = None,
        **options: Any,
    ) -> Tensor:
        """Samples, one per condition.

        Args:
            condition: of the batch; None: no condition, for as many samples as `noise` or `random` has rows.
            noise: the state at t = 1, (B, C, h, w); None: drawn.
            random: draws the noise, and that of an SDE; a sample depends on its own slot alone.
            times: an explicit grid from at most 1 down to at least 0, instead of `steps` and `shift`.
            weak: a worse model or its folder, for autoguidance instead of the null condition.
            sampling: settings by name: "paper-guided" and "paper-unguided" are those of appendix D, "fast" takes 25
                evaluations with the model's own guidance; "sit", "lightningdit", "repa", "rae", "sd3" and others are
                those of the originals, see `samplers.config.NAMED`; None: the model's own settings.
            observe: called at the noise and after every step; an adaptive method shows its states when it is done.
            **options: any field of `samplers.config.Sampling`; `guidance` may be a number.

        Returns:
            Normalised latents, (B, C, h, w), fp32.

        Raises:
            FAEError: for conditions that do not fit, and for samples that are not finite or exploded, naming how many
                and the first of them.
            InvalidFile: for an unknown option.
            InvalidSettings: for a wrong value of one.
        """
        require_known(options, ["times", "weak", "sampling", *Sampling.model_fields], self)
        settings = self.config.sampling_settings({**options, "sampling": sampling, "weak": weak})
        grid = grid_of(settings, self.transport) if times is None else descending(times)
        device = next(self.parameters()).device
        batch = sample_count(condition, noise, random)
        if isinstance(condition, Tensor) and not condition.is_floating_point():
            condition = condition.cpu()  # labels: few, and checked by value
        condition = self._check_condition(condition, batch, device)
        drawn = _Draws(random, batch, device)
        if noise is None:
            noise = drawn.normal(self.spec.shape, "noise")
        self.spec.check(noise)
        if len(noise) != batch:
            raise FAEError(f"noise has {len(noise)} rows for a batch of {batch}")
        weak = self._weak_model(weak, device)
        bf16 = settings.precision == "bf16" or (settings.precision == "auto" and device.type == "cuda")
        # One context around all steps, so that the weights are cast once.
        with torch.inference_mode(), autocast(device.type, "bf16" if bf16 else "fp32"):
            velocity = self._guided(condition, settings, weak)
            network, z = self._network(velocity, noise, settings, bf16, device), noise.to(device).float()
            if network is velocity.model and settings.method not in ADAPTIVE:
                self._tune(velocity, z, grid, bf16)
            velocity.model = self._counted(network)
            if velocity.skipping is not None:
                velocity.skipping = self._counted(velocity.skipping)
            z = integrated(velocity, z, grid, settings, self.transport.path, random, observe)
        # A clone outside inference mode can take part in what a caller differentiates.
        return check_samples(z, random).clone()

    def sample_models(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The models beside this one on which samples depend at some options, by the option that names them.

        Args:
            options: of `sample`.
        """
        weak = self._weak_model(options.get("weak"), next(self.parameters()).device)
        return {} if weak is None else {"weak": weak}

    def _guided(self, condition: Any, settings: Sampling, weak: FlowMatching | None) -> GuidedVelocity:
        guidance, null = settings.guidance, None
        if guidance.is_on and weak is None:
            null = self._null_like(condition)
        return GuidedVelocity(
            self.velocity,
            condition,
            guidance,
            null=null,
            join=self._join,
            weak=weak.velocity if weak is not None else None,
            skipping=None if guidance.skip is None else partial(self.velocity, skip=guidance.skip.blocks),
        )

    def _weak_model(self, weak: FlowMatching | str | Path | None, device: torch.device) -> FlowMatching | None:
        """The model in a folder is read once, and again when the folder was written anew.

        Raises FAEError for one that cannot guide, see `require_guides`.
        """
        if not isinstance(weak, str | Path):
            require_guides(weak, self)
            return weak
        stored = stored_model("generator", weak)
        written = None if stored is None else stored.folder.stat()
        key = (str(weak), device, written and (written.st_dev, written.st_ino, written.st_mtime_ns))
        kept = self._weak
        if kept is None or kept[0] != key:
            require_guides(stored, self)  # before its weights are read
            found: Any = load_generator(weak, device=str(device))
            require_guides(found, self)
            # In a tuple, so that it is no submodule and not saved with this model.
            kept = self._weak = (key, cast(FlowMatching, found))
        return kept[1]

    # What a condition is: labels (B,) of `config.classes` classes. Networks with other conditions override the rest.

    @property
    def condition_dropout(self) -> float:
        """Share of training samples whose condition is replaced by the null condition."""
        return self.config.class_dropout

    def _check_condition(self, condition: Any, batch: int, device: torch.device) -> Any:
        """The condition of a batch on the device, None made null. Raises FAEError for one that does not fit."""
        if condition is None:
            return torch.full((batch,), self.null_label, device=device)
        return class_labels(condition, batch, self.config.classes, null=self.config.class_dropout > 0).to(device)

    def _check_data(self, condition: Any, batch: int) -> None:
        """Raise FAEError for data with the null condition: only dropout gives a training sample the null condition."""
        class_labels(condition, batch, self.config.classes)

    def _drop_condition(self, condition: Any, dropped: Tensor) -> Any:
        """The condition, null wherever `dropped` (B,) is True."""
        return torch.where(dropped, self.null_label, condition)

    def _null_like(self, condition: Any) -> Any:
        """The null condition, for as many samples."""
        return torch.full_like(condition, self.null_label)

    def _join(self, first: Any, second: Any) -> Any:
        """Two conditions in one batch."""
        return torch.cat([first, second])

    @property
    def null_label(self) -> int:
        """The label that means "no class".

        Raises:
            FAEError: for a model trained without class dropout, which has no such label.
        """
        self.config.require_null()
        return self.config.classes


class _Draws:
    """Random numbers for a batch, from a SlotRandom or from torch's global generator."""

    def __init__(self, random: SlotRandom | None, batch: int, device: torch.device) -> None:
        if random is not None and len(random) != batch:
            raise FAEError(f"random has {len(random)} slots for a batch of {batch}")
        self.random, self.batch, self.device = random, batch, device

    def normal(self, shape: tuple[int, ...], stream: str) -> Tensor:
        if self.random is not None:
            return self.random.normal(shape, stream, self.device)
        return torch.randn(self.batch, *shape, dtype=torch.float32, device=self.device)

    def uniform(self, stream: str) -> Tensor:
        if self.random is not None:
            return self.random.uniform((), stream, self.device)
        return torch.rand(self.batch, dtype=torch.float32, device=self.device)
