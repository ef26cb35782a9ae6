"""The picture in the README: bicubic, AlignVAR and ground truth of the held-out photograph, side by side.

    basicsr test -opt options/alignvar_x4_test.yml && python benchmarks/figure.py docs/chelsea_x4.png

Reads what the test has just written in the current folder.
"""
import argparse
from pathlib import Path

import alignvar_arch  # noqa: F401 - before basicsr, which does not import without it

# isort: split
import cv2
import numpy as np
from basicsr.utils.matlab_functions import imresize

from alignvar_arch.compat.lmdb_backend import open_shared

DATA = "datasets/skimage_x4_val"
MADE = Path("results/alignvar_x4_test/visualization/skimage_val")


def record(name: str) -> np.ndarray:
    """Return the only picture of an LMDB."""
    with open_shared(f"{DATA}_{name}.lmdb").begin() as transaction:
        _, value = next(iter(transaction.cursor()))
        return cv2.imdecode(np.frombuffer(value, np.uint8), cv2.IMREAD_COLOR)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    bicubic = imresize(record("lq").astype(np.float32) / 255, 4)
    made = cv2.imread(str(next(MADE.glob("*.png"))))
    gap = np.full((made.shape[0], 6, 3), 255, np.uint8)
    row = [np.clip(bicubic * 255, 0, 255).round().astype(np.uint8), gap, made, gap, record("gt")]
    output.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(output), cv2.hconcat(row))


if __name__ == "__main__":
    main()
