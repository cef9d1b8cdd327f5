"""Clone the candidate's own fitted scikit-learn estimator: same class, same settings, fitted anew."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate.datamodel import Description
from privacy_gate.errors import RecipeFailed, UsageError
from privacy_gate.features import Features
from privacy_gate.shadows.recipes import Context, recipe
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
    return {
        "estimator": dict(description.recipe),
        "code": _bundled_code(context.snapshot),
        "versions": dict(description.versions),
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
    return seeded(estimator, seed).fit(features, labels)


def seeded(estimator: Any, seed: int) -> Any:
    """The same estimator with every nested `random_state` drawn from `seed` and every `n_jobs` set to 1."""
    names = sorted(estimator.get_params(deep=True))
    states = [name for name in names if name.rpartition("__")[2] == "random_state"]
    # One draw per parameter: two parts of a pipeline must not share their random numbers.
    draws = np.random.SeedSequence(seed).generate_state(max(len(states), 1)) >> 1  # some libraries want an int32
    changes = dict(zip(states, map(int, draws), strict=False))
    changes |= {name: 1 for name in names if name.rpartition("__")[2] in ("n_jobs", "nthread")}
    return estimator.set_params(**changes)
