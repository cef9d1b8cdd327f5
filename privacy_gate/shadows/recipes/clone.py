"""Clone the candidate's own fitted scikit-learn estimator: same class, same settings, fitted anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate.datamodel import Description
from privacy_gate.errors import RecipeFailed, UsageError
from privacy_gate.features import Features
from privacy_gate.shadows.recipes import Context, defended, recipe, training_defences
from privacy_gate.storage import sha256_of_file

_OTHER_WAYS = (
    "set shadows.recipe.python (path.py:train, called as train(features, labels, *, seed), returns a fitted model),"
    " or shadows.recipe.model (path.py:factory, returns an untrained torch module) with shadows.recipe.training"
)


def _identity(context: Context, description: Description | None) -> Mapping[str, Any]:
    if context.flavor == "pytorch":
        raise UsageError(
            "the PyTorch candidate cannot be cloned: an exported graph cannot be re-initialised, and weights do not"
            " say how they were trained",
            _OTHER_WAYS,
        )
    if context.snapshot is None or description is None or description.recipe is None:
        raise UsageError(
            f"the candidate (flavor {context.flavor}) has no scikit-learn estimator that could be cloned", _OTHER_WAYS
        )
    _check_defences(context, description.recipe)
    return {
        "estimator": dict(description.recipe),
        "code": _bundled_code(context.snapshot),
        "versions": dict(description.versions),
        **defended(context),
    }


def _bundled_code(snapshot: Path) -> dict[str, str]:
    """Custom estimators come with their classes: file name -> sha256."""
    folder = snapshot / "code"
    return {p.relative_to(folder).as_posix(): sha256_of_file(p) for p in sorted(folder.rglob("*.py"))}


@recipe(id="clone", labels="values", imports=("scikit-learn",), identity=_identity)
def clone(features: Features, labels: NDArray[Any], seed: int, context: Context) -> Any:
    """The candidate's estimator, unfitted, with its own seed and one thread, fitted to the shadow's records."""
    import sklearn.base

    from privacy_gate.sandbox import models

    if context.snapshot is None:
        raise RecipeFailed("there is no candidate to clone")
    estimator = sklearn.base.clone(models.load(context.snapshot, context.flavor))
    unfitted = seeded(_with_defences(estimator, context), seed)
    if context.watch is None:
        return unfitted.fit(features, labels)
    return _fit_watched(unfitted, features, labels, context.watch)


def seeded(estimator: Any, seed: int) -> Any:
    """The same estimator with every nested `random_state` drawn from `seed` and every `n_jobs` set to 1."""
    names = sorted(estimator.get_params(deep=True))
    states = [name for name in names if name.rpartition("__")[2] == "random_state"]
    # One draw per parameter: two parts of a pipeline must not share their random numbers.
    draws = np.random.SeedSequence(seed).generate_state(max(len(states), 1)) >> 1  # some libraries want an int32
    changes = dict(zip(states, map(int, draws), strict=False))
    changes |= {name: 1 for name in names if name.rpartition("__")[2] in ("n_jobs", "nthread")}
    return estimator.set_params(**changes)


# --- defences -------------------------------------------------------------------------------------------------------

_LIBRARIES = ("sklearn", "lightgbm", "xgboost")
# Wrappers that train what is inside with the settings that it has.
_WRAPPERS = ("CalibratedClassifierCV", "OneVsRestClassifier", "OneVsOneClassifier")


def _known(name: str) -> str:
    """The bare name of a library's class; a class of somebody else's may have the same name and other parameters."""
    library, _, _ = name.partition(".")
    return name.rpartition(".")[2] if library in _LIBRARIES else name


def _check_defences(context: Context, described: Mapping[str, Any]) -> None:
    """UsageError where a defence has no parameter to set, found from the description alone."""
    defences = training_defences(context)
    if not defences:
        return
    name, params = innermost(described)
    for defence in defences:
        params |= defence.parameters(name, params)


def innermost(described: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and parameters of the last step of a pipeline, of what a wrapper trains, or of the estimator itself."""
    name, params = _known(str(described.get("class"))), dict(described.get("params") or {})
    inner = params.get("estimator") if name in _WRAPPERS else None
    if name == "Pipeline" and isinstance(steps := params.get("steps"), list) and steps:
        inner = steps[-1][1]
    return innermost(inner) if isinstance(inner, Mapping) and "class" in inner else (name, params)


def _with_defences(estimator: Any, context: Context) -> Any:
    """The unfitted estimator with the parameters that the defences set on its innermost part."""
    for defence in training_defences(context):
        inner = _inside(estimator)
        inner.set_params(**defence.parameters(_name(inner), inner.get_params(deep=False)))
    return estimator


def _inside(estimator: Any) -> Any:
    """The unfitted estimator that `innermost` describes."""
    inner = getattr(estimator, "estimator", None) if _name(estimator) in _WRAPPERS else None
    if _name(estimator) == "Pipeline":
        inner = estimator.steps[-1][1]
    return _inside(inner) if hasattr(inner, "get_params") else estimator


def _name(estimator: Any) -> str:
    return _known(f"{type(estimator).__module__}.{type(estimator).__qualname__}")


# --- the model on its way -------------------------------------------------------------------------------------------


def _fit_watched(unfitted: Any, features: Features, labels: NDArray[Any], watch: Callable[[Any, int], None]) -> Any:
    """Fit as without a watch, and show the model after each round of boosting or epoch of a perceptron.

    Boosted models tell their stages afterwards. Other estimators have none: a forest of fewer trees is not a forest
    that was trained less.
    """
    final = _final(unfitted)
    if _name(final) == "MLPClassifier" and final.solver in ("sgd", "adam") and final.shuffle:
        return _fit_perceptron(unfitted, features, labels, watch)
    fitted = unfitted.fit(features, labels)
    staged = _Staged(fitted, _final(fitted))
    for step in range(1, _rounds(staged.final) + 1):
        watch(Stage(staged, step), step)
    return fitted


def _final(estimator: Any) -> Any:
    return estimator.steps[-1][1] if _name(estimator) == "Pipeline" else estimator


def _fit_perceptron(unfitted: Any, features: Features, labels: NDArray[Any], watch: Callable[[Any, int], None]) -> Any:
    """The rows are shuffled once before each epoch: whoever draws that order knows that an epoch is over.

    Fitting epoch by epoch (`partial_fit`, `warm_start`) would train another model: it starts the order anew each time.
    """
    import numpy.random

    final = _final(unfitted)
    shown = 0

    class Order(numpy.random.RandomState):
        def shuffle(self, x: Any) -> None:
            nonlocal shown
            # Records may have been shuffled before, to hold some of them back: no epoch is over then.
            if (done := getattr(final, "n_iter_", 0)) > shown:
                watch(unfitted, done)
                shown = done
            super().shuffle(x)

    seed = final.random_state
    final.set_params(random_state=Order(seed))  # the numbers that the seed itself would give
    fitted = unfitted.fit(features, labels)
    final.set_params(random_state=seed)
    watch(fitted, final.n_iter_)
    return fitted


# What LightGBM and XGBoost call an answer after k rounds.
_AFTER_ROUNDS: dict[str, Callable[[int], dict[str, Any]]] = {
    "LGBMClassifier": lambda k: {"num_iteration": k},
    "XGBClassifier": lambda k: {"iteration_range": (0, k)},
}


def _rounds(final: Any) -> int:
    """Stages that a fitted estimator can tell; 0 where it tells none."""
    match _name(final):
        case "GradientBoostingClassifier" | "AdaBoostClassifier":
            return len(final.estimators_)
        case "HistGradientBoostingClassifier":
            return int(final.n_iter_)
        case "LGBMClassifier":
            return int(final.n_estimators_)
        case "XGBClassifier":
            return int(final.get_booster().num_boosted_rounds())
        case _:
            return 0


@dataclass(slots=True, eq=False)
class _Staged:
    """The stages of one fitted model. Asking for them in order, about the same features, costs one pass."""

    model: Any
    final: Any
    features: Features | None = None
    passing: Iterator[NDArray[Any]] = field(default_factory=lambda: iter(()))
    step: int = 0
    answer: NDArray[Any] = field(default_factory=lambda: np.zeros((0, 0)))

    def at(self, step: int, features: Features) -> NDArray[Any]:
        if self.features is not features or step < self.step:
            self.features, self.passing, self.step = features, self._pass(features), 0
        while self.step < step:
            self.answer = np.asarray(next(self.passing))
            self.step += 1
        return self.answer.copy()

    def _pass(self, features: Features) -> Iterator[NDArray[Any]]:
        x = features if self.final is self.model else self.model[:-1].transform(features)
        if partial := _AFTER_ROUNDS.get(_name(self.final)):
            return (self.final.predict_proba(x, **partial(k)) for k in range(1, _rounds(self.final) + 1))
        return iter(self.final.staged_predict_proba(x))


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """A boosted model as it was after `step` rounds; answers as the model itself does."""

    staged: _Staged
    step: int

    @property
    def classes_(self) -> NDArray[Any]:
        """[K] the label values behind the columns."""
        return np.asarray(self.staged.final.classes_)

    def predict_proba(self, features: Features) -> NDArray[Any]:
        """[n, K] probabilities after `step` rounds."""
        return self.staged.at(self.step, features)
