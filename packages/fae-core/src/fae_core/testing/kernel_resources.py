"""What the compiler makes of a kernel, without a GPU: memory, registers, instructions, and what a device would do.

Machine code is read from nvdisasm. The main loop of a kernel is the longest stretch that jumps back to its own begin;
a kernel without one is taken whole.
"""

from __future__ import annotations

import collections
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fae_core.errors import FAEError, first_line
from fae_core.ops.triton import attention, qk_norm_rope, row_norm, swiglu
from fae_core.ops.triton.configs import FUSED_HEAD_DIMS, Arch
from fae_core.ops.triton.launch import Launch, recording

# Bytes of shared memory that one block may have, and that a multiprocessor has.
_SHARED_MEMORY = {"sm_80": 166_912, "sm_90": 232_448, "sm_100": 232_448}
_ALL_SHARED_MEMORY = {"sm_80": 167_936, "sm_90": 233_472, "sm_100": 233_472}
_DTYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
# The most 32-bit registers that a thread may have, and what a multiprocessor has.
_THREAD_REGISTERS, _REGISTERS, _WARPS, _BLOCKS = 255, 65536, 64, 32
_TENSOR_MEMORY = 512

# Warp instructions for one row of 1152 in bf16: half of what the kernels before these took on sm_90.
_ROW_INSTRUCTIONS = {
    "rms_norm forward": 416,
    "rms_norm backward": 544,
    "adaln forward": 616,
    "adaln backward": 784,
}
# At an H200's 4.25 TB/s and 750 ns, 24 KB have to be on their way to each multiprocessor at any time.
_BYTES_IN_FLIGHT = 32 * 1024
# Of the bytes that a loop moves, those that are moved 16 at a time. A row of 1152 is 1024 columns, 16 bytes a lane, and
# 128 with less; a head of 72 is 64 and 8, and its angles are 36 numbers.
_WIDE_SHARE, _WIDE_SHARE_72 = 0.8, 0.7

_NO_SHIFT = "DiT-XL, qk-norm, no shift, 576 tokens"
# Bytes of a thread's stack, where spilled registers are stored, and the share of a loop's instructions that may use it.
_STACK, _SPILLED_SHARE = 24, 0.01

ALLOWED_SHARE = {
    # 1536 columns with four sums among four warps: 256 columns of each move 16 bytes a lane, 128 move 8.
    ("adaln backward", "MMDiT 384"): 0.6,
    # 89 % with triton 3.9; 3.6 reads the angles once more, 4 bytes a lane.
    ("qk_norm_rope backward", _NO_SHIFT): 0.65,
}
"""Shares of 16-byte accesses that are accepted below the limit, by call and model."""


@dataclass(frozen=True)
class Call:
    """One pass of an op at the shape of a model, as it is launched.

    Attributes:
        name: The op and "forward" or "backward".
        model: Name of the model.
        width: Columns of a row, where the kernel goes over rows; else 0.
        launches: What it starts.
    """

    name: str
    model: str
    width: int
    launches: list[Launch]


@dataclass(frozen=True)
class Resources:
    """What one kernel needs on one architecture.

    Attributes:
        kernel: Module and name of the kernel, such as "row_norm.forward".
        arch: The architecture.
        shared: Bytes of shared memory of a block.
        registers: Registers of a thread.
        stack: Bytes of a thread; spilled registers are stored there.
        spills: Instructions of the main loop that store or read them.
        wgmma: Number of such instructions in the PTX.
        warps: Warps of a block.
        tensor_memory: Columns of sm_100's tensor memory.
        blocks: Blocks that a multiprocessor holds at once.
        loop: Instructions of the main loop, of one warp.
        rows: Rows that a block passes in one turn of it.
        loaded: Bytes that a block loads from global memory in one turn.
        wide: Share of the bytes loaded and stored in a turn that are accessed 16 at a time.
    """

    kernel: str
    arch: Arch
    shared: int
    registers: int
    stack: int
    spills: int
    wgmma: int
    warps: int
    tensor_memory: int
    blocks: int
    loop: int
    rows: int
    loaded: int
    wide: float

    @property
    def row_instructions(self) -> float:
        """Warp instructions for one row."""
        return self.loop * self.warps / max(self.rows, 1)

    @property
    def in_flight(self) -> int:
        """Bytes on their way to a multiprocessor when each of its blocks has issued the loads of a turn."""
        return self.blocks * self.loaded

    def problems(self, call: Call, *, speed: bool = True) -> list[str]:
        """Why the kernel would not launch, or with `speed` would spill or misses what it was designed for.

        Args:
            call: The call that starts it.
            speed: Whether the limits of its machine code hold, which are for bf16.
        """
        found = []
        if self.shared > _SHARED_MEMORY[self.arch]:
            found.append(f"{self.shared} bytes of shared memory, {self.arch} has {_SHARED_MEMORY[self.arch]}")
        if self.registers > _THREAD_REGISTERS or self.registers * self.warps * 32 > _REGISTERS:
            found.append(f"{self.registers} registers in {self.warps} warps")
        if self.tensor_memory > _TENSOR_MEMORY:
            found.append(f"{self.tensor_memory} columns of tensor memory")
        if self.arch == "sm_90" and self.kernel == "attention.forward" and not self.wgmma:
            found.append("no wgmma instructions")
        if speed and self.stack > _STACK:
            found.append(f"{self.stack} bytes of stack")
        if speed and self.spills > _SPILLED_SHARE * self.loop:
            found.append(f"{self.spills} of {self.loop} instructions of the loop store or read spilled registers")
        if not speed or self.kernel.endswith("finish") or not self.loop:
            return found
        share = _WIDE_SHARE_72 if self.kernel.startswith("qk_norm_rope") else _WIDE_SHARE
        if self.wide < ALLOWED_SHARE.get((call.name, call.model), share):
            found.append(f"{self.wide:.0%} of the bytes are moved 16 at a time")
        if self.kernel != "attention.forward" and self.in_flight < _BYTES_IN_FLIGHT:
            found.append(f"{self.in_flight} bytes in flight")
        most = _ROW_INSTRUCTIONS.get(call.name) if call.width == 1152 else None
        if most is not None and self.row_instructions > most:
            found.append(f"{self.row_instructions:.0f} instructions a row, {most} are accepted")
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
        shift: AdaLN shifts.
        adaln: The block has adaLN; else residual and RMSNorm.
        tokens: Tokens of a sample.
    """

    model: str
    heads: int
    head_dim: int
    qk_norm: bool = False
    layer_norm: bool = False
    shift: bool = True
    adaln: bool = True
    tokens: int = 256


SHAPES = (
    Shape("DiT-XL", 16, 72),
    Shape(_NO_SHIFT, 16, 72, qk_norm=True, shift=False, tokens=576),
    Shape("decoder", 24, 64, adaln=False),
    Shape("MMDiT 256", 16, 64, qk_norm=True, layer_norm=True),
    Shape("MMDiT 384", 24, 64, qk_norm=True, layer_norm=True, tokens=576),
    Shape("adapter", 24, 256, adaln=False),
)


def calls(shape: Shape, arch: Arch, dtype: torch.dtype, batch: int = 128) -> Iterator[Call]:
    """Every pass of every op of a block of this shape in training.

    Args:
        shape: Shape of the block.
        arch: The architecture to launch on.
        dtype: Dtype of the inputs.
        batch: Number of samples.
    """
    width = shape.heads * shape.head_dim

    def empty(*sizes: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(*sizes, dtype=dtype, device="meta")

    def call(name: str, width: int, function: Callable[[], Any]) -> tuple[Call, Any]:
        with recording(arch) as recorded:
            result = function()
        return Call(name, shape.model, width, recorded), result

    x, weight, eps = empty(batch, shape.tokens, width), empty(width), 1e-6
    gate, scale, shift = empty(batch, 3 * width).chunk(3, dim=1)
    norms = {"rms_norm": row_norm.Operands(weight=weight)}
    if shape.adaln:
        given = shift if shape.shift else None
        norms["adaln"] = row_norm.Operands(x, gate, scale, given, None if shape.layer_norm else weight, weight)
    else:
        norms["residual and rms_norm"] = row_norm.Operands(x, weight=weight, bias=weight)
    for name, operands in norms.items() if width <= 2048 else ():
        layer, updated = shape.layer_norm and name == "adaln", operands.update is not None
        forward, (_, out, stats) = call(
            f"{name} forward", width, lambda o=operands, n=layer: row_norm.forward(x, o, n, eps, dtype, dtype)
        )
        yield forward
        into = (out, x if updated else None, x, stats, operands, layer, dtype)
        yield call(f"{name} backward", width, lambda i=into: row_norm.backward(*i))[0]
    q, k, v = empty(batch, shape.tokens, 3, shape.heads, shape.head_dim).unbind(2)
    head_weight = empty(shape.head_dim) if shape.qk_norm else None
    table = empty(shape.tokens, shape.head_dim // 2, dtype=torch.float32)
    plan = ((head_weight, head_weight), (table, table), True, eps)
    forward, (turned, _) = call("qk_norm_rope forward", 0, lambda: qk_norm_rope.forward([q, k], *plan))
    yield forward
    dys = (turned, turned, turned)
    yield call("qk_norm_rope backward", 0, lambda: qk_norm_rope.backward(dys, [q, k], *plan, dtype))[0]
    hidden = empty(batch, shape.tokens, 2 * 3072)
    forward, product = call("swiglu forward", 0, lambda: swiglu.forward(hidden))
    yield forward
    yield call("swiglu backward", 0, lambda: swiglu.backward(product, hidden, hidden[0, 0]))[0]
    if shape.head_dim in FUSED_HEAD_DIMS and dtype != torch.float32:
        yield call("attention forward", 0, lambda: attention.forward(q, k, v, 0.125))[0]


def why_unknown(arch: Arch) -> str | None:
    """Why this triton cannot compile for an architecture, or None: its assembler does not know it, or is missing.

    Args:
        arch: The architecture.
    """
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    name = "ptxas-blackwell" if arch == "sm_100" and (folder / "ptxas-blackwell").exists() else "ptxas"
    try:
        process = subprocess.run([folder / name, "--help"], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"triton {triton.__version__} has no {name} that runs here: {error.strerror}"
    known = re.search(rf"'{arch}a?'", process.stdout)
    return None if known else f"{name} of triton {triton.__version__} does not know it"


def compile_launch(launch: Launch, arch: Arch) -> Resources:
    """Compile what a launch would compile on `arch`, with the same specialisation on alignment.

    Args:
        launch: Of one of `calls`.
        arch: The architecture to compile for.

    Raises:
        FAEError: A tool of triton's is missing, does not know the architecture, or reports nothing.
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
    if launch.config.registers:
        options["maxnreg"] = launch.config.registers
    try:
        compiled = triton.compile(source, target=GPUTarget("cuda", int(arch.removeprefix("sm_")), 32), options=options)
    except Exception as error:  # triton's own errors, of which some are no RuntimeErrors
        raise FAEError(f"{arch} cannot be compiled for: {first_line(error)[:200]}") from error
    registers, stack = _usage(compiled.asm["cubin"])
    name = f"{launch.kernel.fn.__module__.rsplit('.', 1)[1]}.{launch.kernel.fn.__name__.lstrip('_')}"
    shared, warps = compiled.metadata.shared, launch.config.warps
    fit = _REGISTERS // (-(-registers // 8) * 8 * 32 * warps)
    blocks = min(fit, _ALL_SHARED_MEMORY[arch] // (shared + 1024), _WARPS // warps, _BLOCKS)
    loop, spills, moved = _main_loop(_tool("nvdisasm", compiled.asm["cubin"], "-c"))
    total = sum(size * count for (_, size), count in moved.items())
    wide = sum(size * count for (_, size), count in moved.items() if size == 16)
    return Resources(
        kernel=name,
        arch=arch,
        shared=shared,
        registers=registers,
        stack=stack,
        spills=spills,
        wgmma=len(re.findall(r"wgmma\.mma_async", compiled.asm["ptx"])),
        warps=warps,
        tensor_memory=getattr(compiled.metadata, "tmem_size", None) or 0,
        blocks=blocks,
        loop=loop,
        rows=launch.config.rows,
        loaded=32 * warps * sum(size * count for (kind, size), count in moved.items() if kind != "STG"),
        wide=wide / total if total else 1.0,
    )


def _main_loop(code: str) -> tuple[int, int, collections.Counter[tuple[str, int]]]:
    """Of the longest loop, or of all: instructions, those for spilled registers, and by kind and bytes of a lane those
    for global memory."""
    labels: dict[str, int] = {}
    instructions: list[str] = []
    for line in code.splitlines():
        label = re.match(r"\s*(\.L_x_\d+):", line)
        if label:
            labels[label[1]] = len(instructions)
        elif re.search(r"/\*[0-9a-f]{4,5}\*/", line):
            instructions.append(line)
    first, last = 0, len(instructions) - 1
    found = 0
    for place, line in enumerate(instructions):
        jump = re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", line)
        begin = labels.get(jump[1], place) if jump else place
        if place - begin > found:
            found, first, last = place - begin, begin, place
    moved: collections.Counter[tuple[str, int]] = collections.Counter()
    turn = instructions[first : last + 1]
    for line in turn:
        access = re.search(r"\b(LDG|STG|LDGSTS)\.E?([A-Z0-9_.]*)", line)
        if access:
            size = re.search(r"\.?(128|64|[US]16|[US]8)\b", access[2])
            wide = {"128": 16, "64": 8}.get(size[1], int(size[1].lstrip("US")) // 8) if size else 4
            moved[access[1], wide] += 1
    return len(turn), sum(bool(re.search(r"\b(LDL|STL)\b", line)) for line in turn), moved


def _type(value: Tensor | float) -> str:
    if isinstance(value, Tensor):
        return f"*{_DTYPES[value.dtype]}"
    if isinstance(value, float):
        return "fp32"
    return "i32" if abs(value) < 2**31 else "i64"


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers and stack bytes of a thread, as cuobjdump reports them."""
    found = re.search(r"REG:(\d+) STACK:(\d+)", _tool("cuobjdump", cubin, "--dump-resource-usage"))
    if found is None:
        raise FAEError("cuobjdump reported no resource usage")
    return int(found[1]), int(found[2])


def _tool(name: str, cubin: bytes, *arguments: str) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    if not tool.exists():
        raise FAEError(f"this triton ships no {name} ({tool})")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        process = subprocess.run([tool, *arguments, file.name], capture_output=True, text=True, check=False)
    if process.returncode:
        raise FAEError(f"{name} failed: {(process.stderr or process.stdout).strip()[:200]}")
    return process.stdout
