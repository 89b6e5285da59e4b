"""Writing samples of a generator: the job and its folder, labels and images, prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fae_core.lazy import lazy_names

if TYPE_CHECKING:
    from fae_core.sampling.draw import choose_labels as choose_labels
    from fae_core.sampling.draw import class_names_of as class_names_of
    from fae_core.sampling.draw import classes_of as classes_of
    from fae_core.sampling.draw import draw_images as draw_images
    from fae_core.sampling.draw import draw_labels as draw_labels
    from fae_core.sampling.draw import load_pair as load_pair
    from fae_core.sampling.job import SampleJob as SampleJob
    from fae_core.sampling.prompts import read_prompts as read_prompts

_names, __getattr__, __dir__ = lazy_names(__name__)
__all__ = [*_names]
