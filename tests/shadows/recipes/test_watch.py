"""An instrumented training: the same model as without it, seen on its way."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightgbm import LGBMClassifier
from sklearn.ensemble import (
    AdaBoostClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional
from xgboost import XGBClassifier

from privacy_gate.request import Recipe, TorchTraining
from privacy_gate.sandbox import models
from privacy_gate.sandbox.stages import Stages, rounds
from privacy_gate.shadows.recipes import CATALOG, Context
from privacy_gate.shadows.recipes.torch_module import batches, fit

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(80, 3)), np.array(["no", "yes", "perhaps"])[RNG.integers(0, 3, 80)]


@pytest.fixture
def train(monkeypatch):
    def call(estimator, watch, features=X):
        monkeypatch.setattr(models, "load", lambda folder, flavor: estimator)
        context = Context(Recipe(), Path(), Path(), "sklearn", ("no", "yes", "perhaps"), watch=watch)
        return CATALOG["clone"].train(features, Y, 1, context)

    return call


def watched(train, estimator, features=X):
    seen = {}

    def watch(model, step):
        assert list(model.classes_) == sorted(set(Y))
        seen[step] = models.query(model, features).values.copy()

    return train(estimator, watch, features), seen


@pytest.mark.parametrize(
    ("estimator", "shorter"),
    [
        (GradientBoostingClassifier(n_estimators=6), "n_estimators"),
        (HistGradientBoostingClassifier(max_iter=6, min_samples_leaf=5), "max_iter"),
        (MLPClassifier((5,), max_iter=6, batch_size=20), "max_iter"),
        (MLPClassifier((5,), max_iter=6, solver="sgd", early_stopping=True, n_iter_no_change=100), "max_iter"),
    ],
    ids=["boosting", "histograms", "perceptron", "perceptron with early stopping"],
)
@pytest.mark.parametrize("piped", [False, True])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_stage_is_the_model_that_was_trained_so_long(train, estimator, shorter, piped):
    whole = make_pipeline(StandardScaler(), estimator) if piped else estimator
    fitted, seen = watched(train, whole)
    assert sorted(seen) == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(fitted.predict_proba(X), train(whole, None).predict_proba(X))
    np.testing.assert_array_equal(seen[6], fitted.predict_proba(X))
    if getattr(estimator, "early_stopping", False) is True:  # goes back to its best epoch when it ends
        return
    # Four rounds from the start draw the same random numbers as the first four of six.
    name = f"{type(estimator).__name__.lower()}__{shorter}" if piped else shorter
    four = train(whole.set_params(**{name: 4}), None)
    whole.set_params(**{name: 6})
    np.testing.assert_allclose(seen[4], four.predict_proba(X), rtol=1e-12)


def test_stages_of_adaboost(train):
    fitted, seen = watched(train, AdaBoostClassifier(n_estimators=5))
    np.testing.assert_array_equal(np.stack(list(seen.values())), np.stack(list(fitted.staged_predict_proba(X))))


def test_stages_can_be_asked_again_in_any_order_about_anything(train):
    stages = []
    fitted = train(GradientBoostingClassifier(n_estimators=4), lambda model, step: stages.append(model))
    expected = list(fitted.staged_predict_proba(X))
    other = list(fitted.staged_predict_proba(X[:9]))
    for step in (3, 0, 2, 2, 1):
        answer = stages[step].predict_proba(X)
        np.testing.assert_array_equal(answer, expected[step])
        answer[:] = -1  # what a caller does with it is not remembered
        np.testing.assert_array_equal(stages[step].predict_proba(X[:9]), other[step])


def test_frames(train):
    frame = pd.DataFrame(X, columns=list("abc"))
    fitted, seen = watched(train, make_pipeline(StandardScaler(), HistGradientBoostingClassifier(max_iter=3)), frame)
    np.testing.assert_array_equal(seen[3], fitted.predict_proba(frame))


def test_a_pass_over_all_stages_is_one_pass(train, monkeypatch):
    passes = []
    plain = GradientBoostingClassifier.staged_predict_proba
    monkeypatch.setattr(
        GradientBoostingClassifier, "staged_predict_proba", lambda self, x: passes.append(1) or plain(self, x)
    )
    watched(train, GradientBoostingClassifier(n_estimators=20))
    assert len(passes) == 1


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_perceptron_keeps_no_trace_of_it(train):
    fitted, _ = watched(train, MLPClassifier((3,), max_iter=2))
    assert type(fitted.random_state) is int


def test_a_forest_has_no_stages(train):
    assert watched(train, RandomForestClassifier(3))[1] == {}


@pytest.mark.parametrize("stopped", [False, True])
def test_rounds_of_the_other_libraries(stopped):
    """Those that went back to their best round answer with the rounds up to it."""
    numbers, noise = (Y == "yes").astype(int), RNG.integers(0, 2, 80)
    settings = {"n_estimators": 9, "n_jobs": 1} | ({"early_stopping_rounds": 2} if stopped else {})
    watched = {"eval_set": [(X, noise)]} if stopped else {}
    for model, part in (
        (LGBMClassifier(**settings, min_child_samples=2, verbose=-1), lambda k: {"num_iteration": k}),
        (XGBClassifier(**settings), lambda k: {"iteration_range": (0, k)}),
    ):
        verbose = {"verbose": False} if type(model) is XGBClassifier else {}
        model.fit(X, numbers, **watched, **verbose)
        total = rounds(model)
        assert total < 9 if stopped else total == 9
        staged = Stages(model, model)
        np.testing.assert_array_equal(staged.at(total, X), model.predict_proba(X))
        np.testing.assert_array_equal(staged.at(1, X), model.predict_proba(X, **part(1)))
    assert rounds(type("XGBClassifier", (), {"__module__": "acme.sklearn"})()) == 0


def test_a_module_trains_as_it_always_did_watched_or_not():
    """The plain loop, written down once more: equal to the last bit."""
    x, y = torch.as_tensor(X, dtype=torch.float32), torch.as_tensor(RNG.integers(0, 3, 80))
    training = TorchTraining(epochs=3, batch_size=20, learning_rate=0.01, weight_decay=0.01, schedule="cosine")

    def module():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.4), torch.nn.Linear(8, 3))

    twin, order = module().train(), torch.Generator().manual_seed(2)
    optimizer = torch.optim.Adam(twin.parameters(), lr=0.01, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)
    states = {}
    for epoch in (1, 2, 3):
        for rows in batches(80, 20, order):
            optimizer.zero_grad()
            functional.cross_entropy(twin(x[rows]), y[rows]).backward()
            optimizer.step()
        schedule.step()
        states[epoch] = [p.detach().clone() for p in twin.parameters()]

    seen = {}
    watch = lambda model, step: seen.update({step: [p.detach().clone() for p in model.parameters()]})  # noqa: E731
    for chosen in (None, watch):
        trained = fit(module(), x, y, training, torch.Generator().manual_seed(2), watch=chosen)
        assert all(torch.equal(p, q) for p, q in zip(trained.parameters(), states[3], strict=True))
        assert not trained.training
    assert sorted(seen) == [1, 2, 3]
    assert all(torch.equal(p, q) for step in seen for p, q in zip(seen[step], states[step], strict=True))
