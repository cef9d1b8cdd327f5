"""PG102: how well an attacker ranks members above non-members."""

from __future__ import annotations

from privacy_gate.datamodel import Evidence
from privacy_gate.policy.cells import needed_for_auc, ranking_cells
from privacy_gate.policy.contract import LimitSettings, Measured, rule
from privacy_gate.policy.examples import evidence, result


@rule(
    id="PG102",
    title="attack AUC",
    metric="attack.auc",
    settings=LimitSettings,
    needed=needed_for_auc,
    example_pass=evidence(),
    example_fail=evidence([result("correctness"), result("lira", auc=0.8)]),
)
def attack_auc(settings: LimitSettings, evidence: Evidence) -> Measured:
    """Chance that a member scores above a non-member, both drawn at random, for every attack; guessing gives 0.50."""
    return ranking_cells(evidence, settings.max, lambda result: result.auc)
