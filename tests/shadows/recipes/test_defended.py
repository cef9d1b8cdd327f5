"""Recipes that put the configured training defences on, and refuse before training what cannot be put on."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from privacy_gate.datamodel import Description
from privacy_gate.errors import RecipeFailed, UsageError
from privacy_gate.request import Recipe
from privacy_gate.sandbox import models
from privacy_gate.shadows.recipes import CATALOG, Context, training_defences

SOURCE = """
import torch
def make():
    return torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.Dropout(0.1), torch.nn.Linear(6, 2))
def bare():
    return torch.nn.Linear(3, 2)
def train(features, labels, *, seed):
    raise AssertionError("is never called")
"""
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 3)), RNG.integers(0, 2, 60)


@pytest.fixture
def context(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "net.py").write_text(SOURCE)

    def make(recipe, **changes):
        return replace(Context(Recipe(**recipe), tmp_path, tmp_path, "sklearn", (0, 1)), **changes)

    return make


@pytest.fixture
def clone(context, monkeypatch):
    """Identity from the description alone, then a fit."""

    def make(estimator, **changes):
        monkeypatch.setattr(models, "load", lambda folder, flavor: estimator)
        told = context({"clone": True}, **changes)
        description = Description("sklearn", "classifier", (0, 1), models.recipe(estimator))
        identity = CATALOG["clone"].identity(told, description)
        return identity, CATALOG["clone"].train(X, Y, 1, told)

    return make


def leaf(tree):
    return tree.tree_.n_node_samples[tree.tree_.children_left == -1].min()


LIMITS = {"tree_limits": {"min_samples_leaf": 9}}


@pytest.mark.parametrize(
    ("estimator", "inner"),
    [
        (DecisionTreeClassifier(), lambda m: m),
        (
            make_pipeline(StandardScaler(), make_pipeline(StandardScaler(), DecisionTreeClassifier())),
            lambda m: m[-1][-1],
        ),
        (CalibratedClassifierCV(DecisionTreeClassifier()), lambda m: m.calibrated_classifiers_[0].estimator),
        (OneVsRestClassifier(DecisionTreeClassifier()), lambda m: m.estimators_[0]),
    ],
    ids=["alone", "pipelines", "calibrated", "one against the rest"],
)
def test_a_clone_is_defended_where_it_learns(clone, estimator, inner):
    assert leaf(inner(clone(estimator)[1])) < 9
    assert leaf(inner(clone(estimator, defences=LIMITS)[1])) >= 9


def test_defences_are_put_on_in_order(clone):
    both = {"early_stopping": {"epochs": 50}, "tree_limits": {"rounds": 4}}
    from sklearn.ensemble import GradientBoostingClassifier

    assert len(clone(GradientBoostingClassifier(), defences=both)[1].estimators_) == 4
    # The other way round, 50 is more than the 4 that are left: found before training.
    with pytest.raises(UsageError, match="more than GradientBoostingClassifier's n_estimators, which is 4"):
        clone(GradientBoostingClassifier(), defences=dict(reversed(both.items())))


class TestIdentity:
    def test_without_defences_it_is_what_it_was(self, clone, context):
        assert set(clone(DecisionTreeClassifier())[0]) == {"estimator", "code", "versions"}
        told = context({"model": "net.py:make", "training": {"epochs": 1}})
        assert "defences" not in CATALOG["model"].identity(told, None)

    def test_output_defences_and_those_in_the_recipe_do_not_change_it(self, clone):
        beside = {"output_coarsening": {"decimals": 1}, "dropout": {"rate": 0.5, "in_recipe": True}}
        assert clone(DecisionTreeClassifier(), defences=beside)[0] == clone(DecisionTreeClassifier())[0]

    def test_settings_and_order_do(self, context):
        def identity(**defences):
            told = context({"model": "net.py:make", "training": {"epochs": 3}}, defences=defences)
            return json.dumps(CATALOG["model"].identity(told, None))

        one, two = {"dropout": {"rate": 0.5}}, {"label_smoothing": {"epsilon": 0.1}}
        assert identity(**one, **two) == identity(dropout={"in_recipe": False, "rate": 0.5}, **two)
        assert len({identity(), identity(**one), identity(**one, **two), identity(**two, **one)}) == 4
        assert identity(dropout={"rate": 0.4}) != identity(**one)


class TestWhatCannotBeIsRefusedBeforeTraining:
    @pytest.mark.parametrize(
        ("estimator", "defence"),
        [
            (LogisticRegression(), LIMITS),
            (make_pipeline(StandardScaler(), LogisticRegression()), LIMITS),
            (RandomForestClassifier(3), {"dropout": {"rate": 0.5}}),
            (RandomForestClassifier(3), {"dp_sgd": {"noise_multiplier": 1.0}}),
            (RandomForestClassifier(3), {"adversarial_regularisation": {"strength": 1.0}}),
        ],
    )
    def test_on_an_estimator(self, context, estimator, defence):
        told = context({"clone": True}, defences=defence)
        description = Description("sklearn", "classifier", (0, 1), models.recipe(estimator))
        with pytest.raises(UsageError) as caught:
            CATALOG["clone"].identity(told, description)
        assert caught.value.exit_code == 2

    def test_on_a_class_of_the_same_name(self, context):
        described = {"class": "own.forest.RandomForestClassifier", "params": {"min_samples_leaf": 1}}
        with pytest.raises(UsageError, match=r"own\.forest\.RandomForestClassifier"):
            CATALOG["clone"].identity(
                context({"clone": True}, defences=LIMITS), Description("sklearn", "classifier", None, described)
            )

    @pytest.mark.parametrize(
        ("defences", "said"),
        [
            (LIMITS, "torch module"),
            ({"early_stopping": {"epochs": 9}}, "it stops nothing"),
            ({"drop_out": {}}, "no defence is called"),
            ({"dropout": {"rate": 2}}, r"defence\.dropout\.rate"),
            (
                {"adversarial_regularisation": {"strength": 1}, "dp_sgd": {"noise_multiplier": 1}},
                "dp_sgd and adversarial_regularisation cannot be trained together",
            ),
        ],
    )
    def test_on_a_module(self, context, defences, said):
        told = context({"model": "net.py:make", "training": {"epochs": 3}}, defences=defences)
        with pytest.raises(UsageError, match=said):
            CATALOG["model"].identity(told, None)

    def test_on_a_function(self, context):
        told = context({"python": "net.py:train"}, defences={"dropout": {"rate": 0.5}})
        with pytest.raises(UsageError, match="your training function") as caught:
            CATALOG["python"].identity(told, None)
        assert "in_recipe: true" in caught.value.hint
        within = replace(told, defences={"dropout": {"rate": 0.5, "in_recipe": True}})
        assert CATALOG["python"].identity(within, None)

    def test_a_package_that_is_not_there(self, context, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(UsageError, match="needs the package opacus") as caught:
            training_defences(context({"clone": True}, defences={"dp_sgd": {"noise_multiplier": 1.0}}))
        assert "pip install 'privacy-gate[dp]'" in caught.value.hint


def test_only_the_factory_knows_its_layers(context):
    told = context(
        {"model": "net.py:bare", "training": {"epochs": 1}}, defences={"dropout": {"rate": 0.5}}, flavor="pytorch"
    )
    CATALOG["model"].identity(told, None)
    with pytest.raises(RecipeFailed, match="no dropout layer"):
        CATALOG["model"].train(X, Y, 1, told)


def test_a_module_is_defended_all_the_way(context):
    """Layers, settings and loop at once; the reference records come with the context."""
    seen = []
    defences = {
        "dropout": {"rate": 0.25},
        "weight_decay": {"decay": 0.1},
        "adversarial_regularisation": {"strength": 1.0, "hidden": [4]},
        "early_stopping": {"epochs": 2},
    }
    told = context(
        {"model": "net.py:make", "training": {"epochs": 5}},
        defences=defences,
        reference=(X[:10], Y[:10]),
        watch=lambda module, step: seen.append((step, module.training)),
    )
    module = CATALOG["model"].train(X, Y, 1, told)
    assert seen == [(1, False), (2, False)]
    assert module[1].p == 0.25
    without = CATALOG["model"].train(X, Y, 1, replace(told, reference=(X[10:20], Y[10:20])))
    assert not torch.equal(module[0].weight, without[0].weight)
    with pytest.raises(UsageError, match="reference records"):
        CATALOG["model"].train(X, Y, 1, replace(told, reference=None))
