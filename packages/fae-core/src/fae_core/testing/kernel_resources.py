"""What the compiler makes of a kernel for an architecture, without a GPU: shared memory, registers, stack, instructions."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fae_core.errors import FAEError
from fae_core.ops.triton import adaln, qk_norm_rope, rms_norm, rope_attention, rope_attention_backward
from fae_core.ops.triton.configs import FUSED_HEAD_DIMS, MAX_WIDTH, SHARED_MEMORY, Arch
from fae_core.ops.triton.launch import Launch, recording

_DTYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
# The most 32-bit registers that a thread may have, and that a multiprocessor has.
_THREAD_REGISTERS, _REGISTERS = 255, 65536
_TENSOR_MEMORY = 512
# Bytes of a thread's stack that pass: the compiler spills a few loop-invariant addresses where it is short of registers. The
# attention forward kernel spills outside its loop, once per head, while the keys are rotated in fp32.
_STACK, _ATTENTION_STACK = 32, 256


@dataclass(frozen=True)
class Resources:
    """shared: bytes of a block; registers: of a thread; stack: bytes of a thread (spills live there); wgmma: in the PTX;
    tensor_memory: columns of sm_100's.
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
        if self.shared > SHARED_MEMORY[self.arch]:
            found.append(f"{self.shared} bytes of shared memory, {self.arch} has {SHARED_MEMORY[self.arch]}")
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
    """A place in a model: heads of head_dim, RMSNorm or adaLN of width heads * head_dim, tokens per sample."""

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
    """Every kernel that a block of this shape would launch on `arch` in training, with inputs in `dtype`."""
    width = shape.heads * shape.head_dim

    def empty(*sizes: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(*sizes, dtype=dtype, device="meta")

    x, weight, eps = empty(32, shape.tokens, width), empty(width), 1e-6
    qkv, head_weight = empty(32, shape.tokens, 3, shape.heads, shape.head_dim), empty(shape.head_dim)
    table = empty(shape.tokens, shape.head_dim // 2, dtype=torch.float32)
    weights, tables, parts = (
        (head_weight, head_weight) if shape.qk_norm else (None, None),
        (table, table),
        qkv.unbind(2),
    )
    with recording(arch) as recorded:
        if width <= MAX_WIDTH:
            rows = empty(32, 3 * width).chunk(3, dim=1)
            y, rstd = rms_norm.forward(x, weight, eps, dtype)
            rms_norm.backward(y, x, weight, rstd)
            adaln.forward(x, x, rows[0], rows[1], rows[2], weight, shape.layer_norm, eps, dtype, dtype)
            adaln.backward(y, x, x, x, rows[0], rows[1], rows[2], weight, shape.layer_norm, eps, dtype)
        outs = qk_norm_rope.forward(parts, weights, tables, True, eps)
        qk_norm_rope.backward(outs, parts, weights, tables, True, eps, empty(*qkv.shape).unbind(2))
        if shape.head_dim in FUSED_HEAD_DIMS and dtype != torch.float32:
            out, lse = rope_attention.forward(*parts, weights, tables, True, 0.125, eps)
            rope_attention_backward.backward(
                out, *parts, out, lse, weights, tables, True, 0.125, eps, empty(*qkv.shape).unbind(2)
            )
    return recorded


def compile_launch(launch: Launch, arch: Arch) -> Resources:
    """Compile what `launch` would compile on `arch`, with the same specialisation on alignment."""
    signature, constants, attributes = {}, dict(launch.constants), {}
    for place, name in enumerate(launch.kernel.arg_names):
        value = constants[name] if name in constants else launch.arguments[name]
        if name in constants or value is None or (isinstance(value, int) and value == 1):
            signature[name], constants[name] = "constexpr", value
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
