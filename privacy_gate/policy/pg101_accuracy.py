"""PG101: how often an attacker tells members from non-members."""

from __future__ import annotations

from privacy_gate.datamodel import Evidence
from privacy_gate.policy.cells import decision_cells, needed_for_accuracy
from privacy_gate.policy.contract import LimitSettings, Measured, rule
from privacy_gate.policy.examples import evidence, result


@rule(
    id="PG101",
    title="attack accuracy",
    metric="attack.accuracy",
    unit="percent",
    settings=LimitSettings,
    needed=needed_for_accuracy,
    example_pass=evidence(),
    example_fail=evidence([result("correctness"), result("lira", accuracy=0.75)]),
)
def attack_accuracy(settings: LimitSettings, evidence: Evidence) -> Measured:
    """Balanced accuracy of every attack, at even odds; guessing gives 50 %."""
    return decision_cells(evidence, settings.max, lambda result: result.accuracy)
