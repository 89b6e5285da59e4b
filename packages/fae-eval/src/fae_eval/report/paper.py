"""The paper's own numbers, shown beside ours and marked as the paper's.

"One Layer Is Enough: Adapting Pretrained Visual Encoders for Image Generation": tables 1, 2, 3, 4 and 9.
"""

from __future__ import annotations

from typing import Any

SOURCE = "the paper's own values, from its tables; not measured here"

# title, columns, rows
REFERENCE: list[tuple[str, list[str], list[list[Any]]]] = [
    (
        "Table 2: ImageNet 256x256, 50,000 samples against ADM's reference",
        ["", "epochs", "gFID", "sFID", "IS", "precision", "recall", "gFID (CFG)", "IS (CFG)"],
        [
            ["SiT-XL", "1400", "8.61", "6.32", "131.7", "0.68", "0.67", "2.06", "270.3"],
            ["VA-VAE", "800", "2.17", "4.36", "205.6", "0.77", "0.65", "1.35", "295.3"],
            ["RAE (DiTDH-XL)", "800", "1.51", None, "242.9", "0.79", "0.63", "1.13", "262.6"],
            ["FAE", "80", "2.39", "4.38", "192.8", "0.82", "0.59", "1.92", "249.6"],
            ["FAE", "800", "1.58", "4.38", "223.7", "0.80", "0.63", "1.41", "274.1"],
            ["FAE, time shift", "80", "2.08", "4.20", "207.6", "0.82", "0.59", "1.70", "243.8"],
            ["FAE, time shift", "800", "1.48", "4.24", "239.8", "0.81", "0.63", "1.29", "268.0"],
        ],
    ),
    (
        "Table 3: MS-COCO 256x256, 30,000 captions, zero-shot",
        ["", "FID", "FID (CFG)"],
        [["FAE (SigLIP2) + T5", "7.57", "7.11"], ["FAE (DINOv2) + T5", "7.47", "6.90"], ["SD-VAE + T5", "21.25", None]],
    ),
    (
        "Table 1: linear probing, ImageNet top-1 %",
        ["", "resolution", "top-1 %"],
        [["DINOv2-g/14", "224", "87.0"], ["FAE (DINOv2-g/14)", "224", "86.17"]],
    ),
    (
        "Table 4: COCO retrieval, recall at 1 %",
        ["", "text to image", "image to text"],
        [["SigLIP2 g-opt/16", "55.45", "73.10"], ["FAE (SigLIP2)", "55.79", "72.94"]],
    ),
    (
        "Table 9: rFID",
        ["", "rFID"],
        [["SD-VAE", "0.73"], ["VA-VAE", "0.28"], ["FAE, 32 channels", "0.68"], ["FAE, 64 channels", "0.66"]],
    ),
]
