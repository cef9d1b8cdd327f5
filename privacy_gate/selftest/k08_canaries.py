"""K-8: canaries in a mechanism of known epsilon."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from privacy_gate.epsilon import (
    gaussian_epsilon,
    guess,
    most_accuracy,
    one_run_gaussian_lower,
    one_run_lower,
    rates_lower,
)
from privacy_gate.selftest import ALPHA, Promise, mostly, rarely, world

_CANARIES, _DELTA = 1000, 1e-5
_SHARE = 0.1  # guessed about: the highest and the lowest 5 %, fixed beforehand


@world(id="K-08", quick=400)
def canaries(seed: int, replicates: int) -> Iterator[Promise]:
    """K-8: canaries behind randomised response and Gaussian noise: a bound above the true epsilon is an error."""
    m = _CANARIES
    for epsilon in (0.0, 1.0, 3.0):
        bounds, at_one = [], []
        for r in range(replicates):
            rng = np.random.default_rng([seed, 23, int(epsilon), r])
            included = rng.random(m) < 0.5
            answers = np.where(rng.random(m) < most_accuracy(epsilon), included, ~included)
            # Which of the equal answers is looked at must not depend on the coin: their order is the rows'.
            bounds.append(one_run_lower(guess(answers.astype(np.float64), included, 1.0), beta=ALPHA))
            hits = [int(answers[side].sum()) for side in (included, ~included)]
            sizes = int(included.sum()), int((~included).sum())
            at_one.append(rates_lower(hits[0], sizes[0], hits[1], sizes[1], beta=ALPHA))
        name = f"K-8: {m:,} canaries, randomised response of epsilon {epsilon:g}"
        shown = f"(bounds: {np.mean(bounds):.2f} from guesses, {np.mean(at_one):.2f} from rates, on average)"
        wrong = [bound > epsilon for bound in bounds]
        yield rarely(f"K-8.rr.{epsilon:g}.guesses", name, f"the bound from guesses is too high {shown}", wrong, ALPHA)
        wrong = [bound > epsilon for bound in at_one]
        yield rarely(f"K-8.rr.{epsilon:g}.rates", name, "the bound from TPR and FPR is too high", wrong, ALPHA)
        if epsilon:
            enough = [bound > 0.7 * epsilon for bound in bounds]
            yield mostly(f"K-8.rr.{epsilon:g}.power", name, "the bound from guesses finds 70 % of it", enough, 0.9)
    yield from _gaussian(seed, replicates)


def _gaussian(seed: int, replicates: int) -> Iterator[Promise]:
    epsilon = gaussian_epsilon(1.0, _DELTA)
    bounds, sharper = [], []
    for r in range(replicates):
        rng = np.random.default_rng([seed, 24, r])
        included = rng.random(_CANARIES) < 0.5
        guesses = guess(rng.normal(size=_CANARIES) + included, included, _SHARE)
        bounds.append(one_run_lower(guesses, _DELTA, ALPHA))
        sharper.append(one_run_gaussian_lower(guesses, _DELTA, ALPHA))
    name = f"K-8: {_CANARIES:,} canaries, Gaussian noise of epsilon {epsilon:.2f} at delta {_DELTA:g}"
    shown = f"(on average {np.mean(bounds):.2f}; {np.mean(sharper):.2f} for Gaussian mechanisms)"
    wrong = [bound > epsilon for bound in bounds]
    yield rarely("K-8.gaussian.guesses", name, f"the bound from guesses is too high {shown}", wrong, ALPHA)
    wrong = [bound > epsilon for bound in sharper]
    yield rarely("K-8.gaussian.f_dp", name, "the bound for Gaussian mechanisms is too high", wrong, ALPHA)
    found = [bound > 0.5 for bound in bounds]
    yield mostly("K-8.gaussian.power", name, "the bound from guesses exceeds 0.5", found, 0.9)
