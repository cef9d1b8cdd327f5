"""PG201: how many members an attacker is nearly sure of, beyond what chance would flag."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from privacy_gate.datamodel import Evidence
from privacy_gate.policy.cells import both, z_sum
from privacy_gate.policy.contract import Effort, LimitSettings, Measured, rule
from privacy_gate.policy.examples import evidence
from privacy_gate.policy.high_risk import HighRiskSettings, persons_to_pass, verified_cells


class Settings(HighRiskSettings, LimitSettings):
    """The share of member persons that may be at high risk."""

    def loosened(self, parent: Any) -> list[str]:
        """A higher limit or score, or a lower tolerance."""
        return super().loosened(parent) + self.stricter_scores(parent)


def needed(settings: Settings, effort: Effort) -> Mapping[str, int]:
    """Persons on each side: to pass, as many as let few certain members pass; to fail, by the normal approximation."""
    assumed = effort.assumed or 0.0
    if assumed <= settings.max:
        count = persons_to_pass(settings.score, settings.max, assumed, effort.alpha, effort.power)
        if count is not None:
            return both(count)
    gap = abs(settings.max - assumed)
    return both(assumed * (1 - assumed) * (z_sum(effort) / gap) ** 2) if assumed and gap > 1e-9 else {}


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
    return verified_cells(settings, evidence, settings.max, lambda share: share)
