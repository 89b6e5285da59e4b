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
from fae_core.ops.triton.configs import SHARED_MEMORY, Arch
from fae_core.ops.triton.launch import Launch

_DTYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
# The most 32-bit registers that a thread may have, and that a multiprocessor has.
_THREAD_REGISTERS, _REGISTERS = 255, 65536


@dataclass(frozen=True)
class Resources:
    """shared: bytes of a block; registers: of a thread; stack: bytes of a thread (spills live there); wgmma: in the PTX."""

    kernel: str
    arch: Arch
    shared: int
    registers: int
    stack: int
    wgmma: int
    warps: int

    def problems(self) -> list[str]:
        """Why the kernel would not launch, or would spill."""
        found = []
        if self.shared > SHARED_MEMORY[self.arch]:
            found.append(f"{self.shared} bytes of shared memory, {self.arch} has {SHARED_MEMORY[self.arch]}")
        if self.registers > _THREAD_REGISTERS or self.registers * self.warps * 32 > _REGISTERS:
            found.append(f"{self.registers} registers in {self.warps} warps")
        if self.stack:
            found.append(f"{self.stack} bytes of stack")
        return found


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
    return Resources(name, arch, compiled.metadata.shared, registers, stack, wgmma, launch.config.warps)


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
