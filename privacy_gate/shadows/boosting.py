"""Boosters of LightGBM and XGBoost without the scikit-learn interface, trained anew from what their files tell.

They answer as the candidate does, since they are of its class: same objective, same columns, same number of rounds.
Runs model code: in shadow workers only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate.datamodel import Ints
from privacy_gate.features import Features
from privacy_gate.sandbox.boosters import LIGHTGBM, ROUNDS
from privacy_gate.sandbox.fitted import LIGHTGBM_ROUNDS, LIGHTGBM_STOPS
from privacy_gate.sandbox.models import SEEDS, THREADS
from privacy_gate.sandbox.stages import Stages, known_class, matrix
from privacy_gate.shadows.fitting import XGBOOST_STOP, Given, stops_itself

# One thread, and one way of adding up: the same model wherever it is trained.
ONE_WAY = {"num_threads": 1, "deterministic": True, "force_row_wise": True}


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """A Booster as it was after `step` rounds."""

    staged: Stages
    step: int

    def predict(self, features: Features) -> NDArray[Any]:
        """[n] or [n, K], as the Booster itself answers."""
        return self.staged.at(self.step, features)


def train(
    described: Mapping[str, Any],
    changes: Mapping[str, Any],
    given: Given,
    seed: int,
    *,
    device: str,
    watch: Callable[[Any, int], None] | None = None,
) -> Any:
    """A Booster of the described kind; every random number of it comes from `seed`.

    described  as `sandbox.boosters.described` tells
    changes    parameters that defences or the config set
    given      labels are class indices
    """
    name, fitted = known_class(str(described["class"])), dict(described["fitted"])
    params = {**described["params"], **changes}
    if own := stops_itself(given, params, fitted):
        rounds = _ceiling(name, params, given.keywords) or fitted[ROUNDS[name]]
    else:
        rounds = fitted[ROUNDS[name]]
    if ROUNDS[name] in changes:  # a defence has the last word
        rounds = changes[ROUNDS[name]]
    drop = {*SEEDS, *THREADS, *LIGHTGBM_ROUNDS, "params", *(() if own else (*LIGHTGBM_STOPS, XGBOOST_STOP))}
    params = {key: value for key, value in params.items() if key not in drop}
    keywords = {key: value for key, value in given.keywords.items() if key not in drop}
    given = replace(given, keywords=keywords)
    number = int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1)
    fit = _lightgbm if name == LIGHTGBM else _xgboost
    booster = fit(params, given, dict(described.get("fit") or {}), int(rounds), number, device)
    if watch is not None:
        staged = Stages(booster, booster)
        for step in range(1, staged.rounds + 1):
            watch(Stage(staged, step), step)
    return booster


def _ceiling(name: str, params: Mapping[str, Any], keywords: Mapping[str, Any]) -> int | None:
    """Rounds at most, as training was told; None where the model does not know."""
    told = [keywords.get(key, params.get(key)) for key in ("num_boost_round", *LIGHTGBM_ROUNDS)]
    return next((int(value) for value in told if value), None)


def _lightgbm(params: dict[str, Any], given: Given, fit: dict[str, Any], rounds: int, seed: int, device: str) -> Any:
    import lightgbm

    params |= {**ONE_WAY, "seed": seed, "verbosity": -1}
    categorical: Any = fit.get("categorical_feature") or "auto"

    def table(features: Features, labels: Ints, weights: Any = None, reference: Any = None) -> Any:
        return lightgbm.Dataset(
            features, labels, weight=weights, categorical_feature=categorical, params=dict(params), reference=reference
        )

    own = table(given.features, given.labels, given.weights)
    watched: dict[str, Any] = {}
    if given.evaluation is not None:
        watched = {"valid_sets": [table(*given.evaluation, reference=own)], "valid_names": ["validation"]}
    return lightgbm.train(params, own, rounds, callbacks=given.callbacks or None, **watched, **given.keywords)


def _xgboost(params: dict[str, Any], given: Given, fit: dict[str, Any], rounds: int, seed: int, device: str) -> Any:
    import xgboost

    params |= {"nthread": 1, "seed": seed, "verbosity": 0, "device": device}
    own = matrix(given.features, fit, label=given.labels, weight=given.weights)
    watched: dict[str, Any] = {}
    if given.evaluation is not None:
        features, labels = given.evaluation
        watched = {"evals": [(matrix(features, fit, label=labels), "validation")], "verbose_eval": False}
    return xgboost.train(params, own, rounds, callbacks=given.callbacks or None, **{**watched, **given.keywords})
