"""Logistic regression with a ridge and an effect per class, by Newton's method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from privacy_gate.datamodel import Bools, Floats, Ints
from privacy_gate.errors import EvaluationFailed
from privacy_gate.learners import Material, standardised
from privacy_gate.learners.tables import class_odds

RIDGE = 1.0
_ITERATIONS = 50
_HALVINGS = 30


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """Log odds = intercept + x @ slopes + effects[group]."""

    intercept: float
    slopes: Floats  # [d]
    effects: Floats  # [groups + 1], the last one 0: a class that was not learned from

    def scores(self, x: Floats, group: Ints) -> Floats:
        """[n] log odds for the inputs [n, d] of classes [n]."""
        return np.asarray(self.intercept + x @ self.slopes + self.effects[group])


def fit(x: Floats, y: Bools, group: Ints, groups: int, ridge: float = RIDGE, offset: Floats | float = 0.0) -> Line:
    """The line of least sum w log(1 + e^-z) + ridge/2 (|slopes|^2 + |effects|^2) over inputs [n, d], memberships [n].

    Either side weighs n/2, so that log odds are at prior one half. The intercept is not shrunk. `offset` [n] is what
    is known of the log odds beforehand: it is in z, and the line tells the rest. Newton's method (iteratively
    reweighted least squares), steps halved until they help; effects are eliminated from each step, since their block
    of the Hessian is diagonal: O(n d^2) whatever the number of classes. Raises EvaluationFailed where it does not
    converge.
    """
    n, width = x.shape[0], x.shape[1] + 1
    design = np.column_stack([np.ones(n), x])
    weights = np.where(y, n / (2 * y.sum()), n / (2 * (~y).sum()))
    penalty = np.concatenate([[0.0], np.full(width - 1, ridge)])

    def objective(beta: Floats, effects: Floats) -> float:
        z = design @ beta + effects[group] + offset
        shrunk = 0.5 * (penalty @ beta**2 + ridge * effects @ effects)
        return float(weights @ np.logaddexp(0.0, np.where(y, -z, z)) + shrunk)

    beta, effects = np.zeros(width), np.zeros(groups)
    value = objective(beta, effects)
    for _ in range(_ITERATIONS):
        p = expit(design @ beta + effects[group] + offset)
        residual, curve = weights * (p - y), weights * p * (1 - p)
        g_beta = design.T @ residual + penalty * beta
        g_effects = np.bincount(group, residual, groups) + ridge * effects
        if max(np.abs(g_beta).max(), np.abs(g_effects).max(initial=0.0)) <= 1e-9 * n:
            return Line(float(beta[0]), beta[1:], np.append(effects, 0.0))
        d_beta, d_effects = _newton(design, curve, group, penalty, ridge, g_beta, g_effects)
        slope = float(g_beta @ d_beta + g_effects @ d_effects)
        step = 1.0
        for _ in range(_HALVINGS):
            moved = objective(beta - step * d_beta, effects - step * d_effects)
            # The last digits of the sum are rounding.
            if moved <= value - 1e-4 * step * slope + 1e-12 * abs(value):
                break
            step /= 2
        beta, effects, value = beta - step * d_beta, effects - step * d_effects, moved
    raise EvaluationFailed(
        f"logistic regression on {n} records did not converge in {_ITERATIONS} steps",
        "the signals are of very different size; look at the model's outputs",
    )


def _newton(
    design: Floats, curve: Floats, group: Ints, penalty: Floats, ridge: float, g_beta: Floats, g_effects: Floats
) -> tuple[Floats, Floats]:
    """The Newton step; the Hessian is [[A, B], [B', D]] with D diagonal, solved by its Schur complement."""
    weighted = design * curve[:, None]
    a = design.T @ weighted + np.diag(penalty)
    b = np.zeros((len(g_effects), design.shape[1]))
    np.add.at(b, group, weighted)
    d = np.bincount(group, curve, len(g_effects)) + ridge
    # Records that are all but certain bend nothing: without the last term the intercept could be undetermined.
    schur = a - b.T @ (b / d[:, None]) + 1e-12 * np.trace(a) * np.eye(len(a))
    d_beta = np.linalg.solve(schur, g_beta - b.T @ (g_effects / d))
    return d_beta, (g_effects - b @ d_beta) / d


def logistic(material: Material, x: Floats, learn: Sequence[Ints], ask: Sequence[Ints]) -> list[Floats]:
    """Per fold, the scores of the rows to ask: log odds of a line with class effects on the inputs [R, d].

    An effect is what the answers show of a class beyond the mix of classes: see `class_odds`.
    """
    found = []
    for rows, asked in zip(learn, ask, strict=True):
        scaled = standardised(x, rows)
        group = material.group[rows]
        odds = class_odds(material, rows)[group]
        line = fit(scaled[rows], material.member[rows], group, material.groups, offset=odds)
        found.append(line.scores(scaled[asked], material.group[asked]))
    return found
