"""From evidence to a verdict: pass, fail or inconclusive, with its exit code and headline.

A rule passes if every upper bound is within the limit: uncorrected, since every one of them has to be.
A rule fails if a lower bound is beyond the limit, corrected over all hypotheses of all rules: Holm decides, and the
bound that is printed is Bonferroni's. Everything else is inconclusive. Precedence: 1 (proven) > 3 (broken) > 4 (open).

The rules that block and the rules that warn are two families. A rule that only warns cannot make a verdict wrong, so it
must not use up the error that is allowed to those that can; its own warnings are corrected among themselves.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from privacy_gate.datamodel import (
    Evidence,
    Finding,
    Invalidates,
    RuleOutcome,
    RuleStatus,
    Verdict,
    VerdictStatus,
)
from privacy_gate.errors import ExitCode
from privacy_gate.metrics import holm, p_value
from privacy_gate.policy.contract import CATALOG, Cell, Decided, Effort, Measured, Policy, Rule, RuleInForce

POWER = 0.8  # of the sample sizes that are suggested


def judge(policy: Policy, evidence: Evidence) -> Verdict:
    """The verdict of a policy on evidence: deterministic, and never a pass without proof."""
    found = {rule.id: CATALOG[rule.id].examine(rule.settings, evidence) for rule in policy.rules if _looked_at(rule)}
    families = {
        action: _family([(id, m) for id, m in found.items() if _action(policy, id) == action], policy.alpha_fail)
        for action in ("block", "warn")
    }
    admissible = _Admissible.of(evidence.findings, policy)
    outcomes = []
    warnings = [finding.check for finding in evidence.findings if finding.status == "warn"]
    for rule in CATALOG:
        in_force = policy.rule(rule.id)
        if in_force is None or rule.id not in found:
            outcomes.append(_not_applicable(rule, in_force))
            continue
        answer = found[rule.id]
        if isinstance(answer, Decided):
            outcomes.append(_decided(rule, in_force, answer))
        else:
            family = families[in_force.settings.action]
            outcome = _statistical(rule, in_force, answer, family, policy, evidence)
            outcomes.append(admissible.applied(outcome))
    crashes = [a.warning for a in found.values() if isinstance(a, Decided) and a.warning]
    return _verdict(tuple(outcomes), admissible, warnings, crashes)


def _looked_at(rule: RuleInForce) -> bool:
    return rule.settings.action != "off"


def _action(policy: Policy, id: str) -> str:
    in_force = policy.rule(id)
    return "off" if in_force is None else in_force.settings.action


# --- bounds ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Judged:
    """One hypothesis with its numbers."""

    cell: Cell
    p: float  # that the limit is kept; small: it is exceeded
    low: float  # Bonferroni-corrected
    exceeded: bool  # proven, by Holm


@dataclass(frozen=True, slots=True)
class _Family:
    """All hypotheses that share one error budget.

    alpha    the level of one Bonferroni-corrected bound
    judged   rule id -> its hypotheses
    """

    alpha: float
    judged: Mapping[str, tuple[_Judged, ...]]


def _family(answers: Sequence[tuple[str, Measured | Decided]], alpha: float) -> _Family:
    cells = [(id, cell) for id, answer in answers if isinstance(answer, Measured) for cell in answer.cells]
    if not cells:
        return _Family(alpha, {})
    p_values = [_p_value(cell) for _, cell in cells]
    rejected = holm(p_values, alpha)
    each = alpha / len(cells)
    judged: dict[str, tuple[_Judged, ...]] = {}
    for (id, cell), p, exceeded in zip(cells, p_values, rejected, strict=True):
        judged[id] = (*judged.get(id, ()), _Judged(cell, p, cell.measurement.lower(each), exceeded))
    return _Family(each, judged)


def _p_value(cell: Cell) -> float:
    """1 for a measurement that is not a number: nothing is proven by it."""
    return 1.0 if math.isnan(cell.measurement.value) else p_value(cell.measurement, cell.limit)


def _within(cell: Cell, alpha: float) -> bool:
    """Whether the upper bound is within the limit; not a number is not."""
    return not math.isnan(cell.measurement.value) and cell.measurement.upper(alpha) <= cell.limit


# --- one rule -------------------------------------------------------------------------------------------------------


def _outcome(rule: Rule, in_force: RuleInForce, status: RuleStatus, reason: str) -> RuleOutcome:
    settings = in_force.settings
    return RuleOutcome(
        id=rule.id,
        title=rule.title,
        metric=rule.metric,
        limit=getattr(settings, "max", None),
        value=None,
        low=None,
        high=None,
        status=status,
        action=settings.action,
        severity=settings.severity,
        reason="; ".join(part for part in (reason, settings.reason) if part),
        location=in_force.location,
    )


def _not_applicable(rule: Rule, in_force: RuleInForce | None) -> RuleOutcome:
    if in_force is not None:
        return _outcome(rule, in_force, RuleStatus.NOT_APPLICABLE, "switched off by the policy")
    return RuleOutcome(
        id=rule.id,
        title=rule.title,
        metric=rule.metric,
        limit=None,
        value=None,
        low=None,
        high=None,
        status=RuleStatus.NOT_APPLICABLE,
        action="off",
        severity="low",
        reason="the policy does not have this rule",
    )


def _decided(rule: Rule, in_force: RuleInForce, answer: Decided) -> RuleOutcome:
    reason = "; ".join(part for part in (answer.reason, answer.warning) if part)
    return _outcome(rule, in_force, answer.status, reason)


def _statistical(
    rule: Rule, in_force: RuleInForce, answer: Measured, family: _Family, policy: Policy, evidence: Evidence
) -> RuleOutcome:
    judged = family.judged.get(rule.id, ())
    if not judged:
        status = RuleStatus.ERROR if answer.broken else RuleStatus.INCONCLUSIVE
        return _outcome(rule, in_force, status, f"nothing was measured: {answer.nothing}")
    within = [_within(j.cell, policy.alpha_pass) for j in judged]
    exceeded = [j for j, inside in zip(judged, within, strict=True) if j.exceeded and not inside]
    if exceeded:
        worst = min(exceeded, key=lambda j: (j.p, -_finite(j.cell.measurement.value)))
        status = RuleStatus.FAIL
    else:
        worst = max(judged, key=lambda j: _excess(j.cell, policy.alpha_pass))
        status = RuleStatus.PASS if all(within) and not answer.withheld else RuleStatus.INCONCLUSIVE
    measurement = worst.cell.measurement
    number = _Number(rule.unit)
    value, low, high = (measurement.value, worst.low, measurement.upper(policy.alpha_pass))
    limit = worst.cell.limit
    needed: Mapping[str, int] = {}
    if status is RuleStatus.FAIL:
        reason = f"{rule.title} {number(value, limit)} (at least {number(low, limit)}) exceeds {number(limit)}"
        if not low > limit:
            reason += "; proven by Holm's step-down procedure, the printed bound is Bonferroni's"
    elif status is RuleStatus.PASS:
        reason = f"{rule.title} is at most {number(high, limit)}, the limit is {number(limit)}"
    elif all(within):
        reason = f"{rule.title} is at most {number(high, limit)}, but {answer.withheld}"
    else:
        needed = _needed(rule, in_force, worst, family, policy, evidence)
        reason = (
            f"{rule.title} {number(value, limit)} (between {number(low, limit)} and {number(high, limit)}) "
            f"cannot be told from the limit {number(limit)}{_advice(needed)}"
        )
        reason += f"; also, {answer.withheld}" if answer.withheld else ""
    return replace(
        _outcome(rule, in_force, status, reason),
        limit=limit,
        value=_or_none(value),
        low=_or_none(low),
        high=_or_none(high),
        cell=worst.cell.name,
        needed=needed,
    )


def _excess(cell: Cell, alpha: float) -> float:
    """How far the upper bound is beyond the limit; infinite if it is not a number."""
    excess = cell.measurement.upper(alpha) - cell.limit
    return math.inf if math.isnan(excess) or math.isnan(cell.measurement.value) else excess


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _or_none(value: float) -> float | None:
    """A report has no NaN: null means not measured."""
    return float(value) if math.isfinite(value) else None


def _needed(
    rule: Rule, in_force: RuleInForce, worst: _Judged, family: _Family, policy: Policy, evidence: Evidence
) -> Mapping[str, int]:
    """Persons (records where none are known) that would decide, if the true value is the one that was seen."""
    value = worst.cell.measurement.value
    if not math.isfinite(value):
        return {}
    alpha = policy.alpha_pass if value <= worst.cell.limit else family.alpha
    effort = Effort(value, alpha, POWER, evidence.member_persons, evidence.nonmember_persons)
    needed = rule.needed(in_force.settings, effort)
    # If there are enough already, the suggestion is wrong for this evidence, and none is better.
    enough = needed.get("members", 0) <= effort.members and needed.get("nonmembers", 0) <= effort.nonmembers
    return {} if enough else dict(needed)


def _advice(needed: Mapping[str, int]) -> str:
    if not needed:
        return ""
    return f"; about {needed['members']:,} members and {needed['nonmembers']:,} non-members would decide"


class _Number:
    """Writes numbers with as few digits as tell them from the limit."""

    def __init__(self, unit: Literal["number", "percent"]) -> None:
        self._percent = unit == "percent"

    def __call__(self, value: float, limit: float | None = None) -> str:
        if math.isnan(value):
            return "not a number"
        for digits in range(self._least(value), 7):
            text = self._text(value, digits)
            if limit is None or value == limit or text != self._text(limit, digits):
                break
        return text

    def _least(self, value: float) -> int:
        return (0 if (100 * value).is_integer() else 1) if self._percent else 2

    def _text(self, value: float, digits: int) -> str:
        return f"{100 * value:.{digits}f} %" if self._percent else f"{value:.{digits}f}"


# --- is the evidence admissible? ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Admissible:
    """What fired validity checks leave: `no_pass` and `no_fail` say why a pass or a failure cannot be had."""

    no_pass: str
    no_fail: str

    @classmethod
    def of(cls, findings: Sequence[Finding], policy: Policy) -> _Admissible:
        fired = [f for f in findings if f.status == "fail" and f.invalidates is not None]
        confounding = [f for f in fired if f.invalidates is Invalidates.BOTH]
        unproven = [f for f in findings if f.status == "warn" and policy.equivalence]
        return cls(_said([*confounding, *(f for f in fired if f not in confounding), *unproven]), _said(confounding))

    def applied(self, outcome: RuleOutcome) -> RuleOutcome:
        """A rule's outcome on evidence that may not be admissible."""
        taken = {RuleStatus.PASS: self.no_pass, RuleStatus.FAIL: self.no_fail}.get(outcome.status, "")
        if not taken:
            return outcome
        reason = f"not admissible: {taken}; otherwise: {outcome.reason}"
        return replace(outcome, status=RuleStatus.INCONCLUSIVE, reason=reason)


def _said(findings: Sequence[Finding]) -> str:
    return "; ".join(f"{finding.check}: {finding.reason}" for finding in findings)


# --- the whole ------------------------------------------------------------------------------------------------------


def _verdict(
    outcomes: tuple[RuleOutcome, ...], admissible: _Admissible, warnings: Sequence[str], crashes: Sequence[str]
) -> Verdict:
    blocking = [outcome for outcome in outcomes if outcome.action == "block"]
    by_status = {status: [o for o in blocking if o.status is status] for status in RuleStatus}
    warned = [o for o in outcomes if o.action == "warn" and o.status is not RuleStatus.PASS]
    if failed := by_status[RuleStatus.FAIL]:
        status, code = VerdictStatus.FAIL, ExitCode.VIOLATED
        headline = f"{_violation(failed[0])}{_more(failed)}"
    elif broken := by_status[RuleStatus.ERROR]:
        status, code = VerdictStatus.ERROR, ExitCode.FAILED
        headline = f"The evaluation failed: {broken[0].id} {broken[0].title}: {broken[0].reason}{_more(broken)}"
    # A pass needs a number that was measured and held: "the attacks ran" alone says nothing of the model.
    elif by_status[RuleStatus.INCONCLUSIVE] or admissible.no_pass or not _measured(by_status[RuleStatus.PASS]):
        status, code = VerdictStatus.INCONCLUSIVE, ExitCode.INCONCLUSIVE
        headline = _open(by_status[RuleStatus.INCONCLUSIVE], admissible)
    else:
        cautioned = bool(warned or crashes)
        status = VerdictStatus.PASS_WITH_WARNINGS if cautioned else VerdictStatus.PASS
        code = ExitCode.PASS
        headline = _passed(by_status[RuleStatus.PASS], warned, crashes, warnings)
    counts = Counter(_counted_as(outcome) for outcome in outcomes)
    keys = ("fail", "warn", "passed", "inconclusive", "error", "not_applicable")
    return Verdict(status, int(code), headline, outcomes, {key: counts[key] for key in keys})


def _measured(passed: Sequence[RuleOutcome]) -> bool:
    return any(outcome.limit is not None for outcome in passed)


def _counted_as(outcome: RuleOutcome) -> str:
    if outcome.status is RuleStatus.NOT_APPLICABLE:
        return "not_applicable"
    if outcome.status is RuleStatus.PASS:
        return "passed"
    return "warn" if outcome.action == "warn" else outcome.status.value


def _violation(outcome: RuleOutcome) -> str:
    reason = outcome.reason.split("; ")[0]
    return f"{outcome.id} {reason}" + (f": {outcome.cell}" if outcome.cell else "")


def _more(outcomes: Sequence[RuleOutcome]) -> str:
    return f"; also {', '.join(o.id for o in outcomes[1:])}" if len(outcomes) > 1 else ""


def _open(outcomes: Sequence[RuleOutcome], admissible: _Admissible) -> str:
    if admissible.no_fail or (admissible.no_pass and all(o.reason.startswith("not admissible") for o in outcomes)):
        return f"The evidence is not admissible: {admissible.no_fail or admissible.no_pass}"
    if not outcomes:
        return "Nothing was evaluated: no rule that blocks applies"
    also = f"; the evidence is not admissible either: {admissible.no_pass}" if admissible.no_pass else ""
    return f"Not decided: {outcomes[0].id} {outcomes[0].reason}{_more(outcomes)}{also}"


def _passed(
    passed: Sequence[RuleOutcome], warned: Sequence[RuleOutcome], crashes: Sequence[str], warnings: Sequence[str]
) -> str:
    measured = [o for o in passed if o.high is not None and o.limit]
    text = f"All {len(passed)} blocking rules hold" if len(passed) > 1 else f"{passed[0].id} holds"
    if measured:
        # Relative to its limit, the rule that has the least room left.
        closest = max(measured, key=lambda o: (o.high or 0.0) / (o.limit or 1.0))
        text += f"; closest: {closest.id} {closest.reason.split('; ')[0]} ({closest.cell})"
    if warned:
        text += f"; {', '.join(o.id for o in warned)} only warned"
    if crashes:
        text += f"; {'; '.join(crashes)}"
    if warnings:
        text += f"; validity warnings: {', '.join(sorted(warnings))}"
    return text
