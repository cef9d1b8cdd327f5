"""What a boosted model answered after a part of its rounds: asked in a process of its own, and not believed."""

from __future__ import annotations

import os
from itertools import pairwise

import numpy as np
import pytest
from sklearn.ensemble import (
    AdaBoostClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from privacy_gate import sandbox
from privacy_gate.datamodel import Candidate
from privacy_gate.errors import ModelOutputUnusable, NotEvaluable
from privacy_gate.sandbox.jobs import Job
from privacy_gate.sandbox.outputs import Form
from privacy_gate.sandbox.stages import stages_of, steps

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4))
Y = RNG.integers(0, 3, 60)


# --- which rounds -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [1, 2, 3, 17, 30, 100, 1000, 12345])
def test_few_rounds_dense_at_the_start_and_all_of_them(total):
    chosen = steps(total)
    assert chosen == sorted(set(chosen))
    assert chosen[0] >= 1
    assert chosen[-1] == total
    assert len(chosen) <= 17
    # No gap wider than what lies before it: half as many again, rounded up.
    assert all(after <= 1.5 * before + 1 for before, after in pairwise(chosen))


def test_the_first_rounds_of_a_short_training_are_all_there():
    assert steps(30) == [1, 2, 3, 4, 6, 8, 11, 15, 22, 30]


# --- which models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        GradientBoostingClassifier(n_estimators=5),
        HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=5),
        AdaBoostClassifier(n_estimators=5),
        make_pipeline(StandardScaler(), GradientBoostingClassifier(n_estimators=5)),
        GridSearchCV(GradientBoostingClassifier(n_estimators=5), {"max_depth": [1]}, cv=2),
    ],
    ids=["boosting", "histograms", "adaboost", "pipeline", "search"],
)
def test_after_all_its_rounds_it_answers_as_it_does(model):
    found = stages_of(model.fit(X, Y))
    assert found.rounds == 5
    np.testing.assert_allclose(found.at(5, X), model.predict_proba(X), rtol=1e-12)
    assert np.abs(found.at(1, X) - found.at(5, X)).max() > 0.01


def test_what_has_no_rounds_says_so():
    for model in (RandomForestClassifier(3), make_pipeline(StandardScaler(), RandomForestClassifier(3))):
        with pytest.raises(NotEvaluable, match="a RandomForestClassifier has no rounds") as told:
            stages_of(model.fit(X, Y))
        assert "frontier: retraining" in told.value.hint


# --- through the child ------------------------------------------------------------------------------------------------


def test_a_candidate_is_asked_in_a_process_of_its_own(tmp_path):
    import mlflow.sklearn

    model = GradientBoostingClassifier(n_estimators=4, random_state=0).fit(X, Y)
    mlflow.sklearn.save_model(model, tmp_path / "model", pip_requirements=[], serialization_format="cloudpickle")
    candidate = Candidate("m", "m", tmp_path / "model", "0" * 64, "sklearn", executes_code=True)
    told = sandbox.staged(candidate, X, tmp_path / "work", form=Form("probabilities"), classes=3)
    assert (told.total, told.steps) == (4, (1, 2, 3, 4))
    for outputs, expected in zip(told.outputs, model.staged_predict_proba(X), strict=True):
        np.testing.assert_array_equal(outputs.values, expected)
    # Nothing but the log is left.
    assert [path.suffix for path in (tmp_path / "work").iterdir()] == [".log"]


# --- what the child may have written ----------------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path):
    (tmp_path / "out").mkdir()
    return Job(tmp_path, tmp_path / "out", tmp_path, tmp_path / "log", None)


def fair(rows=5, classes=3):
    p = np.random.default_rng(1).uniform(size=(rows, classes))
    return p / p.sum(axis=1, keepdims=True)


def left(job, *answers):
    for i, answer in enumerate(answers):
        np.save(job.out / f"stage_{i}.npy", answer, allow_pickle=True)


@pytest.mark.parametrize("told", [None, 0, -1, True, 2.0, "2", [2], 1 << 40])
def test_a_number_of_rounds_that_is_none_is_refused(job, told):
    left(job, fair(), fair())
    with pytest.raises(ModelOutputUnusable, match="no readable answer"):
        sandbox._staged(told, "probabilities", 5, 3, job)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (np.array([Bomb()] * 5), "no readable predictions"),
        (fair(4), r"shape \[4, 3\] to 5 records"),
        (fair(5, 2), "2 columns, expected 3"),
        (np.full((5, 3), np.nan), "NaN"),
        (-fair(), "not probabilities"),
        (np.array([["a"] * 3] * 5), "not with numbers"),
    ],
)
def test_every_stage_is_checked_and_named(job, monkeypatch, answer, said):
    monkeypatch.chdir(job.folder)
    left(job, fair(), answer)
    with pytest.raises(ModelOutputUnusable, match=f"^after 2 of 2 rounds: .*{said}"):
        sandbox._staged(2, "probabilities", 5, 3, job)
    assert not (job.folder / "exploded").exists()


def test_a_stage_that_is_missing_is_refused(job):
    left(job, fair())
    with pytest.raises(ModelOutputUnusable, match=r"after 2 of 2 rounds: .*no readable predictions"):
        sandbox._staged(2, "probabilities", 5, 3, job)
