"""What is wrong with a command's places and names is said before torch is loaded, which takes longer than all else."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from fae_core.cli.main import main

try:
    main(sys.argv[1:])
except SystemExit as stop:
    print("status", stop.code, "torch" in sys.modules, "torch.distributed.checkpoint" in sys.modules, file=sys.stderr)
"""


def status_of(*arguments: str) -> tuple[str, str]:
    """The last line that a command leaves, and what it printed before: its status, whether it loaded torch, ..."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True)
    *printed, last = done.stderr.splitlines()
    return last, "\n".join(printed)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("encode --data /nope --out latents", "/nope does not exist"),
        ("encode --data . --model fae-lite0-23 --out latents", "did you mean fae-lite0-32"),
        ("sample --model cifar11 --out samples", "cifar11 does not exist"),
        ("sample --generator /nope --decoder cifar10 --out samples", "/nope does not exist"),
        ("sample --generator cifar10 --decoder /nope --out samples", "/nope does not exist"),
        ("reconstruct --data /nope --model cifar10 --out out", "/nope does not exist"),
        ("reconstruct --data . --model nope --out out", "nope does not exist"),
        ("train autoencoder --data /nope[:10] --out run", "/nope does not exist"),
        ("train autoencoder --data . --preset feature-decoder-1535 --out run", "did you mean feature-decoder-1536"),
        ("train vae --data /nope --out run", "/nope does not exist"),
        ("train diffusion --latents /nope --out run", "/nope is not a latent store"),
        (
            "train diffusion --latents . --preset lightningdit-lx --out run",
            "unknown preset 'lightningdit-lx'; did you mean lightningdit-",
        ),
        ("train flow --latents . --preset sit-xl --out run", "unknown starflow preset 'sit-xl'"),
        ("train flow --data /nope --tokenizer cifar10 --out run", "/nope does not exist"),
        ("eval similarity --data /nope --model cifar10 --out out", "/nope does not exist"),
        ("info sit-lx", "did you mean sit-"),
        ("config sit-lx", "did you mean sit-"),
        ("sampel", "did you mean sample"),
    ],
)
def test_mistakes_are_found_before_torch_is_loaded(command: str, said: str) -> None:
    last, printed = status_of(*command.split())
    assert said in printed
    assert printed.count("\n") == 0
    assert last == "status 2 False False"


@pytest.mark.parametrize("command", ["--help", "--version", "presets", "train diffusion --help", "encode --help"])
def test_help_and_lists_load_no_torch(command: str) -> None:
    assert status_of(*command.split())[0] == "status 0 False False"


def test_only_what_saves_loads_torchs_checkpoints() -> None:
    assert status_of("info", "sit-tiny")[0] == "status 0 True False"
