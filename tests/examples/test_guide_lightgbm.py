"""The page of examples/lightgbm_adult, from top to bottom: what it says to do is done, what it quotes is printed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.examples.guides import ROOT, Hour, require_small, small_walk, walked

HOME = ROOT / "examples" / "lightgbm_adult"

AT_NIGHT = ("privacy-gate explain", "privacy-gate defences")  # the small form leaves them out
REFERENCE_AND_NIGHTLY = [pytest.mark.reference, pytest.mark.nightly]


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory, reference_data: Path) -> Iterator[Hour]:
    with walked("lightgbm_adult", tmp_path_factory.mktemp("income"), reference_data) as found:
        yield found


@pytest.fixture(scope="module")
def records() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lightgbm_adult_records", HOME / "records.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the page -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.reference
def test_in_the_small_form_first_refused_and_then_mended(tmp_path: Path, reference_data: Path) -> None:
    with small_walk("lightgbm_adult", tmp_path, reference_data, skipped=AT_NIGHT) as hour:
        assert len(hour.done) == 10
        require_small(hour, "PG101")


class TestThePage:
    pytestmark = REFERENCE_AND_NIGHTLY

    def test_every_command_ends_and_prints_as_the_page_says(self, hour: Hour) -> None:
        assert len(hour.done) > 10
        for one in hour.done:
            assert one.code in one.command.ends, f"{one.command.line}\n{one.said}"
            assert one.as_quoted, f"{one.command.line}\n" + "\n".join(one.command.quoted) + f"\n--- printed\n{one.said}"

    def test_first_refused_and_then_mended(self, hour: Hour) -> None:
        refused, mended = hour["privacy-gate check"]
        assert {id for id, status in refused.rules.items() if status == "fail"} >= {"PG101", "PG201", "PG203"}
        assert set(mended.rules.values()) <= {"pass", "not_applicable"}
        for one in (refused, mended):
            assert one.report is not None
            assert one.report.data is not None
            assert (one.report.data.members.n, one.report.data.members.persons) == (5198, 4000)
            assert {(part.by, part.value) for part in one.report.slices} >= {
                *(("sex", name) for name in ("Female", "Male")),
                *(("race", name) for name in ("Black", "White")),
            }
            assert all(check.status != "fail" for check in one.report.validity)

    def test_the_draft_is_what_the_model_was_trained_on(self, hour: Hour) -> None:
        data, table = hour.draft["data"], pd.read_parquet(hour.folder / "data" / "train.parquet")
        assert (data["label"], data["person"]) == ("income", "person")
        features = table.drop(columns=["income", "person"])
        assert list(data["schema"]) == list(features)
        for name, column in features.items():
            drafted = data["schema"][name]
            if isinstance(column.dtype, pd.CategoricalDtype):
                assert drafted == {"dtype": "category", "levels": column.cat.categories.tolist()}
            else:
                assert drafted == "integer"

    def test_the_files_beside_the_page_are_those_of_the_reader(self, hour: Hour) -> None:
        for name in ("privacy-gate.yaml", "privacy-policy.yaml"):
            ours, theirs = (yaml.safe_load((place / name).read_text(encoding="utf-8")) for place in (HOME, hour.folder))
            assert ours == theirs


# --- its records ----------------------------------------------------------------------------------------------------


def census(rows: int = 60) -> pd.DataFrame:
    """Rows with the columns of Adult that matter here, named as the reference data has them."""
    draw = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "age": draw.integers(17, 90, rows),
            "hours_per_week": draw.integers(1, 99, rows),
            "fnlwgt": draw.integers(20_000, 900_000, rows),
            "workclass": draw.choice(["Private", "State-gov", "?"], rows),
            "income": draw.choice(["<=50K", ">50K"], rows),
        }
    )


def test_it_is_the_same_census_wherever_it_comes_from(records: ModuleType) -> None:
    """OpenML has it with dashes, with gaps for `?`, as categories and in an order of its own."""
    ours = census()
    theirs = ours.rename(columns=lambda name: name.replace("_", "-")).sample(frac=1, random_state=1)
    theirs["workclass"] = theirs["workclass"].replace("?", np.nan).astype("category")
    theirs["income"] = theirs["income"].astype("category")
    theirs["age"] = theirs["age"].astype(float)
    tidy = records.tidy(ours)
    pd.testing.assert_frame_equal(records.tidy(theirs[theirs.columns[::-1]]), tidy)
    assert tidy["workclass"].cat.categories.tolist() == ["?", "Private", "State-gov"]
    assert tidy["age"].dtype == np.int64


def test_nobody_is_in_two_sets_and_the_second_wave_is_what_the_script_says(records: ModuleType) -> None:
    table = records.tidy(census(1000))
    sets = records.split(table)
    people = {name: set(part["person"]) for name, part in sets.items()}
    assert [len(found) for found in people.values()] == [500, 100, 400]
    assert sum(map(len, people.values())) == len(set.union(*people.values()))
    everyone = pd.concat(sets.values())
    first, second = everyone.drop_duplicates("person"), everyone[everyone.duplicated("person")]
    # Binomial: 1,000 persons at 0.3; six standard deviations are 87.
    assert abs(len(second) - 300) < 87
    before = first.set_index("person").loc[second["person"]].reset_index()
    after = second.reset_index(drop=True)
    assert (after["age"] == before["age"] + 1).all()
    assert ((after["hours_per_week"] - before["hours_per_week"]).abs() <= 5).all()
    assert (after["fnlwgt"] / before["fnlwgt"]).between(0.79, 1.26).all()
    pd.testing.assert_frame_equal(after[["workclass", "income"]], before[["workclass", "income"]])
    # The persons are the rows of the census, and fewer of them are the first of the same order.
    pd.testing.assert_frame_equal(
        first.drop(columns="person").set_axis(first["person"].to_numpy()).sort_index(), table, check_names=False
    )
    fewer = records.split(table, 100)
    assert set(fewer["train"]["person"]) < people["train"]
    for name, part in records.split(table).items():
        pd.testing.assert_frame_equal(part, sets[name])
