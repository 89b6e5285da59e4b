"""What a training run updates, built once: optimisers, averages, wrapped phases, and their checkpointed state."""

from __future__ import annotations

import copy
import logging
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from fae_core import ops
from fae_core.autocast import autocast
from fae_core.errors import FAEError
from fae_core.files import staged_file
from fae_core.folders import bad_batch
from fae_core.models.checkpoints import fill
from fae_core.models.pretrained import PretrainedModel
from fae_core.ops.compiling import compiles
from fae_core.ops.tune import why_not
from fae_core.processes import Processes
from fae_core.random import SlotRandom
from fae_core.training.checkpoint import optimizer_tensors
from fae_core.training.config import TrainConfig
from fae_core.training.ema import WeightAverage, share_of_start
from fae_core.training.parallel import PhaseModule, full, gathered, replicate, shard
from fae_core.training.schedule import learning_rate_factor
from fae_core.training.task import Batch, Phase, Task

log = logging.getLogger("fae")


class Engine:
    """Performs updates of a task's phases on this process's share of each batch.

    Args:
        task: what is trained; its modules are moved to the group's device, and sharded under FSDP.
        config: how it is trained.
        group: the processes that train together.
    """

    def __init__(self, task: Task, config: TrainConfig, group: Processes) -> None:
        self.task, self.config, self.group = task, config, group
        task.prepare(group.device)
        for module in task.modules.values():
            module.to(group.device).train()
        self._trainable = {
            name: [p for p in module.parameters() if p.requires_grad] for name, module in task.modules.items()
        }
        self._templates: dict[str, nn.Module] = {}
        if config.parallel == "fsdp" and group.world_size > 1:
            self._shard()
        self.averages = {
            name: WeightAverage(task.modules[name], config.ema_decay, config.ema_warmup)
            for name in task.ema_modules
            if config.ema_decay is not None
        }
        self._phases = [_RunningPhase(phase, self) for phase in task.phases]
        ops.order_backends(group.device)
        self._compiled = compiles(config.compile, group.device)
        self._tuned = False
        if self._compiled:
            for module in task.modules.values():
                for block in getattr(module, "blocks", ()):
                    block.compile()

    def update(self, step: int, micro_batches: list[tuple[Batch, SlotRandom]]) -> dict[str, Tensor] | None:
        """One update of every phase that has started, each with the weights from before the step.

        Args:
            step: the update, counted from 0.
            micro_batches: this process's share of the batch, in parts, each with its random numbers.

        Returns:
            Scalars to log; None where a phase's gradient is not finite: then no module has changed.
        """
        self._tune(step, micro_batches[0])
        buffers = [(b, b.clone()) for module in self.task.modules.values() for b in module.buffers()]
        terms: dict[str, Tensor] = {}
        norms: list[Tensor] = []
        due = [phase for phase in self._phases if step >= phase.spec.start_step]
        for phase in due:
            self._thaw(phase.spec.modules)
            phase_terms = phase.accumulate(micro_batches)
            norms.append(phase_terms["gradient_norm"])
            prefix = f"{phase.spec.name}/" if len(self._phases) > 1 else ""
            terms.update({f"{prefix}{name}": value for name, value in phase_terms.items()})
        # A non-finite gradient on one process is one on all of them after the reduction, so all of them skip together.
        finite = all(torch.isfinite(torch.stack(norms)).tolist()) if norms else True
        for phase in due:
            phase.finish(step if finite else None)
        if not finite:
            for buffer, before in buffers:
                buffer.copy_(before)
            return None
        for average in self.averages.values():
            average.update(step)
        return terms

    def _tune(self, step: int, micro_batch: tuple[Batch, SlotRandom]) -> None:
        """Before the first update, measure the ops of the phases on this device; see `fae_core.ops.tune`."""
        if self._tuned:
            return
        self._tuned = True
        if why_not() is not None:
            return
        buffers = [(b, b.clone()) for module in self.task.modules.values() for b in module.buffers()]
        for phase in self._phases:
            if step >= phase.spec.start_step:
                # A loss that differentiates within itself cannot be heard without gradients.
                with suppress(RuntimeError):
                    ops.tune(
                        lambda phase=phase: phase.evaluate(*micro_batch),
                        compiled=self._compiled,
                        processes=self.group,
                    )
        for buffer, before in buffers:
            buffer.copy_(before)

    def checkpoint_tensors(self) -> dict[str, Tensor]:
        """All that a continuation needs, by name: the tensors themselves, so that loading fills them in place."""
        tensors: dict[str, Tensor] = {}
        for name, module in self.task.modules.items():
            tensors.update({f"weights/{name}/{key}": value.detach() for key, value in module.state_dict().items()})
        for name, average in self.averages.items():
            tensors.update({f"average/{name}/{key}": value for key, value in average.shadow.items()})
        for phase in self._phases:
            moments = optimizer_tensors(phase.optimizer, phase.parameter_names)
            tensors.update({f"optimizer/{phase.spec.name}/{key}": value for key, value in moments})
        return tensors

    def take_over_moments(self) -> None:
        """Fill the moments of phases that go on from a checkpoint of another run (`Phase.moments_from`).

        Raises:
            InvalidFile: the checkpoint's phase has other parameters.
        """
        for phase in self._phases:
            if phase.spec.moments_from is not None:
                prefix = f"optimizer/{phase.spec.name}/"
                tensors = {name: t for name, t in self.checkpoint_tensors().items() if name.startswith(prefix)}
                fill(tensors, phase.spec.moments_from)

    def final_modules(self) -> tuple[dict[str, nn.Module], ExitStack]:
        """The modules with averaged weights in eval mode, whole on each process.

        Returns:
            The modules by name, and a stack to close when they are no longer needed: it restores weights and mode.
        """
        stack = ExitStack()
        for average in self.averages.values():
            stack.enter_context(average.applied())
        for module in self.task.modules.values():
            module.eval()
        stack.callback(lambda: [module.train() for module in self.task.modules.values()])
        if not self._templates:
            return self.task.modules, stack
        return {name: gathered(m, self._templates[name]) for name, m in self.task.modules.items()}, stack

    def _shard(self) -> None:
        """Shard every module, and keep its shape for `final_modules`."""
        for name, module in self.task.modules.items():
            self._templates[name] = copy.deepcopy(module).to("meta")
            shard(module, self.group)
            self._trainable[name] = [p for p in module.parameters() if p.requires_grad]

    def _thaw(self, names: tuple[str, ...]) -> None:
        """Let the named modules alone have gradients."""
        if len(self._phases) > 1:
            for name, parameters in self._trainable.items():
                for parameter in parameters:
                    parameter.requires_grad_(name in names)

    @property
    def replicated(self) -> bool:
        """Whether each process holds whole modules."""
        return not self._templates


class _RunningPhase:
    """A phase with its optimiser and its wrapper."""

    def __init__(self, phase: Phase, engine: Engine) -> None:
        config, group = engine.config, engine.group
        self.spec, self.config, self.group = phase, config, group
        modules = self.modules = {name: engine.task.modules[name] for name in phase.modules}
        named = [
            (f"{m}/{key}", p)
            for m, module in modules.items()
            for key, p in module.named_parameters()
            if p.requires_grad
        ]
        self.parameters = [p for _, p in named]
        self.parameter_names: dict[Tensor, str] = {p: name for name, p in named}
        self.peak = phase.learning_rate or config.learning_rate
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=self.peak,
            betas=phase.betas or config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        wrapped = PhaseModule(modules, phase.loss)
        self.module = (
            replicate(wrapped, group, deterministic=engine.config.deterministic) if engine.replicated else wrapped
        )

    def accumulate(self, micro_batches: list[tuple[Batch, SlotRandom]]) -> dict[str, Tensor]:
        """Give parameters the clipped mean gradient; the loss's terms, and "gradient_norm" before clipping."""
        totals: dict[str, Tensor] = {}
        for index, (batch, random) in enumerate(micro_batches):
            with self._reducing(last=index == len(micro_batches) - 1):
                terms = self.evaluate(batch, random)
                (terms["loss"] / len(micro_batches)).backward()
            for name, value in terms.items():
                totals[name] = totals.get(name, 0) + value.detach() / len(micro_batches)
        norm = full(torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm or float("inf")))
        return {**totals, "gradient_norm": norm}

    def evaluate(self, batch: Batch, random: SlotRandom) -> dict[str, Tensor]:
        """The terms of the loss."""
        with autocast(self.group.device, self.config.precision):
            return self.module(batch, random)

    def finish(self, step: int | None) -> None:
        """Take the update `step` (0-based), or none, and free the gradient."""
        if step is not None:
            for parameter_group in self.optimizer.param_groups:
                parameter_group["lr"] = self.peak * learning_rate_factor(self.config, step)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _reducing(self, last: bool) -> AbstractContextManager[object]:
        """Around a micro-batch: processes exchange gradients after the last one only, under DDP and FSDP2 alike."""
        for part in self.modules.values():
            if isinstance(part, FSDPModule):
                part.set_requires_gradient_sync(last)
        if isinstance(self.module, nn.parallel.DistributedDataParallel) and not last:
            return self.module.no_sync()
        return nullcontext()


def save_bad_batch(folder: Path, step: int, micro_batches: list[tuple[Batch, SlotRandom]]) -> Path:
    """Keep the batch that gave a non-finite gradient, for inspection.

    Args:
        folder: the run folder.
        step: the update, counted from 0.
        micro_batches: as `Engine.update` takes them.

    Returns:
        The safetensors file, with names "MICRO-BATCH/NAME".
    """
    from safetensors.torch import save_file

    path = folder / bad_batch(step)
    tensors = {
        f"{i}/{name}": t.contiguous().cpu() for i, (batch, _) in enumerate(micro_batches) for name, t in batch.items()
    }
    with staged_file(path) as temporary:
        save_file(tensors, temporary)
    return path


def check_trainable(task: Task, config: TrainConfig, group: Processes) -> None:
    """Check what would fail or silently go wrong in training.

    Args:
        task: what is to be trained.
        config: how.
        group: the processes that share each batch.

    Raises:
        FAEError: the batch cannot be divided, a phase has no weights to train, weights are in half precision, in which
            small updates are lost, or the model could not be saved at the end.
    """
    parts = group.world_size * config.accumulation
    if config.batch_size % parts:
        raise FAEError(
            f"batch_size {config.batch_size} cannot be divided among {group.world_size} processes with accumulation "
            f"{config.accumulation}; make it a multiple of {parts}"
        )
    for name, module in task.modules.items():
        for key, parameter in module.named_parameters():
            if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
                kind = str(parameter.dtype).removeprefix("torch.")
                raise FAEError(
                    f"{name} has weights in {kind} ({key}), which lose small updates: train fp32 weights "
                    "(module.float()); training.precision=bf16 computes in bfloat16 and keeps them"
                )
    for phase in task.phases:
        if not any(p.requires_grad for name in phase.modules for p in task.modules[name].parameters()):
            raise FAEError(
                f"there is nothing to train in {' and '.join(phase.modules)}: every weight is frozen; requires_grad_() "
                "makes weights trainable"
            )
    for model in task.exported:
        if isinstance(model, PretrainedModel):
            model.require_own_weights()


def warn_of_a_young_average(task: Task, config: TrainConfig) -> None:
    """Log a warning where the average will end nearer to the initial weights than to the trained ones."""
    if not task.ema_modules or config.ema_decay is None:
        return
    share = share_of_start(config.ema_decay, config.ema_warmup, config.steps)
    if share > 0.5:
        log.warning(
            "the averaged weights, which are exported, will still be %.0f %% the initial ones after %d steps at "
            "ema_decay %g; set training.ema_decay to %.3g, or training.ema_warmup to true",
            100 * share,
            config.steps,
            config.ema_decay,
            max(0.0, 1 - 10 / config.steps),
        )
