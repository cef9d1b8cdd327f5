"""A small set of images as teams have them: folders of PNG files, one folder per class, labelled by hand and not well.

The images are the 8 x 8 digits that scikit-learn ships. One label in eight is wrong, as it happens to people who type
a thousand of them; who typed wrong decided by lot, so that the sets are alike.

    python records.py FOLDER    writes members, validation and nonmembers below it
"""

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SIZES = {"members": 800, "validation": 197, "nonmembers": 800}
WRONG = 0.12
BOLD = 0.32  # mean darkness of a thick stroke: half of the images have more


def main(folder: Path, seed: int = 0) -> None:
    digits = load_digits()
    images, truth = digits.images / 16, digits.target
    rng = np.random.default_rng(seed)
    typed = np.where(rng.random(len(truth)) < WRONG, (truth + rng.integers(1, 10, len(truth))) % 10, truth)
    order = iter(rng.permutation(len(truth)))
    for name, size in SIZES.items():
        table = []
        for _, row in zip(range(size), order, strict=False):
            file = f"{typed[row]}/{row:04d}.png"
            place = folder / name / file
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.round(images[row] * 255).astype(np.uint8)).save(place)
            table.append((file, "bold" if images[row].mean() > BOLD else "thin"))
        with (folder / name / "metadata.csv").open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([("file_name", "stroke"), *sorted(table)])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
