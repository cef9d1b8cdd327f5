"""Made-up customers in three segments, drawn with a fixed seed: members and non-members.

    python examples/notebook/records.py FOLDER

The seed is fixed: the sets are the same everywhere.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CENTRES = np.array([[0.0, 0.0, 0.0, 0.0], [1.2, 0.0, 0.6, 0.0], [0.0, 1.2, 0.0, 0.6]])
SIZES = {"members": 150, "nonmembers": 150}


def records() -> dict[str, dict[str, NDArray[np.generic]]]:
    """Per set: x [n, 4] and segment [n]."""
    rng = np.random.default_rng(0)
    found: dict[str, dict[str, NDArray[np.generic]]] = {}
    for name, size in SIZES.items():
        segment = rng.integers(0, 3, size)
        found[name] = {"x": CENTRES[segment] + rng.normal(size=(size, 4)), "segment": segment}
    return found


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, arrays in records().items():
        with (folder / f"{name}.npz").open("wb") as stream:
            np.savez(stream, x=arrays["x"], segment=arrays["segment"])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
