"""A rectified flow of a small MLP-Mixer on FAE latents."""

from patch_flow.model import PatchFlow, PatchFlowConfig

__all__ = ["PatchFlow", "PatchFlowConfig"]
