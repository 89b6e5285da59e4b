"""The training loop, once for every model: torch.distributed underneath, exact resume, one screen of loop.

Read in this order: task (what is trained), config, loop, then the parts: engine, parallel, order, loader, schedule,
ema, checkpoint, journal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fae_core.lazy import lazy_names

if TYPE_CHECKING:
    from fae_core.training.config import TrainConfig as TrainConfig
    from fae_core.training.generator_task import GeneratorTask as GeneratorTask
    from fae_core.training.live_latents import LiveLatents as LiveLatents
    from fae_core.training.loop import train as train
    from fae_core.training.preview_config import PreviewConfig as PreviewConfig
    from fae_core.training.task import Phase as Phase
    from fae_core.training.task import Task as Task

_names, __getattr__, __dir__ = lazy_names(__name__)
__all__ = [*_names]
