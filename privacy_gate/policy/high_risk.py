"""What the rules about persons at high risk share: which score counts, and when the scores mean what they say."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import Field

from privacy_gate.datamodel import Estimand, Evidence, HighRisk, Measurement
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
