"""Clone the candidate's own fitted scikit-learn estimator: same class, same settings, fitted anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate.datamodel import Description
from privacy_gate.errors import RecipeFailed, UsageError
from privacy_gate.features import Features
from privacy_gate.sandbox.stages import Stages, class_of, known_class, last_step
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

# Wrappers that train what is inside with the settings that it has.
_WRAPPERS = ("CalibratedClassifierCV", "OneVsRestClassifier", "OneVsOneClassifier")


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
    name, params = known_class(str(described.get("class"))), dict(described.get("params") or {})
    inner = params.get("estimator") if name in _WRAPPERS else None
    if name == "Pipeline" and isinstance(steps := params.get("steps"), list) and steps:
        inner = steps[-1][1]
    return innermost(inner) if isinstance(inner, Mapping) and "class" in inner else (name, params)


def _with_defences(estimator: Any, context: Context) -> Any:
    """The unfitted estimator with the parameters that the defences set on its innermost part."""
    for defence in training_defences(context):
        inner = _inside(estimator)
        inner.set_params(**defence.parameters(class_of(inner), inner.get_params(deep=False)))
    return estimator


def _inside(estimator: Any) -> Any:
    """The unfitted estimator that `innermost` describes."""
    inner = getattr(estimator, "estimator", None) if class_of(estimator) in _WRAPPERS else None
    if class_of(estimator) == "Pipeline":
        inner = estimator.steps[-1][1]
    return _inside(inner) if hasattr(inner, "get_params") else estimator


# --- the model on its way -------------------------------------------------------------------------------------------


def _fit_watched(unfitted: Any, features: Features, labels: NDArray[Any], watch: Callable[[Any, int], None]) -> Any:
    """Fit as without a watch, and show the model after each round of boosting or epoch of a perceptron.

    Boosted models tell their stages afterwards. Other estimators have none: a forest of fewer trees is not a forest
    that was trained less.
    """
    final = last_step(unfitted)
    if class_of(final) == "MLPClassifier" and final.solver in ("sgd", "adam") and final.shuffle:
        return _fit_perceptron(unfitted, features, labels, watch)
    fitted = unfitted.fit(features, labels)
    staged = Stages(fitted, last_step(fitted))
    for step in range(1, staged.rounds + 1):
        watch(Stage(staged, step), step)
    return fitted


def _fit_perceptron(unfitted: Any, features: Features, labels: NDArray[Any], watch: Callable[[Any, int], None]) -> Any:
    """The rows are shuffled once before each epoch: whoever draws that order knows that an epoch is over.

    Fitting epoch by epoch (`partial_fit`, `warm_start`) would train another model: it starts the order anew each time.
    """
    import numpy.random

    final = last_step(unfitted)
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


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """A boosted model as it was after `step` rounds; answers as the model itself does."""

    staged: Stages
    step: int

    @property
    def classes_(self) -> NDArray[Any]:
        """[K] the label values behind the columns."""
        return np.asarray(self.staged.final.classes_)

    def predict_proba(self, features: Features) -> NDArray[Any]:
        """[n, K] probabilities after `step` rounds."""
        return self.staged.at(self.step, features)
