import lightgbm
import numpy as np
import pytest
import xgboost
from lightgbm import LGBMClassifier
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.tree import DecisionTreeClassifier, ExtraTreeClassifier

from privacy_gate.defences.tree_limits import TreeLimits
from privacy_gate.errors import UsageError

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(300, 4)), RNG.integers(0, 2, 300)
ESTIMATORS = [
    DecisionTreeClassifier(random_state=0),
    ExtraTreeClassifier(random_state=0),
    RandomForestClassifier(5, random_state=0),
    ExtraTreesClassifier(5, random_state=0),
    GradientBoostingClassifier(n_estimators=5, max_depth=None, random_state=0),
    HistGradientBoostingClassifier(max_iter=5, max_leaf_nodes=None, min_samples_leaf=1),
]
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)


def fitted(estimator, **limits):
    changes = TreeLimits(**limits).parameters(type(estimator).__name__, estimator.get_params())
    return type(estimator)(**{**estimator.get_params(), **changes}).fit(X, Y)


def trees(model):
    """(records in each leaf, depth) of each tree."""
    if hasattr(model, "_predictors"):
        for (predictor,) in model._predictors:
            leaves = predictor.nodes["is_leaf"] == 1
            yield predictor.nodes["count"][leaves], predictor.nodes["depth"].max()
        return
    for tree in np.ravel(model.estimators_) if hasattr(model, "estimators_") else [model]:
        leaves = tree.tree_.children_left == -1
        yield tree.tree_.n_node_samples[leaves], tree.tree_.max_depth


@every_estimator
def test_no_leaf_is_smaller(estimator):
    assert min(min(sizes) for sizes, _ in trees(estimator.fit(X, Y))) < 20
    assert min(min(sizes) for sizes, _ in trees(fitted(estimator, min_samples_leaf=20))) >= 20


@every_estimator
def test_no_tree_has_more_leaves_or_is_deeper(estimator):
    assert max(len(sizes) for sizes, _ in trees(estimator.fit(X, Y))) > 6
    assert max(len(sizes) for sizes, _ in trees(fitted(estimator, max_leaf_nodes=6))) <= 6
    assert max(depth for _, depth in trees(fitted(estimator, max_depth=2))) == 2


@pytest.mark.parametrize("estimator", ESTIMATORS[4:], ids=lambda e: type(e).__name__)
def test_rounds(estimator):
    assert len(list(trees(fitted(estimator, rounds=3)))) == 3


def test_a_forest_has_no_rounds():
    with pytest.raises(UsageError, match="no rounds"):
        TreeLimits(rounds=3).parameters("RandomForestClassifier", {})


def test_second_names_of_lightgbm_are_limited_too():
    """It would prefer them to the names that its scikit-learn interface has."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 3)), rng.integers(0, 2, 300)
    model = LGBMClassifier(min_data_in_leaf=2, num_boost_round=9, num_leaf=30, verbose=-1, n_jobs=1)
    limits = TreeLimits(min_samples_leaf=40, max_leaf_nodes=5, rounds=3)
    trees = model.set_params(**limits.parameters("LGBMClassifier", model.get_params())).fit(x, y).booster_
    leaves = trees.trees_to_dataframe().query("left_child.isna()")
    assert leaves["count"].min() >= 40
    assert leaves.groupby("tree_index").size().max() <= 5
    assert trees.num_trees() == 3


def test_names_of_raw_boosters():
    """Each library takes what it is told, and grows trees within it."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 3)), rng.integers(0, 2, 300)
    limits = TreeLimits(min_samples_leaf=40, max_leaf_nodes=5, max_depth=2)
    params = dict(limits.parameters("lightgbm.Booster", {}))
    trees = lightgbm.train({"objective": "binary", "verbose": -1, **params}, lightgbm.Dataset(x, y), 3)
    assert trees.trees_to_dataframe().query("left_child.isna()")["count"].min() >= 40
    params = dict(limits.parameters("xgboost.Booster", {}))
    trees = xgboost.train({"objective": "binary:logistic", **params}, xgboost.DMatrix(x, y), 3)
    assert trees.trees_to_dataframe().query("Feature == 'Leaf'").groupby("Tree").size().max() <= 4
    rounds = TreeLimits(rounds=8)
    assert rounds.parameters("lightgbm.Booster", {}) == {"num_iterations": 8}
    assert rounds.parameters("xgboost.Booster", {}) == {"num_boost_round": 8}


def test_names_of_the_other_libraries():
    limits = TreeLimits(min_samples_leaf=5, max_leaf_nodes=6, max_depth=7, rounds=8)
    assert limits.parameters("LGBMClassifier", {}) == {
        "min_child_samples": 5,
        "num_leaves": 6,
        "max_depth": 7,
        "n_estimators": 8,
    }
    assert limits.parameters("XGBClassifier", {"tree_method": None}) == {
        "min_child_weight": 5,
        "max_leaves": 6,
        "max_depth": 7,
        "n_estimators": 8,
    }
    with pytest.raises(UsageError, match="ignores max_leaves"):
        limits.parameters("XGBClassifier", {"tree_method": "exact"})
