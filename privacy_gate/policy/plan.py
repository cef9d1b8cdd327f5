"""Which rules a number of records can decide: said before any shadow is trained."""

from __future__ import annotations

from privacy_gate.metrics import nonmembers_for_tpr
from privacy_gate.policy.contract import CATALOG, Effort, Policy, Rule, Unit
from privacy_gate.policy.judge import POWER

_TPR = "attack.tpr_at_fpr_"


def limit_text(limit: float, unit: Unit) -> str:
    """A limit as a person would write it in the rule's unit: 0.05 -> "5 %", 0.65 -> "0.65"."""
    if unit == "percent":
        return f"{100 * limit:g} %"
    if unit == "persons":
        return f"{limit:,g}"
    return f"{limit:.2f}" if round(limit, 2) == limit else f"{limit:g}"


def decidability(policy: Policy, members: int, nonmembers: int, hypotheses: int = 1) -> list[tuple[str, bool, str]]:
    """(rule id, whether an attack no better than guessing would let it pass, a sentence).

    `members` and `nonmembers` count persons where a person column exists, records elsewhere; `hypotheses` is about how
    many measurements share the level of a failure.
    """
    answers = []
    for in_force in policy.rules:
        rule, settings = CATALOG[in_force.id], in_force.settings
        limit = getattr(settings, "max", None)
        if settings.action == "off" or limit is None or rule.needed is None:
            continue  # switched off, nothing to measure, or nobody can say beforehand
        needed = rule.needed(settings, Effort(None, policy.alpha_pass, POWER, members, nonmembers))
        what = f"{rule.id} {rule.title} ≤ {limit_text(limit, rule.unit)}"
        failing = _failing(rule, nonmembers, policy.alpha_fail / hypotheses)
        if not needed:
            answers.append((rule.id, False, f"{what}: cannot pass, no number of records proves this{failing}"))
            continue
        enough = needed["members"] <= members and needed["nonmembers"] <= nonmembers
        counts = f"about {needed['members']:,} members and {needed['nonmembers']:,} non-members needed"
        passing = (
            f"can pass if no attack beats guessing ({counts})"
            if enough
            else f"cannot pass with {members:,} and {nonmembers:,}, even if no attack beats guessing ({counts})"
        )
        answers.append((rule.id, enough, f"{what}: {passing}{failing}"))
    return answers


def _failing(rule: Rule, nonmembers: int, alpha: float) -> str:
    """What it takes to prove a violation, where that is not what it takes to pass: at low false-positive rates."""
    if not rule.metric.startswith(_TPR):
        return ""
    needed = nonmembers_for_tpr(float(rule.metric.removeprefix(_TPR)), alpha)
    return f"; {'can' if needed <= nonmembers else 'cannot'} prove a violation (about {needed:,} non-members needed)"
