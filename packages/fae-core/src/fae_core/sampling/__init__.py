"""Writing samples of a generator: the job and its folder, labels and images, prompts."""

from fae_core.sampling.draw import class_names_of, classes_of, draw_images, draw_labels, load_pair
from fae_core.sampling.job import SampleJob
from fae_core.sampling.prompts import read_prompts

__all__ = ["SampleJob", "class_names_of", "classes_of", "draw_images", "draw_labels", "load_pair", "read_prompts"]
