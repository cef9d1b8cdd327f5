"""PG302: a model that is right on its training records and wrong on others has learnt the records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from privacy_gate.datamodel import Evidence
from privacy_gate.policy.cells import decision_cells, needed_for_accuracy
from privacy_gate.policy.contract import Effort, LimitSettings, Measured, rule
from privacy_gate.policy.examples import evidence, result


def needed(settings: LimitSettings, effort: Effort) -> Mapping[str, int]:
    """Members and non-members: a gap is twice a balanced accuracy, less one."""
    assumed = None if effort.assumed is None else (1 + effort.assumed) / 2
    scaled = LimitSettings.model_validate({"max": (1 + settings.max) / 2})
    return needed_for_accuracy(scaled, replace(effort, assumed=assumed))


@rule(
    id="PG302",
    title="train-test accuracy gap",
    metric="model.accuracy_gap",
    unit="percent",
    settings=LimitSettings,
    needed=needed,
    example_pass=evidence(),
    example_fail=evidence([result("correctness", accuracy=0.6)]),
)
def train_test_gap(settings: LimitSettings, evidence: Evidence) -> Measured:
    """Share of members that the model classifies correctly, less that of the non-members."""
    # The attack that takes every correct answer for a member has exactly this advantage.
    only = replace(evidence, attacks=tuple(o for o in evidence.attacks if o.id == "correctness"))
    found = decision_cells(only, settings.max, lambda result: result.advantage)
    return found if found.nothing and only.attacks else replace(found, nothing="the attack correctness did not run")
