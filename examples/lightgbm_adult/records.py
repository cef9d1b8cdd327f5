"""UCI Adult as the three files of a training job: a survey of persons, some of whom were asked twice.

    python records.py FOLDER [--persons N]    writes FOLDER/train.parquet, validation.parquet and holdout.parquet

The census of 1994 has 48,842 rows, one per person. They come from the folder that PRIVACY_GATE_REFERENCE_DATA names, if
it is set, else from OpenML over your own network. Two things are made up, and the seed is fixed: the number of each
person, and the second wave. Three persons of ten are in it, a year older, with up to five hours of work more or less a
week and a new sampling weight; the rest of the row stays as it was. Half of the persons, with all their rows, are for
training, 10 % for validation, 40 % are held out. --persons takes fewer of them.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import pandas as pd

LABEL = "income"
PERSON = "person"
SHARES = {"train": 0.5, "validation": 0.1, "holdout": 0.4}
ASKED_TWICE = 0.3


def download() -> pd.DataFrame:
    """The census from OpenML, which scikit-learn keeps in its cache."""
    from sklearn.datasets import fetch_openml

    return fetch_openml("adult", version=2, as_frame=True, parser="auto").frame.rename(columns={"class": LABEL})


def census() -> pd.DataFrame:
    """One row per person, wherever they come from: same columns, same words, same order."""
    folder = os.environ.get("PRIVACY_GATE_REFERENCE_DATA")
    if folder:
        return tidy(pd.read_csv(Path(folder) / "adult" / "adult.csv.gz").drop(columns="split"))
    return tidy(download())


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Numbers as integers, the rest as categories; an answer that was not given is a category of its own."""
    table = table.rename(columns=lambda name: name.replace("-", "_"))
    words = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    numbers = {name: "int64" for name in table if name not in words}
    table = table.astype(dict.fromkeys(words, object)).fillna(dict.fromkeys(words, "?")).astype(numbers)
    table = table[sorted(table)].sort_values(sorted(table), ignore_index=True)  # whoever wrote the file, however sorted
    return table.astype({name: "category" for name in words if name != LABEL}).astype({LABEL: "str"})


def waves(persons: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The first wave, and below it the second: made up, as said above."""
    draw = np.random.default_rng(seed)
    again = persons[draw.random(len(persons)) < ASKED_TWICE]
    hours = again["hours_per_week"] + draw.integers(-5, 6, len(again))
    weight = again["fnlwgt"] * draw.uniform(0.8, 1.25, len(again))
    second = again.assign(age=again["age"] + 1, hours_per_week=hours.clip(1, 99), fnlwgt=weight.astype("int64"))
    return pd.concat([persons, second], ignore_index=True)


def split(table: pd.DataFrame, persons: int | None = None, seed: int = 0) -> dict[str, pd.DataFrame]:
    """The three sets, by person: nobody is in two of them."""
    table = table.assign(**{PERSON: np.arange(len(table))})
    order = np.random.default_rng(seed).permutation(len(table))[:persons]
    ends = np.cumsum([round(share * len(order)) for share in SHARES.values()])[:-1]
    everyone = waves(table.loc[order])
    parts = dict(zip(SHARES, np.split(order, ends), strict=True))
    return {name: everyone[everyone[PERSON].isin(part)].reset_index(drop=True) for name, part in parts.items()}


def main(folder: Path, persons: int | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in split(census(), persons).items():
        part.to_parquet(folder / f"{name}.parquet", index=False)
        print(f"{name}: {len(part):,} rows of {part[PERSON].nunique():,} persons")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--persons", type=int)
    chosen = options.parse_args()
    main(chosen.folder, chosen.persons)
