"""`fae` commands one after the other in one process of a group, so that a test starts each process once instead of once
a command.

python whole_line.py COMMANDS.json          # or under torchrun; a JSON list of lists of arguments
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch.distributed as dist

from fae_core.commands.groups import invoke


def main() -> None:
    group = "WORLD_SIZE" in os.environ
    if group:  # every command finds the group that is there, and leaves it
        dist.init_process_group("gloo")
    for arguments in json.loads(Path(sys.argv[1]).read_text()):
        invoke(arguments)
    if group:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
