"""What the compiler makes of every Triton kernel at the models' shapes, for each architecture. Needs triton, no GPU.

    python tools/checks/kernels.py                          # all shapes, sm_80, sm_90, sm_100, bf16 and fp32 (minutes)
    python tools/checks/kernels.py --arch sm_90 --dtype bf16 --markdown

Exits with 1 where a kernel would not launch (shared memory, registers), spills beyond what is allowed, or has lost its
wgmma instructions on sm_90. The kernels' accuracy: python -m fae_core.testing.kernel_accuracy.
"""

from __future__ import annotations

import argparse
import sys

import torch

from fae_core.errors import FAEError
from fae_core.ops import triton as kernels

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
ARCHS = ("sm_80", "sm_90", "sm_100")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=ARCHS, action="append", help="default: all")
    parser.add_argument("--dtype", choices=DTYPES, action="append", help="default: bf16 and fp32")
    parser.add_argument("--markdown", action="store_true", help="a Markdown table")
    arguments = parser.parse_args()
    if kernels.MISSING or kernels.INTERPRETED:
        reason = kernels.MISSING or "TRITON_INTERPRET=1 turns the compiler off"
        print(f"error: nothing can be compiled here: {reason}", file=sys.stderr)
        return 2
    from fae_core.testing.kernel_resources import SHAPES, compile_launch, launches

    if arguments.markdown:
        print(
            "| arch | dtype | shape | kernel | warps | shared memory, B | registers | stack, B | wgmma |\n"
            + "|---" * 9
            + "|"
        )
    failed = 0
    for arch in arguments.arch or ARCHS:
        for dtype in arguments.dtype or ("bf16", "fp32"):
            for shape in SHAPES:
                try:
                    found = [compile_launch(launch, arch) for launch in launches(shape, arch, DTYPES[dtype])]
                except FAEError as error:
                    print(f"error: {error}", file=sys.stderr)
                    return 2
                for row in dict.fromkeys(found):
                    name = f"{shape.model}, {shape.heads} x {shape.head_dim}"
                    cells = (arch, dtype, name, row.kernel, row.warps, row.shared, row.registers, row.stack, row.wgmma)
                    if arguments.markdown:
                        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
                    else:
                        print(
                            "{:7} {:5} {:28} {:28} {} warps {:7} B {:4} registers {:4} B stack {:3} wgmma".format(
                                *cells
                            ),
                            flush=True,
                        )
                    for problem in row.problems():
                        print(f"problem: {arch} {dtype} {name} {row.kernel}: {problem}", file=sys.stderr)
                        failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
