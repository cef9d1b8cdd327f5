"""`fit:` of a clone: eval sets, weights, callbacks, keywords; each reaches the last step, and the store's names."""

import json
import sys

import lightgbm
import numpy as np
import pytest
import sklearn.base
import xgboost
from lightgbm import LGBMClassifier
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from xgboost import XGBClassifier

from privacy_gate.errors import ConfigError, RecipeFailed, UsageError
from privacy_gate.request import Fit, Recipe
from privacy_gate.sandbox import models
from privacy_gate.shadows import fitting
from privacy_gate.shadows.fitting import held_back
from privacy_gate.shadows.recipes import CATALOG, Context, wants_seen

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 4))
Y = ((X[:, 0] + RNG.normal(size=400)) > 0.5).astype(int)
OWN, SEEN = slice(0, 250), (X[250:], Y[250:])
CEILING = 300
ONE_WAY = {"deterministic": True, "force_row_wise": True, "verbose": -1}
CALLBACKS = """
import lightgbm
def stop():
    return [lightgbm.early_stopping(3, verbose=False)]
def slower():
    return [lightgbm.reset_parameter(learning_rate=lambda k: 0.1 * 0.5**k)]
def wrong():
    return 3
def broken():
    raise ValueError("a record")
"""


@pytest.fixture
def context(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "calls.py").write_text(CALLBACKS)

    def make(fit, **changes):
        return Context(Recipe(fit=fit), tmp_path, tmp_path, "sklearn", (0, 1), **changes)

    return make


@pytest.fixture
def clone(context, monkeypatch):
    def make(model, fit=None, *, rows=OWN, **changes):
        monkeypatch.setattr(models, "load", lambda folder, flavor: model)
        told = context(fit, **changes)
        CATALOG["clone"].identity(told, models.describe(model, "sklearn"))
        return CATALOG["clone"].train(X[rows], Y[rows], 1, told)

    return make


def lgbm(**changes):
    return LGBMClassifier(**{"n_estimators": CEILING, "n_jobs": 1, **ONE_WAY, **changes})


def xgb(**changes):
    return XGBClassifier(**{"n_estimators": CEILING, "n_jobs": 1, "early_stopping_rounds": 3, **changes})


def same(one, other):
    np.testing.assert_array_equal(models.query(one, X).values, models.query(other, X).values)


def differ(one, other):
    assert np.abs(models.query(one, X).values - models.query(other, X).values).max() > 0.01


# --- eval sets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piped", [False, True])
@pytest.mark.parametrize("library", ["lightgbm", "xgboost", "histograms"])
def test_with_what_stopped_the_target_each_shadow_stops_itself(library, piped, clone):
    match library:
        case "lightgbm":
            final = lgbm(early_stopping_round=3)
            watched = lambda x: {"eval_X": x, "eval_y": SEEN[1]}  # noqa: E731
        case "xgboost":
            final = xgb()
            watched = lambda x: {"eval_set": [(x, SEEN[1])], "verbose": False}  # noqa: E731
        case _:
            final = HistGradientBoostingClassifier(max_iter=CEILING, early_stopping=True, n_iter_no_change=2)
            watched = lambda x: {"X_val": x, "y_val": SEEN[1]}  # noqa: E731
    moved = StandardScaler().fit(X[OWN]) if piped else None
    x, seen = (X[OWN], SEEN[0]) if moved is None else (moved.transform(X[OWN]), moved.transform(SEEN[0]))
    final.fit(x, Y[OWN], **watched(seen))
    model = final
    if piped:
        model = make_pipeline(StandardScaler(), final)
        model[0].fit(X[OWN])
    shadow = clone(model, Fit(eval_set="seen"), reference=SEEN)
    same(shadow, model)
    inner = shadow[-1] if piped else shadow
    ceiling = "max_iter" if library == "histograms" else "n_estimators"
    assert inner.get_params()[ceiling] == CEILING
    # Another shadow ends elsewhere.
    fewer = clone(model, Fit(eval_set="seen"), reference=SEEN, rows=slice(0, 60))
    differ(fewer, model)


def test_without_anything_that_stops_an_eval_set_is_only_watched(clone):
    """The target was stopped by a callback that nobody declared: its rounds are trained."""
    stop = lightgbm.early_stopping(3, verbose=False)
    model = lgbm().fit(X[OWN], Y[OWN], eval_X=SEEN[0], eval_y=SEEN[1], callbacks=[stop])
    watched = clone(model, Fit(eval_set="seen"), reference=SEEN, rows=slice(50, 250))
    assert watched.n_estimators == model.best_iteration_ < CEILING / 4
    assert watched.evals_result_["valid_0"]
    # Declared, it is live again.
    declared = clone(model, Fit(eval_set="seen", callbacks="calls.py:stop"), reference=SEEN)
    assert declared.n_estimators == CEILING
    same(declared, model)


@pytest.mark.filterwarnings("ignore::lightgbm.basic.LGBMDeprecationWarning")
@pytest.mark.parametrize("piped", [False, True])
def test_labels_of_an_eval_set_may_be_words_and_of_classes_that_the_shadow_has_none_of(clone, piped):
    """LightGBM's `eval_y` takes numbers of classes where its `eval_set` takes labels: the two train the same model."""
    words = np.array(["never", "now", "seldom", "unseen"])
    names = words[2 * Y[OWN]]
    seen = SEEN[0], words[2 * SEEN[1]]
    target = lgbm(early_stopping_round=3, random_state=7).fit(X[OWN], names, eval_set=[seen])
    assert target.best_iteration_ < CEILING
    strange = np.concatenate([seen[0], X[:5]]), np.concatenate([seen[1], words[[1, 3, 1, 3, 1]]])
    made = make_pipeline("passthrough", lgbm(early_stopping_round=3, random_state=7)) if piped else target
    shadow = fitting.fit(sklearn.base.clone(made), fitting.Given(X[OWN], names, evaluation=strange))
    same(shadow, target)


def test_a_share_of_the_shadows_own_records(clone):
    model = lgbm(early_stopping_round=3).fit(X[OWN], Y[OWN], eval_X=SEEN[0], eval_y=SEEN[1])
    shadow = clone(model, Fit(eval_set=0.2))
    held = held_back(250, 0.2, 1)
    assert held.sum() == 50
    own = lgbm(early_stopping_round=3, random_state=shadow.random_state)
    x, y = X[OWN], Y[OWN]
    same(shadow, own.fit(x[~held], y[~held], eval_X=x[held], eval_y=y[held]))
    same(shadow, clone(model, Fit(eval_set=0.2)))
    differ(shadow, clone(model, Fit(eval_set=0.2), persons=np.arange(250) // 25))


def test_who_is_held_back():
    masks = [held_back(100, 0.3, seed) for seed in (1, 1, 2)]
    assert masks[0].sum() == masks[2].sum() == 30
    assert (masks[0] == masks[1]).all()
    assert (masks[0] != masks[2]).any()
    assert held_back(2, 0.9, 0).sum() == held_back(2, 0.01, 0).sum() == 1  # one at least, and never all
    persons = np.repeat(np.arange(20), 5)
    held = held_back(100, 0.3, 0, persons)
    assert held.sum() == 30
    assert set(persons[held]).isdisjoint(persons[~held])


def test_boosters_watch_too(clone):
    table = lightgbm.Dataset(X[OWN], Y[OWN])
    seen = lightgbm.Dataset(*SEEN, reference=table)
    settings = {"objective": "binary", "early_stopping_round": 3, "num_threads": 1, **ONE_WAY}
    model = lightgbm.train(settings, table, CEILING, valid_sets=[seen])
    shadow = clone(model, Fit(eval_set="seen"), reference=SEEN)
    same(shadow, model)
    assert 0 < shadow.best_iteration < CEILING / 4
    differ(clone(model, Fit(eval_set="seen"), reference=SEEN, rows=slice(0, 60)), model)
    assert clone(model).current_iteration() == model.best_iteration
    table, seen = xgboost.DMatrix(X[OWN], Y[OWN]), xgboost.DMatrix(*SEEN)
    settings = {"objective": "binary:logistic", "nthread": 1}
    stop = {"num_boost_round": CEILING, "early_stopping_rounds": 3}
    model = xgboost.train(settings, table, evals=[(seen, "v")], verbose_eval=False, **stop)
    shadow = clone(model, Fit(eval_set="seen", keywords=stop), reference=SEEN)
    same(shadow, model)
    assert shadow.num_boosted_rounds() == model.num_boosted_rounds() < CEILING


def test_records_that_are_not_there(clone):
    model = lgbm(n_estimators=3).fit(X, Y)
    with pytest.raises(RecipeFailed, match="names no such records"):
        clone(model, Fit(eval_set="seen"))
    assert wants_seen(Recipe(fit=Fit(eval_set="seen")))
    assert not wants_seen(Recipe(fit=Fit(eval_set=0.2)))
    assert not wants_seen(Recipe())
    assert CATALOG["clone"].persons(Recipe(fit=Fit(eval_set=0.2)))
    assert not CATALOG["clone"].persons(Recipe(fit=Fit(eval_set="seen")))
    with pytest.raises(RecipeFailed, match="records of one class only"):
        clone(model, Fit(eval_set=0.99), rows=slice(0, 10))


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        RandomForestClassifier(5),
        make_pipeline(StandardScaler(), RandomForestClassifier(5)),
        lgbm(n_estimators=5),
        xgb(n_estimators=5, early_stopping_rounds=None),
    ],
    ids=["forest", "pipeline", "LightGBM", "XGBoost"],
)
def test_weights_reach_the_last_step(model, clone):
    weights = RNG.uniform(0.1, 5, 250)
    model.fit(X[OWN], Y[OWN])
    plain = clone(model)
    weighted = clone(model, Fit(sample_weight="weight"), weights=weights)
    differ(plain, weighted)
    prefix = "randomforestclassifier__" if hasattr(model, "steps") else ""
    twin = plain.fit(X[OWN], Y[OWN], **{f"{prefix}sample_weight": weights})  # with the same seed
    same(twin, weighted)
    # The data says that training weighed its records: that is enough.
    same(clone(model, weights=weights), weighted)
    twin.fit(X[OWN], Y[OWN], **{f"{prefix}sample_weight": compute_sample_weight("balanced", Y[OWN])})
    same(twin, clone(model, Fit(sample_weight="balanced")))


def test_weights_of_boosters(clone):
    weights = RNG.uniform(0.1, 5, 250)
    settings = {"objective": "binary", "num_threads": 1, **ONE_WAY}
    model = lightgbm.train(settings, lightgbm.Dataset(X[OWN], Y[OWN], weight=weights), 5)
    same(clone(model, weights=weights), model)
    table = xgboost.DMatrix(X[OWN], Y[OWN], weight=weights)
    model = xgboost.train({"objective": "binary:logistic", "nthread": 1}, table, 5)
    same(clone(model, weights=weights), model)
    differ(clone(model), model)


def test_weights_that_are_not_there_or_not_taken(clone):
    with pytest.raises(RecipeFailed, match="the data declares none"):
        clone(RandomForestClassifier(2).fit(X, Y), Fit(sample_weight="weight"))
    with pytest.raises(RecipeFailed, match="a KNeighborsClassifier takes no sample weights"):
        clone(KNeighborsClassifier().fit(X, Y), weights=np.ones(250))


# --- callbacks and keywords -------------------------------------------------------------------------------------------


def test_callbacks(clone):
    model = lgbm(n_estimators=5).fit(X[OWN], Y[OWN])
    slower = lightgbm.reset_parameter(learning_rate=lambda k: 0.1 * 0.5**k)
    expected = lgbm(n_estimators=5).fit(X[OWN], Y[OWN], callbacks=[slower])
    shadow = clone(model, Fit(callbacks="calls.py:slower"))
    np.testing.assert_allclose(shadow.predict_proba(X), expected.predict_proba(X), rtol=1e-12)
    differ(clone(model), shadow)


@pytest.mark.parametrize(("name", "said"), [("wrong", "returns no list"), ("broken", "raised ValueError")])
def test_callbacks_that_are_none(name, said, clone):
    with pytest.raises(RecipeFailed, match=said) as caught:
        clone(lgbm(n_estimators=2).fit(X, Y), Fit(callbacks=f"calls.py:{name}"))
    assert "a record" not in str(caught.value)


def test_keywords_go_to_fit_as_they_are(clone):
    coded = X.round().clip(-2, 2)
    model = lgbm(n_estimators=5).fit(coded, Y)
    piped = make_pipeline(StandardScaler(), lgbm(n_estimators=5)).fit(X, Y)
    for one, keywords in (
        (model, {"categorical_feature": [0]}),
        (piped, {"lgbmclassifier__feature_name": ["a", "b", "c", "d"]}),
    ):
        shadow = clone(one, Fit(keywords=keywords))
        final = shadow[-1] if one is piped else shadow
        told = final.booster_.params.get("categorical_column") if one is model else final.feature_name_
        assert told == next(iter(keywords.values()))


# --- before training --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "fit", "said"),
    [
        (RandomForestClassifier(2), Fit(eval_set="seen"), "a RandomForestClassifier takes no eval set"),
        (make_pipeline(StandardScaler(), RandomForestClassifier(2)), Fit(eval_set=0.1), "takes no eval set"),
        (lgbm(n_estimators=2), Fit(eval_set=1.5), "1.5 is no share"),
        (RandomForestClassifier(2), Fit(callbacks="calls.py:stop"), "takes no callbacks"),
        (lgbm(n_estimators=2), Fit(callbacks="calls.py:halt"), "defines no 'halt'"),
        (lgbm(n_estimators=2), Fit(callbacks="call.py:stop"), "there is no file"),
    ],
)
def test_what_nothing_takes_is_refused(model, fit, said, clone):
    with pytest.raises((UsageError, ConfigError), match=said) as caught:
        clone(model.fit(X, Y), fit)
    assert caught.value.exit_code == 2


def test_all_of_it_enters_the_stores_names(context, tmp_path):
    description = models.describe(lgbm(n_estimators=2).fit(X, Y), "lightgbm")

    def name(fit):
        return json.dumps(CATALOG["clone"].identity(context(fit), description), sort_keys=True)

    wishes = [
        None,
        Fit(),
        Fit(eval_set=0.1),
        Fit(eval_set="seen"),
        Fit(sample_weight="balanced"),
        Fit(keywords={"categorical_feature": [0]}),
        Fit(callbacks="calls.py:stop"),
        Fit(callbacks="calls.py:slower"),
    ]
    names = [name(fit) for fit in wishes]
    assert len(set(names)) == len(wishes)
    assert "callbacks" not in names[0]
    (tmp_path / "calls.py").write_text(CALLBACKS + "\n# another word")
    assert [before == after for before, after in zip(names, map(name, wishes), strict=True)] == [True] * 6 + [False] * 2
