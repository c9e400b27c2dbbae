"""Make the images that ship with the package: the first rows of Fashion-MNIST, from Debian's package.

    apt-get install dataset-fashion-mnist
    python scripts/make_embedded_data.py

Fashion-MNIST is by Zalando SE (Xiao, Rasul, Vollgraf 2017), MIT licence; the rows are taken as they are.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

SOURCE = Path("/usr/share/datasets/fashion-mnist")
TARGET = Path(__file__).parents[1] / "src/spikedistill/data/fashion_small.npz"
ROWS = {"train": ("train", 6000), "test": ("t10k", 1000)}


def idx(path: Path, header: int) -> np.ndarray:
    with gzip.open(path) as file:
        return np.frombuffer(file.read()[header:], np.uint8)


arrays = {}
for split, (prefix, rows) in ROWS.items():
    images = idx(SOURCE / f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    labels = idx(SOURCE / f"{prefix}-labels-idx1-ubyte.gz", 8)
    arrays |= {f"{split}_images": images[:rows], f"{split}_labels": labels[:rows]}
np.savez_compressed(TARGET, **arrays)
print(TARGET, f"{TARGET.stat().st_size / 1e6:.1f} MB")
