"""PG204: risk scores that do not mean what they say can neither clear nor convict."""

from __future__ import annotations

from privacy_gate.datamodel import Evidence
from privacy_gate.policy.contract import Cell, LimitSettings, Measured, rule
from privacy_gate.policy.examples import evidence

ERRORS = ("ece_debiased", "ece")  # the first that was measured counts


@rule(
    id="PG204",
    title="calibration error of the risk score",
    metric="risk.calibration_ece",
    settings=LimitSettings,
    example_pass=evidence(),
    example_fail=evidence(calibration=0.09),
)
def calibration_error(settings: LimitSettings, evidence: Evidence) -> Measured:
    """Mean distance between risk scores and the share of members among records with such a score (ECE)."""
    if evidence.risk is None:
        return Measured((), nothing="no risk scores were estimated")
    errors = evidence.risk.errors
    cells = [
        Cell(f"{evidence.risk.estimator}, {name}", errors[name], settings.max) for name in ERRORS if name in errors
    ]
    # What it shows is that the evidence is poor, not that the model leaks; and whether the gate's own scores are good
    # is not for the model to prove: like a validity check it takes the pass away once the error is proven.
    return Measured(tuple(cells[:1]), nothing="the calibration error was not measured", burden="gate", convicts=False)
