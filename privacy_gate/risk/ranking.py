"""How many members stand at the top of a ranking with a high risk, wherever the true risk crosses the cut.

An estimated risk can miss people: a curve that is learnt from one half of the persons has no bin for a handful who are
known for certain, and says one half of them. So what bounds a share from above must not begin with that estimate.

Let the true risk rise with the attack score, and cross the cut at the unknown score t. At risk are those at or above t,
and at prior one half members make up at least the cut of them. Every score is tried as t: one at which that is refuted
(binomial test at level alpha, given how many stand above) is not t; of all others the share in excess is bounded, and
the largest bound counts. t is fixed, so only one test and one bound can go wrong, whatever the number of scores (a
maximum over a confidence set: Berger & Boos 1994).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr

from privacy_gate import metrics
from privacy_gate.datamodel import Bools, Floats, Ints, Measurement

_EXACT = 16  # places whose bound is computed in full: the highest by a formula that is nearly the same


@dataclass(frozen=True, slots=True, eq=False)
class Top:
    """Persons at or above each score of a ranking, the highest score first; before all of them, nobody.

    members, nonmembers  [T + 1], from 0 up; persons with the same score come together
    of                   members and non-members in all
    cut                  risk from which a person counts, at least one half
    """

    members: Ints
    nonmembers: Ints
    of: tuple[int, int]
    cut: float

    @classmethod
    def ranked(cls, scores: Floats, member: Bools, cut: float) -> Top:
        """From one score per person and side [n] and who is a member [n]."""
        order = np.argsort(-scores, kind="stable")
        ends = np.flatnonzero(np.append(scores[order][1:] != scores[order][:-1], True))
        inside = np.cumsum(member[order])[ends]
        total = int(member.sum())
        return cls(np.append(0, inside), np.append(0, ends + 1 - inside), (total, len(member) - total), cut)

    def plausible(self, alpha: float) -> Bools:
        """[T + 1] where it is not refuted at level alpha that members make up at least `cut` of those above."""
        inside, outside = self.of
        share = self.cut * inside / (self.cut * inside + (1 - self.cut) * outside)  # of those above, at the cut
        above = self.members + self.nonmembers
        return np.asarray((above == 0) | (bdtr(self.members, np.maximum(above, 1), share) >= alpha))

    def upper(self, alpha: float) -> float:
        """One-sided upper bound, at confidence 1 - alpha, of the members' share at risk in excess of the others'."""
        places = np.flatnonzero(self.plausible(alpha))
        if len(places) > _EXACT:
            rough = _rough(self.members[places], self.nonmembers[places], self.of, metrics.normal_deviate(alpha))
            places = places[np.argsort(-rough, kind="stable")[:_EXACT]]
        found = zip(self.members[places].tolist(), self.nonmembers[places].tolist(), strict=True)
        return max(metrics.share_excess(k, self.of[0], j, self.of[1]).upper(alpha) for k, j in found)


def _rough(members: Ints, nonmembers: Ints, of: tuple[int, int], deviate: float) -> Floats:
    """[n] upper bounds of the excess by MOVER of Wilson's bounds without correction (Newcombe 1998, method 10)."""

    def away(hits: Ints, n: int, sign: int) -> tuple[Floats, Floats]:
        p, z2 = hits / n, deviate**2
        spread = deviate * np.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        return np.asarray(p), np.asarray((p + z2 / (2 * n) + sign * spread) / (1 + z2 / n) - p)

    tpr, over = away(members, of[0], 1)
    fpr, under = away(nonmembers, of[1], -1)
    return np.asarray(tpr - fpr + np.hypot(over, under))


@dataclass(frozen=True, slots=True, eq=False)
class AtRisk:
    """A share counted by estimated scores, with an upper bound that does not rely on them.

    counted  members whose estimated risk reaches the cut, in excess of the non-members' share
    tops     the rankings at whose top others may hide
    """

    counted: metrics.ShareExcess
    tops: tuple[Top, ...]

    @property
    def value(self) -> float:
        """The share that is estimated to be at risk."""
        return self.counted.value

    def lower(self, alpha: float) -> float:
        """One-sided lower bound at confidence 1 - alpha."""
        return self.counted.lower(alpha)

    def upper(self, alpha: float) -> float:
        """One-sided upper bound at confidence 1 - alpha; whom the estimate misses is in it."""
        return max(self.counted.upper(alpha), *(top.upper(alpha) for top in self.tops))


def attributable(counted: metrics.ShareExcess, tops: tuple[Top, ...]) -> Measurement:
    """The share as counted, with the bound that the rankings call for; without rankings as it is."""
    return AtRisk(counted, tops) if tops else counted
