"""Published numbers, shown beside ours and marked as published: the paper's own, and others' since.

"One Layer Is Enough: Adapting Pretrained Visual Encoders for Image Generation" (arXiv:2512.07829v2, CVPR 2026
Findings): tables 1, 2, 3, 4 and 9, section 5.3. Of others: what the authors state in abstract, repository or page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_PAPER = "the paper's own values (arXiv:2512.07829v2); published, not measured here"


@dataclass(frozen=True)
class Published:
    """A table of published values.

    Attributes:
        title: what it shows.
        columns: names of the columns.
        rows: cells; None where nothing was published.
        whose: beside the title.
        source: where the values stand, and that they were not measured here.
    """

    title: str
    columns: list[str]
    rows: list[list[Any]]
    whose: str = "the paper's"
    source: str = _PAPER


REFERENCE = [
    Published(
        "Table 2: ImageNet 256x256, 50,000 samples against ADM's reference",
        ["", "epochs", "gFID", "sFID", "IS", "precision", "recall", "gFID (CFG)", "IS (CFG)"],
        [
            ["SiT-XL", "1400", "8.61", "6.32", "131.7", "0.68", "0.67", "2.06", "270.3"],
            ["VA-VAE", "800", "2.17", "4.36", "205.6", "0.77", "0.65", "1.35", "295.3"],
            ["RAE (DiT-XL)", "800", "1.87", None, "209.7", "0.80", "0.63", "1.41", "309.4"],
            ["RAE (DiTDH-XL)", "80", "2.16", None, "214.8", "0.82", "0.59", None, None],
            ["RAE (DiTDH-XL)", "800", "1.51", None, "242.9", "0.79", "0.63", "1.13", "262.6"],
            ["FAE", "80", "2.39", "4.38", "192.8", "0.82", "0.59", "1.92", "249.6"],
            ["FAE", "800", "1.58", "4.38", "223.7", "0.80", "0.63", "1.41", "274.1"],
            ["FAE, time shift", "80", "2.08", "4.20", "207.6", "0.82", "0.59", "1.70", "243.8"],
            ["FAE, time shift", "800", "1.48", "4.24", "239.8", "0.81", "0.63", "1.29", "268.0"],
        ],
    ),
    Published(
        "Section 5.3, figure 6: STARFlow, ImageNet 256x256, 400 epochs",
        ["", "FID"],
        [["STARFlow on SD-VAE", "4.51"], ["STARFlow on FAE (DINOv2-g/14)", "2.67"]],
    ),
    Published(
        "Table 3: MS-COCO 256x256, 30,000 captions, zero-shot",
        ["", "FID", "FID (CFG)"],
        [["FAE (SigLIP2) + T5", "7.57", "7.11"], ["FAE (DINOv2) + T5", "7.47", "6.90"], ["SD-VAE + T5", "21.25", None]],
    ),
    Published(
        "Table 1: linear probing, ImageNet top-1 %",
        ["", "resolution", "top-1 %"],
        [["DINOv2-g/14", "224", "87.0"], ["FAE (DINOv2-g/14)", "224", "86.17"]],
    ),
    Published(
        "Table 4: COCO retrieval, recall at 1 %",
        ["", "text to image", "image to text"],
        [["SigLIP2 g-opt/16", "55.45", "73.10"], ["FAE (SigLIP2)", "55.79", "72.94"]],
    ),
    Published(
        "Table 9: rFID",
        ["", "rFID"],
        [["SD-VAE", "0.73"], ["VA-VAE", "0.28"], ["FAE, 32 channels", "0.68"], ["FAE, 64 channels", "0.66"]],
    ),
    Published(
        "Others, ImageNet 256x256",
        ["", "epochs", "gFID", "guidance", "source"],
        [
            ["SiT-XL/2", "1400", "8.61", "none", "arXiv:2401.08740; table 2 above"],
            ["SiT-XL/2", "1400", "2.06", "1.5", "arXiv:2401.08740; repository willisma/SiT"],
            ["LightningDiT-XL on VA-VAE", "64", "5.14", "none", "arXiv:2501.01423; repository hustvl/LightningDiT"],
            ["LightningDiT-XL on VA-VAE", "64", "2.11", "10, interval", "repository hustvl/LightningDiT"],
            ["LightningDiT-XL on VA-VAE", "800", "2.17", "none", "arXiv:2501.01423; repository hustvl/LightningDiT"],
            ["LightningDiT-XL on VA-VAE", "800", "1.35", "6.7, interval", "repository hustvl/LightningDiT"],
            ["REPA (SiT-XL/2)", "800", "5.90", "none", "arXiv:2410.06940; the paper's table 2"],
            ["REPA (SiT-XL/2)", "800", "1.42", "yes", "repository sihyun-yu/REPA"],
            ["RAE (DiTDH-XL)", "80", "2.16", "none", "repository bytetriper/RAE"],
            ["RAE (DiTDH-XL)", "800", "1.51", "none", "arXiv:2510.11690; table 2 above"],
            ["RAE (DiTDH-XL)", "800", "1.13", "yes", "arXiv:2510.11690; table 2 above"],
            ["RAEv2", "80", "1.06", "not stated there", "arXiv:2605.18324, abstract"],
            ["RAEv2, 7 layers", "80", "1.65", "none", "raev2.github.io, section 2.3"],
            ["RAEv2, 7 layers", "80", "1.49", "CFG", "raev2.github.io, section 2.3"],
            ["RAEv2, 7 layers", "80", "1.06", "by its REPA head", "raev2.github.io, section 2.3"],
            ["GAE (LightningDiT-XL)", "80", "1.82", "none", "arXiv:2603.10365, abstract"],
            ["GAE (LightningDiT-XL)", "800", "1.31", "none", "arXiv:2603.10365, abstract"],
            ["PAE (LightningDiT-XL)", "80", "1.27", "set beside FAE's guided 1.29", "arXiv:2605.07915, repository"],
            ["PAE (LightningDiT-XL)", "more", "1.03", "set beside FAE's guided 1.29", "arXiv:2605.07915, abstract"],
            ["RPiAE (LightningDiT-XL)", None, None, None, "arXiv:2603.19206: abstract and repository print none"],
            ["VFM-VAE (REG, SiT-XL/1)", "80", "2.22", "none", "arXiv:2510.18457; repository tianciB/VFM-VAE"],
            ["VFM-VAE (REG, SiT-XL/1)", "640", "1.62", "none", "arXiv:2510.18457; repository tianciB/VFM-VAE"],
            ["VFM-VAE (REG, SiT-XL/1)", "640", "1.31", "CFG", "repository tianciB/VFM-VAE"],
            ["STARFlow, 1.4 B", None, "2.40", "not stated there", "its author's talk, jiataogu.me; arXiv:2506.06276"],
            ["STARFlow on SD-VAE", "400", "4.51", "not stated there", "the FAE paper, section 5.3"],
            ["STARFlow on FAE", "400", "2.67", "not stated there", "the FAE paper, section 5.3"],
        ],
        "published",
        "their authors' values, from the sources in the table; published, not measured here",
    ),
]
