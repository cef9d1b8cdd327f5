"""PG202: how many persons an attacker is nearly sure of, as a number: one in a hundred of a million is a crowd."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import Field

from privacy_gate.datamodel import Evidence
from privacy_gate.policy.contract import Measured, rule
from privacy_gate.policy.examples import evidence
from privacy_gate.policy.high_risk import HighRiskSettings, Times, verified_cells


class Settings(HighRiskSettings):
    """The number of member persons that may be at high risk."""

    max: Annotated[int, Field(strict=True, ge=0)] = Field(
        description="the limit in persons: to pass, the upper confidence bound must not be above it"
    )

    def loosened(self, parent: Any) -> list[str]:
        """A higher limit or score, or a lower tolerance."""
        higher = ["max"] if self.max > parent.max else []
        return super().loosened(parent) + higher + self.stricter_scores(parent)


def trained_on(evidence: Evidence) -> int:
    """Persons the model was trained on: where only a part of them was audited, the rest is taken to be like it."""
    if evidence.train_size is None or evidence.train_size <= evidence.members:
        return evidence.member_persons
    return math.ceil(evidence.member_persons * evidence.train_size / evidence.members)


@rule(
    id="PG202",
    title="attributable high-risk persons",
    metric="risk.excess_persons",
    unit="persons",
    settings=Settings,
    example_pass=evidence(),
    example_fail=evidence(attributable=0.05),
)
def high_risk_persons(settings: Settings, evidence: Evidence) -> Measured:
    """Number of member persons whose calibrated risk reaches `score`, in excess of the non-members' share."""
    return verified_cells(settings, evidence, settings.max, lambda share: Times(share, trained_on(evidence)))
