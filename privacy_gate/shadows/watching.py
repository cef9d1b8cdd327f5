"""A fit that shows the model on its way: after each round of boosting, or each epoch of a perceptron.

Runs model code: in shadow workers only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate.features import Features
from privacy_gate.sandbox.stages import Stages, class_of, last_step
from privacy_gate.shadows import fitting


def fit(unfitted: Any, given: fitting.Given, watch: Callable[[Any, int], None]) -> Any:
    """Fit as without a watch, and show the model after each round of boosting or epoch of a perceptron.

    Boosted models tell their stages afterwards. Other estimators have none: a forest of fewer trees is not a forest
    that was trained less.
    """
    final = last_step(unfitted)
    if class_of(final) == "MLPClassifier" and final.solver in ("sgd", "adam") and final.shuffle:
        return _fit_perceptron(unfitted, given, watch)
    fitted = fitting.fit(unfitted, given)
    staged = Stages(fitted, last_step(fitted))
    for step in range(1, staged.rounds + 1):
        watch(Stage(staged, step), step)
    return fitted


def _fit_perceptron(unfitted: Any, given: fitting.Given, watch: Callable[[Any, int], None]) -> Any:
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
    fitted = fitting.fit(unfitted, given)
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
