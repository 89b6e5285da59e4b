"""What a kernel needs on an architecture, as the compiler reports it without a GPU: memory, registers, instructions."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fae_core.errors import FAEError
from fae_core.ops.triton import adaln, qk_norm_rope, rms_norm, rope_attention, rope_attention_backward
from fae_core.ops.triton.configs import FUSED_HEAD_DIMS, MAX_WIDTH, Arch
from fae_core.ops.triton.launch import Launch, recording

# Bytes of shared memory that one block may have.
_SHARED_MEMORY = {"sm_80": 166_912, "sm_90": 232_448, "sm_100": 232_448}
_DTYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
# The most 32-bit registers that a thread may have, and that a multiprocessor has.
_THREAD_REGISTERS, _REGISTERS = 255, 65536
_TENSOR_MEMORY = 512
# Bytes of a thread's stack that are accepted: the compiler spills a few loop-invariant addresses where it is short of
# registers. The attention forward kernel spills outside its loop, once per head, while the keys are rotated in fp32.
_STACK, _ATTENTION_STACK = 32, 256


@dataclass(frozen=True)
class Resources:
    """What one kernel needs on one architecture.

    Attributes:
        kernel: Module and name of the kernel, such as "rms_norm.forward".
        arch: The architecture.
        shared: Bytes of shared memory of a block.
        registers: Registers of a thread.
        stack: Bytes of a thread; spilled registers are stored there.
        wgmma: Number of such instructions in the PTX.
        warps: Warps of a block.
        tensor_memory: Columns of sm_100's tensor memory.
    """

    kernel: str
    arch: Arch
    shared: int
    registers: int
    stack: int
    wgmma: int
    warps: int
    tensor_memory: int

    def problems(self) -> list[str]:
        """Why the kernel would not launch, or would spill."""
        found = []
        if self.shared > _SHARED_MEMORY[self.arch]:
            found.append(f"{self.shared} bytes of shared memory, {self.arch} has {_SHARED_MEMORY[self.arch]}")
        if self.registers > _THREAD_REGISTERS or self.registers * self.warps * 32 > _REGISTERS:
            found.append(f"{self.registers} registers in {self.warps} warps")
        if self.tensor_memory > _TENSOR_MEMORY:
            found.append(f"{self.tensor_memory} columns of tensor memory")
        if self.stack > (_ATTENTION_STACK if self.kernel == "rope_attention.forward" else _STACK):
            found.append(f"{self.stack} bytes of stack")
        if self.arch == "sm_90" and self.kernel.startswith("rope_attention") and not self.wgmma:
            found.append("no wgmma instructions")
        return found


@dataclass(frozen=True)
class Shape:
    """The shape of a model's block: its width is heads * head_dim.

    Attributes:
        model: Name of the model.
        heads: Number of attention heads.
        head_dim: Their dimension.
        qk_norm: Queries and keys are normed.
        layer_norm: AdaLN with LayerNorm instead of RMSNorm.
        tokens: Tokens of a sample.
    """

    model: str
    heads: int
    head_dim: int
    qk_norm: bool = False
    layer_norm: bool = False
    tokens: int = 256


SHAPES = (
    Shape("DiT-XL", 16, 72),
    Shape("DiT-XL with qk-norm", 16, 72, qk_norm=True),
    Shape("decoder", 24, 64),
    Shape("MMDiT 256", 16, 64, qk_norm=True, layer_norm=True),
    Shape("MMDiT 384", 24, 64, qk_norm=True, layer_norm=True),
    Shape("adapter", 24, 256),
)


def launches(shape: Shape, arch: Arch, dtype: torch.dtype) -> list[Launch]:
    """Every launch of a block of this shape in training.

    Args:
        shape: Shape of the block.
        arch: The architecture to launch on.
        dtype: Dtype of the inputs.
    """
    width = shape.heads * shape.head_dim

    def empty(*sizes: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(*sizes, dtype=dtype, device="meta")

    x, weight, eps = empty(32, shape.tokens, width), empty(width), 1e-6
    qkv, head_weight = empty(32, shape.tokens, 3, shape.heads, shape.head_dim), empty(shape.head_dim)
    table = empty(shape.tokens, shape.head_dim // 2, dtype=torch.float32)
    weights, tables = (head_weight, head_weight) if shape.qk_norm else (None, None), (table, table)
    q, k, v = qkv.unbind(2)
    with recording(arch) as recorded:
        if width <= MAX_WIDTH:
            gate, scale, shift = empty(32, 3 * width).chunk(3, dim=1)
            operands = adaln.Operands(x, gate, scale, shift, weight)
            y, rstd = rms_norm.forward(x, weight, eps, dtype)
            rms_norm.backward(y, x, weight, rstd)
            adaln.forward(x, operands, shape.layer_norm, eps, dtype, dtype)
            adaln.backward(y, x, x, operands, shape.layer_norm, eps, dtype)
        outs, grads = qk_norm_rope.forward((q, k, v), weights, tables, True, eps), empty(*qkv.shape).unbind(2)
        qk_norm_rope.backward(outs, (q, k, v), weights, tables, True, eps, grads)
        if shape.head_dim in FUSED_HEAD_DIMS and dtype != torch.float32:
            out, lse = rope_attention.forward(q, k, v, weights, tables, True, 0.125, eps)
            rope_attention_backward.backward(out, q, k, v, out, lse, weights, tables, True, 0.125, eps, grads)
    return recorded


def compile_launch(launch: Launch, arch: Arch) -> Resources:
    """Compile what a launch would compile on `arch`, with the same specialisation on alignment.

    Args:
        launch: One of `launches`.
        arch: The architecture to compile for.

    Raises:
        FAEError: Triton's cuobjdump is missing, or reports no resource usage.
    """
    signature: dict[str, str] = {}
    attributes: dict[tuple[int], list[list[str | int]]] = {}
    constants: dict[str, Any] = dict(launch.constants)
    for place, name in enumerate(launch.kernel.arg_names):
        value = constants[name] if name in constants else launch.arguments[name]
        if name in constants or value is None or (isinstance(value, int) and value == 1):
            signature[name], constants[name] = "constexpr", constants.get(name, value)
            continue
        signature[name] = _type(value)
        if isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0):
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": launch.config.warps, "num_stages": launch.config.stages, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", int(arch.removeprefix("sm_")), 32), options=options)
    registers, stack = _usage(compiled.asm["cubin"])
    name = f"{launch.kernel.fn.__module__.rsplit('.', 1)[1]}.{launch.kernel.fn.__name__.lstrip('_')}"
    ptx = compiled.asm["ptx"]
    wgmma = len(re.findall(r"wgmma\.mma_async", ptx))
    columns = getattr(compiled.metadata, "tmem_size", None) or 0
    return Resources(name, arch, compiled.metadata.shared, registers, stack, wgmma, launch.config.warps, columns)


def _type(value: Tensor | float) -> str:
    if isinstance(value, Tensor):
        return f"*{_DTYPES[value.dtype]}"
    if isinstance(value, float):
        return "fp32"
    return "i32" if abs(value) < 2**31 else "i64"


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers and stack bytes of a thread, as cuobjdump reports them."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        raise FAEError(f"this triton ships no cuobjdump ({tool})")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        report = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", report.stdout)
    if found is None:
        raise FAEError("cuobjdump reported no resource usage")
    return int(found[1]), int(found[2])
