"""bf16 by autocast where the device computes it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fae_core.autocast import autocast

NATIVE = torch.ops.mkldnn._is_mkldnn_bf16_supported()


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_the_forward_pass_has_the_precision_that_was_asked_for_where_the_cpu_computes_it(device: str) -> None:
    convolution, linear = nn.Conv2d(3, 4, 3), nn.Linear(5, 6)
    images, rows = torch.randn(2, 3, 8, 8), torch.randn(2, 5)
    with autocast(device, "fp32"):
        assert convolution(images).dtype == linear(rows).dtype == torch.float32
    with autocast(device, "bf16"):
        assert convolution(images).dtype == linear(rows).dtype == (torch.bfloat16 if NATIVE else torch.float32)
    assert linear(rows).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16), autocast(device, "fp32"):
        assert linear(rows).dtype == torch.float32
