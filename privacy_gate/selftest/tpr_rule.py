"""TPR at a low false-positive rate: the rule's errors at the limit, and how often it decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import special
from scipy.stats import norm

from privacy_gate import metrics
from privacy_gate.datamodel import Floats, RuleStatus
from privacy_gate.policy import judge
from privacy_gate.selftest import (
    ALPHA,
    Promise,
    Rng,
    about,
    answer_key,
    evidence,
    halves,
    measured,
    policy,
    rarely,
    status,
    world,
)

RULES = {0.01: "PG103", 0.001: "PG104"}
LIMITS = {0.01: 0.05, 0.001: 0.01}  # of the profile `standard`


@dataclass(frozen=True, slots=True)
class Shifted:
    """Normal scores, members shifted: no two are equal."""

    shift: float

    def draw(self, rng: Rng, n: int) -> Floats:
        """[2 n] scores of n members and n others."""
        return np.asarray(rng.normal(size=2 * n) + self.shift * halves(n))

    def tpr(self, fpr: Floats) -> Floats:
        """The ROC curve."""
        return np.asarray(norm.sf(norm.isf(fpr) - self.shift))


@dataclass(frozen=True, slots=True)
class Tied:
    """A forest's answers: a third of the members and a quarter of the others have the very same highest score.

    Ties are broken at random, so the curve runs straight through a block of them.
    """

    members: float = 0.34
    nonmembers: float = 0.25
    levels: int = 20  # of all lower scores

    def draw(self, rng: Rng, n: int) -> Floats:
        """[2 n] scores of n members and n others."""
        top = rng.random(2 * n) < np.where(halves(n), self.members, self.nonmembers)
        return np.asarray(np.where(top, self.levels, rng.integers(0, self.levels, 2 * n)), dtype=np.float64)

    def tpr(self, fpr: Floats) -> Floats:
        """The ROC curve."""
        below = self.members + (fpr - self.nonmembers) * (1 - self.members) / (1 - self.nonmembers)
        return np.asarray(np.where(fpr <= self.nonmembers, fpr * self.members / self.nonmembers, below))


Leak = Shifted | Tied


def _statuses(leak: Leak, rng: Rng, n: int, limits: dict[float, float], seed: int) -> dict[float, RuleStatus]:
    """FPR -> what becomes of its rule, judged alone."""
    audit = answer_key(halves(n))
    found = evidence(measured({"simulated": leak.draw(rng, n)}, audit, seed), audit, seed)
    return {fpr: status(judge(policy({RULES[fpr]: at}), found), RULES[fpr]) for fpr, at in limits.items()}


@world(id="tpr", quick=60)
def tpr_rule(seed: int, replicates: int) -> Iterator[Promise]:
    """The TPR at 1 % and 0.1 % FPR is exactly at its limit, with and without ties."""
    n = 4000
    for name, leak in (("without ties", Shifted(1.0)), ("a third of the scores tied", Tied())):
        limits = {fpr: float(leak.tpr(np.array(fpr))) for fpr in RULES}
        stream = 7 if isinstance(leak, Shifted) else 17
        rngs = [np.random.default_rng([seed, stream, r]) for r in range(replicates)]
        found = [_statuses(leak, rng, n, limits, r) for r, rng in enumerate(rngs)]
        for fpr, limit in limits.items():
            id = f"tpr.{fpr:g}.{'tied' if isinstance(leak, Tied) else 'untied'}"
            said = f"TPR at {100 * fpr:g} % FPR is {limit:.4f}, its limit, {name}"
            passed, failed = ([s[fpr] is wanted for s in found] for wanted in (RuleStatus.PASS, RuleStatus.FAIL))
            yield rarely(f"{id}.false_pass", said, "a model at the limit passes", passed, ALPHA)
            yield rarely(f"{id}.false_fail", said, "a model at the limit fails", failed, ALPHA)


def chances(tpr: Callable[[Floats], Floats], fpr: float, limit: float, n: int) -> tuple[float, float]:
    """How often n members and n others pass and fail the limit: by integration over where the threshold falls."""
    grid = (np.arange(4000) + 0.5) / 4000
    hits = np.arange(n + 1)
    chance = []
    for side, rank in (
        ("pass", metrics.rank_with_fpr_at_least(n, fpr, ALPHA / 2)),
        ("fail", metrics.rank_with_fpr_at_most(n, fpr, ALPHA / 2)),
    ):
        if rank is None:
            chance.append(0.0)
            continue
        # The k-th highest of n scores leaves a share above it that is Beta(k, n + 1 - k) distributed.
        reached = tpr(np.asarray(special.betaincinv(rank, n + 1 - rank, grid)))
        if side == "pass":
            highest = np.append(special.betaincinv(hits[:-1] + 1, n - hits[:-1], 1 - ALPHA / 2), 1.0)
            most = int(np.count_nonzero(highest <= limit)) - 1  # more hits do not pass
            chance.append(float(np.mean(special.bdtr(most, n, reached))) if most >= 0 else 0.0)
        else:
            lowest = np.append(0.0, special.betaincinv(hits[1:], n - hits[1:] + 1, ALPHA / 2))
            most = int(np.count_nonzero(lowest <= limit)) - 1  # so many hits do not fail yet
            chance.append(float(np.mean(special.bdtrc(most, n, reached))) if most < n else 0.0)
    return chance[0], chance[1]


@world(id="tpr power", quick=15)
def tpr_power(seed: int, replicates: int) -> Iterator[Promise]:
    """How often the standard limits of the TPR rules are decided, by the number of non-members."""
    for n in (1_000, 3_000, 10_000, 16_000):
        for shift, wanted in ((0.0, RuleStatus.PASS), (1.5, RuleStatus.FAIL)):
            leak = Shifted(shift)
            rngs = [np.random.default_rng([seed, 18, n, int(10 * shift), r]) for r in range(replicates)]
            found = [_statuses(leak, rng, n, LIMITS, r) for r, rng in enumerate(rngs)]
            for fpr, limit in LIMITS.items():
                expected = chances(leak.tpr, fpr, limit, n)[0 if wanted is RuleStatus.PASS else 1]
                truth = float(leak.tpr(np.array(fpr)))
                name = f"TPR at {100 * fpr:g} % FPR is {truth:.4f}, limit {limit:g}, {n:,} non-members"
                word = "passes" if wanted is RuleStatus.PASS else "fails"
                happened = [s[fpr] is wanted for s in found]
                yield about(f"tpr.power.{fpr:g}.{shift:g}.{n}", name, f"it {word}", happened, expected)
