"""The training loop, once for every model: torch.distributed underneath, exact resume, one screen of loop.

Read in this order: task (what is trained), config, loop, then the parts: engine, parallel, order, loader, schedule,
ema, checkpoint, journal.
"""

from fae_core.training.config import TrainConfig
from fae_core.training.generator_task import GeneratorTask
from fae_core.training.live_latents import LiveLatents
from fae_core.training.loop import train
from fae_core.training.preview import PreviewConfig
from fae_core.training.task import Phase, Task

__all__ = ["GeneratorTask", "LiveLatents", "Phase", "PreviewConfig", "Task", "TrainConfig", "train"]
