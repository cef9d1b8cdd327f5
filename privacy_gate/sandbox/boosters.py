"""Raw Boosters of LightGBM and XGBoost: what they were trained with, and how they are asked. Runs model code.

They know class indices only. A LightGBM model carries all its parameters as text. A saved XGBoost model does not: of
what it was trained with, only the objective, the number of classes and of rounds, and the columns are left.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from privacy_gate.sandbox.stages import class_of, rounds

LIGHTGBM, XGBOOST = "lightgbm.Booster", "xgboost.Booster"
ROUNDS = {LIGHTGBM: "num_iterations", XGBOOST: "num_boost_round"}
_SHOWN = 20  # columns in a message
MEND = "train it in shadows.recipe.python (path.py:train) or shadows.recipe.command"

# Objectives whose answers are one class each. A custom one is a function that the file does not have.
_OBJECTIVES = {
    LIGHTGBM: ("binary", "multiclass", "multiclassova", "cross_entropy"),
    XGBOOST: ("binary:logistic", "binary:logitraw", "binary:hinge", "multi:softprob", "multi:softmax"),
}
_ALIASES = {
    "softmax": "multiclass",
    "multiclass_ova": "multiclassova",
    "ova": "multiclassova",
    "ovr": "multiclassova",
    "xentropy": "cross_entropy",
}
# Of the machine, of the files, of this one run, or said elsewhere: no part of what is learnt.
_LIGHTGBM_BESIDE = frozenset(
    """
    num_threads verbosity deterministic force_col_wise force_row_wise histogram_pool_size tree_learner device_type
    seed bagging_seed feature_fraction_seed extra_seed drop_seed data_random_seed objective_seed
    saved_feature_importance_type pre_partition two_round header precise_float_parser num_machines local_listen_port
    time_out gpu_platform_id gpu_device_id gpu_device_id_list gpu_use_dp num_gpu refit_decay_rate categorical_feature
    """.split()  # noqa: SIM905
)
# XGBoost's own choices on the way, and second names.
_XGBOOST_BESIDE = frozenset(
    """
    learning_rate min_split_loss reg_alpha reg_lambda refresh_leaf updater updater_seq num_trees process_type
    disable_default_eval_metric max_row_perbatch
    """.split()  # noqa: SIM905
)
_XGBOOST_PARTS = (
    "gbtree_train_param",
    "dart_train_param",
    "gblinear_train_param",
    "tree_train_param",
    "linear_train_param",
    "gbtree_model_param",
)


def is_booster(model: Any) -> bool:
    """Whether it is a Booster as the libraries train them, without the scikit-learn interface."""
    return class_of(model) in ROUNDS


def misplaced(model: Any, given: Sequence[str]) -> tuple[str, str] | None:
    """What is wrong with the order of the given columns, and the mend; None where all are in place.

    LightGBM itself takes columns by place and says nothing: where its names are others altogether, places are all that
    there is. XGBoost refuses other names, in an error that no user reads. Spaces are underscores in LightGBM's names.
    """
    booster = _booster_of(model)
    if booster is None:
        return None
    by_place = class_of(booster) == LIGHTGBM
    own = booster.feature_name() if by_place else booster.feature_names
    if own is None:
        return None
    names = [name.replace(" ", "_") for name in given] if by_place else list(given)
    if sorted(own) != sorted(names):
        if by_place:
            return None
        mend = "name them in the files, and under data.schema or data.features, as the model does; data.drop leaves out"
        return f"the model takes the columns {_few(own)}; here are {_few(names)}", mend
    place = next((i for i, (mine, name) in enumerate(zip(own, names, strict=True)) if mine != name), None)
    if place is None:
        return None
    written = dict(zip(names, given, strict=True))
    wrong = f"{own[place]!r} is its column {place + 1}, and {given[place]!r} stands there"
    listed = _few([written[name] for name in own])
    return (
        f"the model was trained with its columns in another order: {wrong}",
        f"list the features in the model's order under data.schema or data.features: {listed}",
    )


def _booster_of(model: Any) -> Any:
    """The Booster in a model of LightGBM or XGBoost; None where there is none."""
    if is_booster(model):
        return model
    inner = getattr(model, "booster_" if hasattr(model, "booster_") else "_Booster", None)
    return inner if inner is not None and is_booster(inner) else None


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f", … ({len(names)})" if len(names) > _SHOWN else "")


def loses_settings(flavor: str) -> bool:
    """Whether a model of XGBoost comes from a file of its own format; in other flavors it is pickled, settings and all.

    A pyfunc that has one inside is the flavor's own.
    """
    return flavor in ("xgboost", "pyfunc")


def described(booster: Any, *, unsaved: bool = False) -> dict[str, Any]:
    """What it takes to train such a Booster anew: class, params, the fitted number of rounds; JSON-like.

    fit      LightGBM: categorical columns by number; XGBoost: names and types of the columns
    unsaved  the file has lost most parameters (XGBoost); they must be told
    refused  why it cannot be trained anew, and the mend
    """
    name = class_of(booster)
    unsaved = unsaved and name == XGBOOST
    params, columns = _lightgbm(booster) if name == LIGHTGBM else _xgboost(booster, unsaved=unsaved)
    told = {
        "class": f"{type(booster).__module__}.{type(booster).__qualname__}",
        "params": dict(sorted(params.items())),
        "fitted": {ROUNDS[name]: rounds(booster)},
        "fit": columns,
        **({"unsaved": True} if unsaved else {}),
    }
    return told | ({"refused": refused} if (refused := _refused(name, params)) else {})


def _refused(name: str, params: Mapping[str, Any]) -> list[str] | None:
    objective = str(params.get("objective", "")).partition(" ")[0]
    if _ALIASES.get(objective, objective) not in _OBJECTIVES[name]:
        return [f"the objective {objective or 'custom'!r} of the {name} is no classifier's, or not in its file", MEND]
    files = sorted(key for key in params if key.endswith("_filename") or key == "parser_config_file")
    return [f"the {name} was trained with {files[0]}, a file that it does not have", MEND] if files else None


def _lightgbm(booster: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters that its text tells, and its categorical columns."""
    import lightgbm

    # One still in memory has only the parameters that were given; its text has all.
    told = lightgbm.Booster(model_str=booster.model_to_string()).params
    params = {key: value for key, value in told.items() if key not in _LIGHTGBM_BESIDE and value not in ("", [], None)}
    if params.get("objective") == "custom":
        del params["objective"]
    return params, {"categorical_feature": columns_of(told)}


def columns_of(params: Mapping[str, Any]) -> list[int]:
    """Numbers of the categorical columns in what a LightGBM model says that it was trained with."""
    found = params.get("categorical_column", params.get("categorical_feature"))
    return sorted(int(column) for column in found) if isinstance(found, list | tuple) else []


def _xgboost(booster: Any, *, unsaved: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters that its configuration tells; of an unsaved one only those that the file has."""
    learner = json.loads(booster.save_config())["learner"]
    model, train = learner["learner_model_param"], learner["learner_train_param"]
    params = {"objective": train["objective"], "booster": train["booster"], "multi_strategy": train["multi_strategy"]}
    if int(model["num_class"]) > 0:
        params["num_class"] = model["num_class"]
    if model.get("boost_from_average") == "0":  # else it was estimated, and each shadow estimates its own
        params["base_score"] = model["base_score"]
    if metrics := [metric["name"] for metric in learner.get("metrics", [])]:
        params["eval_metric"] = metrics
    for part in learner["objective"].values():
        params |= {key: value for key, value in part.items() if key != "num_class"} if isinstance(part, dict) else {}
    parts = ("gbtree_model_param",) if unsaved else _XGBOOST_PARTS
    for key, value in _flat(learner["gradient_booster"], parts).items():
        if key not in _XGBOOST_BESIDE and value not in ("", "()", "[]"):
            params[key] = value
    return params, {"feature_names": booster.feature_names, "feature_types": booster.feature_types}


def settings_left(booster: Any) -> dict[str, Any]:
    """The parameters that a Booster of XGBoost keeps when it is saved, as numbers where they are such."""
    return {key: _number(value) for key, value in _xgboost(booster, unsaved=True)[0].items()}


def _number(text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text


def _flat(part: Mapping[str, Any], wanted: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in part.items():
        if isinstance(value, dict):
            found |= value if name in wanted else _flat(value, wanted)
    return found
