"""What an attack proves about differential privacy, and what differential privacy proves about attacks.

A bound here speaks of a *mechanism*: of training runs with canaries that were put in by independent coins, or of
guesses at one threshold that was fixed before the scores were seen. From the records of one ordinary model it is an
epsilon-equivalent of what was observed, never a proof about its training. There is no search over thresholds or
numbers of guesses anywhere: the best of many would need a correction that eats what it finds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

from privacy_gate.datamodel import Bools, Floats

LARGEST = 100.0  # bounds above it are not resolved: nobody could tell such mechanisms from publishing the records


# --- what privacy allows ----------------------------------------------------------------------------------------------


def most_accuracy(epsilon: float, delta: float = 0.0) -> float:
    """Largest balanced accuracy of any attacker on an (epsilon, delta)-DP mechanism: (e^eps + delta) / (1 + e^eps).

    Also the largest AUC where delta is 0. Kairouz, Oh & Viswanath, ICML 2015, theorem 2.1. ValueError out of range.
    """
    _check(epsilon, delta)
    return min(1.0, float(special.expit(epsilon)) + delta * float(special.expit(-epsilon)))


def most_advantage(epsilon: float, delta: float = 0.0) -> float:
    """Largest TPR - FPR of any attacker on an (epsilon, delta)-DP mechanism: (e^eps - 1 + 2 delta) / (e^eps + 1)."""
    return 2.0 * most_accuracy(epsilon, delta) - 1.0


def most_tpr(epsilon: float, fpr: float, delta: float = 0.0) -> float:
    """Largest TPR at the false-positive rate `fpr`: min(e^eps fpr + delta, 1 - e^-eps (1 - delta - fpr), 1)."""
    _check(epsilon, delta)
    if not 0.0 <= fpr <= 1.0:
        raise ValueError(f"a false-positive rate lies in [0, 1], got {fpr}")
    steep = math.exp(epsilon) * fpr + delta if epsilon < LARGEST else 1.0
    return min(1.0, steep, 1.0 - math.exp(-epsilon) * max(0.0, 1.0 - delta - fpr))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The epsilon of a mu-Gaussian-DP mechanism at `delta` in (0, 1). Dong, Roth & Su 2022, corollary 2.13."""
    if mu < 0.0 or not 0.0 < delta < 1.0:
        raise ValueError(f"mu must not be negative and delta lies in (0, 1), got {mu} and {delta}")
    if mu == 0.0:
        return 0.0

    def spent(epsilon: float) -> float:
        # In logarithms: e^eps overflows long before the product does.
        tail = math.exp(epsilon + float(special.log_ndtr(-epsilon / mu - mu / 2.0)))
        return float(special.ndtr(-epsilon / mu + mu / 2.0)) - tail

    return _largest(lambda epsilon: spent(epsilon) > delta)


def _check(epsilon: float, delta: float) -> None:
    if not epsilon >= 0.0 or not 0.0 <= delta <= 1.0:
        raise ValueError(f"epsilon must not be negative and delta lies in [0, 1], got {epsilon} and {delta}")


# --- one run with canaries ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Guesses:
    """What was guessed about canaries that independent fair coins put into the training set.

    canaries  all of them, guessed or not
    made      guesses; their number was fixed before the scores were seen
    correct   of those
    """

    canaries: int
    made: int
    correct: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.made <= self.canaries or self.made == 0:
            raise ValueError(f"{self.correct} of {self.made} guesses correct about {self.canaries} canaries")


def guess(scores: Floats, included: Bools, share: float) -> Guesses:
    """Call the highest `share` / 2 of canaries [m] included and as many of the lowest left out; fixed beforehand.

    Scores [m] are higher for canaries that look included. Among equal scores the earlier row goes first: which row a
    canary has must not depend on its coin. ValueError for NaN scores, a share out of (0, 1] and for no guess at all.
    """
    if not 0.0 < share <= 1.0 or np.isnan(scores).any() or scores.shape != included.shape:
        raise ValueError("guesses need a share in (0, 1] and one score, a number, for each canary")
    each = math.floor(share * len(scores) / 2.0 + 1e-9)  # 0.29 * 100 is below 29
    if each == 0:
        raise ValueError(f"a share of {share} of {len(scores)} canaries is no guess on either side")
    order = np.argsort(scores, kind="stable")
    hits = int(np.count_nonzero(~included[order[:each]])) + int(np.count_nonzero(included[order[-each:]]))
    return Guesses(len(scores), 2 * each, hits)


def one_run_p_value(guesses: Guesses, epsilon: float, delta: float = 0.0) -> float:
    """Chance of so many correct guesses, or more, on an (epsilon, delta)-DP mechanism; at most this, in [0, 1].

    P[B >= v] + 2 m delta max_i P[v - i <= B < v] / i with B ~ Binomial(r, e^eps / (1 + e^eps)), v of r guesses correct,
    m canaries. Steinke, Nasr & Jagielski, NeurIPS 2023, theorem 5.2 (there 1 <= i <= v).
    """
    _check(epsilon, delta)
    q, r, v = float(special.expit(epsilon)), guesses.made, guesses.correct
    if v == 0:
        return 1.0
    tail = float(special.bdtrc(v - 1, r, q))
    if delta == 0.0:
        return tail
    counts = np.arange(v)
    below = special.bdtr(counts, r, q) - np.concatenate(([0.0], special.bdtr(counts[:-1], r, q)))
    window = np.cumsum(below[::-1])  # P[v - i <= B < v] for i = 1 ... v
    return min(1.0, tail + 2.0 * guesses.canaries * delta * float((window / np.arange(1, v + 1)).max()))


def one_run_lower(guesses: Guesses, delta: float = 0.0, beta: float = 0.05) -> float:
    """Lower bound on epsilon at confidence 1 - beta: the largest that the guesses rule out; 0 if they rule out none.

    Steinke, Nasr & Jagielski, NeurIPS 2023. The number of guesses and the rule must have been fixed beforehand.
    """
    _level(beta)
    return _largest(lambda epsilon: one_run_p_value(guesses, epsilon, delta) < beta)


def one_run_gaussian_lower(guesses: Guesses, delta: float, beta: float = 0.05) -> float:
    """Lower bound on epsilon at `delta` in (0, 1) if the mechanism is a Gaussian one; 0 if nothing is ruled out.

    Mahloujifar, Melis & Chaudhuri, ICML 2025, algorithm for f-DP with f the Gaussian trade-off; tighter than
    `one_run_lower`, and worth nothing where the privacy loss is not Gaussian: shown beside it, never judged.
    """
    _level(beta)
    if not 0.0 < delta < 1.0:
        raise ValueError(f"delta lies in (0, 1), got {delta}")
    return gaussian_epsilon(_largest(lambda mu: _ruled_out(guesses, mu, beta)), delta)


def _ruled_out(guesses: Guesses, mu: float, beta: float) -> bool:
    """Whether mu-Gaussian DP would give so many correct guesses with a chance below beta."""
    made, correct = guesses.made, guesses.correct
    share = made / guesses.canaries
    right, wrong = beta * share * correct / made, beta * share * (made - correct) / made
    for i in range(correct - 1, -1, -1):
        if right >= 1.0:
            return True
        more = max(wrong, float(special.ndtr(special.ndtri(right) - mu)))
        right += i / (made - i) * (more - wrong)
        wrong = more
    return right + wrong > share


# --- one threshold --------------------------------------------------------------------------------------------------


def rates_lower(
    hits_members: int,
    n_members: int,
    hits_nonmembers: int,
    n_nonmembers: int,
    delta: float = 0.0,
    beta: float = 0.05,
) -> float:
    """Lower bound on epsilon from TPR and FPR at ONE threshold that was fixed beforehand; 0 if nothing is ruled out.

    max(log((TPR - delta) / FPR), log((1 - FPR - delta) / (1 - TPR))) at Clopper-Pearson bounds of TPR and FPR, beta/2
    each; both terms rest on the same two bounds, so the larger needs no further correction. Independent runs or
    canaries, not records of one model. Kairouz et al., ICML 2015, eq. 3; Jagielski, Ullman & Oprea, NeurIPS 2020.
    """
    _level(beta)
    _check(0.0, delta)
    for hits, n in ((hits_members, n_members), (hits_nonmembers, n_nonmembers)):
        if not 0 <= hits <= n or n == 0:
            raise ValueError(f"{hits} hits among {n}")
    low, high = beta / 2.0, beta / 2.0
    tpr = 0.0 if hits_members == 0 else float(special.betaincinv(hits_members, n_members - hits_members + 1.0, low))
    fpr = 1.0
    if hits_nonmembers < n_nonmembers:
        fpr = float(special.betainccinv(hits_nonmembers + 1.0, n_nonmembers - hits_nonmembers, high))
    return max(0.0, _log_ratio(tpr - delta, fpr), _log_ratio(1.0 - fpr - delta, 1.0 - tpr))


def _log_ratio(above: float, below: float) -> float:
    return math.log(above / below) if above > 0.0 else -math.inf


def _level(beta: float) -> None:
    if not 0.0 < beta < 1.0:
        raise ValueError(f"beta must lie in (0, 1), got {beta}")


def _largest(holds: Callable[[float], bool]) -> float:
    """The largest number in [0, LARGEST] at which `holds`, which once false stays false; from below."""
    low, high = 0.0, 1.0
    if not holds(low):
        return 0.0
    while high < LARGEST and holds(high):
        low, high = high, min(2.0 * high, LARGEST)
    if holds(high):
        return high
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
