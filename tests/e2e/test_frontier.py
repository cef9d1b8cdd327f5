"""The early-stopping benchmark of boosted candidates from a real registry: their own rounds, and logged checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.e2e.conftest import FEATURES, Run, Team, register

ROUNDS = 40
ALONE = {"shadows": {"count": 0}, "attacks": ["correctness", "confidence", "modified_entropy"]}


@pytest.fixture(scope="module")
def members(team: Team) -> pd.DataFrame:
    return pd.read_csv(team.folder / "members.csv")


@pytest.fixture(scope="module")
def boosted(team: Team, members: pd.DataFrame) -> str:
    """A pipeline that memorises."""
    model = make_pipeline(StandardScaler(), boosting(ROUNDS)).fit(members[FEATURES], members["sick"])
    return f"models:/boosted/{register(team, 'boosted', model)}"


def boosting(rounds: int) -> GradientBoostingClassifier:
    return GradientBoostingClassifier(n_estimators=rounds, max_depth=6, learning_rate=0.3, random_state=0)


def checked(team: Team, here: Callable[..., Run], tmp_path: Path, **config: Any) -> Run:
    path = team.write_config(f"frontier-{tmp_path.name}.yaml", **ALONE, **config)
    return here("check", "-c", path, "--store", tmp_path / "store", "--no-mlflow-log")


def test_the_rounds_of_the_candidate_itself(team: Team, here: Callable[..., Run], boosted: str, tmp_path: Path) -> None:
    run = checked(team, here, tmp_path, model=boosted, frontier="staged")
    found = run.report["frontier"]
    assert found["source"] == "staged"
    names = [stop["name"] for stop in found["stops"]]
    assert (names[0], names[-1]) == ("round 1 of 40", "round 40 of 40")
    assert len(names) <= 17
    # After all its rounds it is the candidate itself: the same answers, the same folds, the same numbers.
    last, own = found["stops"][-1], found["candidate"]
    assert {**last, "name": ""} == {**own, "name": ""}
    assert all(d["value"] == 0 for d in found["differences"].values()) == (found["matched"] == len(names) - 1)
    # It learns its records by heart: accuracy on them, and the leak, grow with the rounds.
    assert last["train_accuracy"] > 0.95 > found["stops"][0]["train_accuracy"]
    leak = [stop["attacks"]["modified_entropy"]["value"] for stop in found["stops"]]
    assert leak[-1] > leak[0] + 0.1
    assert "Is it better than stopping early?" in (run.out / "report.html").read_text()


def test_a_forest_has_no_rounds_and_the_verdict_stands(team: Team, here: Callable[..., Run], tmp_path: Path) -> None:
    run = checked(team, here, tmp_path, frontier="staged")
    assert run.report["frontier"] is None
    (warning,) = [w for w in run.report["warnings"] if "early-stopping benchmark" in w]
    assert "a RandomForestClassifier has no rounds" in warning
    assert "frontier: retraining" in warning
    # As it was before there was a benchmark: a violation, and no error.
    assert (run.code, run.report["verdict"]["status"], run.report["errors"]) == (1, "fail", [])


def test_checkpoints_that_the_run_logged(
    team: Team, here: Callable[..., Run], members: pd.DataFrame, boosted: str, tmp_path: Path
) -> None:
    models = [make_pipeline(StandardScaler(), boosting(n)).fit(members[FEATURES], members["sick"]) for n in (1, ROUNDS)]
    uris = [f"models:/steps/{register(team, 'steps', model)}" for model in models]
    found = checked(team, here, tmp_path, model=boosted, frontier={"checkpoints": uris}).report["frontier"]
    assert found["source"] == "checkpoints"
    assert [stop["name"] for stop in found["stops"]] == uris
    # The last is the candidate, trained once more with the same seed. Out of order, rows would not fit their labels.
    assert {**found["stops"][1], "name": ""} == {**found["candidate"], "name": ""}
    right = float((models[0].predict(members[FEATURES]) == members["sick"]).mean())
    assert found["stops"][0]["train_accuracy"] == pytest.approx(right, abs=1e-9)


def test_a_checkpoint_of_another_width_is_a_warning_that_names_it(
    team: Team, here: Callable[..., Run], members: pd.DataFrame, boosted: str, tmp_path: Path
) -> None:
    narrow = register(team, "narrow", boosting(3).fit(members[FEATURES[:2]], members["sick"]))
    uris = [f"models:/narrow/{narrow}"]
    run = checked(team, here, tmp_path, model=boosted, frontier={"checkpoints": uris})
    assert run.report["frontier"] is None
    assert run.code in {0, 1, 4}
    (warning,) = [w for w in run.report["warnings"] if "early-stopping benchmark" in w]
    assert uris[0] in warning
    assert "takes 2 feature columns" in warning


def test_a_misspelt_checkpoint_ends_it_before_anything_is_trained(
    team: Team, here: Callable[..., Run], boosted: str, tmp_path: Path
) -> None:
    path = team.write_config(
        "misspelt.yaml", model=boosted, shadows={"count": 4}, frontier={"checkpoints": ["models:/bosted/1"]}
    )
    store = tmp_path / "store"
    run = here("check", "-c", path, "--store", store, "--no-mlflow-log")
    assert run.code == 2
    assert "frontier.checkpoints" in run.said
    assert "bosted" in run.said
    assert not list(store.rglob("*.npz"))
    assert not (run.out / "report.json").exists()
    assert here("plan", "-c", path, "--store", store).code == 2
