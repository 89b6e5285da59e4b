"""Write docs/parameters.md: every preset's parameters, counted on the meta device, beside what the paper prints.

hatch run parameters            # writes the page
python tools/checks/parameters.py --check   # exit status 1 where a preset's own `parameters` or the page is out of date
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from release import count_parameters

from fae_core.files import read_yaml
from fae_core.models.presets import preset_files

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "parameters.md"
HEAD = """# Parameters

Every preset, counted on the meta device by `hatch run parameters`; a preset states its count and the tests compare.
Of an encoder the adapter is counted, not the frozen backbone. A fixed position table counts where its model stores it
as a parameter, which is what meets the printed 675.26 M of LightningDiT-XL.

| preset | type | parameters | the paper prints | where |
|---|---|---|---|---|
"""
TAIL = """
What the table cannot show:

- With a last norm (`final_norm: true`) the feature decoder has 170,428,416 and the pixel decoder 305,360,896
  parameters, which print as the same 170.43 M and 305.36 M: the paper does not tell which it has.
- MMDiT: section 5.2 and table 3 name T5-XL, whose present version is 2048 wide. That gives 604,374,048 parameters (384:
  2,019,214,880), which round to table 3's 604 M, not to appendix D's 603.46 M (2017.84 M). Two readings meet both
  counts of appendix D, 603,456,544 and 2,017,838,624: a text width of 1152, as SigLIP2 g-opt has it
  (`mmdit-256-siglip2`, `mmdit-384-siglip2`); or one of 1024, as T5's first version of that size has it, with a learned
  position for each of 128 text tokens (1024 + 128 = 1152). The paper does not tell which. `mmdit-256` and `mmdit-384`
  read T5-XL as the text says; no preset has learned text positions, as nothing but the count speaks for them. A test
  computes all three.
- Section 5.3's 1.4 B does not tell which choices STARFlow's "default configuration" has: a learned first token adds 192
  parameters, the last norms 12,288.
- `conv-vae-f8` has the 83,653,863 parameters that diffusers counts in SD's autoencoder.
"""


def main(check: bool) -> int:
    wrong = []
    for name, path in preset_files().items():
        stated, counted = read_yaml(path).get("parameters"), count_parameters(name)
        if stated != counted:
            wrong.append(f"{path.name} states {stated} parameters and has {counted}")
    page = render({name: read_yaml(path) for name, path in preset_files().items()})
    if check and (not PAGE.is_file() or PAGE.read_text("utf-8") != page):
        wrong.append(f"{PAGE.relative_to(ROOT)} is out of date; run tools/checks/parameters.py")
    if not check and not wrong:
        PAGE.write_text(page, encoding="utf-8")
    for line in wrong:
        print(line, file=sys.stderr)
    return int(bool(wrong))


def render(presets: dict[str, dict[str, Any]]) -> str:
    """The page for these presets by name."""
    return (
        HEAD
        + "".join(_row(name, presets[name]) for name in sorted(presets, key=lambda n: _place(n, presets[n])))
        + TAIL
    )


def _place(name: str, preset: dict[str, Any]) -> tuple[str, bool, str]:
    return preset["model_type"], "paper" not in preset, name


def _row(name: str, preset: dict[str, Any]) -> str:
    paper = preset.get("paper", {})
    cells = (
        f"`{name}`",
        preset["model_type"],
        f"{preset['parameters']:,}",
        paper.get("printed", ""),
        paper.get("where", ""),
    )
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
