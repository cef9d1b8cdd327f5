"""Health records with types: the RAND Health Insurance Experiment, up to five years of each of 5,912 persons.

    python records.py FOLDER [--persons N]    writes FOLDER/train.parquet and FOLDER/holdout.parquet

The table (1974-1982, public domain) comes with statsmodels, as numbers only. Here its columns get the types that a team
has in its warehouse: categories, booleans, whole numbers with gaps. The question: will this person see a doctor three
times or more this year? Half of the persons, with all their years, are for training; the seed is fixed. --persons takes
fewer of them.
"""

import argparse
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd

LABEL = "many_visits"
PERSON = "patient_id"
HEALTH = ["excellent", "good", "fair", "poor"]


def load() -> pd.DataFrame:
    """One row per person and year. Only what is known before the year begins is a feature."""
    raw = pd.read_csv(str(files("statsmodels") / "datasets" / "randhie" / "src" / "randhie.csv"))
    health = np.select([raw["hlthg"] == 1, raw["hlthf"] == 1, raw["hlthp"] == 1], HEALTH[1:], HEALTH[0])
    whole = raw["educdec"].where(raw["educdec"] % 1 == 0)  # the others are means that somebody filled in
    return pd.DataFrame(
        {
            "site": pd.Categorical("site " + raw["site"].astype(str)),
            "year": raw["year"],
            "coinsurance": raw["coins"],
            "family_size": raw["num"],
            "income": raw["income"],
            "age": raw["xage"],
            "female": raw["female"] == 1,
            "child": raw["child"] == 1,
            "examined": raw["tookphys"] == 1,  # at enrolment
            "education": whole.astype("Int64"),
            "health": pd.Categorical(health, categories=HEALTH, ordered=True),
            "health_index": raw["ghindx"].round().astype("Int64"),  # children have none
            "mental_health": raw["mhi"],
            "diseases": raw["disea"],
            PERSON: raw["zper"],
            LABEL: raw["mdvis"] >= 3,
        }
    )


def split(table: pd.DataFrame, persons: int | None = None, seed: int = 7) -> dict[str, pd.DataFrame]:
    """Half of the persons for training, and the others: nobody is on both sides."""
    order = np.random.default_rng(seed).permutation(table[PERSON].unique())[:persons]
    halves = dict(zip(("train", "holdout"), np.array_split(order, 2), strict=True))
    return {name: table[table[PERSON].isin(half)].reset_index(drop=True) for name, half in halves.items()}


def main(folder: Path, persons: int | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in split(load(), persons).items():
        part.to_parquet(folder / f"{name}.parquet", index=False)
        print(f"{name}: {len(part):,} rows of {part[PERSON].nunique():,} persons")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--persons", type=int)
    chosen = options.parse_args()
    main(chosen.folder, chosen.persons)
