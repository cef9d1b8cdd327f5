"""What a fitted estimator would be trained as: the fitted rounds in place of the ceiling, and what was held back."""

import json

import numpy as np
import pytest
from lightgbm import LGBMClassifier, early_stopping
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_selection import SelectFromModel
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Perceptron, SGDClassifier
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from xgboost import XGBClassifier
from xgboost.callback import EarlyStopping

from privacy_gate.errors import UnsupportedModel
from privacy_gate.sandbox import models
from privacy_gate.sandbox.fitted import as_fitted

RNG = np.random.default_rng(0)
X = RNG.normal(size=(240, 4))
Y = ((X[:, 0] + 0.8 * RNG.normal(size=240)) > 0).astype(int)  # noise: early stopping has something to stop
SEEN = RNG.normal(size=(120, 4)), RNG.integers(0, 2, 120)
STOPPED = {"early_stopping": True, "n_iter_no_change": 2, "random_state": 0}


def changed(model):
    return as_fitted(model)[1]


# --- one estimator ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ways", [{"early_stopping_round": 3}, {"early_stopping_rounds": 3, "num_boost_round": 300}])
def test_lightgbm_takes_its_best_round_under_all_its_names(ways):
    model = LGBMClassifier(n_estimators=300, verbose=-1, n_jobs=1, **ways).fit(X, Y, eval_set=[SEEN])
    assert 0 < model.best_iteration_ < 100
    unfitted, changes = as_fitted(model)
    assert changes.pop("n_estimators") == changes.pop("num_boost_round", model.best_iteration_) == model.best_iteration_
    assert changes == {name: None for name in ways if "stopping" in name}
    again = unfitted.set_params(**as_fitted(model)[1]).fit(X, Y)  # without an eval set, which the settings ask for
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


def test_a_callback_stops_as_a_setting_does():
    stop = early_stopping(3, verbose=False)
    model = LGBMClassifier(n_estimators=300, verbose=-1, n_jobs=1).fit(X, Y, eval_set=[SEEN], callbacks=[stop])
    assert changed(model) == {"n_estimators": model.best_iteration_}
    assert model.best_iteration_ < 100


@pytest.mark.parametrize("by_callback", [False, True])
def test_xgboost_takes_the_rounds_up_to_its_best(by_callback):
    way = {"callbacks": [EarlyStopping(3)]} if by_callback else {"early_stopping_rounds": 3}
    model = XGBClassifier(n_estimators=300, n_jobs=1, **way).fit(X, Y, eval_set=[SEEN], verbose=False)
    unfitted, changes = as_fitted(model)
    assert changes["n_estimators"] == model.best_iteration + 1 < 100
    assert changes["early_stopping_rounds"] is None
    assert changes.get("callbacks", "kept") == (None if by_callback else "kept")
    again = unfitted.set_params(**changes).fit(X, Y)
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


def test_histograms_hold_back_the_same_share_and_never_stop():
    model = HistGradientBoostingClassifier(max_iter=300, validation_fraction=0.25, min_samples_leaf=5, **STOPPED)
    model.fit(X, Y)
    assert model.n_iter_ < 100
    unfitted, changes = as_fitted(model)
    assert changes == {"max_iter": model.n_iter_, "early_stopping": True, "n_iter_no_change": model.n_iter_ + 1}
    other = unfitted.set_params(**changes).fit(X, RNG.permutation(Y))  # nothing to learn: it would stop at once
    assert other.n_iter_ == model.n_iter_
    rows = [m._predictors[0][0].nodes["count"][0] for m in (model, other)]
    assert rows == [180, 180]


@pytest.mark.parametrize(
    ("stopping", "share", "expected"), [("auto", 0.1, False), (False, 0.1, False), (True, None, False)]
)
def test_histograms_that_held_nothing_back(stopping, share, expected):
    """`auto` would turn on for more records than the target had."""
    model = HistGradientBoostingClassifier(max_iter=4, early_stopping=stopping, validation_fraction=share).fit(X, Y)
    assert changed(model) == {"max_iter": 4, "early_stopping": expected}


def test_gradient_boosting():
    settings = {"n_estimators": 300, "validation_fraction": 0.3, "n_iter_no_change": 3, "random_state": 0}
    model = GradientBoostingClassifier(**settings).fit(X, Y)
    unfitted, changes = as_fitted(model)
    assert changes == {"n_estimators": model.n_estimators_, "n_iter_no_change": model.n_estimators_ + 1}
    assert model.n_estimators_ < 100
    other = unfitted.set_params(**changes).fit(X, RNG.permutation(Y))
    assert other.n_estimators_ == model.n_estimators_
    assert other.estimators_[0, 0].tree_.n_node_samples[0] == 168
    assert changed(GradientBoostingClassifier(n_estimators=5).fit(X, Y)) == {}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "model",
    [
        MLPClassifier((5,), max_iter=200, learning_rate_init=0.05, **STOPPED),
        MLPClassifier((5,), max_iter=200, tol=0.05, n_iter_no_change=2, random_state=0),
        SGDClassifier(max_iter=500, **STOPPED),
        Perceptron(max_iter=500, **STOPPED),
    ],
    ids=["perceptron", "perceptron by its training loss", "sgd", "linear perceptron"],
)
def test_epochs(model):
    model.fit(X, Y)
    assert model.n_iter_ < 100
    unfitted, changes = as_fitted(model)
    assert changes == {"max_iter": model.n_iter_, "n_iter_no_change": model.n_iter_ + 1}
    other = unfitted.set_params(**changes).fit(X, RNG.permutation(Y))
    assert other.n_iter_ == model.n_iter_
    assert other.early_stopping == model.early_stopping


def test_an_adaptive_rate_counts_rounds_without_improvement():
    model = SGDClassifier(learning_rate="adaptive", eta0=0.1, max_iter=500, **STOPPED).fit(X, Y)
    assert set(changed(model)) == {"max_iter"}


def test_what_converges_is_left_alone():
    for model in (
        LogisticRegression(max_iter=500),
        MLPClassifier((3,), solver="lbfgs", max_iter=500),
        SGDClassifier(max_iter=500),
        RandomForestClassifier(3),
        AdaBoostClassifier(n_estimators=3),
    ):
        assert changed(model.fit(X, Y)) == {}
        assert "fitted" not in models.recipe(model)


def test_an_unfitted_estimator_has_only_its_settings():
    for model in (
        LGBMClassifier(),
        XGBClassifier(),
        HistGradientBoostingClassifier(),
        MLPClassifier(early_stopping=True),
    ):
        assert changed(model) == {}


# --- inside something -------------------------------------------------------------------------------------------------


def stopped(seed=0):
    return HistGradientBoostingClassifier(max_iter=50, min_samples_leaf=5, **STOPPED | {"random_state": seed})


def upper_median(models):
    counts = sorted(one.n_iter_ for one in models)
    return counts[len(counts) // 2]


@pytest.mark.parametrize(
    ("outer", "path", "inside"),
    [
        (make_pipeline(StandardScaler(), stopped()), "histgradientboostingclassifier", lambda m: [m[-1]]),
        (BaggingClassifier(stopped(), 4, random_state=0), "estimator", lambda m: m.estimators_),
        (
            CalibratedClassifierCV(make_pipeline(StandardScaler(), stopped()), cv=3),
            "estimator__histgradientboostingclassifier",
            lambda m: [c.estimator[-1] for c in m.calibrated_classifiers_],
        ),
        (VotingClassifier([("a", LogisticRegression()), ("b", stopped())]), "b", lambda m: m.estimators_[1:]),
        (VotingClassifier([("a", "drop"), ("b", stopped())]), "b", lambda m: m.estimators_),
        (StackingClassifier([("b", stopped())], cv=2), "b", lambda m: m.estimators_),
        (
            StackingClassifier([("a", LogisticRegression())], stopped(), cv=2),
            "final_estimator",
            lambda m: [m.final_estimator_],
        ),
        (
            make_pipeline(SelectFromModel(stopped(), importance_getter=lambda m: np.arange(4)), LogisticRegression()),
            "selectfrommodel__estimator",
            lambda m: [m[0].estimator_],
        ),
    ],
    ids=["pipeline", "bag", "calibrated pipeline", "vote", "vote without one", "stack", "on top", "selection"],
)
def test_the_median_of_those_inside(outer, path, inside):
    outer.fit(X, Y)
    changes = changed(outer)
    assert changes[f"{path}__max_iter"] == upper_median(inside(outer)) < 50
    assert all(name.startswith(path) for name in changes)
    unfitted, changes = as_fitted(outer)
    unfitted.set_params(**changes)  # names that it has


def test_one_against_the_rest():
    labels = np.digitize(X[:, 0], [-0.5, 0.5])
    model = OneVsRestClassifier(stopped()).fit(X, labels)
    assert changed(model)["estimator__max_iter"] == upper_median(model.estimators_)


@pytest.mark.parametrize("kind", [GridSearchCV, RandomizedSearchCV])
def test_a_search_is_its_best_estimator(kind):
    grid = {"max_leaf_nodes": [3, 4]}
    search = (kind(stopped(), grid, cv=2) if kind is GridSearchCV else kind(stopped(), grid, n_iter=2, cv=2)).fit(X, Y)
    unfitted, changes = as_fitted(search)
    assert type(unfitted) is HistGradientBoostingClassifier
    assert unfitted.max_leaf_nodes == search.best_params_["max_leaf_nodes"]
    assert changes["max_iter"] == search.best_estimator_.n_iter_
    assert models.recipe(search) == models.recipe(search.best_estimator_) | {"searched": True}
    piped = make_pipeline(StandardScaler(), search).fit(X, Y)
    assert type(as_fitted(piped)[0][-1]) is HistGradientBoostingClassifier


def test_searches_that_may_disagree_search_again():
    bag = BaggingClassifier(GridSearchCV(DecisionTreeClassifier(), {"max_depth": [1, 2]}, cv=2), 2).fit(X, Y)
    unfitted, changes = as_fitted(bag)
    assert type(unfitted.estimator) is GridSearchCV
    assert changes == {}
    assert "searched" not in models.recipe(bag)


def test_a_search_that_kept_nothing_is_refused():
    search = GridSearchCV(DecisionTreeClassifier(), {"max_depth": [1]}, cv=2, refit=False).fit(X, Y)
    with pytest.raises(UnsupportedModel, match="kept no model") as caught:
        models.describe(search, "sklearn")
    assert "refit=True" in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "model",
    [
        CalibratedClassifierCV(FrozenEstimator(DecisionTreeClassifier().fit(X, Y))),
        StackingClassifier([("a", DecisionTreeClassifier().fit(X, Y))], cv="prefit"),
        make_pipeline(SelectFromModel(DecisionTreeClassifier().fit(X, Y), prefit=True), DecisionTreeClassifier()),
    ],
    ids=["frozen", "stack", "selection"],
)
def test_a_part_that_was_fitted_before_is_refused(model):
    """A copy of it would have seen all members, in every shadow."""
    told = models.recipe(model.fit(X, Y))
    assert "fitted before" in told["refused"][0]
    assert "shadows.recipe.python" in told["refused"][1]


def test_an_estimator_that_breaks_the_rules_can_still_be_described():
    class Own(DecisionTreeClassifier):
        def __init__(self, max_depth=None):
            super().__init__(max_depth=(max_depth or 0) + 1)

    told = models.describe(Own().fit(X, Y), "sklearn").recipe
    assert told["class"].endswith("Own")
    assert "cannot be copied unfitted: RuntimeError" in told["refused"][0]


# --- what is told -----------------------------------------------------------------------------------------------------


def test_the_recipe_tells_settings_and_what_was_fitted():
    model = make_pipeline(StandardScaler(), stopped()).fit(X, Y)
    told = models.recipe(model)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    inner = dict(told["params"]["steps"])["histgradientboostingclassifier"]
    assert inner["params"]["max_iter"] == 50
    assert told["fitted"]["histgradientboostingclassifier__max_iter"] == model[-1].n_iter_
    longer = make_pipeline(StandardScaler(), stopped(seed=0).set_params(n_iter_no_change=20)).fit(X, Y)
    assert models.recipe(longer)["fitted"] != told["fitted"]


def test_seeds_threads_and_words_are_left_out_under_every_name():
    names = ("seed", "bagging_seed", "data_random_seed", "feature_fraction_seed", "num_threads", "verbosity")
    plain = LGBMClassifier(n_estimators=2)
    assert models.recipe(LGBMClassifier(n_estimators=2, **dict.fromkeys(names, 1))) == models.recipe(plain)
    assert models.recipe(LGBMClassifier(n_estimators=2, min_data=3)) != models.recipe(plain)


def test_categorical_columns_that_fit_was_told_are_remembered():
    coded = np.column_stack([X[:, 0], RNG.integers(0, 6, (240, 2))])
    model = LGBMClassifier(n_estimators=3, verbose=-1, n_jobs=1).fit(coded, Y, categorical_feature=[1, 2])
    assert models.recipe(model)["fit"] == {"categorical_feature": [1, 2]}
    assert "fit" not in models.recipe(LGBMClassifier(n_estimators=3, verbose=-1, n_jobs=1).fit(coded, Y))


def test_versions_of_all_libraries_inside():
    import lightgbm
    import sklearn
    import xgboost

    model = make_pipeline(StandardScaler(), LGBMClassifier(n_estimators=1, verbose=-1, n_jobs=1)).fit(X, Y)
    told = models.describe(model, "sklearn").versions
    assert (told["scikit-learn"], told["lightgbm"]) == (sklearn.__version__, lightgbm.__version__)
    assert "xgboost" not in told
    assert (
        models.describe(XGBClassifier(n_estimators=1).fit(X, Y), "xgboost").versions["xgboost"] == xgboost.__version__
    )
