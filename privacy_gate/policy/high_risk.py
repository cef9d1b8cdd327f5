"""What the rules about persons at high risk share: which score counts, and when the scores mean what they say."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pydantic import Field
from scipy.special import bdtr

from privacy_gate import metrics
from privacy_gate.datamodel import Estimand, Evidence, HighRisk, Measurement
from privacy_gate.policy.cells import MOST_RECORDS
from privacy_gate.policy.contract import Cell, Measured, RuleSettings, Share


class HighRiskSettings(RuleSettings):
    """From which score on a person is at high risk, and how well that must be verified to count against a model."""

    score: Share = Field(0.8, description="risk score (at prior one half) from which a person is at high risk")
    tolerance: Share = Field(
        0.1, description="to fail, the proven precision may be this much below `score`: scores must mean what they say"
    )

    def stricter_scores(self, parent: HighRiskSettings) -> list[str]:
        """Settings that count fewer persons than `parent` does, or let fewer of them be proven."""
        fewer = ["score"] if self.score > parent.score else []
        return fewer + (["tolerance"] if self.tolerance < parent.tolerance else [])


@dataclass(frozen=True, slots=True)
class Verified:
    """Attributable share whose lower bound counts only while the precision is proven to reach `floor`.

    Both must be proven at the same level, so the level needs no split (an intersection-union test).
    """

    attributable: Measurement
    precision: Measurement
    floor: float

    @property
    def value(self) -> float:
        """The attributable share."""
        return self.attributable.value

    def lower(self, alpha: float) -> float:
        """One-sided lower bound; 0 while the scores are not verified."""
        return self.attributable.lower(alpha) if self.precision.lower(alpha) >= self.floor else 0.0

    def upper(self, alpha: float) -> float:
        """One-sided upper bound; unverified scores are no excuse."""
        return self.attributable.upper(alpha)


@dataclass(frozen=True, slots=True)
class Times:
    """A measured share as so many of `count` persons."""

    share: Measurement
    count: int

    @property
    def value(self) -> float:
        """Persons."""
        return self.share.value * self.count

    def lower(self, alpha: float) -> float:
        """One-sided lower bound, in persons."""
        return self.share.lower(alpha) * self.count

    def upper(self, alpha: float) -> float:
        """One-sided upper bound, in persons."""
        return self.share.upper(alpha) * self.count


def verified_cells(
    settings: HighRiskSettings, evidence: Evidence, limit: float, shown: Callable[[Measurement], Measurement]
) -> Measured:
    """The attributable share at the score of the settings, verified, as `shown` makes of it."""
    if evidence.risk is None:
        return Measured((), nothing="no risk scores were estimated")
    name = f"{evidence.risk.estimator}, score ≥ {settings.score:g}"
    if evidence.estimand is Estimand.PROCEDURE:
        name += ", this model"  # people are at risk from the model that is released, whatever the others do

    def cell(high: HighRisk) -> Cell:
        return Cell(
            name, shown(Verified(high.attributable, high.precision, settings.score - settings.tolerance)), limit
        )

    cells = tuple(cell(high) for high in evidence.risk.high if math.isclose(high.score, settings.score))
    counted = ", ".join(f"{high.score:g}" for high in evidence.risk.high) or "no score"
    return Measured(cells, nothing=f"high risk was counted at {counted}, not at {settings.score:g}")


# --- how many persons decide ----------------------------------------------------------------------------------------

_MOST_CERTAIN = 1_000  # persons known for certain from which on the normal approximation is as good, and much faster
_NEGLIGIBLE = 1e-6


def persons_to_pass(score: float, limit: float, share: float, alpha: float, power: float) -> int | None:
    """Fewest persons a side with which a pass has that power, a share of the members being certain; None: too many."""
    count = 1
    while chance_of_a_pass(score, limit, count, share, alpha) < power:
        count *= 2
        if count > MOST_RECORDS or count * share > _MOST_CERTAIN:
            return None
    low, high = count // 2, count
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        enough = chance_of_a_pass(score, limit, middle, share, alpha) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def chance_of_a_pass(score: float, limit: float, n: int, share: float, alpha: float) -> float:
    """That the upper bound is within `limit` with n persons a side, a share of the members certain and nobody else.

    Below the certain ones a ranking is a coin: each next person is a member or not with equal chances. The bound is the
    largest over all places above which members may still make up `score`; so the walk down the ranking must not meet
    such a place where the bound is beyond the limit.
    """
    certain = round(share * n)
    beyond = certain  # fewest members above a place at which the bound is beyond the limit: rises on the way down
    walks = np.ones(1)  # chance of each number of members above, from `certain` on, if no such place was met
    for above in range(certain, 2 * n + 1):
        members = certain + np.arange(len(walks))
        plausible = bdtr(members, max(above, 1), score) >= alpha if above else np.ones(1, dtype=np.bool_)
        while beyond <= min(above, n) and _upper(beyond, above - beyond, n, alpha) <= limit:
            beyond += 1
        if walks[max(int((~plausible).sum()) - 2, 0) :].sum() < _NEGLIGIBLE:
            break  # nobody can come back to where the cut may be: it moves on faster than a coin
        walks = np.where(plausible & (members >= beyond), 0.0, walks)
        walks = np.append(walks / 2, 0.0) + np.append(0.0, walks / 2)
    return float(walks.sum())


def _upper(members: int, nonmembers: int, n: int, alpha: float) -> float:
    return metrics.share_excess(members, n, min(nonmembers, n), n).upper(alpha)
