"""Breast tumours of the Wisconsin study, as scikit-learn ships them, split by lot: members, non-members, seen.

    python examples/command_script/records.py FOLDER

The seed is fixed: the sets are the same everywhere.
"""

import sys
from pathlib import Path

import pandas as pd
from sklearn.datasets import load_breast_cancer

LABEL = "malignant"
SIZES = {"members": 240, "nonmembers": 240, "seen": 89}


def records() -> dict[str, pd.DataFrame]:
    """The three sets; the seed is fixed."""
    table = load_breast_cancer(as_frame=True)
    frame = table.data.rename(columns=lambda name: name.replace(" ", "_"))
    frame[LABEL] = (table.target == 0).astype(int)
    frame = frame.sample(frac=1, random_state=0).reset_index(drop=True)
    parts, begin = {}, 0
    for name, size in SIZES.items():
        parts[name] = frame[begin : begin + size].reset_index(drop=True)
        begin += size
    return parts


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in records().items():
        part.to_parquet(folder / f"{name}.parquet", index=False)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
