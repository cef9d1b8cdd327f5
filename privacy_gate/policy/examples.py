"""Small evidence with known numbers: for the examples that rules carry, and for trying out a policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from privacy_gate.datamodel import AttackOutcome, AttackResult, Evidence, HighRisk, RiskScores, Scope, ThreatModel

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Known:
    """A measurement with a normal error; bounds stay within 0 and 1."""

    value: float
    error: float = 0.004

    def lower(self, alpha: float) -> float:
        """One-sided lower bound at confidence 1 - alpha."""
        return max(0.0, self.value + self.error * _NORMAL.inv_cdf(alpha))

    def upper(self, alpha: float) -> float:
        """One-sided upper bound at confidence 1 - alpha."""
        return min(1.0, self.value - self.error * _NORMAL.inv_cdf(alpha))


FAMILIES = {
    "correctness": "correctness",
    "confidence": "metric",
    "entropy": "metric",
    "modified_entropy": "metric",
    "lira": "reference",
    "rmia": "reference",
}


def result(
    id: str, accuracy: float = 0.5, auc: float = 0.5, tpr: tuple[float, float] = (0.01, 0.001), error: float = 0.004
) -> AttackResult:
    """One attack's result; `tpr` at FPR 1 % and 0.1 %."""
    family = FAMILIES.get(id, "other")
    ranks = id != "correctness"
    return AttackResult(
        id=id,
        family=family,
        threat_model=ThreatModel.REFERENCE if family == "reference" else ThreatModel.KNOWN_SUBSET,
        threshold=Scope.GLOBAL if ranks else None,
        adaptive=True,
        accuracy=Known(accuracy, error),
        advantage=Known(max(0.0, 2 * accuracy - 1), 2 * error),
        auc=Known(auc, error) if ranks else None,
        tpr_at_fpr={0.01: Known(tpr[0], error / 2), 0.001: Known(tpr[1], error / 20)} if ranks else {},
        scores=np.empty(0),
        decisions=np.empty(0, dtype=np.bool_),
    )


def evidence(
    attacks: Sequence[AttackOutcome] | None = None,
    *,
    attributable: float | None = 0.0,
    precision: float = 0.9,
    n: int = 20_000,
) -> Evidence:
    """Evidence about a model that leaks nothing, except for what is given."""
    risk = None
    if attributable is not None:
        high = HighRisk(0.8, int(attributable * n), 0, Known(attributable, 0.0002), Known(precision, 0.01))
        risk = RiskScores("calibrated", np.empty(0), (high,), {})
    outcomes = tuple(result(id) for id in FAMILIES) if attacks is None else tuple(attacks)
    return Evidence(outcomes, risk, (), n, n, n, n)
