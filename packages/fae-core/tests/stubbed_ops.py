"""Every door over a CUDA driver that launches nothing: how many kernels a call starts, and that it is planned.

`test_ops_door.py` runs this file in a process of its own, with a scratch folder as its argument.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fae_core.testing.stub_driver import StubDriver

stub = StubDriver(Path(sys.argv[1]))

import torch  # noqa: E402 (after the driver is in its place)

from fae_core.ops import operators  # noqa: E402


def launches(call) -> int:
    before = stub.launches
    call()
    return stub.launches - before


def main() -> None:
    def half(*shape: int) -> torch.Tensor:
        return torch.randn(*shape).half().requires_grad_()

    turn = (torch.randn(4, 32), torch.randn(4, 32))
    qkv, heads, weight = half(2, 4, 3, 2, 64), [half(2, 2, 4, 64) for _ in range(3)], half(64)
    rows = [half(2, 128) for _ in range(3)]
    cases = {
        operators.RMS_NORM: (half(2, 4, 128), half(128), 1e-6),
        operators.ADALN: (half(2, 4, 128), half(2, 4, 128), *rows, half(128), half(128), False, 1e-6),
        operators.APPLY_ROPE: (heads[0], *turn, True, False),
        operators.QK_NORM_ROPE: (qkv, *turn, weight, weight, half(384), True, 1e-6),
        operators.SWIGLU: (half(2, 4, 256), half(256)),
    }
    for door, inputs in cases.items():
        name = door.op.name
        with torch.no_grad():
            counts = [launches(lambda door=door, inputs=inputs: door(*inputs)) for _ in range(3)]
        assert counts == [1, 1, 1], (name, counts)
        plans = [known.run._plan for known in door._known.values()]
        same_weight_twice = door is operators.QK_NORM_ROPE
        assert [plan is None for plan in plans] == [same_weight_twice], name
        results = door(*inputs)
        results = results if isinstance(results, tuple) else (results,)
        leaves = list({id(x): x for x in inputs if isinstance(x, torch.Tensor) and x.requires_grad}.values())
        ahead = [torch.ones_like(y) for y in results]
        assert launches(lambda r=results, i=leaves, a=ahead: torch.autograd.grad(r, i, a)) in (1, 2), name
        if door.op.gradient is None:
            (known,) = (known for known in door._known.values() if known.differentiated)
            plans = [calls._plan for calls in known.gradient._calls.values()]
            assert [plan is None for plan in plans] == [same_weight_twice], name


main()
