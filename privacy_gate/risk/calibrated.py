"""Risk scores that mean what they say: learnt on one half of the target's own persons, stated of the other half."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from privacy_gate.datamodel import Bools, Floats, Ints
from privacy_gate.errors import NotEvaluable
from privacy_gate.risk import RiskInput, estimator
from privacy_gate.thresholds import person_folds

REPEATS = 5
EQUAL_BINS = (2, 4, 8, 16, 32)
FEWEST = 16  # records per bin of equal mass, on average
FEWEST_AT_THE_TOP = 8  # a model may have memorised few; 8 members of 8 say 0.94
CHOICE_FOLDS = 5
PSEUDO = 0.5  # records of the smaller side added to each bin on both sides (Laplace, as in Jeffreys' prior)


@estimator(
    id="calibrated",
    paper="after Song & Mittal, USENIX Security 2021, section 4: cross-fitted, tail-refined equal-mass bins",
    needs_pool=False,
)
def estimate(given: RiskInput) -> Floats:
    """[R] P(member | score) at prior one half, in (0, 1): mean of five two-fold cross-fits by person."""
    axes, audit = _axes(given), given.audit
    rounds = person_folds(audit.member, audit.persons, given.seed, repeats=REPEATS, folds=2)
    total = np.zeros(len(audit.member))
    for folds in rounds:
        for hidden in folds:
            known = ~hidden
            member, persons = audit.member[known], audit.persons[known]
            fitted = [(fit(axis[known], member, persons, given.seed), axis) for axis in axes]
            best, axis = min(fitted, key=lambda pair: pair[0].loss)
            total[hidden] += best.at(axis[hidden])
    return total / len(rounds)


def _axes(given: RiskInput) -> list[Floats]:
    """[R] each, the scores that risk may be read from; which one predicts best is found out on the known half."""
    found = [given.scores[name] for name in ("lira", "modified_entropy") if name in given.scores]
    if found:
        return found
    if "logit_confidence" in given.target.target:
        return [given.target.target["logit_confidence"]]
    raise NotEvaluable(
        "calibrated: no attack score to calibrate", "run lira or modified_entropy, or collect logit_confidence"
    )


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A step function from attack score to P(member) at prior one half."""

    edges: Floats  # [B - 1] inner edges; the outer bins are open, so that no score falls out
    risk: Floats  # [B]
    loss: float = np.inf  # log loss of curves like it on persons left out of them; infinite where none were left out

    def at(self, scores: Floats) -> Floats:
        """[n] the risk at scores [n]."""
        return np.asarray(self.risk[np.searchsorted(self.edges, scores, side="right")])


def fit(scores: Floats, member: Bools, persons: Ints, seed: int) -> Curve:
    """The candidate curve that predicts best (log loss, cross-validated by person) on scores [n].

    Raises NotEvaluable without members or without non-members.
    """
    if member.all() or not member.any():
        raise NotEvaluable("calibrated: records of one kind only", "members and non-members are both needed")
    options = candidates(len(scores))
    smaller = min(len(np.unique(persons[member])), len(np.unique(persons[~member])))
    folds = min(CHOICE_FOLDS, smaller)
    if folds < 2 or len(options) == 1:
        return histogram(scores, member, ())
    (held_out,) = person_folds(member, persons, seed, repeats=1, folds=folds)
    losses = [_loss(scores, member, held_out, masses) for masses in options]
    best = int(np.argmin(losses))
    return replace(histogram(scores, member, options[best]), loss=losses[best])


def candidates(n: int) -> list[tuple[float, ...]]:
    """Binnings to choose from, each as the shares of n records below its inner edges; the first is no bin at all.

    Bins of equal mass, the top one halved again and again; and the top 8, 16, 32 ... records against all others.
    The few records that a model has memorised sit in the upper tail, where bins of equal mass would dilute them.
    """
    tail = [1 - 2**k * FEWEST_AT_THE_TOP / n for k in range(64) if 2**k * FEWEST_AT_THE_TOP <= n / 2]
    equal = [[b / bins for b in range(1, bins)] for bins in EQUAL_BINS if bins * FEWEST <= n]
    halved = [tuple(masses + [mass for mass in reversed(tail) if mass > masses[-1]]) for masses in equal]
    return [(), *((mass,) for mass in tail), *halved]


def histogram(scores: Floats, member: Bools, masses: tuple[float, ...]) -> Curve:
    """Share of members per bin at prior one half, bins given by the shares [B - 1] of records below their edges."""
    edges = _edges(scores, masses)
    places = np.searchsorted(edges, scores, side="right")
    share = [np.bincount(places[side], minlength=len(edges) + 1) / side.sum() for side in (member, ~member)]
    pseudo = PSEUDO / min(member.sum(), (~member).sum())
    risk = (share[0] + pseudo) / (share[0] + share[1] + 2 * pseudo)
    limit = 1 / (2 * len(scores) + 2)
    return Curve(edges, np.clip(risk, limit, 1 - limit))


def _edges(scores: Floats, masses: tuple[float, ...]) -> Floats:
    # A quantile that is itself a score keeps a block of ties together; equal quantiles merge into one edge, and one
    # at the minimum would leave an empty bin below it.
    edges = np.unique(np.quantile(scores, masses, method="higher")) if masses else np.empty(0)
    return np.asarray(edges[edges > scores.min()], dtype=np.float64)


def _loss(scores: Floats, member: Bools, held_out: list[Bools], masses: tuple[float, ...]) -> float:
    weight = np.where(member, 0.5 / member.sum(), 0.5 / (~member).sum())
    loss = 0.0
    for hidden in held_out:
        risk = histogram(scores[~hidden], member[~hidden], masses).at(scores[hidden])
        loss -= float((weight[hidden] * np.log(np.where(member[hidden], risk, 1 - risk))).sum())
    return loss
