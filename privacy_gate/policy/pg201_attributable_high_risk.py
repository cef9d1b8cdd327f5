"""PG201: how many members an attacker is nearly sure of, beyond what chance would flag."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from scipy.stats import norm

from privacy_gate.datamodel import Evidence, Measurement
from privacy_gate.policy.cells import both, z_sum
from privacy_gate.policy.contract import Cell, Effort, LimitSettings, Measured, Share, rule
from privacy_gate.policy.examples import evidence


class Settings(LimitSettings):
    """The share of member persons that may be at high risk."""

    score: Share = Field(0.8, description="risk score (at prior one half) from which a person is at high risk")
    tolerance: Share = Field(
        0.1, description="to fail, the proven precision may be this much below `score`: scores must mean what they say"
    )

    def loosened(self, parent: Any) -> list[str]:
        """A higher score counts fewer persons; a lower tolerance lets fewer of them be proven."""
        stricter = ["score"] if self.score > parent.score else []
        return super().loosened(parent) + stricter + (["tolerance"] if self.tolerance < parent.tolerance else [])


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


def needed(settings: Settings, effort: Effort) -> Mapping[str, int]:
    """Persons on each side: Wilson's bound at no excess, the normal approximation elsewhere."""
    if not effort.assumed:
        z = float(norm.isf(effort.alpha))
        return both(z**2 * (1 - settings.max) / settings.max) if settings.max > 0 else {}
    gap = abs(settings.max - effort.assumed)
    return both(effort.assumed * (1 - effort.assumed) * (z_sum(effort) / gap) ** 2) if gap > 1e-9 else {}


@rule(
    id="PG201",
    title="attributable high-risk members",
    metric="risk.attributable_share",
    unit="percent",
    settings=Settings,
    needed=needed,
    example_pass=evidence(),
    example_fail=evidence(attributable=0.05),
)
def attributable_high_risk(settings: Settings, evidence: Evidence) -> Measured:
    """Share of member persons whose calibrated risk reaches `score`, in excess of the non-members' share."""
    if evidence.risk is None:
        return Measured((), nothing="no risk scores were estimated")
    name = f"{evidence.risk.estimator}, score ≥ {settings.score:g}"
    cells = tuple(
        Cell(name, Verified(high.attributable, high.precision, settings.score - settings.tolerance), settings.max)
        for high in evidence.risk.high
        if math.isclose(high.score, settings.score)
    )
    counted = ", ".join(f"{high.score:g}" for high in evidence.risk.high) or "no score"
    return Measured(cells, nothing=f"high risk was counted at {counted}, not at {settings.score:g}")
