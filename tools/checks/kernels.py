"""What the compiler makes of every Triton kernel at the models' shapes, for each architecture. Needs triton, no GPU.

    python tools/checks/kernels.py                          # all shapes, bf16, sm_80, sm_90 and sm_100 (minutes)
    python tools/checks/kernels.py --arch sm_90 --dtype fp32 --markdown

Fails, with 1, where a pass of an op takes more launches than it may (forward 1, backward 2), or a kernel would not
launch, spills more than 24 bytes or in its loop, moves less than 80 % of its bytes 16 at a time, keeps fewer than 32 KB
on their way to a multiprocessor, takes more than half of the instructions a row that the kernels before these took
(rows of 1152), or has no wgmma instructions on sm_90. Their accuracy: python -m fae_core.testing.kernel_accuracy.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch

from fae_core.errors import FAEError
from fae_core.ops import triton as kernels

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
ARCHS = ("sm_80", "sm_90", "sm_100")
COLUMNS = ("arch", "pass", "model", "kernel", "warps", "shared, B", "registers", "stack, B", "blocks",
           "instructions a row", "16-byte share", "in flight, KB", "wgmma")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=ARCHS, action="append", help="default: all")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="bf16", help="bf16 alone has limits beyond launches, memory and registers"
    )
    parser.add_argument("--model", help="only models whose name begins so")
    parser.add_argument("--markdown", action="store_true", help="a Markdown table")
    arguments = parser.parse_args()
    if kernels.MISSING or kernels.INTERPRETED:
        reason = kernels.MISSING or "TRITON_INTERPRET=1 turns the compiler off"
        print(f"error: nothing can be compiled here: {reason}", file=sys.stderr)
        return 2
    from fae_core.testing.kernel_resources import SHAPES, calls, compile_launch, why_unknown

    if not arguments.arch:
        return _each_arch(sys.argv[1:])
    print(
        "| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|" if arguments.markdown else "\t".join(COLUMNS)
    )
    failed, compiled, began = 0, {}, time.monotonic()
    limited = arguments.dtype == "bf16"
    for arch in arguments.arch:
        unknown = why_unknown(arch)
        if unknown:
            print(f"skipped: {arch}: {unknown}", file=sys.stderr)
            continue
        for shape in SHAPES:
            if not shape.model.startswith(arguments.model or ""):
                continue
            for call in calls(shape, arch, DTYPES[arguments.dtype]):
                problems = []
                most = 1 if call.name.endswith("forward") else 2
                if len(call.launches) > most:
                    problems.append(f"{len(call.launches)} launches, {most} may be")
                for launch in call.launches:
                    key = (arch, launch.kernel, tuple(launch.constants.items()), launch.config, _classes(launch))
                    if key not in compiled:
                        try:
                            compiled[key] = compile_launch(launch, arch)
                        except FAEError as error:
                            print(f"error: {error}", file=sys.stderr)
                            return 2
                        print(_line(call, compiled[key], arguments.markdown), flush=True)
                    found = compiled[key].problems(call, speed=limited)
                    problems += [f"{compiled[key].kernel}: {problem}" for problem in found]
                for problem in problems:
                    print(f"problem: {arch} {call.name}, {call.model}: {problem}", file=sys.stderr)
                failed += len(problems)
    print(f"{len(compiled)} kernels in {time.monotonic() - began:.0f} s, {failed} problems", file=sys.stderr)
    return 1 if failed else 0


def _each_arch(words: list[str]) -> int:
    """The same for every architecture, in as many processes at once as there are cores; the worst of their codes."""
    codes = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        commands = [[sys.executable, __file__, "--arch", arch, *words] for arch in ARCHS]
        for done in pool.map(partial(subprocess.run, stdout=subprocess.PIPE, text=True, check=False), commands):
            print(done.stdout, end="", flush=True)
            codes.append(done.returncode)
    return max(codes)


def _classes(launch) -> tuple[object, ...]:
    """All of a launch's arguments that the compiler specialises on."""
    return tuple(
        (name, value.dtype if isinstance(value, torch.Tensor) else (value is None, value == 1, (value or 0) % 16 == 0))
        for name, value in launch.arguments.items()
    )


def _line(call, row, markdown: bool) -> str:
    rows = f"{row.row_instructions:.0f}" if call.width and not row.kernel.endswith("finish") else ""
    cells = (row.arch, call.name, call.model, row.kernel, row.warps, row.shared, row.registers, row.stack, row.blocks,
             rows, f"{row.wide:.0%}", f"{row.in_flight / 1024:.0f}", row.wgmma or "")  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |" if markdown else "\t".join(map(str, cells))


if __name__ == "__main__":
    sys.exit(main())
