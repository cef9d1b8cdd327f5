"""Bins of equal mass, the upper tail refined: one curve for all classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from privacy_gate.datamodel import Bools, Floats, Ints
from privacy_gate.risk.curve import Option, Sample, clip, held_out_loss

EQUAL_BINS = (2, 4, 8, 16, 32)
FEWEST = 16  # records per bin of equal mass, on average
FEWEST_AT_THE_TOP = 8  # a model may have memorised few; 8 members of 8 say 0.94
PSEUDO = 0.5  # records of the smaller side added to each bin on both sides (Laplace, as in Jeffreys' prior)


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """A step function from attack score to P(member) at prior one half, the same in all classes."""

    edges: Floats  # [B - 1] inner edges; the outer bins are open, so that no score falls out
    risk: Floats  # [B]

    def at(self, scores: Floats, labels: Ints | None = None) -> Floats:
        """[n] the risk at scores [n]."""
        return np.asarray(self.risk[np.searchsorted(self.edges, scores, side="right")])


def options(sample: Sample, held_out: Sequence[Bools]) -> Iterator[Option]:
    """Every binning with its loss over the folds."""
    for masses in candidates(len(sample.scores)):
        fit = partial(_fit, masses=masses)
        yield Option(_name(masses), fit, held_out_loss(fit, sample, held_out))


def _name(masses: tuple[float, ...]) -> str:
    return f"{len(masses) + 1} bins" if masses else "constant"


def _fit(sample: Sample, masses: tuple[float, ...]) -> Steps:
    return histogram(sample.scores, sample.member, masses)


def constant(sample: Sample) -> Steps:
    """The curve that says one half of every record."""
    return histogram(sample.scores, sample.member, ())


def candidates(n: int) -> list[tuple[float, ...]]:
    """Binnings to choose from, each as the shares of n records below its inner edges; the first is no bin at all.

    Bins of equal mass, the top one halved again and again; and the top 8, 16, 32 ... records against all others.
    The few records that a model has memorised sit in the upper tail, where bins of equal mass would dilute them.
    """
    tail = [1 - 2**k * FEWEST_AT_THE_TOP / n for k in range(64) if 2**k * FEWEST_AT_THE_TOP <= n / 2]
    equal = [[b / bins for b in range(1, bins)] for bins in EQUAL_BINS if bins * FEWEST <= n]
    halved = [tuple(masses + [mass for mass in reversed(tail) if mass > masses[-1]]) for masses in equal]
    return [(), *((mass,) for mass in tail), *halved]


def histogram(scores: Floats, member: Bools, masses: tuple[float, ...]) -> Steps:
    """Share of members per bin at prior one half, bins given by the shares [B - 1] of records below their edges."""
    edges = edges_at(scores, masses)
    places = np.searchsorted(edges, scores, side="right")
    share = [np.bincount(places[side], minlength=len(edges) + 1) / side.sum() for side in (member, ~member)]
    pseudo = PSEUDO / min(member.sum(), (~member).sum())
    risk = (share[0] + pseudo) / (share[0] + share[1] + 2 * pseudo)
    return Steps(edges, clip(risk, len(scores)))


def edges_at(scores: Floats, masses: Sequence[float]) -> Floats:
    """Inner edges with these shares of records below them, fewer where scores tie."""
    # A quantile that is itself a score keeps a block of ties together; equal quantiles merge into one edge, and one
    # at the minimum would leave an empty bin below it.
    edges = np.unique(np.quantile(scores, masses, method="higher")) if len(masses) else np.empty(0)
    return np.asarray(edges[edges > scores.min()], dtype=np.float64)
