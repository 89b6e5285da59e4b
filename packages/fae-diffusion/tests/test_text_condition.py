"""What an MMDiT is given: what a mask hides never counts, and there is one null condition."""

from __future__ import annotations

import pytest
import torch

from fae_core.errors import FAEError
from fae_core.random import SlotRandom
from fae_core.spec import LatentSpec
from fae_diffusion import MMDiT, MMDiTConfig, TextCondition

SPEC = LatentSpec(4, 4, 4, 32, "toy/backbone")
MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
INF, NAN = float("inf"), float("nan")


def build(**fields: object) -> MMDiT:
    torch.manual_seed(0)
    model = MMDiT(MMDiTConfig(width=16, depth=2, heads=2, text_width=6, **fields), SPEC)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    return model.eval()


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, *SPEC.shape), torch.randn(2, 5, 6), torch.randn(2, 3)


@pytest.mark.parametrize("filling", [7.0, 1e30, INF, -INF, NAN])
@pytest.mark.parametrize("fields", [{}, {"qk_norm": "rms", "registers": 2}, {"qk_norm": "layer"}], ids=str)
def test_padding_never_reaches_the_output_or_a_gradient(fields: dict, filling: float, inputs) -> None:
    model, (z, tokens, _) = build(**fields), inputs
    filled = torch.where(MASK[..., None], tokens, torch.tensor(filling))
    for text in (TextCondition(filled, MASK), (filled, MASK), [filled, MASK.long()]):
        assert torch.equal(model(z, 0.5, text), model(z, 0.5, (tokens, MASK)))
    losses = [model.train().loss(z, (t, MASK), random=SlotRandom(0, range(2)))["loss"] for t in (tokens, filled)]
    assert torch.equal(*losses)
    losses[1].backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_padding_never_reaches_a_sample_under_guidance(inputs) -> None:
    model, (_, tokens, _) = build(), inputs
    filled = torch.where(MASK[..., None], tokens, torch.tensor(NAN))
    for rows in (1, 2):
        options = {"random": SlotRandom(0, range(rows)), "steps": 2, "guidance": 2.0}
        given, wanted = ((text[:rows], MASK[:rows]) for text in (filled, tokens))
        assert torch.equal(model.sample(given, **options), model.sample(wanted, **options))


def test_an_additive_mask_hides_what_it_names(inputs) -> None:
    model, (z, tokens, _) = build(), inputs
    additive = torch.zeros(2, 5).masked_fill(~MASK, -INF)
    assert torch.equal(model(z, 0.5, (tokens, additive)), model(z, 0.5, (tokens, MASK)))
    for wrong in (torch.zeros(2, 5), torch.rand(2, 5), MASK.T, MASK[:, None, None]):
        with pytest.raises(FAEError, match="a text mask"):
            model(z, 0.5, (tokens, wrong))


def test_there_is_one_null_condition_in_training_guidance_and_sampling(inputs) -> None:
    model, (z, tokens, pooled) = build(pooled_width=3), inputs
    text = TextCondition(tokens, MASK, pooled)
    dropped = model._drop_condition(text, torch.ones(2, dtype=torch.bool))
    velocities = [model.velocity(z, 0.5, null) for null in (model._null_like(text), dropped)]
    none = model._check_condition(None, 2, z.device)
    for velocity in velocities:
        torch.testing.assert_close(velocity, model.velocity(z, 0.5, none), atol=1e-6, rtol=1e-5)
    random = SlotRandom(0, range(2))
    assert torch.equal(model.sample(None, random=random, steps=2), model.sample(none, random=random, steps=2))
    # As in the originals of this architecture: the pooled vector of no text is zeros, embedded.
    zeros = TextCondition(none.tokens, none.mask, torch.zeros(2, 3))
    assert torch.equal(model.velocity(z, 0.5, zeros), model.velocity(z, 0.5, none))


def test_text_without_the_pooled_vector_that_a_model_takes_is_refused(inputs) -> None:
    z, tokens, pooled = inputs
    with_pooled, without = build(pooled_width=3), build()
    cases = [
        (with_pooled, TextCondition(tokens)),
        (with_pooled, tokens),
        (with_pooled, TextCondition(tokens, pooled=pooled[:, :2])),
        (without, TextCondition(tokens, pooled=pooled)),
    ]
    for model, text in cases:
        for call in (
            lambda m=model, t=text: m(z, 0.5, t),
            lambda m=model, t=text: m.loss(z, t),
            lambda m=model, t=text: m.sample(t, steps=1),
        ):
            with pytest.raises(FAEError, match="pooled vector"):
                call()
    with pytest.raises(FAEError, match="null prompt's pooled vector"):
        with_pooled.set_null(TextCondition(tokens[:1], pooled=pooled[:1, :2]))


def test_the_null_prompt_has_a_pooled_vector_where_one_is_given(inputs) -> None:
    """SD3 guides away from the empty prompt, whose pooled vector is not zeros."""
    z, tokens, pooled = inputs
    model = build(pooled_width=3)
    null = TextCondition(tokens[:1], pooled=pooled[:1])
    model.set_null(null)
    padded = TextCondition(tokens[:1].expand(2, -1, -1), pooled=pooled[:1].expand(2, -1))
    none = model._check_condition(None, 2, z.device)
    torch.testing.assert_close(model.velocity(z, 0.5, none), model.velocity(z, 0.5, padded), atol=1e-6, rtol=1e-5)
    model.set_null(TextCondition(tokens[:1]))
    assert not model.null_pooled.any()


def test_every_parameter_of_a_model_with_pooled_text_gets_a_gradient(inputs) -> None:
    z, tokens, pooled = inputs
    model = build(pooled_width=3).train()
    model.loss(z, TextCondition(tokens, pooled=pooled), random=SlotRandom(0, range(2)))["loss"].backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_text_that_is_no_embedding_is_refused(inputs) -> None:
    z, tokens, pooled = inputs
    model = build()
    for wrong in (tokens[0], tokens.long(), tokens[..., :5], tokens[:1], torch.zeros(2), "a prompt"):
        with pytest.raises(FAEError):
            model(z, 0.5, wrong)
    with pytest.raises(FAEError, match="does not fit into 3 places"):
        TextCondition(tokens).padded(3)
    for wrong in (pooled[0], pooled[:1], pooled[:, :, None]):
        with pytest.raises(FAEError, match="pooled"):
            TextCondition(tokens, pooled=wrong)
