"""Small evidence with known numbers: for the examples that rules carry, and for trying out a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from privacy_gate.datamodel import (
    AttackOutcome,
    AttackResult,
    Description,
    Evidence,
    Finding,
    HighRisk,
    Invalidates,
    Regression,
    RiskScores,
    Scope,
    SliceAccuracy,
    ThreatModel,
)

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


def sliced(
    id: str, accuracies: Mapping[str, float], *, by: str = "class", persons: int = 2000, error: float = 0.02
) -> AttackResult:
    """An attack's result with its accuracy in each slice, `persons` on either side of all of them."""
    parts = tuple(
        SliceAccuracy(by, value, persons, persons, Known(accuracy, error)) for value, accuracy in accuracies.items()
    )
    return replace(result(id), slices=parts)


def described(name: str, **params: object) -> Description:
    """A scikit-learn model of the class `name`."""
    return Description("sklearn", "classifier", (0, 1), {"class": name, "params": params})


def compared(error: float = 0.004, **differences: float) -> Regression:
    """A paired comparison with an approved model: attack -> difference of accuracies."""
    found = tuple((f"{id}, reference, global", Known(value, error)) for id, value in differences.items())
    return Regression("models:/churn/11", "0" * 64, True, 5000, 5000, found)


SOUND = (Finding("duplicates", "pass", Invalidates.BOTH, 0.0, "no record is on both sides"),)


def evidence(
    attacks: Sequence[AttackOutcome] | None = None,
    *,
    attributable: float | None = 0.0,
    precision: float = 0.9,
    calibration: float = 0.01,
    n: int = 20_000,
    findings: Sequence[Finding] = SOUND,
    model: Description | None = None,
    regression: Regression | None = None,
) -> Evidence:
    """Evidence about a model that leaks nothing, except for what is given."""
    risk = None
    if attributable is not None:
        high = HighRisk(0.8, int(attributable * n), 0, Known(attributable, 0.0002), Known(precision, 0.01))
        risk = RiskScores("calibrated", np.empty(0), (high,), {}, errors={"ece": Known(calibration, 0.004)})
    outcomes = tuple(result(id) for id in FAMILIES) if attacks is None else tuple(attacks)
    return Evidence(outcomes, risk, tuple(findings), n, n, n, n, description=model, regression=regression)
