"""PG501: nothing is judged on the strength of attacks that did not run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from privacy_gate.datamodel import AttackFailed, AttackResult, AttackSkipped, Evidence, RuleStatus, ThreatModel
from privacy_gate.policy.contract import Decided, RuleSettings, rule
from privacy_gate.policy.examples import FAMILIES, evidence, result


class Settings(RuleSettings):
    """Which attacks must have run."""

    attacks: list[str] | None = Field(
        None, min_length=1, description="attacks without which nothing passes; default: all that the run asked for"
    )
    threat_models: Literal["all", "any"] = Field(
        "all", description="all: a required attack must have run under each threat model it has; any: one is enough"
    )

    def loosened(self, parent: Any) -> list[str]:
        """Fewer attacks, or fewer of their threat models, ask for less."""
        fewer = ["attacks"] if set(parent.attacks or ()) - set(self.attacks or ()) else []
        weaker = ["threat_models"] if (parent.threat_models, self.threat_models) == ("all", "any") else []
        return super().loosened(parent) + fewer + weaker


@rule(
    id="PG501",
    title="required attacks",
    metric="attacks.required",
    settings=Settings,
    always=True,  # an attack that did not run blocks unless a policy says otherwise
    waivable=False,
    example_pass=evidence(),
    example_fail=evidence(
        [result(id) for id in FAMILIES if id != "lira"]
        + [AttackSkipped("lira", "reference", ThreatModel.REFERENCE, "needs reference models; there are none")]
    ),
)
def required_attacks(settings: Settings, evidence: Evidence) -> Decided:
    """Every required attack ran; one that crashed is an error, one that was skipped leaves the verdict open."""
    crashed, missing, ran = [], [], []
    asked = [o.id for o in evidence.attacks if not (isinstance(o, AttackSkipped) and not o.applies)]
    for id in dict.fromkeys(settings.attacks or asked):
        outcomes = [outcome for outcome in evidence.attacks if outcome.id == id]
        failed = [o for o in outcomes if isinstance(o, AttackFailed)]
        done = [o for o in outcomes if isinstance(o, AttackResult)]
        skipped = [o for o in outcomes if isinstance(o, AttackSkipped) and (o.applies or not done)]
        if failed:
            crashed.append(f"{id} ({failed[0].threat_model.value}) crashed: {failed[0].reason}")
        elif not outcomes:
            missing.append(f"{id} did not run: it is not in the suite")
        elif skipped and (settings.threat_models == "all" or not done):
            missing.append(f"{id} ({skipped[0].threat_model.value}) was skipped: {skipped[0].reason}")
        else:
            ran.append(id)
    refused = {o.id: o.reason for o in evidence.attacks if isinstance(o, AttackFailed) and o.refused}
    # Required or not: a model must not get rid of an attack by breaking under it.
    missing += [f"the model broke when {id} asked it: {why}" for id, why in refused.items() if id not in ran]
    if crashed:
        return Decided(RuleStatus.ERROR, "; ".join(crashed + missing))
    if missing:
        return Decided(RuleStatus.INCONCLUSIVE, "; ".join(missing))
    others = sorted({o.id for o in evidence.attacks if isinstance(o, AttackFailed)})
    if not ran:
        return Decided(RuleStatus.INCONCLUSIVE, "no attack was run")
    warning = f"{', '.join(others)} crashed, and is not required" if others else ""
    return Decided(RuleStatus.PASS, f"all ran: {', '.join(ran)}", warning)
