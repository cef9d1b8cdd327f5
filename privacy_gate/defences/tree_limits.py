"""Trees that cannot give a record a leaf of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, model_validator

from privacy_gate.defences import TrainingDefence, defence
from privacy_gate.errors import UsageError
from privacy_gate.request import TorchTraining

_TREE = {"min_samples_leaf": "min_samples_leaf", "max_leaf_nodes": "max_leaf_nodes", "max_depth": "max_depth"}
# setting -> parameter, by class. XGBoost limits a leaf by its sum of second derivatives: each is below one, so a sum
# of m needs more than m records.
_NAMES: dict[str, dict[str, str]] = {
    "DecisionTreeClassifier": _TREE,
    "ExtraTreeClassifier": _TREE,
    "ExtraTreesClassifier": _TREE,
    "GradientBoostingClassifier": {**_TREE, "rounds": "n_estimators"},
    "HistGradientBoostingClassifier": {**_TREE, "rounds": "max_iter"},
    "LGBMClassifier": {
        "min_samples_leaf": "min_child_samples",
        "max_leaf_nodes": "num_leaves",
        "max_depth": "max_depth",
        "rounds": "n_estimators",
    },
    "lightgbm.Booster": {
        "min_samples_leaf": "min_data_in_leaf",
        "max_leaf_nodes": "num_leaves",
        "max_depth": "max_depth",
        "rounds": "num_iterations",
    },
    "RandomForestClassifier": _TREE,
    "XGBClassifier": {
        "min_samples_leaf": "min_child_weight",
        "max_leaf_nodes": "max_leaves",
        "max_depth": "max_depth",
        "rounds": "n_estimators",
    },
    "xgboost.Booster": {
        "min_samples_leaf": "min_child_weight",
        "max_leaf_nodes": "max_leaves",
        "max_depth": "max_depth",
        "rounds": "num_boost_round",
    },
}
# LightGBM takes other names for the same limits, and prefers them to those of its scikit-learn interface.
_ALIASES: dict[str, frozenset[str]] = {
    "min_child_samples": frozenset({"min_data_in_leaf", "min_data_per_leaf", "min_data", "min_samples_leaf"}),
    "num_leaves": frozenset({"num_leaf", "max_leaves", "max_leaf", "max_leaf_nodes"}),
    "n_estimators": frozenset(
        {"num_iterations", "num_iteration", "n_iter", "num_tree", "num_trees", "num_round", "num_rounds", "nrounds"}
        | {"num_boost_round", "max_iter"}
    ),
}


@defence(
    id="tree_limits",
    paper="Breiman et al., Classification and Regression Trees, 1984; Hastie et al., Elements of Statistical Learning,"
    " section 10.11 (the size of the trees)",
    on="trees, forests and boosting of scikit-learn, LightGBM, XGBoost",
)
class TreeLimits(TrainingDefence):
    """Limits to what a tree can say about a single record: records per leaf, leaves, depth, rounds of boosting.

    Each is set as given, whatever the estimator had. XGBoost counts second derivatives in place of records per leaf;
    below the number given there is never a leaf.
    """

    min_samples_leaf: Annotated[int, Field(ge=1)] | None = Field(None, description="records in a leaf, at least")
    max_leaf_nodes: Annotated[int, Field(ge=2)] | None = Field(None, description="leaves of a tree, at most")
    max_depth: Annotated[int, Field(ge=1)] | None = Field(None, description="questions before a leaf, at most")
    rounds: Annotated[int, Field(ge=1)] | None = Field(None, description="trees that are added by boosting")

    @model_validator(mode="after")
    def _does_something(self) -> TreeLimits:
        if not self.in_recipe and not self._limits():
            raise ValueError("set at least one of min_samples_leaf, max_leaf_nodes, max_depth, rounds")
        return self

    @classmethod
    def suggestions(cls, estimator: str, training: TorchTraining | None) -> Sequence[Mapping[str, Any]]:
        """Larger and larger leaves."""
        return [{"min_samples_leaf": n} for n in (20, 50, 100, 200)] if estimator in _NAMES else ()

    def parameters(self, estimator: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """The limits under the names that the library has for them."""
        if estimator not in _NAMES:
            raise self.misfit(estimator)
        names, limits = _NAMES[estimator], self._limits()
        if "rounds" in limits and "rounds" not in names:
            raise UsageError(
                f"tree_limits: a {estimator} is not boosted, it has no rounds",
                "leave rounds out; min_samples_leaf is the limit that counts for a forest",
            )
        if "max_leaf_nodes" in limits and params.get("tree_method") == "exact":
            raise UsageError("tree_limits: XGBoost with tree_method exact ignores max_leaves", "use max_depth")
        chosen = {names[limit]: value for limit, value in limits.items()}
        if estimator != "LGBMClassifier":
            return chosen
        return chosen | {name: chosen[key] for key in chosen for name in _ALIASES.get(key, ()) if name in params}

    def training(self, training: TorchTraining) -> TorchTraining:
        """A torch module has no trees."""
        raise self.misfit("torch module")

    def _limits(self) -> dict[str, int]:
        named = {name: getattr(self, name) for name in ("min_samples_leaf", "max_leaf_nodes", "max_depth", "rounds")}
        return {name: value for name, value in named.items() if value is not None}
