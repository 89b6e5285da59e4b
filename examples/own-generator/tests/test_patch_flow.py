"""PatchFlow meets what every generator has to meet."""

from patch_flow import PatchFlow, PatchFlowConfig

from fae_core.spec import LatentSpec
from fae_core.testing import GeneratorConformance


class TestPatchFlow(GeneratorConformance):
    def make(self, spec: LatentSpec) -> PatchFlow:
        return PatchFlow(PatchFlowConfig(width=32, depth=2, classes=self.classes), spec)
