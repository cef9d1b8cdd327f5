import json
from pathlib import Path

import numpy as np
import pytest
from lightgbm import LGBMClassifier
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier

from privacy_gate.datamodel import Description
from privacy_gate.errors import UsageError
from privacy_gate.request import Recipe
from privacy_gate.sandbox import models
from privacy_gate.shadows.recipes import CATALOG, Context
from privacy_gate.shadows.recipes.clone import seeded

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(60, 3)), np.array(["b", "a", "c"])[rng.integers(0, 3, 60)]


def context(**changes):
    values = {"settings": Recipe(), "folder": Path(), "snapshot": Path(), "flavor": "sklearn", **changes}
    return Context(class_values=("a", "b", "c"), **values)


def test_every_nested_seed_is_set_and_all_differ():
    nested = BaggingClassifier(make_pipeline(StandardScaler(), SGDClassifier(n_jobs=2)), n_jobs=-1)
    one, same, other = (seeded(nested, seed).get_params() for seed in (1, 1, 2))
    assert one["n_jobs"] == one["estimator__sgdclassifier__n_jobs"] == 1
    states = {name: one[name] for name in one if name.endswith("random_state")}
    assert set(states) == {"random_state", "estimator__sgdclassifier__random_state"}
    assert len(set(states.values())) == 2
    assert all(0 <= state < 2**31 for state in states.values())
    assert states == {name: same[name] for name in states}
    assert all(other[name] != state for name, state in states.items())


def test_every_name_of_a_seed_and_of_a_thread():
    model = make_pipeline(StandardScaler(), LGBMClassifier(bagging_seed=3, seed=4, num_threads=8, device="gpu"))
    params = seeded(model, 1)[-1].get_params()
    seeds = [params[name] for name in ("random_state", "bagging_seed", "seed")]
    assert len(set(seeds)) == 3
    assert not {3, 4, None} & set(seeds)
    assert (params["n_jobs"], params["num_threads"], params["device"]) == (1, 1, "cpu")
    assert params["deterministic"] is params["force_row_wise"] is True
    assert seeded(LGBMClassifier(force_col_wise=True), 1).get_params()["force_col_wise"] is False
    assert seeded(XGBClassifier(device="cuda", n_jobs=4), 1).get_params()["device"] == "cpu"


@pytest.mark.parametrize("estimator", [RandomForestClassifier(7, max_depth=3, n_jobs=2, warm_start=True)])
def test_the_clone_is_fitted_anew_to_the_shadows_records(monkeypatch, estimator):
    candidate = estimator.fit(X, Y)
    # What the recipe does with the registry's files is tested with real ones in test_train.
    monkeypatch.setattr(models, "load", lambda folder, flavor: candidate)
    one, same, other = (CATALOG["clone"].train(X[:30], Y[:30], seed, context()) for seed in (1, 1, 2))
    assert one is not candidate
    assert (one.n_estimators, one.max_depth, len(one.estimators_)) == (7, 3, 7)
    assert one.classes_.tolist() == ["a", "b", "c"]
    assert (one.predict_proba(X) == same.predict_proba(X)).all()
    assert (one.predict_proba(X) != other.predict_proba(X)).any()


def test_the_identity_is_the_description_and_the_bundled_code(tmp_path):
    description = Description("sklearn", "classifier", None, {"class": "own.Net"}, {"lightgbm": "4"})
    identity = CATALOG["clone"].identity
    bare = identity(context(snapshot=tmp_path), description)
    assert bare == {"estimator": {"class": "own.Net"}, "code": {}, "versions": {"lightgbm": "4"}}
    json.dumps(bare)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own.py").write_text("class Net: pass")
    with_code = identity(context(snapshot=tmp_path), description)
    assert set(with_code["code"]) == {"own.py"}


def test_an_exported_graph_cannot_be_cloned():
    with pytest.raises(UsageError) as caught:
        CATALOG["clone"].identity(context(flavor="pytorch"), Description("pytorch", "module", None, None))
    assert "cannot be re-initialised" in caught.value.what
    assert "shadows.recipe.python" in caught.value.hint
    assert "shadows.recipe.model" in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("description", [None, Description("pyfunc", "unknown", None, None)])
def test_nothing_to_clone(description):
    with pytest.raises(UsageError, match="pyfunc"):
        CATALOG["clone"].identity(context(flavor="pyfunc"), description)
