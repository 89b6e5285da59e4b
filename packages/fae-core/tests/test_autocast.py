"""bf16 by autocast; convolutions stay in fp32 where a CPU has no instructions for bf16."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fae_core.autocast import ExactConvolutions, autocast

NATIVE = torch.ops.mkldnn._is_mkldnn_bf16_supported()


def layers() -> tuple[nn.Conv2d, nn.ConvTranspose1d, nn.Linear]:
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 3), nn.ConvTranspose1d(3, 4, 2), nn.Linear(5, 6)


def test_convolutions_are_those_of_fp32_and_products_are_not() -> None:
    convolution, transposed, linear = layers()
    images, rows = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 5)
    exact = convolution(images), transposed(rows)
    with torch.autocast("cpu", torch.bfloat16), ExactConvolutions():
        found = convolution(images.bfloat16().float()), transposed(rows)
        after_bf16 = transposed(linear(rows)[..., :5])
        assert linear(rows).dtype == torch.bfloat16
    assert torch.equal(found[1], exact[1]) and found[0].dtype == after_bf16.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16), ExactConvolutions():
        loss = convolution(images).square().sum()
    loss.backward()
    mixed = convolution.weight.grad.clone()
    convolution.weight.grad = None
    convolution(images).square().sum().backward()
    assert torch.equal(mixed, convolution.weight.grad)


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_the_forward_pass_has_the_precision_that_was_asked_for(device: str) -> None:
    convolution, _, linear = layers()
    images, rows = torch.randn(2, 3, 8, 8), torch.randn(2, 5)
    with autocast(device, "fp32"):
        assert convolution(images).dtype == linear(rows).dtype == torch.float32
    with autocast(device, "bf16"):
        assert linear(rows).dtype == torch.bfloat16
        assert convolution(images).dtype == (torch.bfloat16 if NATIVE else torch.float32)
    assert linear(rows).dtype == torch.float32
