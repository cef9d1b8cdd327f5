"""Raw Boosters of LightGBM and XGBoost: what their files tell of how they were trained."""

import json

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost

from privacy_gate.errors import DataError
from privacy_gate.sandbox import models
from privacy_gate.sandbox.boosters import is_booster
from privacy_gate.sandbox.stages import known_class, stages_of

RNG = np.random.default_rng(0)
X = pd.DataFrame({"a": RNG.normal(size=200), "c": pd.Categorical(RNG.choice(list("xyz"), 200))})
Y = ((X.a + (X.c == "x")) > 0.3).to_numpy().astype(int)
QUIET = {"verbose": -1, "num_threads": 1}


def lightgbm_booster(labels=Y, features=X, **params):
    settings = {"objective": "binary", **QUIET, **params}
    return lightgbm.train(settings, lightgbm.Dataset(features, labels), 6)


def xgboost_booster(labels=Y, **params):
    table = xgboost.DMatrix(X, labels, enable_categorical=True)
    return xgboost.train({"objective": "binary:logistic", "nthread": 1, **params}, table, 6)


def saved(booster, tmp_path):
    """What MLflow's native flavors give back."""
    path = str(tmp_path / "model.ubj")
    booster.save_model(path)
    return (
        lightgbm.Booster(model_file=path) if isinstance(booster, lightgbm.Booster) else xgboost.Booster(model_file=path)
    )


@pytest.mark.parametrize("kind", ["booster", "classifier"])
def test_columns_in_another_order_are_told(kind, tmp_path):
    """XGBoost refuses them by itself, in an error that does not say what to do."""
    features = pd.DataFrame({"a b": RNG.normal(size=200), "c": RNG.normal(size=200), "d": RNG.normal(size=200)})
    model = saved(
        xgboost.train({"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(features, Y), 3), tmp_path
    )
    if kind == "classifier":
        model = xgboost.XGBClassifier(n_estimators=3, n_jobs=1).fit(features, Y)
    assert len(models.query(model, features).values) == 200
    with pytest.raises(DataError, match="'c' is its column 2, and 'd' stands there") as error:
        models.query(model, features[["a b", "d", "c"]])
    assert error.value.hint.endswith("data.schema or data.features: a b, c, d")
    with pytest.raises(DataError, match="the model takes the columns a b, c, d; here are a b, c, e") as error:
        models.query(model, features.rename(columns={"d": "e"}))
    assert "as the model does" in error.value.hint
    nameless = xgboost.train({"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(features.to_numpy(), Y), 3)
    assert len(models.query(nameless, features).values) == 200  # places are all that it has


@pytest.mark.parametrize("kind", ["booster", "classifier"])
def test_columns_in_another_order_are_refused(kind):
    """LightGBM takes columns by place and would answer at random."""
    features = pd.DataFrame({"a b": RNG.normal(size=200), "c": RNG.normal(size=200), "d": RNG.normal(size=200)})
    model = lightgbm_booster(features=features, min_data_in_leaf=2)
    if kind == "classifier":
        model = lightgbm.LGBMClassifier(n_estimators=3, n_jobs=1, verbose=-1).fit(features, Y)
    assert len(models.query(model, features).values) == 200
    with pytest.raises(DataError, match="'c' is its column 2, and 'd' stands there") as error:
        models.query(model, features[["a b", "d", "c"]])
    assert "data.schema" in error.value.hint
    renamed = features.set_axis(["x", "y", "z"], axis=1)  # names of which the model knows nothing
    assert len(models.query(model, renamed).values) == 200


def test_two_libraries_have_a_booster():
    assert known_class("lightgbm.basic.Booster") == "lightgbm.Booster"
    assert known_class("xgboost.core.Booster") == "xgboost.Booster"
    assert known_class("acme.Booster") == "acme.Booster"
    assert not is_booster(lightgbm.LGBMClassifier())


def test_a_lightgbm_file_tells_all_its_parameters(tmp_path):
    booster = lightgbm_booster(num_leaves=5, eta=0.3, bagging_fraction=0.7, bagging_freq=1, seed=4)
    told = models.recipe(saved(booster, tmp_path))
    assert told == models.recipe(booster)  # in memory as from its file
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["fitted"] == {"num_iterations": 6}
    assert told["fit"] == {"categorical_feature": [1]}
    chosen = {"objective": "binary", "num_leaves": 5, "learning_rate": 0.3, "bagging_fraction": 0.7, "bagging_freq": 1}
    assert {key: told["params"][key] for key in chosen} == chosen
    assert not {"seed", "bagging_seed", "num_threads", "verbosity"} & set(told["params"])
    assert told == models.recipe(lightgbm_booster(num_leaves=5, eta=0.3, bagging_fraction=0.7, bagging_freq=1, seed=9))


def test_an_xgboost_file_has_lost_its_settings(tmp_path):
    booster = xgboost_booster(max_depth=3, eta=0.2, scale_pos_weight=2, eval_metric="auc")
    whole = models.recipe(booster)
    assert float(whole["params"]["eta"]) == pytest.approx(0.2)
    assert (whole["params"]["max_depth"], whole["params"]["eval_metric"]) == ("3", ["auc"])
    told = models.recipe(saved(booster, tmp_path), unsaved=True)
    assert told["unsaved"] is True
    assert "max_depth" not in told["params"]  # its own word would be 6, the default
    assert told["params"]["scale_pos_weight"] == "2"
    assert told["fitted"] == whole["fitted"] == {"num_boost_round": 6}
    assert told["fit"] == {"feature_names": ["a", "c"], "feature_types": ["float", "c"]}


def test_an_estimated_intercept_is_no_setting():
    assert "base_score" not in models.recipe(xgboost_booster())["params"]
    assert models.recipe(xgboost_booster(base_score=0.4))["params"]["base_score"] == "[4E-1]"


def test_one_that_was_stopped_answers_with_its_best_rounds(tmp_path):
    noise = lightgbm.Dataset(X, RNG.permutation(Y))
    stop = lightgbm.early_stopping(2, verbose=False)
    table = lightgbm.Dataset(X, Y)
    booster = lightgbm.train({"objective": "binary", **QUIET}, table, 50, valid_sets=[noise], callbacks=[stop])
    rounds = models.recipe(booster)["fitted"]["num_iterations"]
    assert rounds == booster.best_iteration < booster.current_iteration() + 1
    assert models.recipe(saved(booster, tmp_path))["fitted"] == {"num_iterations": rounds}
    assert models.recipe(booster)["params"]["num_iterations"] == 50


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: lightgbm_booster(objective="regression"), "'regression'"),
        (lambda: lightgbm_booster(objective=lambda p, d: (p - d.get_label(), np.ones_like(p))), "'custom'"),
        (lambda: xgboost_booster(objective="reg:squarederror"), "'reg:squarederror'"),
    ],
    ids=["regression", "own objective", "XGBoost"],
)
def test_an_objective_that_cannot_be_had_is_refused(make, said, tmp_path):
    told = models.recipe(saved(make(), tmp_path))
    assert said in told["refused"][0]
    assert "shadows.recipe.python" in told["refused"][1]


def test_a_custom_objective_of_xgboost_leaves_another_name():
    table = xgboost.DMatrix(X, Y, enable_categorical=True)
    booster = xgboost.train({}, table, 2, obj=lambda p, d: (p - d.get_label(), np.ones_like(p)))
    assert "refused" in models.recipe(booster)


def test_splits_from_a_file_are_refused(tmp_path):
    path = tmp_path / "splits.json"
    path.write_text('{"feature": 0, "threshold": 0.5}')
    told = models.recipe(lightgbm_booster(forcedsplits_filename=str(path)))
    assert "forcedsplits_filename" in told["refused"][0]


def test_stages_of_boosters():
    table = xgboost.DMatrix(X, enable_categorical=True)
    for booster, whole in (
        (lightgbm_booster(), lambda b: b.predict(X)),
        (xgboost_booster(), lambda b: b.predict(table)),
    ):
        found = stages_of(booster)
        assert found.rounds == 6
        np.testing.assert_array_equal(found.at(6, X), whole(booster))
        assert np.abs(found.at(1, X) - whole(booster)).max() > 0.01
