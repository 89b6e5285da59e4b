"""Every way of sampling equals full recomputation of the definition."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from fae_core.errors import FAEError
from fae_flow import FlowSampler, Jacobi, STARFlow
from fae_flow.block import FlowBlock
from fae_flow.sampling.guidance import guide


def naive_sample(
    flow: STARFlow, condition: Tensor | None, noise: Tensor, scale: float = 1.0, null: Tensor | None = None
) -> Tensor:
    """The oracle: for every token the whole training forward of the block, no cache, no batching of guidance."""
    height, width = (side // flow.config.patch_size for side in noise.shape[-2:])
    tokens = flow.patchify(noise)
    for block in reversed(flow.blocks):
        z = block.order(tokens)
        x = z.clone()
        for t in range(z.shape[1]):
            mean, log_sigma = _parameters(flow, block, x, condition, height, width)
            if scale != 1.0 and block.conditional:
                other = _parameters(flow, block, x, null, height, width)
                mean, log_sigma = guide(mean, log_sigma, *other, scale)
            x[:, t] = z[:, t] * log_sigma[:, t].exp() + mean[:, t]
        tokens = block.order(x)
    return flow.unpatchify(tokens, height, width)


@torch.no_grad()
def _parameters(
    flow: STARFlow, block: FlowBlock, x: Tensor, condition: Tensor | None, height: int, width: int
) -> tuple[Tensor, Tensor]:
    noise, log_sigma = block(x, condition, flow.rope(height, width, condition))
    return x - noise * log_sigma.exp(), log_sigma


def test_sequential_sampling_equals_full_recomputation(flow, spec, condition_for, latents_for) -> None:
    noise, condition = latents_for(spec, 3), condition_for(flow, 3)
    sampled = flow.sample(condition, noise=noise, denoise=False)
    torch.testing.assert_close(sampled, naive_sample(flow, condition, noise), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.5, 1.7, 4.0])
def test_guided_sampling_equals_full_recomputation(conditional_flow, spec, condition_for, latents_for, scale) -> None:
    flow = conditional_flow
    noise, condition, null = latents_for(spec, 3), condition_for(flow, 3), condition_for(flow, 3, seed=9)
    null = null.flip(0)
    sampled = flow.sample(condition, noise=noise, guidance=scale, uncond=null, denoise=False)
    torch.testing.assert_close(sampled, naive_sample(flow, condition, noise, scale, null), atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{"packed": False}, {"packed": True}])
def test_linear_layouts_agree(flow, spec, condition_for, latents_for, options) -> None:
    try:
        sampler = FlowSampler(flow, **options)
    except FAEError as error:
        pytest.skip(str(error))
    noise, condition = latents_for(spec, 3), condition_for(flow, 3)
    expected = flow.sample(condition, noise=noise, denoise=False)
    torch.testing.assert_close(sampler.sample(condition, noise), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "options", "each"),
    [
        ({}, {}, 1),
        ({}, {"denoise": True}, 2),
        ({"sos": False}, {}, 1),
        ({}, {"guidance": 2.0}, 2),
        ({}, {"guidance": 2.0, "guide_top_only": True}, 1 + 2 / 3),  # the top block has two of three layers
        ({"condition_top_only": True}, {"guidance": 2.0, "denoise": True}, 1 + 2 / 3 + 1),
        ({}, {"jacobi": {"stretch": 4, "tolerance": 0.0}}, 4),  # each token in as many passes as a stretch is long
        ({}, {"jacobi": {"stretch": 4, "tolerance": 0.0}, "guidance": 2.0}, 8),
        ({}, {"jacobi": {"stretch": 4, "tolerance": 1e9}}, 1),
        ({}, {"jacobi": {"stretch": 4, "tolerance": 0.0, "max_passes": 1}}, 1 + 3 / 4),  # three of four again
    ],
    ids=str,
)
def test_evaluations_are_counted_by_layers_and_tokens(
    build, condition_for, latents_for, spec, fields, options, each
) -> None:
    flow = build(classes=3, **fields)
    for batches, count in ((2, 2), (3, 1)):
        flow.sample(condition_for(flow, count), noise=latents_for(spec, count), **{"denoise": False, **options})
        assert flow.evaluations == pytest.approx(batches * each)


class Adapted(torch.nn.Module):
    """A layer with more than a weight, which it still shows as the layers of peft do."""

    def __init__(self, base: torch.nn.Module) -> None:
        super().__init__()
        self.base, self.weight = base, base.weight

    def forward(self, x: Tensor) -> Tensor:
        return 1.2 * self.base(x)


class Standing(torch.nn.Module):
    """What stands in the place of a module and has its parts, as peft's `modules_to_save`."""

    def __init__(self, copied: torch.nn.Module) -> None:
        super().__init__()
        self.copied = copied

    def __getattr__(self, name: str) -> object:
        return super().__getattr__(name) if name == "copied" else getattr(self.copied, name)

    def forward(self, x: Tensor) -> Tensor:
        return self.copied(x)


@pytest.mark.parametrize("options", [{}, {"jacobi": {"stretch": 5, "tolerance": 0.0}}, {"precision": "bf16"}])
def test_layers_with_adapters_hooks_and_parametrisations_sample_what_their_density_is(
    flow, spec, condition_for, latents_for, options
) -> None:
    noise, condition = latents_for(spec, 3), condition_for(flow, 3)
    plain = flow.sample(condition, noise=noise, denoise=False)
    for block in flow.blocks:
        block.proj_in = Adapted(block.proj_in)
        for layer in block.layers:
            layer.attention.qkv = Adapted(layer.attention.qkv)
            layer.attention.proj.register_forward_hook(lambda module, inputs, output: 1.2 * output)
            layer.mlp = Standing(layer.mlp)
            layer.mlp.up.register_forward_pre_hook(lambda module, inputs: 1.2 * inputs[0])
            torch.nn.utils.parametrizations.weight_norm(layer.mlp.down)
            if not isinstance(layer.attention_norm, torch.nn.Identity):
                layer.attention_norm.register_forward_hook(lambda module, inputs, output: 1.2 * output)
    expected = naive_sample(flow, condition, noise)
    sampled = flow.sample(condition, noise=noise, denoise=False, **options)
    tolerance = 0.5 if "precision" in options else 1e-3  # of what the layers' own weights alone would give
    assert (sampled - expected).norm() < tolerance * (plain - expected).norm()


@pytest.mark.parametrize("options", [{}, {"jacobi": {"stretch": 5, "tolerance": 0.0}}, {"precision": "bf16"}])
def test_mlps_and_norms_of_heads_are_called_with_their_hooks_and_wrappers(
    flow, spec, condition_for, latents_for, options
) -> None:
    noise, condition = latents_for(spec, 3), condition_for(flow, 3)
    plain = flow.sample(condition, noise=noise, denoise=False)
    for block in flow.blocks:
        for layer in block.layers:
            layer.mlp.register_forward_hook(lambda module, inputs, output: 1.5 * output)
            if layer.attention.q_norm is not None:
                layer.attention.q_norm.register_forward_hook(lambda module, inputs, output: 1.5 * output)
                layer.attention.k_norm = Adapted(layer.attention.k_norm)
    expected = naive_sample(flow, condition, noise)
    sampled = flow.sample(condition, noise=noise, denoise=False, **options)
    tolerance = 0.5 if "precision" in options else 1e-3  # of what the parts' own weights alone would give
    assert (sampled - expected).norm() < tolerance * (plain - expected).norm()


@pytest.mark.parametrize("name", ["blocks.1", "blocks.1.layers.0", "blocks.1.layers.0.attention"])
def test_what_sampling_would_leave_out_is_refused(build, spec, latents_for, name: str) -> None:
    """These are computed over a cache, from their parts; a hook or another module cannot be called there."""
    flow, noise, labels = build(classes=3), latents_for(spec, 2), torch.tensor([0, 2])
    plain = flow.sample(labels, noise=noise)
    module = flow.get_submodule(name)
    for hooked in (module.register_forward_hook, module.register_forward_pre_hook):
        handle = hooked(lambda *_: None)
        with pytest.raises(FAEError, match=f"^{name} has a hook") as raised:
            flow.sample(labels, noise=noise)
        assert "\n" not in str(raised.value)
        handle.remove()
    handle = module.register_full_backward_hook(lambda *_: None)  # changes no sample
    torch.testing.assert_close(flow.sample(labels, noise=noise), plain)
    handle.remove()
    flow.set_submodule(name, Standing(module))
    with pytest.raises(FAEError, match=f"^{name} has a Standing in its place"):
        flow.sample(labels, noise=noise)


@pytest.mark.parametrize("part", ["", ".layers.0", ".layers.0.attention", ".layers.0.mlp"])
def test_a_module_that_is_compiled_or_parametrised_is_taken_apart(build, spec, latents_for, part: str) -> None:
    name = f"blocks.1{part}"
    flow, noise, labels = build(classes=3), latents_for(spec, 2), torch.tensor([0, 2])
    plain = flow.sample(labels, noise=noise, denoise=False)
    flow.get_submodule(name).compile(backend="eager")
    assert torch.equal(flow.sample(labels, noise=noise, denoise=False), plain)
    flow.set_submodule(name, torch.compile(flow.get_submodule(name), backend="eager"))
    assert torch.equal(flow.sample(labels, noise=noise, denoise=False), plain)
    torch.nn.utils.parametrize.register_parametrization(flow.blocks[0], "sos", torch.nn.Tanh())
    expected = naive_sample(flow, labels, noise)
    torch.testing.assert_close(flow.sample(labels, noise=noise, denoise=False), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["attention", "mlp", "q_norm", "blocks.1"])
def test_trained_copies_of_peft_are_sampled_where_they_are_in_use(build, spec, latents_for, name: str) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    flow, noise, labels = build(classes=3, qk_norm=True), latents_for(spec, 2), torch.tensor([0, 2])
    plain = flow.sample(labels, noise=noise, denoise=False)
    adapted = peft.get_peft_model(flow, peft.LoraConfig(r=2, target_modules=["proj_in"], modules_to_save=[name]))
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=random))
    expected = naive_sample(flow, labels, noise)
    assert (expected - plain).norm() > 1e-2
    torch.testing.assert_close(flow.sample(labels, noise=noise, denoise=False), expected, atol=2e-5, rtol=1e-5)
    with adapted.disable_adapter():
        torch.testing.assert_close(flow.sample(labels, noise=noise, denoise=False), plain, atol=2e-5, rtol=1e-5)


def test_a_flow_made_in_inference_mode_is_sampled_inside_and_outside(build, spec, latents_for) -> None:
    flow, noise, labels = build(classes=3), latents_for(spec, 2), torch.tensor([0, 2])
    expected = flow.sample(labels, noise=noise, denoise=True)
    with torch.inference_mode():
        made = build(classes=3)
        inside = made.sample(labels, noise=noise, denoise=True)
    assert all(weight.is_inference() for weight in made.parameters())
    assert torch.equal(inside, expected) and torch.equal(made.sample(labels, noise=noise, denoise=True), expected)


def test_an_autocast_around_sampling_changes_nothing(flow, spec, condition_for, latents_for) -> None:
    noise, condition = latents_for(spec, 2), condition_for(flow, 2)
    expected = flow.sample(condition, noise=noise, denoise=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(flow.sample(condition, noise=noise, denoise=True), expected)


def test_static_shapes_change_nothing(flow, spec, condition_for, latents_for) -> None:
    noise, condition = latents_for(spec, 2), condition_for(flow, 2)
    sampler = FlowSampler(flow)
    sampler.static = True  # what compile and cuda_graph decode with
    expected = flow.sample(condition, noise=noise, denoise=False)
    torch.testing.assert_close(sampler.sample(condition, noise), expected, atol=2e-5, rtol=1e-5)


def test_bf16_weights_stay_near_and_leave_latents_in_fp32(build, spec, latents_for) -> None:
    flow, noise, labels = build(classes=3), latents_for(spec, 3), torch.tensor([0, 1, 2])
    exact = flow.sample(labels, noise=noise, denoise=False)
    rough = FlowSampler(flow, dtype=torch.bfloat16).sample(labels, noise)
    assert rough.dtype == torch.float32
    assert (rough - exact).norm() / exact.norm() < 0.05
    assert not torch.equal(rough, exact)
    assert all(p.dtype == torch.float32 for p in flow.parameters())


@pytest.mark.parametrize("max_passes", [None, 1, 3])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_jacobi_without_tolerance_is_exact(flow, spec, condition_for, latents_for, max_passes, guidance) -> None:
    noise, condition = latents_for(spec, 3), condition_for(flow, 3)
    options = {"noise": noise, "guidance": guidance, "denoise": False}
    expected = flow.sample(condition, **options)
    sampled = flow.sample(condition, jacobi=Jacobi(5, 0.0, max_passes), **options)
    torch.testing.assert_close(sampled, expected, atol=5e-5, rtol=1e-5)


def test_jacobi_with_a_tolerance_saves_passes_and_stays_near(build, spec, latents_for, monkeypatch) -> None:
    from fae_flow.sampling import decoding as decoder

    passes = []
    step = decoder.BlockDecoder.step
    monkeypatch.setattr(
        decoder.BlockDecoder, "step", lambda self, *args: (passes.append(args[1]), step(self, *args))[1]
    )
    flow, noise = build(), latents_for(spec, 2)
    exact = flow.sample(noise=noise, denoise=False)
    sequential = len(passes)
    passes.clear()
    near = flow.sample(noise=noise, denoise=False, jacobi={"stretch": 12, "tolerance": 1e-4})
    assert len(passes) < sequential / 2
    assert 0 < (near - exact).norm() / exact.norm() < 0.05


def test_jacobi_decides_for_each_sample_alone(build, spec, latents_for) -> None:
    flow, noise, labels = build(classes=3), latents_for(spec, 4), torch.tensor([0, 1, 2, 0])
    noise[1] *= 6  # settles later than the others
    options = {"guidance": 2.0, "denoise": False, "jacobi": Jacobi(8, 3e-3)}
    together = flow.sample(labels, noise=noise, **options)
    alone = torch.cat([flow.sample(labels[[i]], noise=noise[[i]], **options) for i in range(4)])
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-5)


def test_two_threads_share_one_model_and_one_sampler(build, spec, latents_for) -> None:
    flow = build(classes=3)
    sampler = FlowSampler(flow)
    jobs = [(torch.tensor([i % 3] * (1 + i % 2)), latents_for(spec, 1 + i % 2, seed=i), 1.0 + i) for i in range(6)]
    expected = [flow.sample(labels, noise=noise, guidance=g, denoise=False) for labels, noise, g in jobs]
    for sample in (lambda c, n, g: flow.sample(c, noise=n, guidance=g, denoise=False), sampler_call(sampler)):
        with ThreadPoolExecutor(3) as pool:
            results = list(pool.map(lambda job, sample=sample: sample(*job), jobs))
        for result, wanted in zip(results, expected, strict=True):
            torch.testing.assert_close(result, wanted, atol=1e-5, rtol=1e-5)


def sampler_call(sampler: FlowSampler):
    return lambda condition, noise, guidance: sampler.sample(condition, noise, guidance=guidance)


def test_sampling_leaves_the_model_as_it_was(build, spec, latents_for) -> None:
    flow = build(classes=3).train()
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    attributes = {name: set(vars(module)) for name, module in flow.named_modules()}
    flow.sample(torch.tensor([0, 1]), noise=latents_for(spec, 2), guidance=2.0)
    assert flow.training
    assert all(torch.equal(before[name], value) for name, value in flow.state_dict().items())
    assert attributes == {name: set(vars(module)) for name, module in flow.named_modules()}
    assert all(p.grad is None for p in flow.parameters())


def test_guidance_doubles_the_batch_only_where_it_acts(build, spec, latents_for, monkeypatch) -> None:
    from fae_flow.sampling import sampler as sampler_module

    rows = []
    original = sampler_module.BlockDecoder
    monkeypatch.setattr(
        sampler_module,
        "BlockDecoder",
        lambda *args: (d := original(*args), rows.append(d.cache.store.shape[1]))[0],
    )
    noise, labels = latents_for(spec, 2), torch.tensor([0, 1])
    build(classes=3, condition_top_only=True).sample(labels, noise=noise, guidance=2.0)
    assert rows == [4, 2]
    rows.clear()
    build(classes=3).sample(labels, noise=noise, guidance=2.0)
    assert rows == [4, 4]
    rows.clear()
    build(classes=3).sample(labels, noise=noise, guidance=2.0, guide_top_only=True)
    assert rows == [4, 2]


def test_guidance_is_the_product_of_powers_of_two_gaussians() -> None:
    # p^(1+w) / q^w by summing precisions: exact wherever sigma <= sigma_null.
    mean, mean_null = torch.tensor([0.3, -1.0]), torch.tensor([-0.2, 0.4])
    sigma, sigma_null, w = torch.tensor([0.5, 1.0]), torch.tensor([0.8, 1.0]), 1.5
    precision = (1 + w) / sigma**2 - w / sigma_null**2
    expected = ((1 + w) * mean / sigma**2 - w * mean_null / sigma_null**2) / precision
    guided, log_sigma = guide(mean, sigma.log(), mean_null, sigma_null.log(), 1 + w)
    torch.testing.assert_close(guided, expected)
    torch.testing.assert_close(log_sigma.exp(), precision.rsqrt())
    wide = guide(mean, sigma_null.log() + 1, mean_null, sigma_null.log(), 1 + w)
    torch.testing.assert_close(wide[1], sigma_null.log() + 1)  # a wider condition keeps its own width
    for value, wanted in zip(
        guide(mean, sigma.log(), mean_null, sigma_null.log(), 1.0), (mean, sigma.log()), strict=True
    ):
        torch.testing.assert_close(value, wanted)


def test_a_pinned_attention_backend_reaches_every_step(build, spec, latents_for) -> None:
    from fae_core import ops

    flow, noise, labels = build(classes=3), latents_for(spec, 2), torch.tensor([0, 1])
    expected = flow.sample(labels, noise=noise, denoise=False)
    with ops.backend("reference"):
        pinned = flow.sample(labels, noise=noise, denoise=False)
    torch.testing.assert_close(pinned, expected, atol=2e-5, rtol=1e-5)
    with ops.backend("xformers"), pytest.raises(FAEError, match="xformers"):
        flow.sample(labels, noise=noise, denoise=False)


def test_a_step_equals_the_training_forward(flow, spec, condition_for, latents_for) -> None:
    # Decoding what the flow encoded meets, at every token, the mean and scale that the training-time forward computed.
    latents, condition = latents_for(spec, 3), condition_for(flow, 3)
    with torch.no_grad():
        noise = flow(latents, condition).noise
    torch.testing.assert_close(FlowSampler(flow).sample(condition, noise), latents, atol=5e-5, rtol=1e-5)


def test_compiling_without_a_compiler_is_refused(build, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "absent"))
    with pytest.raises(FAEError, match=r"C\+\+ compiler"):
        FlowSampler(build(), compile=True)


@pytest.mark.slow
def test_the_compiled_step_agrees_and_is_compiled_once(build, spec, latents_for) -> None:
    import shutil

    from torch._dynamo.utils import counters

    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    flow, noise, labels = build(classes=3, layers=(1,)), latents_for(spec, 2), torch.tensor([0, 1])
    expected = flow.sample(labels, noise=noise, guidance=2.0, denoise=False)
    counters.clear()
    compiled = FlowSampler(flow, compile=True).sample(labels, noise, guidance=2.0)
    torch.testing.assert_close(compiled, expected, atol=5e-5, rtol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("options", [{}, {"compile": True}])
def test_the_cuda_graph_agrees(flow, spec, condition_for, latents_for, options) -> None:
    flow = flow.cuda()
    noise, condition = latents_for(spec, 2), condition_for(flow, 2)
    plain = {"cuda_graph": False, "precision": "fp32"}
    expected = flow.sample(condition, noise=noise, guidance=2.0, denoise=False, **plain)
    graph = FlowSampler(flow, cuda_graph=True, **options).sample(condition, noise, guidance=2.0)
    torch.testing.assert_close(graph, expected, atol=1e-4, rtol=1e-4)


def test_where_a_step_cannot_be_captured_sampling_goes_on_without(
    flow, spec, condition_for, latents_for, caplog
) -> None:
    """Without a GPU the capture itself fails."""
    noise, condition = latents_for(spec, 2), condition_for(flow, 2)
    want = FlowSampler(flow).sample(condition, noise, guidance=2.0)
    sampler = FlowSampler(flow, cuda_graph="auto")
    if not torch.cuda.is_available():
        assert sampler.cuda_graph is False  # it is not tried
        sampler.cuda_graph = "auto"
        with caplog.at_level("INFO", logger="fae"):
            assert torch.equal(sampler.sample(condition, noise, guidance=2.0), want)
        assert len([r for r in caplog.records if "no CUDA graph" in r.message]) == 1
    assert torch.equal(flow.sample(condition, noise=noise, guidance=2.0, denoise=False), want)


def test_options_that_exclude_each_other_are_refused(build, spec, latents_for) -> None:
    flow = build()
    sampler = FlowSampler(flow)
    sampler.static = True  # as compile sets it
    with pytest.raises(FAEError, match="exclude each other"):
        FlowSampler(flow, compile=True, packed=True)
    with pytest.raises(FAEError, match="cuda"):
        FlowSampler(flow, cuda_graph=True)
    with pytest.raises(FAEError, match="leave compile"):
        sampler.sample(None, latents_for(spec, 1), jacobi=Jacobi())
    with pytest.raises(FAEError, match="at least 0"):
        flow.sample(noise=latents_for(spec, 1), guidance=-1.0)
    with pytest.raises(FAEError, match="stretch"):
        flow.sample(noise=latents_for(spec, 1), jacobi={"stretch": 0})
    with pytest.raises(FAEError, match="takes stretch"):
        flow.sample(noise=latents_for(spec, 1), jacobi={"stretches": 4})
    with pytest.raises(FAEError, match="how many samples"):
        flow.sample()


def test_an_observer_sees_noise_tokens_and_blocks(flow, spec, condition_for, latents_for) -> None:
    noise, condition, seen = latents_for(spec, 2), condition_for(flow, 2), []
    z = flow.sample(condition, noise=noise, denoise=False, observe=seen.append)
    states = [step for step in seen if step.z is not None]
    assert [step.name for step in states] == [
        "noise",
        *(f"block {i + 1} of {len(flow.blocks)}" for i in range(len(flow.blocks))),
    ]
    assert torch.equal(states[0].z, noise) and torch.equal(states[-1].z, z)
    assert len(seen) - len(states) >= len(flow.blocks)  # tokens
    assert [step.done for step in seen] == sorted(step.done for step in seen) and seen[-1].done == 1
