"""The demo's data: real, split by person, and nothing in the features that gives the answer away."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from examples import health_records as health


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    return health.load()


@pytest.fixture(scope="module")
def sides(records: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    return health.split(records)


def test_the_experiment_is_there_but_for_a_few_rows_with_gaps(records: pd.DataFrame) -> None:
    assert 20_190 - 9 <= len(records) < 20_190
    assert not records.isna().any().any()
    assert list(records.columns) == [*health.FEATURES, health.PERSON, health.LABEL]


def test_no_person_is_on_both_sides(sides: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    members, nonmembers = sides
    assert not set(members[health.PERSON]) & set(nonmembers[health.PERSON])


def test_the_split_loses_no_record_and_halves_the_persons(
    records: pd.DataFrame, sides: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    members, nonmembers = sides
    together = pd.concat(sides).sort_values([health.PERSON, "year"], ignore_index=True)
    pd.testing.assert_frame_equal(together, records.sort_values([health.PERSON, "year"], ignore_index=True))
    assert abs(members[health.PERSON].nunique() - nonmembers[health.PERSON].nunique()) <= 1
    assert members[health.PERSON].duplicated().any()  # several years of one person: why the split is by person


def test_the_seed_decides_the_split(records: pd.DataFrame) -> None:
    again, other = health.split(records, seed=7)[0], health.split(records, seed=8)[0]
    pd.testing.assert_frame_equal(again, health.split(records)[0])
    assert set(other[health.PERSON]) != set(again[health.PERSON])


def test_few_records_stand_on_both_sides(sides: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    # The gate drops exact duplicates, and refuses evidence with more than 5 % of them; the demo must be far from that.
    columns = [*health.FEATURES, health.LABEL]
    shared = pd.merge(*(side[columns].drop_duplicates() for side in sides))
    assert len(shared) < 0.005 * sum(map(len, sides))


def test_no_feature_gives_the_answer_away(sides: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    # Spending or visits of the same year would lift even a linear model above 90 %; what is known before gives 68 %.
    members, others = sides
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    model.fit(members[health.FEATURES], members[health.LABEL])
    accuracy = model.score(others[health.FEATURES], others[health.LABEL])
    majority = 1 - others[health.LABEL].mean()
    assert majority < accuracy < 0.75


def test_the_files_hold_the_two_sides(tmp_path: Path, sides: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    health.main(tmp_path / "data")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["members.csv", "nonmembers.csv"]
    for name, side in zip(("members", "nonmembers"), sides, strict=True):
        read = pd.read_csv(tmp_path / "data" / f"{name}.csv")
        assert list(read.columns) == list(side.columns)
        np.testing.assert_array_equal(read.to_numpy(), side.to_numpy())  # pandas writes floats so that they survive
