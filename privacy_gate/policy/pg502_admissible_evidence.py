"""PG502: a verdict rests on evidence that measures membership and nothing else."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from privacy_gate.datamodel import Evidence, Finding, Invalidates, RuleStatus
from privacy_gate.policy.contract import Decided, RuleSettings, rule
from privacy_gate.policy.examples import evidence

Limit = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]


class Settings(RuleSettings):
    """Limits of the validity checks; the rule itself cannot be weakened."""

    action: Literal["block"] = Field("block", description="nothing passes on inadmissible evidence")
    enforce_from: None = Field(None, description="always in force")
    limits: dict[str, Limit] = Field(
        default={}, description="validity check -> limit of its effect, in place of the check's own"
    )

    def loosened(self, parent: Any) -> list[str]:
        """A higher limit; a limit where the check's own one held, which may have been lower, counts as one."""
        higher = any(limit > parent.limits.get(check, -1.0) for check, limit in self.limits.items())
        return super().loosened(parent) + (["limits"] if higher else [])


@rule(
    id="PG502",
    title="admissible evidence",
    metric="evidence.admissible",
    settings=Settings,
    always=True,
    waivable=False,
    example_pass=evidence(),
    example_fail=evidence(findings=[Finding("duplicates", "fail", Invalidates.BOTH, 0.2, "20 % are duplicates")]),
)
def admissible_evidence(settings: Settings, evidence: Evidence) -> Decided:
    """No validity check has shown that the evidence cannot carry a verdict."""
    fired = [f for f in evidence.findings if f.status == "fail" and f.invalidates is not None]
    if fired:
        confounding = sorted(fired, key=lambda f: f.invalidates is not Invalidates.BOTH)  # stable: those come first
        said = "; ".join(f"{f.check}: {f.reason}" for f in confounding)
        return Decided(RuleStatus.INCONCLUSIVE, f"not admissible: {said}")
    looked = [f for f in evidence.findings if f.status != "not_applicable"]
    if not looked:
        return Decided(RuleStatus.INCONCLUSIVE, "no validity check looked at this evidence")
    warned = [f.check for f in looked if f.status == "warn"]
    said = f"; warnings: {', '.join(warned)}" if warned else ""
    return Decided(RuleStatus.PASS, f"{len(looked)} checks looked, none fired{said}")
