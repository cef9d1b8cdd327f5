"""Evidence on which no rule can be decided either way is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from privacy_gate import metrics
from privacy_gate.datamodel import AttackResult, Evidence, Finding, HighRisk, Invalidates, RiskScores, RuleStatus
from privacy_gate.policy import CATALOG as RULES
from privacy_gate.policy import decidability, judge
from privacy_gate.validity import Circumstances, check

MEASURED = ("attack.", "risk.attributable")  # metrics that an attack can make as large as can be


@check(id="power", title="the records can decide", invalidates=Invalidates.PASS)
def power(c: Circumstances) -> Finding:
    """Per blocking rule: could guessing attacks pass it, and could perfect ones be proven to violate it?

    Value: the share of the rules that can be decided both ways. Fires when no rule can be decided either way.
    """
    name, takes = "power", Invalidates.PASS
    results = [outcome for outcome in c.attacks if isinstance(outcome, AttackResult)]
    if c.policy is None or (not results and c.risk is None):
        return Finding(name, "not_applicable", takes, None, "there is no policy, or nothing was measured")
    evidence = _perfect(c, results)
    rules = {rule.id: rule for rule in judge(c.policy, evidence).rules if rule.action == "block"}
    passable = {id: can for id, can, _ in decidability(c.policy, evidence.member_persons, evidence.nonmember_persons)}
    # A rule about something that this run does not measure is another matter.
    asked = [
        in_force.id
        for in_force in c.policy.rules
        if in_force.id in rules
        and in_force.id in passable
        and RULES[in_force.id].metric.startswith(MEASURED)
        and rules[in_force.id].value is not None
    ]
    if not asked:
        return Finding(name, "not_applicable", takes, None, "no blocking rule compares what was measured with a limit")
    no_pass = [id for id in asked if not passable[id]]
    no_fail = [id for id in asked if rules[id].status is not RuleStatus.FAIL]
    open_ = [id for id in asked if id in no_pass or id in no_fail]
    value = 1 - len(open_) / len(asked)
    counts = f"{evidence.member_persons:,} members and {evidence.nonmember_persons:,} non-members"
    if not open_:
        return Finding(name, "pass", takes, value, f"{counts} can decide every blocking rule either way")
    said = [
        f"{', '.join(f'{id} {RULES[id].title}' for id in ids)} {what}"
        for ids, what in (
            (no_pass, "cannot pass even if no attack beats guessing"),
            (no_fail, "cannot be proven to be violated even by a perfect attack"),
        )
        if ids
    ]
    reason = f"{counts}: {'; '.join(said)}; privacy-gate plan says how many are needed"
    undecidable = [id for id in asked if id in no_pass and id in no_fail]
    # A rule that cannot pass stays open by itself; that another could not fail is no reason against a pass.
    return Finding(name, "fail" if len(undecidable) == len(asked) else "warn", takes, value, reason, informs=True)


def _perfect(c: Circumstances, results: list[AttackResult]) -> Evidence:
    """The run's evidence as it would be if every attack named all members and nobody else."""
    member, persons = c.audit.member, c.audit.persons
    scores = member.astype(np.float64)
    accuracy = metrics.averaged([metrics.balanced_accuracy(member, member, persons)])
    auc = metrics.auc(scores, member, persons)
    tprs = {
        fpr: metrics.tpr_at_fpr(scores, member, persons, fpr, c.seed)
        for fpr in sorted({fpr for result in results for fpr in result.tpr_at_fpr})
    }
    attacks = tuple(
        replace(
            result,
            accuracy=accuracy,
            advantage=metrics.averaged([metrics.advantage(member, member, persons)]),
            auc=None if result.auc is None else auc,
            tpr_at_fpr={fpr: tprs[fpr] for fpr in result.tpr_at_fpr},
            slices=(),
        )
        for result in results
    )
    inside, outside = (len(np.unique(persons[side])) for side in (member, ~member))
    risk = None if c.risk is None else _perfect_risk(c.risk, inside, outside)
    return Evidence(
        attacks=attacks,
        risk=risk,
        findings=(),
        members=int(member.sum()),
        nonmembers=int((~member).sum()),
        member_persons=inside,
        nonmember_persons=outside,
        seed=c.seed,
        description=c.model,
    )


def _perfect_risk(risk: RiskScores, inside: int, outside: int) -> RiskScores:
    def sure(high: HighRisk) -> HighRisk:
        precision: Mapping[float, metrics.Precision] = {
            prior: metrics.precision(inside, inside, 0, outside, prior) for prior in high.precision_at
        }
        return replace(
            high,
            members=inside,
            nonmembers=0,
            attributable=metrics.share_excess(inside, inside, 0, outside),
            precision=metrics.precision(inside, inside, 0, outside),
            precision_at=precision,
            sure=None if high.sure is None else inside,
        )

    return replace(risk, high=tuple(sure(high) for high in risk.high))
