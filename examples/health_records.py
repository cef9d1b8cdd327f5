"""Real health records for the demo: the RAND Health Insurance Experiment, split by person into members and non-members.

The experiment (1974-1982, public domain) followed 5,912 persons for up to five years, one row per person and year;
statsmodels ships the raw table. The task: will this person see a doctor three times or more this year?

    python examples/health_records.py FOLDER    writes FOLDER/members.csv and FOLDER/nonmembers.csv
"""

from __future__ import annotations

import os
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd

LABEL = "many_visits"
PERSON = "person"
# What is known before the year begins. Spending, admissions and visits of the year itself would give the answer away.
FEATURES = [
    *("site", "coins", "tookphys", "year", "mdeoff", "num"),  # the insurance plan and the family
    *("black", "income", "xage", "female", "educdec", "child", "fchild"),  # the person
    *("mhi", "disea", "physlm", "hlthg", "hlthf", "hlthp", "xghindx"),  # health, as told at enrolment
]


def load() -> pd.DataFrame:
    """One row per person and year: the features, the person and the label; the few rows with a gap are left out."""
    table = pd.read_csv(str(files("statsmodels") / "datasets" / "randhie" / "src" / "randhie.csv"))
    records = table[FEATURES].assign(**{PERSON: table["zper"], LABEL: (table["mdvis"] >= 3).astype(int)})
    return records.dropna().reset_index(drop=True)


def split(records: pd.DataFrame, seed: int = 7) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Half of the persons, with all their years, and the other half.

    By person and not by row: with the same person on both sides a model that remembers people looks harmless.
    """
    persons = np.unique(records[PERSON])
    chosen = np.random.default_rng(seed).permutation(persons)[: len(persons) // 2]
    member = records[PERSON].isin(chosen)
    return records[member].reset_index(drop=True), records[~member].reset_index(drop=True)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(("members", "nonmembers"), split(load()), strict=True):
        part = folder / f"{name}.csv.part"
        rows.to_csv(part, index=False)
        os.replace(part, folder / f"{name}.csv")
        print(f"{name}: {len(rows)} records of {rows[PERSON].nunique()} persons", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
