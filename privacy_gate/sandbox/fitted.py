"""What a fitted estimator would be trained as, if it were trained once more. Runs model code, as `models` does.

A constructor says how long training may last; a fitted model says how long it did last. Where something other than the
training records ended it (an eval set, records that were held back), the fitted number of rounds takes the place of the
ceiling, and what ended it is put out of action, but not the share of records that it held back: shadows train on as
many records as the target did. What ends by itself (a solver that converges) is left as it is.

Several models inside one (a bag, folds of a calibration) train the median of their rounds, the upper of two.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from privacy_gate.errors import UnsupportedModel
from privacy_gate.sandbox.boosters import MEND, columns_of, settings_left
from privacy_gate.sandbox.stages import class_of, rounds

_SEARCHES = ("GridSearchCV", "RandomizedSearchCV", "HalvingGridSearchCV", "HalvingRandomSearchCV")

# Other names that LightGBM takes for the same thing.
LIGHTGBM_ROUNDS = (
    "num_iterations", "num_iteration", "n_iter", "num_tree", "num_trees", "num_round", "num_rounds", "nrounds",
    "num_boost_round", "max_iter",
)  # fmt: skip
LIGHTGBM_STOPS = ("early_stopping_round", "early_stopping_rounds", "early_stopping", "n_iter_no_change")
# Settings that say when training ends.
ENDS = frozenset({"n_estimators", "callbacks", *LIGHTGBM_ROUNDS, *LIGHTGBM_STOPS})


# --- one estimator --------------------------------------------------------------------------------------------------

Rule = Callable[[Mapping[str, Any], Sequence[Any], int], dict[str, Any]]


def _lightgbm(params: Mapping[str, Any], fitted: Sequence[Any], total: int) -> dict[str, Any]:
    alike = {name: total for name in LIGHTGBM_ROUNDS if name in params}
    return {"n_estimators": total, **alike, **{name: None for name in LIGHTGBM_STOPS if name in params}}


def _xgboost(params: Mapping[str, Any], fitted: Sequence[Any], total: int) -> dict[str, Any]:
    given = list(params.get("callbacks") or [])
    kept = [one for one in given if not stops(one)]
    dropped = {"callbacks": kept or None} if len(kept) < len(given) else {}
    return {"n_estimators": total, "early_stopping_rounds": None, **dropped}


def _histograms(params: Mapping[str, Any], fitted: Sequence[Any], total: int) -> dict[str, Any]:
    held = params["validation_fraction"] is not None and any(one.do_early_stopping_ for one in fitted)
    return {"max_iter": total, "early_stopping": held, **({"n_iter_no_change": total + 1} if held else {})}


def _gradient_boosting(params: Mapping[str, Any], fitted: Sequence[Any], total: int) -> dict[str, Any]:
    return {} if params["n_iter_no_change"] is None else {"n_estimators": total, "n_iter_no_change": total + 1}


def _perceptron(params: Mapping[str, Any], fitted: Sequence[Any], total: int) -> dict[str, Any]:
    if params["solver"] == "lbfgs":  # converges
        return {}
    return {"max_iter": total, **_patience(params, total, adapts=params["solver"] == "sgd")}


def _linear(params: Mapping[str, Any], fitted: Sequence[Any], total: int) -> dict[str, Any]:
    # Without records held back it ends when its own training loss does: that is convergence.
    return {"max_iter": total, **_patience(params, total, adapts=True)} if params["early_stopping"] else {}


def _patience(params: Mapping[str, Any], total: int, *, adapts: bool) -> dict[str, Any]:
    """More rounds without improvement than there are: never the end. An adaptive learning rate counts them, too."""
    return {} if adapts and params.get("learning_rate") == "adaptive" else {"n_iter_no_change": total + 1}


_RULES: dict[str, Rule] = {
    "LGBMClassifier": _lightgbm,
    "XGBClassifier": _xgboost,
    "HistGradientBoostingClassifier": _histograms,
    "GradientBoostingClassifier": _gradient_boosting,
    "MLPClassifier": _perceptron,
    "SGDClassifier": _linear,
    "Perceptron": _linear,
    "PassiveAggressiveClassifier": _linear,
}
_FITTED = {
    "LGBMClassifier": "n_estimators_",
    "XGBClassifier": "_Booster",
    "GradientBoostingClassifier": "estimators_",
}


def stops(callback: Any) -> bool:
    """Whether a callback of LightGBM or XGBoost ends training early."""
    return type(callback).__name__ in ("_EarlyStoppingCallback", "EarlyStopping")


def _rounds(model: Any) -> int:
    """Rounds or epochs of a fitted model; 0 of one that is not fitted."""
    name = class_of(model)
    if getattr(model, _FITTED.get(name, "n_iter_"), None) is None:
        return 0
    return rounds(model) or int(getattr(model, "n_iter_", 0))


# --- what is inside what --------------------------------------------------------------------------------------------


def as_fitted(model: Any, *, unsaved: bool = False) -> tuple[Any, dict[str, Any]]:
    """An unfitted copy with its own settings, and the settings (by their deep names) that train what was fitted.

    A search is its best estimator. Raises UnsupportedModel for a search that kept none.
    unsaved  whether the model comes from XGBoost's own format, where only its Booster knows some settings
    """
    import sklearn.base

    unfitted, changes = _again(sklearn.base.clone(model), [model])
    if unsaved and class_of(unfitted) == "XGBClassifier":
        kept = settings_left(model.get_booster())
        # What looks like a setting may have been estimated from the target's records.
        changes |= {"base_score": None} | {key: kept[key] for key in kept if key not in ("objective", "num_class")}
    return unfitted, changes


def _again(unfitted: Any, fitted: Sequence[Any]) -> tuple[Any, dict[str, Any]]:
    name = class_of(unfitted)
    if name in _SEARCHES:
        return _winner(unfitted, fitted)
    if rule := _RULES.get(name):
        trained = [one for one in fitted if class_of(one) == name and _rounds(one) > 0]
        if not trained:
            return unfitted, {}
        total = statistics.median_high(map(_rounds, trained))
        return unfitted, rule(unfitted.get_params(deep=False), trained, total)
    changes: dict[str, Any] = {}
    for part, inner in _parts(unfitted, fitted).items():
        new, within = _again(unfitted.get_params(deep=True)[part], inner)
        unfitted.set_params(**{part: new})
        changes |= {f"{part}__{key}": value for key, value in within.items()}
    return unfitted, changes


def _winner(unfitted: Any, fitted: Sequence[Any]) -> tuple[Any, dict[str, Any]]:
    """The best estimator of a search. Several searches (one in each fold) may disagree: then each shadow searches."""
    import sklearn.base

    if any(getattr(one, "refit", True) is False for one in fitted):
        raise UnsupportedModel(
            f"the {type(unfitted).__name__} was fitted with refit=False: it kept no model",
            "register its best estimator, fitted to the training records, or search with refit=True",
        )
    best = [one.best_estimator_ for one in fitted if hasattr(one, "best_estimator_")]
    return _again(sklearn.base.clone(best[0]), best) if len(best) == 1 else (unfitted, {})


_ONE_INSIDE = {
    "AdaBoostClassifier": "estimators_",
    "BaggingClassifier": "estimators_",
    "OneVsOneClassifier": "estimators_",
    "OneVsRestClassifier": "estimators_",
    "OutputCodeClassifier": "estimators_",
    "CalibratedClassifierCV": "calibrated_classifiers_",
    "FixedThresholdClassifier": "estimator_",
    "TunedThresholdClassifierCV": "estimator_",
    "SelfTrainingClassifier": "estimator_",
    "SelectFromModel": "estimator_",
    "RFE": "estimator_",
    "RFECV": "estimator_",
}


def _parts(unfitted: Any, fitted: Sequence[Any]) -> dict[str, list[Any]]:
    """Parameter that is an estimator -> the models that were fitted from it."""
    name = class_of(unfitted)
    if name == "Pipeline":
        found = {step: [dict(one.steps)[step] for one in fitted] for step, _ in unfitted.steps}
    elif name in ("VotingClassifier", "StackingClassifier"):
        used = [step for step, inner in unfitted.estimators if not isinstance(inner, str)]
        found = {step: [_at(one, "estimators_", i) for one in fitted] for i, step in enumerate(used)}
        if name == "StackingClassifier":
            found["final_estimator"] = [getattr(one, "final_estimator_", None) for one in fitted]
    elif name in _ONE_INSIDE:
        inside = [getattr(one, _ONE_INSIDE[name], None) for one in fitted]
        several = [inner for each in inside for inner in (each if isinstance(each, Sequence) else [each])]
        calibrated = name == "CalibratedClassifierCV"
        found = {"estimator": [getattr(one, "estimator", None) if calibrated else one for one in several]}
    else:
        return {}
    params = unfitted.get_params(deep=True)
    # A step may be left out ("passthrough"), and None stands for a default that has nothing to say.
    return {
        part: [one for one in models if one is not None]
        for part, models in found.items()
        if hasattr(params.get(part), "get_params")
    }


def _at(model: Any, name: str, i: int) -> Any:
    return found[i] if (found := getattr(model, name, None)) else None


def told_fit(final: Any) -> dict[str, Any]:
    """What `fit` was told beside the records and their labels, as far as a fitted estimator knows.

    LightGBM knows its categorical columns, by number. Those of a frame with category columns are among them.
    """
    booster = getattr(final, "booster_", None) if class_of(final) == "LGBMClassifier" else None
    columns = [] if booster is None else columns_of(booster.params)
    return {"categorical_feature": columns} if columns else {}


# --- what cannot be trained anew ------------------------------------------------------------------------------------


def searched(model: Any) -> bool:
    """Whether a model, or a part of it, searches for its settings among its own training records."""
    return any(class_of(part) in _SEARCHES for part in (model, *model.get_params(deep=True).values()))


def not_cloned(model: Any, error: Exception) -> tuple[str, str]:
    """What and mend, for an estimator that does not keep scikit-learn's rules."""
    return f"a {type(model).__name__} cannot be copied unfitted: {type(error).__name__} in sklearn.base.clone", MEND


def refused(model: Any) -> list[str] | None:
    """What and how to mend it, where a part was fitted elsewhere: a copy of that part would know all members."""
    for part in (model, *model.get_params(deep=True).values()):
        params = part.get_params(deep=False) if hasattr(part, "get_params") and not isinstance(part, type) else {}
        if (
            class_of(part) == "FrozenEstimator"
            or params.get("prefit") is True
            or _is(params.get("cv"), "prefit")
            or _is(params.get("estimators"), "prefit")
        ):
            kind = type(part).__name__
            return [f"a part of the candidate ({kind}) was fitted before the rest was, nobody knows how", MEND]
    return None


def _is(value: Any, text: str) -> bool:
    return isinstance(value, str) and value == text
