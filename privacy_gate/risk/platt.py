"""Two parameters that bring a risk learnt elsewhere to this model: logit r' = a + b logit r."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from privacy_gate.datamodel import Bools, Floats, Ints
from privacy_gate.risk.curve import Option, Sample, clip, held_out_loss

PRIOR = 1.0  # precision of a around 0 and of b around 1: without it, separable records would send b to infinity
STEPS = 50
CLOSE = 1e-10  # of the decrease promised by a step, in units of the log likelihood


@dataclass(frozen=True, slots=True)
class Line:
    """logit of the risk = a + b times the score, the score being a logit."""

    a: float
    b: float
    n: int

    def at(self, scores: Floats, labels: Ints | None = None) -> Floats:
        """[n] the risk at scores [n]."""
        return clip(expit(self.a + self.b * scores), self.n)


def options(sample: Sample, held_out: Sequence[Bools]) -> Iterator[Option]:
    """The one curve with its loss over the folds."""
    yield Option("recalibrated", line, held_out_loss(line, sample, held_out))


def line(sample: Sample) -> Line:
    """The likeliest line (Platt 1999) at prior one half, with a normal prior around doing nothing; Newton's steps."""
    x = np.stack([np.ones_like(sample.scores), sample.scores], axis=1)
    weight = sample.weight * len(sample.scores)
    beta, home = np.array([0.0, 1.0]), np.array([0.0, 1.0])

    def objective(at: Floats) -> float:
        eta = x @ at
        loss = np.logaddexp(0.0, eta) - sample.member * eta
        return float((weight * loss).sum() + PRIOR / 2 * ((at - home) ** 2).sum())

    current = objective(beta)
    for _ in range(STEPS):
        p = expit(x @ beta)
        slope = x.T @ (weight * (p - sample.member)) + PRIOR * (beta - home)
        bend = (x.T * (weight * p * (1 - p))) @ x + PRIOR * np.eye(2)
        step = np.linalg.solve(bend, slope)
        size, promised = 1.0, float(slope @ step)
        while (reached := objective(beta - size * step)) > current and size > 1e-6:
            size /= 2
        if reached > current:
            break
        beta, current = beta - size * step, reached
        if promised < CLOSE:
            break
    return Line(float(beta[0]), float(beta[1]), len(sample.scores))
