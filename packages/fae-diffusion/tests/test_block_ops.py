"""What a block asks of `fae_core.ops`, and when the ops of sampling are measured; seen on fake CUDA tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fae_core import LatentSpec, ops
from fae_core.ops import dispatch
from fae_diffusion import LightningDiT, fast_sampling
from fae_diffusion.guidance import Guidance, GuidedVelocity

SPEC = LatentSpec(4, 4, 4, (32, 32), "toy/backbone")


@pytest.fixture
def model() -> Iterator[LightningDiT]:
    with FakeTensorMode(), torch.device("cuda"):
        yield LightningDiT.from_preset("lightningdit-tiny", spec=SPEC, depth=1, width=64)


def heard(run: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple]]:
    monkeypatch.setattr(dispatch, "heard", {})
    run()
    return list(dispatch.heard or {})


def test_gate_residual_and_norm_between_the_branches_are_one_op(
    model: LightningDiT, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = torch.empty(2, 16, 64, device="cuda")
    for tokens in (1, 16):
        c = torch.empty(2, tokens, 64, device="cuda")
        calls = heard(lambda c=c: model.blocks[0](stream, c, None), monkeypatch)
        updates = [inputs[1:3] + inputs[6:7] for op, inputs in calls if op == "adaln"]
        if tokens == 1:  # the update, its gate, and the bias of its projection
            first, second = updates
            assert first == (None, None, None)
            assert [x.shape for x in second] == [(2, 16, 64), (2, 64), (64,)]
        else:  # one condition for each token: each is a sample of its own for the norm alone
            assert set(updates) == {(None, None, None)}


def test_ops_of_sampling_are_measured_once_for_each_batch_and_before_it_begins(
    model: LightningDiT, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    tuned: list[tuple[set[int], dict[str, object]]] = []

    def evaluate(z: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        batches.append(len(z))
        return z

    def tune(run: Callable[[], object], **options: object) -> None:
        batches.clear()
        run()
        tuned.append((set(batches), options))

    monkeypatch.setattr(ops, "tune", tune)

    def begin(batch: int, guidance: Guidance, device: str = "cuda") -> None:
        z, labels = torch.empty(batch, 4, 4, 4, device=device), torch.zeros(batch, device=device)
        velocity = GuidedVelocity(evaluate, labels, guidance, null=labels if guidance.is_on else None)
        model._tune(velocity, z, [1.0, 0.75, 0.5, 0.25, 0.0], True)

    late = Guidance(scale=2.0, interval=(0.0, 0.5))
    for batch in (2, 2, 3):
        begin(batch, late)
    assert [sizes for sizes, _ in tuned] == [{2, 4}, {3, 6}]  # outside the interval, and within it
    begin(3, Guidance())
    assert [sizes for sizes, _ in tuned[2:]] == [{3}]
    assert all(options == {"training": False, "compiled": False} for _, options in tuned)
    begin(5, late, device="cpu")
    monkeypatch.setattr(fast_sampling, "are_several", lambda: True)
    begin(5, late)
    assert len(tuned) == 3
