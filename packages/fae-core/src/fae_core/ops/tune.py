"""A contest on this device between torch, our kernels and the attention backends, at the shapes that a program uses."""

from __future__ import annotations

import functools
import logging
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fae_core.errors import FAEError, first_line
from fae_core.files import write_json
from fae_core.ops import choosing, dispatch, measured
from fae_core.ops.attention import attention, rope_attention, self_attention
from fae_core.ops.gated import swiglu
from fae_core.ops.norms import adaln, rms_norm
from fae_core.ops.rotary import Layout, apply_rope, qk_norm_rope
from fae_core.ops.triton import unknown_device
from fae_core.processes import ALONE, Processes

log = logging.getLogger("fae")

Timer = Callable[[Callable[[], object]], float]
Inputs = tuple[Any, ...]


def _adaln(x, update, gate, scale, shift, weight, bias, layer, eps, backend) -> Any:
    norm = "layer" if layer else "rms"
    options = {"update": update, "update_bias": bias, "gate": gate, "weight": weight, "norm": norm, "eps": eps}
    return adaln(x, scale, shift, **options, backend=backend)


def _layout(interleaved: bool) -> Layout:
    return "interleaved" if interleaved else "half"


# Each op as a function of the inputs that were heard, and a backend.
_CALLS: dict[str, Callable[..., Any]] = {
    "rms_norm": lambda x, weight, eps, backend: rms_norm(x, weight, eps, backend=backend),
    "adaln": _adaln,
    "apply_rope": lambda x, cos, sin, pairs, _, backend: apply_rope(x, cos, sin, _layout(pairs), backend=backend),
    "qk_norm_rope": lambda x, cos, sin, q, k, bias, pairs, eps, backend: qk_norm_rope(
        x, cos, sin, q_weight=q, k_weight=k, bias=bias, layout=_layout(pairs), eps=eps, backend=backend
    ),
    "swiglu": lambda x, bias, backend: swiglu(x, bias, backend=backend),
    "attention": lambda q, k, v, mask, causal, backend: attention(q, k, v, causal=causal, backend=backend),
    "rope_attention": lambda q, k, v, cos, sin, layout, mask, causal, backend: rope_attention(
        q, k, v, cos, sin, layout=layout, causal=causal, backend=backend
    ),
    "self_attention": lambda x, cos, sin, q, k, layout, mask, causal, backend: self_attention(
        x, cos, sin, q_weight=q, k_weight=k, layout=layout, causal=causal, backend=backend
    ),
}
# Places of the inputs that have no gradient: tables of a rotation.
_TABLES = {"apply_rope": (1, 2), "qk_norm_rope": (1, 2), "rope_attention": (3, 4), "self_attention": (1, 2)}


def tune(
    run: Callable[[], object],
    *,
    training: bool = True,
    compiled: bool = False,
    processes: Processes = ALONE,
    folder: Path | None = None,
    timer: Timer | None = None,
) -> dict[measured.Case, dict[str, float]]:
    """Measure the ops that a program calls, at its shapes, and choose by that from here on.

    `run` is called once, eagerly, without gradients, to hear what it calls. Every call that this device's record does
    not have yet is then timed on each backend that can take it: torch's own choice, our kernel, and for attention each
    of torch's backends. Call it before torch.compile traces anything. Rank 0 measures; all processes follow it, and
    each has to call this. torch's generators of random numbers stay as they are.

    Nothing is measured with FAE_OPS_TUNE=0, where deterministic algorithms are asked for, while a CUDA graph is
    captured, without CUDA, and on devices that triton was not tried on.

    Args:
        run: Calls the model once, at the batch size that it will have.
        training: Measure with the backward pass.
        compiled: Measure under torch.compile, for a model whose blocks will be compiled.
        processes: Those that work together.
        folder: Where records are kept; None: in the user's cache folder.
        timer: Gives the milliseconds of a call; None: `milliseconds`, on the device.

    Returns:
        Milliseconds by case and backend, of what `run` calls; empty where nothing is measured.
    """
    if why_not() is not None and timer is None:
        return {}
    measured.load()
    cases = {}
    for op, inputs in reversed(_listen(run)):  # an op that is made of others is measured after them
        if op in choosing.ATTENTION_OPS and inputs[-2] is not None:
            continue  # masks: only some backends take them, and what they hold may matter
        cases.setdefault(_case(op, inputs, training, compiled), inputs)
    missing = {case: inputs for case, inputs in cases.items() if case not in measured.TIMES}
    found: dict[measured.Case, dict[str, float]] = {}
    if processes.is_main:
        for case, inputs in missing.items():
            times = _contest(case, inputs, timer or milliseconds)
            if times:
                found[case] = measured.TIMES[case] = times
                dispatch.forget_choices()
    measured.TIMES.update(measured.parse(processes.broadcast(measured.as_record(measured.TIMES))))
    dispatch.forget_choices()
    if found:
        _keep(folder)
    return {case: measured.TIMES[case] for case in cases if case in measured.TIMES}


def why_not() -> str | None:
    """Why nothing is measured here, or None."""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    if torch.cuda.is_current_stream_capturing():
        return "a CUDA graph is being captured"
    return measured.is_off() or unknown_device(None)


def milliseconds(call: Callable[[], object], *, repeats: int = 20) -> float:
    """The median time of a call on the device, with its launches.

    Args:
        call: What is timed.
        repeats: How often.
    """
    for _ in range(5):
        call()
    found = []
    for _ in range(repeats):
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        call()
        ended.record()
        ended.synchronize()
        found.append(begun.elapsed_time(ended))
    return statistics.median(found)


def _listen(run: Callable[[], object]) -> list[tuple[str, Inputs]]:
    """The ops that `run` calls and their inputs, described."""
    dispatch.heard = {}
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            run()
        return list(dispatch.heard)
    finally:
        dispatch.heard = None


def _case(op: str, inputs: Inputs, training: bool, compiled: bool) -> measured.Case:
    first = inputs[0]
    if op == "self_attention":  # looked up by its queries
        batch, tokens, _, heads, width = first.shape
        shape = (batch, heads, tokens, width)
    else:
        keys = inputs[1] if op in choosing.ATTENTION_OPS else None
        shape = measured.shape_of(first.shape, None if keys is None else keys.shape)
    return measured.case(op, shape, first.dtype, training=training, compiled=compiled)


def _contest(case: measured.Case, inputs: Inputs, timer: Timer) -> dict[str, float]:
    """Milliseconds by backend; a backend that cannot take the call, or fails, has none."""
    op, training, compiled = case[0], case[3], case[4]
    backends = ("sdpa-cudnn", "sdpa-flash", "sdpa-efficient") if op == "attention" else ()
    times = {}
    for backend in ("torch", "triton", *backends):
        try:
            times[backend] = _time(op, inputs, backend, training, compiled, timer)
        except Exception as error:  # torch, cuDNN and triton raise errors of many kinds where they cannot take a call
            log.debug("%s on %s: %s", op, backend, first_line(error))
        finally:
            dispatch.forced = None
    return times if "torch" in times else {}


def _time(op: str, inputs: Inputs, backend: str, training: bool, compiled: bool, timer: Timer) -> float:
    made = [_made(x) if isinstance(x, dispatch.Described) else x for x in inputs]
    if backend == "torch":
        dispatch.forced = (op, "sdpa" if op in choosing.ATTENTION_OPS else "reference")
    elif backend == "triton":
        first = made[:3] if op in ("attention", "rope_attention") else made[:1]
        causal = op in choosing.ATTENTION_OPS and bool(made[-1])
        if choosing.explain(op, *first, causal=causal, backend="triton").backend != "triton":
            raise FAEError("no kernel of ours takes this call")
    call = functools.partial(_CALLS[op], *made, None if backend == "torch" else backend)
    function = torch.compile(call, fullgraph=True) if compiled else call
    if not training:
        with torch.no_grad():
            return timer(function)
    places = [i for i, x in enumerate(made) if isinstance(x, Tensor) and i not in _TABLES.get(op, ())]
    leaves = [made[i].requires_grad_() for i in places]
    with torch.enable_grad():
        results = function()
        ahead = [torch.ones_like(y) for y in (results if isinstance(results, tuple) else (results,))]
        return timer(lambda: torch.autograd.grad(function(), leaves, ahead, allow_unused=True))


def _made(described: dispatch.Described) -> Tensor:
    """A tensor like the one that was heard, of numbers between -1 and 1. None is drawn: generators are the caller's."""
    shape, strides, dtype, device = described
    numbers = torch.arange(math.prod(shape), dtype=torch.float32, device=device).sin_().view(shape)
    if 0 in strides:
        return numbers.to(dtype)
    return torch.empty_strided(shape, strides, dtype=dtype, device=device).copy_(numbers)


def _keep(folder: Path | None) -> None:
    """Write what is known of this device. Where that fails, it is measured again by the next process."""
    path = measured.record_path(folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, measured.as_record(measured.TIMES))
    except (FAEError, OSError) as error:
        log.warning("what was measured of the ops is not kept: %s", first_line(error))
