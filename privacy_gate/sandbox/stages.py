"""What a boosted model answers after a part of its rounds. Runs model code, as `models` does.

A forest of fewer trees is not a forest that was trained less: only boosting has rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate.errors import NotEvaluable
from privacy_gate.features import Features

SHARES = tuple(2 ** (i / 2 - 8) for i in range(17))  # dense at the start, where a model learns; the last one is 1
_LIBRARIES = ("sklearn", "lightgbm", "xgboost")


def known_class(name: str) -> str:
    """The bare name of a library's class; a class of somebody else's may have the same name and other parameters.

    Two libraries have a Booster: that one keeps its library, as in `lightgbm.Booster`.
    """
    library, _, _ = name.partition(".")
    bare = name.rpartition(".")[2]
    if library not in _LIBRARIES:
        return name
    return f"{library}.{bare}" if bare == "Booster" else bare


def class_of(model: Any) -> str:
    """`known_class` of an object."""
    return known_class(f"{type(model).__module__}.{type(model).__qualname__}")


def last_step(model: Any) -> Any:
    """The last step of a pipeline, or the model itself."""
    return model.steps[-1][1] if class_of(model) == "Pipeline" else model


def rounds(final: Any) -> int:
    """Rounds that a fitted model can tell its stages of, those that it answers with; 0 where it tells none."""
    match class_of(final):
        case "GradientBoostingClassifier" | "AdaBoostClassifier":
            return len(final.estimators_)
        case "HistGradientBoostingClassifier":
            return int(final.n_iter_)
        case "LGBMClassifier":
            return int(getattr(final, "best_iteration_", None) or final.n_estimators_)
        case "XGBClassifier":
            best = getattr(final, "best_iteration", None)  # counts from 0; it answers with the rounds up to this one
            return int(final.get_booster().num_boosted_rounds()) if best is None else int(best) + 1
        case "lightgbm.Booster":
            # One that was stopped early answers with its best rounds; its file has only these.
            return int(final.best_iteration if final.best_iteration > 0 else final.current_iteration())
        case "xgboost.Booster":
            return int(final.num_boosted_rounds())  # it answers with all of them, its best round or not
        case _:
            return 0


def steps(total: int) -> list[int]:
    """At most 17 of the rounds 1 to `total`: 1/256 of them, each time half as many again or so, and all."""
    return sorted({math.ceil(share * total) for share in SHARES})


# What LightGBM and XGBoost call an answer after k rounds; the others pass through their stages in turn.
AFTER_ROUNDS: dict[str, Callable[[int], dict[str, Any]]] = {
    "LGBMClassifier": lambda k: {"num_iteration": k},
    "XGBClassifier": lambda k: {"iteration_range": (0, k)},
    "lightgbm.Booster": lambda k: {"num_iteration": k},
    "xgboost.Booster": lambda k: {"iteration_range": (0, k)},
}


@dataclass(slots=True, eq=False)
class Stages:
    """The stages of one fitted model. Asking for them in order, about the same features, costs one pass."""

    model: Any
    final: Any
    features: Features | None = None
    passing: Iterator[NDArray[Any]] = field(default_factory=lambda: iter(()))
    step: int = 0
    answer: NDArray[Any] = field(default_factory=lambda: np.zeros((0, 0)))

    @property
    def rounds(self) -> int:
        """How many there are."""
        return rounds(self.final)

    def at(self, step: int, features: Features) -> NDArray[Any]:
        """[n, K] probabilities after `step` rounds, from 1; the caller's own. Of two, a Booster tells one: [n]."""
        if partial := AFTER_ROUNDS.get(name := class_of(self.final)):
            rows = self._last_features(features)
            if name == "xgboost.Booster":
                columns = {key: getattr(self.final, key) for key in ("feature_names", "feature_types")}
                rows = matrix(rows, columns)
            ask = self.final.predict if name.endswith(".Booster") else self.final.predict_proba
            return np.asarray(ask(rows, **partial(step)))
        if self.features is not features or step < self.step:
            self.features, self.step = features, 0
            self.passing = iter(self.final.staged_predict_proba(self._last_features(features)))
        while self.step < step:
            self.answer = np.asarray(next(self.passing))
            self.step += 1
        return self.answer.copy()

    def _last_features(self, features: Features) -> Any:
        return features if self.final is self.model else self.model[:-1].transform(features)


def matrix(features: Features, columns: Mapping[str, Any], **beside: Any) -> Any:
    """XGBoost's table on one thread; the columns of an array get the names and types that the model's have.

    beside  label and weight
    """
    import xgboost

    told = {key: columns.get(key) for key in ("feature_names", "feature_types")}
    named = told if isinstance(features, np.ndarray) else {}
    return xgboost.DMatrix(features, nthread=1, enable_categorical=True, **named, **beside)


def stages_of(model: Any) -> Stages:
    """The stages of a loaded model, a pipeline or the winner of a search; raises NotEvaluable where it has none."""
    model = getattr(model, "best_estimator_", model)
    found = Stages(model, last_step(model))
    if not found.rounds:
        raise NotEvaluable(
            f"a {type(found.final).__name__} has no rounds whose answers it could tell",
            "only boosting has; give `frontier: retraining` or `frontier: {checkpoints: [...]}`",
        )
    return found
