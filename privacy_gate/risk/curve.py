"""What the ways of reading a risk from an attack score have in common: a sample, a curve, and its loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from privacy_gate.datamodel import Bools, Floats, Ints


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Records whose membership is known: attack scores, membership, class labels, persons; all [n]."""

    scores: Floats
    member: Bools
    labels: Ints
    persons: Ints

    def take(self, rows: Ints | Bools) -> Sample:
        """The given records, by index (repeats allowed) or mask."""
        return Sample(self.scores[rows], self.member[rows], self.labels[rows], self.persons[rows])

    @property
    def weight(self) -> Floats:
        """[n], sums to 1: members and non-members weigh one half each, whatever their numbers."""
        return np.asarray(np.where(self.member, 0.5 / self.member.sum(), 0.5 / (~self.member).sum()))

    @property
    def one_sided(self) -> bool:
        """Whether members or non-members are missing."""
        return bool(self.member.all() or not self.member.any())


class Curve(Protocol):
    """P(member) at prior one half, as a function of attack score and class."""

    def at(self, scores: Floats, labels: Ints) -> Floats:
        """[n] the risk at scores [n] of class labels [n], strictly between 0 and 1."""


Fit = Callable[[Sample], Curve]


@dataclass(frozen=True, slots=True, eq=False)
class Option:
    """One way to read risk, its settings fixed: how to fit it, and its log loss on persons left out."""

    name: str
    fit: Fit
    loss: float


def clip(risk: Floats, n: int) -> Floats:
    """Risk learnt from n records is never closer to certainty than 1 / (2n + 2)."""
    limit = 1.0 / (2.0 * n + 2.0)
    return np.asarray(np.clip(risk, limit, 1.0 - limit))


def log_loss(risk: Floats, member: Bools, weight: Floats) -> float:
    """Sum of weight times -log of the probability given to what is true; all [n]."""
    return -float((weight * np.log(np.where(member, risk, 1.0 - risk))).sum())


def held_out_loss(fit: Fit, sample: Sample, held_out: Sequence[Bools]) -> float:
    """Log loss over the folds [n], each told by a curve that was fitted on the other folds."""
    weight, loss = sample.weight, 0.0
    for hidden in held_out:
        curve = fit(sample.take(~hidden))
        risk = curve.at(sample.scores[hidden], sample.labels[hidden])
        loss += log_loss(risk, sample.member[hidden], weight[hidden])
    return loss


def logit(risk: Floats) -> Floats:
    """log(r / (1 - r)) of r in (0, 1)."""
    return np.asarray(np.log(risk) - np.log1p(-risk))
