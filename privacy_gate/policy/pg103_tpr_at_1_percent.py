"""PG103: how many members an attacker names while wrongly naming 1 % of the others."""

from __future__ import annotations

from collections.abc import Mapping

from privacy_gate.datamodel import Evidence
from privacy_gate.policy.cells import needed_for_tpr, tpr_cells
from privacy_gate.policy.contract import Effort, LimitSettings, Measured, rule
from privacy_gate.policy.examples import evidence, result

FPR = 0.01


def needed(settings: LimitSettings, effort: Effort) -> Mapping[str, int]:
    """Members and non-members that let an attack at chance pass."""
    return needed_for_tpr(settings, effort, FPR)


@rule(
    id="PG103",
    title="TPR at 1 % FPR",
    metric="attack.tpr_at_fpr_0.01",
    unit="percent",
    settings=LimitSettings,
    needed=needed,
    example_pass=evidence(),
    example_fail=evidence([result("confidence"), result("lira", tpr=(0.13, 0.02))]),
)
def tpr_at_1_percent(settings: LimitSettings, evidence: Evidence) -> Measured:
    """True-positive rate of every attack with a score at a false-positive rate of 1 %; guessing gives 1 %."""
    return tpr_cells(settings, evidence, FPR)
