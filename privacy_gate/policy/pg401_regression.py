"""PG401: a release must not be easier to attack than the one that was approved."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from privacy_gate.datamodel import Evidence, RuleStatus
from privacy_gate.policy.contract import Cell, Decided, LimitSettings, Measured, rule
from privacy_gate.policy.examples import compared, evidence


class Settings(LimitSettings):
    """How much worse than the approved model a candidate may be."""

    required: bool = Field(False, strict=True, description="without a baseline the rule is undecided, not left out")

    def loosened(self, parent: Any) -> list[str]:
        """No baseline is asked for any more."""
        return super().loosened(parent) + (["required"] if parent.required and not self.required else [])


@rule(
    id="PG401",
    title="regression against the approved model",
    metric="baseline.accuracy_difference",
    unit="percent",
    settings=Settings,
    example_pass=evidence(regression=compared(lira=0.005)),
    example_fail=evidence(regression=compared(lira=0.06)),
)
def regression(settings: Settings, evidence: Evidence) -> Measured | Decided:
    """Balanced accuracy of every attack on the candidate, less that on the approved model."""
    against = evidence.regression
    if against is None:
        status = RuleStatus.INCONCLUSIVE if settings.required else RuleStatus.NOT_APPLICABLE
        return Decided(status, "no baseline was named: nothing to compare with")
    cells = tuple(
        Cell(f"{name}, against {against.reference}", difference, settings.max, attack=name.split(",")[0])
        for name, difference in against.differences
    )
    unpaired = "" if against.paired else "two stored reports were compared, not the same persons"
    # What could not be compared is not proven to be below the limit: the rule says so itself.
    note = "; ".join(part for part in (unpaired, against.note) if part)
    # The ceilings of the other rules hold whatever is said here, so this rule blocks only what is proven to be worse.
    # Measured from what was never approved, every release could be a little worse than the last.
    withheld = "" if against.approved else "the reference was never approved: name a model that passed"
    return Measured(
        cells, withheld=withheld, nothing=against.note or "no attack ran on both models", note=note, burden="gate"
    )
