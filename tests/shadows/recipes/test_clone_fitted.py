"""A clone trains what was fitted: on the target's own records, and without dice, it is the target again."""

import json
import warnings

import lightgbm
import mlflow
import numpy as np
import pandas as pd
import pytest
import xgboost
from lightgbm import LGBMClassifier
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from xgboost import XGBClassifier

from privacy_gate import features as tables
from privacy_gate.errors import UsageError
from privacy_gate.request import Fit, Recipe
from privacy_gate.sandbox import models
from privacy_gate.shadows.recipes import CATALOG, Context
from privacy_gate.shadows.recipes.clone import innermost, unseen

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

RNG = np.random.default_rng(0)
LOAD = models.load
N = 300
X = pd.DataFrame(
    {
        "age": RNG.normal(size=2 * N),
        "town": pd.Categorical(RNG.choice(list("xyz"), 2 * N)),
        "pay": RNG.normal(size=2 * N),
    }
)
Y = ((X.age + (X.town == "x") + RNG.normal(size=2 * N)) > 0.3).to_numpy().astype(int)
OWN, SEEN = np.arange(N), np.arange(N, 2 * N)
WATCHED = tables.take(X, SEEN), Y[SEEN]
CEILING = 400
ONE_WAY = {"deterministic": True, "force_row_wise": True, "num_threads": 1, "verbose": -1}


def cloned(model, flavor, fit=None, *, rows=OWN, seed=1, labels=Y, classes=(0, 1), **changes):
    """What the gate does: the identity from the description alone, then a fit in a worker."""
    description = models.describe(model, flavor)
    settings = Recipe(clone=True, fit=fit)
    context = Context(settings, changes.pop("folder"), changes.pop("snapshot"), flavor, classes, **changes)
    json.dumps(CATALOG["clone"].identity(context, description))
    return CATALOG["clone"].train(tables.take(X, rows), labels[rows], seed, context)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """Of a model that went through its own flavor's files, as a candidate does."""

    def make(model, flavor, *args, **kwargs):
        if flavor == "sklearn":
            found = model
        else:
            path = tmp_path / f"{flavor}{len(list(tmp_path.iterdir()))}"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                own = mlflow.lightgbm if flavor == "pyfunc" else getattr(mlflow, flavor)
                own.save_model(model, str(path), pip_requirements=[])
            found = LOAD(path, flavor)
        monkeypatch.setattr(models, "load", lambda folder, flavor: found)
        return found, cloned(found, flavor, *args, **{"folder": tmp_path, "snapshot": tmp_path} | kwargs)

    return make


def answers(model, rows=X):
    return models.query(model, rows).values


def lgbm(**changes):
    settings = {"n_estimators": CEILING, "early_stopping_round": 3, "verbose": -1, "n_jobs": 1, **changes}
    model = LGBMClassifier(**settings, deterministic=True, force_row_wise=True)
    return model.fit(X.iloc[OWN], Y[OWN], eval_X=WATCHED[0], eval_y=WATCHED[1])


def lgb(**changes):
    stop = lightgbm.early_stopping(3, verbose=False)
    tabled = lightgbm.Dataset(X.iloc[OWN], Y[OWN])
    seen = lightgbm.Dataset(*WATCHED, reference=tabled)
    settings = {"objective": "binary", "num_leaves": 9, "eta": 0.2, **ONE_WAY, **changes}
    return lightgbm.train(settings, tabled, CEILING, valid_sets=[seen], callbacks=[stop])


def xgb_classifier():
    settings = {"max_depth": 3, "learning_rate": 0.2, "enable_categorical": True, "n_jobs": 1}
    model = XGBClassifier(n_estimators=CEILING, early_stopping_rounds=3, **settings)
    return model.fit(X.iloc[OWN], Y[OWN], eval_set=[WATCHED], verbose=False)


def xgb():
    seen = xgboost.DMatrix(*WATCHED, enable_categorical=True)
    table = xgboost.DMatrix(X.iloc[OWN], Y[OWN], enable_categorical=True)
    settings = {"objective": "binary:logistic", "max_depth": 3, "eta": 0.2, "nthread": 1}
    return xgboost.train(settings, table, CEILING, evals=[(seen, "v")], early_stopping_rounds=3, verbose_eval=False)


TOLD = {"params": {"max_depth": 3, "learning_rate": 0.2}}


# --- the target again -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "flavor", "fit"),
    [
        (lgbm, "lightgbm", None),
        (lgb, "lightgbm", None),
        (xgb_classifier, "xgboost", Fit(keywords=TOLD)),
        (xgb, "xgboost", Fit(keywords=TOLD)),
        (xgb_classifier, "sklearn", None),  # a pickle keeps what XGBoost's own format loses
        (lgb, "pyfunc", None),
        (lgbm, "pyfunc", None),
    ],
    ids=[
        "LGBMClassifier",
        "LightGBM",
        "XGBClassifier",
        "XGBoost",
        "pickled",
        "pyfunc LightGBM",
        "pyfunc LGBMClassifier",
    ],
)
def test_the_fitted_rounds_not_the_ceiling(make, flavor, fit, clone):
    found, shadow = clone(make(), flavor, fit)
    told = models.recipe(found)["fitted"]
    rounds = next(value for key, value in told.items() if key in ("n_estimators", "num_iterations", "num_boost_round"))
    assert 1 < rounds < CEILING / 4
    # Nothing is drawn: trained on the target's records, it is the target, to the bit.
    np.testing.assert_array_equal(answers(shadow), answers(found))
    assert type(shadow) is type(found)


def test_the_ceiling_would_be_another_model(clone):
    model = lgbm()
    ceiling = LGBMClassifier(n_estimators=CEILING, verbose=-1, n_jobs=1, deterministic=True, force_row_wise=True)
    ceiling.fit(X.iloc[OWN], Y[OWN])
    _, shadow = clone(model, "lightgbm")
    accuracy = [np.mean(one.predict(X.iloc[OWN]) == Y[OWN]) for one in (model, shadow, ceiling)]
    assert accuracy[0] == accuracy[1] < accuracy[2] - 0.05


def test_three_classes_of_boosters(clone):
    labels = np.digitize(X.age, [-0.5, 0.5])
    table = lightgbm.Dataset(X.iloc[OWN], labels[OWN])
    model = lightgbm.train({"objective": "multiclass", "num_class": 3, **ONE_WAY}, table, 5)
    found, shadow = clone(model, "lightgbm", labels=labels, classes=(0, 1, 2))
    assert shadow.num_trees() == 15
    np.testing.assert_array_equal(answers(shadow), answers(found))
    table = xgboost.DMatrix(X.iloc[OWN], labels[OWN], enable_categorical=True)
    model = xgboost.train({"objective": "multi:softprob", "num_class": 3, "nthread": 1}, table, 5)
    found, shadow = clone(model, "xgboost", Fit(keywords={"params": {}}), labels=labels, classes=(0, 1, 2))
    np.testing.assert_array_equal(answers(shadow), answers(found))


def test_boosters_know_class_indices_only(clone):
    """The data has names, in the order of the columns; here the second one comes first in the alphabet."""
    names = np.array(["yes", "no"])
    found, shadow = clone(lgb(), "lightgbm", labels=names[Y], classes=("yes", "no"))
    np.testing.assert_array_equal(answers(shadow), answers(found))


def test_classes_of_xgboost_need_no_numbers_and_may_have_gaps(clone):
    labels = np.array(["c", "a", "b"])[np.digitize(X.age, [-0.5, 0.5])]
    numbers = np.digitize(X.age, [-0.5, 0.5])
    model = XGBClassifier(n_estimators=3, n_jobs=1, enable_categorical=True).fit(X, numbers)
    _, shadow = clone(model, "sklearn", labels=labels, classes=("c", "a", "b"))
    assert shadow.classes_.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(shadow.predict(X.iloc[OWN]), shadow.classes_[answers(shadow)[OWN].argmax(axis=1)])
    without = np.flatnonzero(numbers[OWN] != 1)
    _, shadow = clone(model, "sklearn", labels=numbers, classes=(0, 1, 2), rows=without)
    assert shadow.classes_.tolist() == [0, 2]
    assert answers(shadow).shape == (2 * N, 2)
    steps = []
    clone(
        model, "sklearn", labels=numbers, classes=(0, 1, 2), rows=without, watch=lambda m, k: steps.append(m.classes_)
    )
    assert [step.tolist() for step in steps] == [[0, 2]] * 3


def test_a_pipeline_over_named_columns(clone):
    model = make_pipeline(
        ColumnTransformer([("town", OneHotEncoder(handle_unknown="ignore"), ["town"])], remainder="passthrough"),
        GradientBoostingClassifier(n_estimators=CEILING, n_iter_no_change=2, random_state=0),
    ).fit(X.iloc[OWN], Y[OWN])
    _, shadow = clone(model, "sklearn")
    assert shadow[-1].n_estimators_ == model[-1].n_estimators_ < CEILING / 4
    assert shadow.feature_names_in_.tolist() == ["age", "town", "pay"]


def test_the_best_estimator_of_a_search(clone):
    numbers = ColumnTransformer([("numbers", "passthrough", ["age", "pay"])])
    boosted = GradientBoostingClassifier(n_estimators=CEILING, n_iter_no_change=2, random_state=0)
    grid = {"gradientboostingclassifier__max_depth": [1, 3]}
    search = GridSearchCV(make_pipeline(numbers, boosted), grid, cv=2).fit(X.iloc[OWN], Y[OWN])
    best = search.best_estimator_[-1]
    _, shadow = clone(search, "sklearn")
    assert (shadow[-1].max_depth, shadow[-1].n_estimators_) == (best.max_depth, best.n_estimators_)


def test_categorical_columns_that_only_fit_was_told_of(clone, monkeypatch):
    coded = np.column_stack([X.age, RNG.integers(0, 8, 2 * N)])
    labels = np.isin(coded[:, 1], (1, 4, 6)).astype(int) ^ (RNG.random(2 * N) < 0.1)
    settings = {"n_estimators": 5, "verbose": -1, "n_jobs": 1, "deterministic": True, "force_row_wise": True}
    model = LGBMClassifier(**settings).fit(coded, labels, categorical_feature=[1])
    monkeypatch.setitem(globals(), "X", coded)
    _, shadow = clone(model, "sklearn", labels=labels, rows=np.arange(2 * N))
    np.testing.assert_array_equal(shadow.predict_proba(coded), model.predict_proba(coded))
    ordered = LGBMClassifier(**settings).fit(coded, labels)
    assert np.abs(ordered.predict_proba(coded) - model.predict_proba(coded)).max() > 0.01


# --- dice, threads ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lgbm, lgb], ids=["LGBMClassifier", "LightGBM"])
def test_every_seed_is_the_shadows_and_threads_change_nothing(make, clone):
    drawn = {"bagging_fraction": 0.5, "bagging_freq": 1, "feature_fraction": 0.5, "bagging_seed": 7}
    ones = [clone(make(**drawn, feature_fraction_seed=8), "lightgbm", seed=seed)[1] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(answers(ones[0]), answers(ones[1]))
    assert np.abs(answers(ones[0]) - answers(ones[2])).max() > 0.01
    again = clone(make(**drawn, feature_fraction_seed=8, n_jobs=2, num_threads=2), "lightgbm", seed=1)[1]
    np.testing.assert_array_equal(answers(ones[0]), answers(again))


# --- what shadows do not tell -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "fit", "held"),
    [
        (HistGradientBoostingClassifier(max_iter=5, early_stopping=True, validation_fraction=0.2), None, "20%"),
        (HistGradientBoostingClassifier(max_iter=5, early_stopping=False), None, ""),
        (HistGradientBoostingClassifier(max_iter=5), None, ""),  # "auto": too few records here
        (GradientBoostingClassifier(n_estimators=5, n_iter_no_change=2), None, "10%"),
        (GradientBoostingClassifier(n_estimators=5), None, ""),
        (MLPClassifier(max_iter=3, early_stopping=True, validation_fraction=0.3), None, "30%"),
        (LGBMClassifier(n_estimators=5, verbose=-1), Fit(eval_set=0.25), "25%"),
        (LGBMClassifier(n_estimators=5, verbose=-1), Fit(eval_set="seen"), ""),
    ],
)
def test_records_that_training_held_back_are_told(model, fit, held):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # three epochs do not converge
        described = models.recipe(make_pipeline("passthrough", model).fit(X[["age", "pay"]], Y))
    said = unseen(described, Recipe(clone=True, fit=fit))
    assert len(said) == bool(held)
    assert all(f"held back {held} of its records" in text for text in said)


def test_a_search_on_the_members_is_told():
    search = GridSearchCV(GradientBoostingClassifier(n_estimators=3), {"max_depth": [1, 2]}, cv=2)
    described = models.recipe(search.fit(X[["age", "pay"]], Y))
    assert [text.split(".")[0] for text in unseen(described, Recipe())] == [
        "The model's settings were chosen by a search on its own members"
    ]


# --- what cannot be cloned --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [xgb_classifier, xgb], ids=["XGBClassifier", "XGBoost"])
def test_settings_that_the_file_lost_must_be_told(make, clone):
    with pytest.raises(UsageError, match="keeps the trees, not the settings") as caught:
        clone(make(), "xgboost")
    assert "shadows.recipe.fit.keywords.params" in caught.value.hint
    assert caught.value.exit_code == 2
    # Other settings are other shadows.
    (_, one), (_, other) = (clone(make(), "xgboost", Fit(keywords={"params": {"max_depth": d}})) for d in (1, 3))
    assert np.abs(answers(one) - answers(other)).max() > 0.01


def test_what_is_refused_says_so_before_training(clone):
    table = lightgbm.Dataset(X.iloc[OWN], Y[OWN])
    with pytest.raises(UsageError, match="no classifier's"):
        clone(lightgbm.train({"objective": "regression", **ONE_WAY}, table, 2), "lightgbm")


# --- defences and the model on its way --------------------------------------------------------------------------------


def test_defences_start_from_what_was_fitted(clone):
    found, shadow = clone(lgb(), "lightgbm", defences={"tree_limits": {"rounds": 2, "min_samples_leaf": 60}})
    assert shadow.num_trees() == 2
    assert shadow.trees_to_dataframe().query("left_child.isna()")["count"].min() >= 60
    _, shadow = clone(lgbm(min_data_in_leaf=3), "lightgbm", defences={"tree_limits": {"min_samples_leaf": 60}})
    assert shadow.booster_.trees_to_dataframe().query("left_child.isna()")["count"].min() >= 60
    name, params = innermost(models.recipe(found))
    assert (name, params["num_iterations"]) == ("lightgbm.Booster", found.num_trees())
    with pytest.raises(UsageError, match="more than LGBMClassifier's n_estimators"):
        clone(lgbm(), "lightgbm", defences={"early_stopping": {"epochs": CEILING - 1}})


@pytest.mark.parametrize(
    ("make", "flavor", "fit"),
    [(lgbm, "lightgbm", None), (lgb, "lightgbm", None), (xgb, "xgboost", Fit(keywords=TOLD))],
    ids=["LGBMClassifier", "LightGBM", "XGBoost"],
)
def test_stages(make, flavor, fit, clone):
    seen = {}
    found, shadow = clone(make(), flavor, fit, watch=lambda model, step: seen.update({step: answers(model)}))
    assert sorted(seen) == list(range(1, len(seen) + 1))
    np.testing.assert_array_equal(seen[len(seen)], answers(shadow))
    np.testing.assert_array_equal(answers(shadow), answers(found))
    assert np.abs(seen[1] - answers(shadow)).max() > 0.01
