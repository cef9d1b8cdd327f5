"""From evidence to a verdict: pass, fail or inconclusive, with its exit code and headline.

A rule passes if every upper bound is within the limit: uncorrected, since every one of them has to be. Where the gate
has the burden of proof (a regression against an approved model), it passes if nothing is proven.
A rule fails if a lower bound is beyond the limit, corrected over all hypotheses of all rules: Holm decides, and the
bound that is printed is Bonferroni's. Everything else is inconclusive. Precedence: 1 (proven) > 3 (broken) > 4 (open).

The rules that block and the rules that warn are two families. A rule that only warns cannot make a verdict wrong, so it
must not use up the error that is allowed to those that can; its own warnings are corrected among themselves.

Waivers come last: they excuse hypotheses, and what is left of a rule is judged as if those had not been there.
"""

from __future__ import annotations

import datetime
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from privacy_gate.datamodel import (
    Estimand,
    Evidence,
    Finding,
    Invalidates,
    RuleOutcome,
    RuleStatus,
    Verdict,
    VerdictStatus,
    WaiverState,
)
from privacy_gate.errors import ExitCode
from privacy_gate.metrics import holm, p_value
from privacy_gate.policy.contract import CATALOG, Cell, Decided, Effort, Measured, Policy, Rule, RuleInForce, Unit
from privacy_gate.policy.waivers import Contested, Entry, Model, Part, excuse

POWER = 0.8  # of the sample sizes that are suggested


def judge(
    policy: Policy,
    evidence: Evidence,
    *,
    waivers: Sequence[Entry] = (),
    model: Model | None = None,
    today: datetime.date | None = None,
    settled: Mapping[str, Decided] | None = None,
) -> Verdict:
    """The verdict of a policy on evidence: deterministic, and never a pass without proof.

    waivers  of the waiver file; `model` is what they are about
    today    the day on which rules begin to block and waivers end; default: today in UTC
    settled  answers of rules that were found elsewhere: rule id -> answer, in place of the rule's own
    """
    day = today or datetime.datetime.now(datetime.UTC).date()
    policy = policy.on(day)
    evidence = replace(evidence, findings=_as_read_by(policy, evidence.findings))
    found = {
        rule.id: (settled or {}).get(rule.id) or CATALOG[rule.id].examine(rule.settings, evidence)
        for rule in policy.rules
        if rule.settings.action != "off"
    }
    families = {
        action: _family([(id, m) for id, m in found.items() if _action(policy, id) == action], policy.alpha_fail)
        for action in ("block", "warn")
    }
    bench = _Bench(policy, evidence, _Admissible.of(evidence, policy))
    cases: dict[str, _Case] = {}
    for rule in CATALOG:
        in_force = policy.rule(rule.id)
        if in_force is not None and rule.id in found:
            cases[rule.id] = _Case(rule, in_force, found[rule.id], families[in_force.settings.action])
    judged = {id: case.outcome(bench) for id, case in cases.items()}
    contested = {id: case.contested(judged[id], policy.alpha_pass) for id, case in cases.items()}
    states, excused = excuse(waivers, contested, policy, model, day, inadmissible=bool(bench.admissible.no_pass))
    for id, excuses in excused.items():
        judged[id] = cases[id].waived(judged[id], excuses.parts, excuses.withheld, excuses.said, excuses.ids, bench)
    outcomes = tuple(
        judged[rule.id] if rule.id in judged else _not_applicable(rule, policy.rule(rule.id)) for rule in CATALOG
    )
    warnings = [finding.check for finding in evidence.findings if finding.status == "warn"]
    crashes = [a.warning for a in found.values() if isinstance(a, Decided) and a.warning]
    proving = frozenset(id for id, case in contested.items() if case.proves)
    return _verdict(outcomes, bench.admissible, warnings, crashes, proving, states)


def _as_read_by(policy: Policy, findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Where equivalence is asked for, a check that merely warns takes the pass."""
    if not policy.equivalence:
        return tuple(findings)
    return tuple(
        replace(f, status="fail", invalidates=Invalidates.PASS) if f.status == "warn" and not f.informs else f
        for f in findings
    )


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
    measured = [(id, answer) for id, answer in answers if isinstance(answer, Measured)]
    cells = [(id, cell) for id, answer in measured if answer.convicts for cell in answer.cells]
    p_values = [_p_value(cell) for _, cell in cells]
    rejected = holm(p_values, alpha)
    each = alpha / max(len(cells), 1)
    judged: dict[str, tuple[_Judged, ...]] = {}
    for (id, cell), p, exceeded in zip(cells, p_values, rejected, strict=True):
        judged[id] = (*judged.get(id, ()), _Judged(cell, p, cell.measurement.lower(each), exceeded))
    for id, answer in measured:
        if not answer.convicts:  # nothing can be wrongly failed by it, so it takes no part in the correction
            own = alpha / max(len(answer.cells), 1)
            lows = [(cell, cell.measurement.lower(own)) for cell in answer.cells]
            judged[id] = tuple(_Judged(cell, 1.0, low, low > cell.limit) for cell, low in lows)
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
        reason=_joined(reason, settings.reason),
        location=in_force.location,
        enforce_from="" if settings.enforce_from is None else settings.enforce_from.isoformat(),
    )


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


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


@dataclass(frozen=True, slots=True)
class _Bench:
    """What every rule is judged with."""

    policy: Policy
    evidence: Evidence
    admissible: _Admissible


@dataclass(frozen=True, slots=True)
class _Case:
    """One rule and what it found."""

    rule: Rule
    in_force: RuleInForce
    answer: Measured | Decided
    family: _Family

    @property
    def judged(self) -> tuple[_Judged, ...]:
        """Its hypotheses; none if it decided something that cannot be measured."""
        return self.family.judged.get(self.rule.id, ())

    def outcome(self, bench: _Bench) -> RuleOutcome:
        """The rule without any waiver."""
        if isinstance(self.answer, Decided):
            reason = _joined(self.answer.reason, self.answer.warning)
            return _outcome(self.rule, self.in_force, self.answer.status, reason)
        return bench.admissible.applied(self._measured(self.answer, self.judged, bench))

    def contested(self, outcome: RuleOutcome, alpha: float) -> Contested:
        """What waivers can be about."""
        if isinstance(self.answer, Decided):
            return Contested(outcome, (), "", proves=False, measures=False)
        parts = tuple(
            Part(j.cell.attack, j.cell.group, j.cell.measurement.value, self._holds(self.answer, j, alpha), j.exceeded)
            for j in self.judged
        )
        proves = self.answer.convicts and self.answer.burden == "model"
        return Contested(outcome, parts, self.answer.withheld, proves=proves, measures=True)

    def waived(
        self,
        outcome: RuleOutcome,
        excused: frozenset[int],
        withheld: bool,
        said: str,
        ids: tuple[str, ...],
        bench: _Bench,
    ) -> RuleOutcome:
        """The rule without the hypotheses that are excused: if the rest of it holds, it is waived."""
        if isinstance(self.answer, Measured):
            answer = replace(self.answer, withheld="") if withheld else self.answer
            kept = tuple(j for index, j in enumerate(self.judged) if index not in excused)
            rest = self._measured(answer, kept, bench) if kept else None
            if rest is not None and rest.status is not RuleStatus.PASS:
                return bench.admissible.applied(replace(rest, reason=_joined(rest.reason, f"besides, {said}")))
            if rest is None and answer.withheld:
                return outcome
        reason = f"{said}; otherwise: {outcome.reason}"
        return replace(outcome, status=RuleStatus.WAIVED, reason=reason, waiver=", ".join(ids))

    def _holds(self, answer: Measured, j: _Judged, alpha: float) -> bool:
        if answer.burden == "gate":
            return not j.exceeded and math.isfinite(j.cell.measurement.value)
        return _within(j.cell, alpha)

    def _measured(self, answer: Measured, judged: Sequence[_Judged], bench: _Bench) -> RuleOutcome:
        """Pass, fail or inconclusive from these hypotheses."""
        if not judged:
            status = RuleStatus.ERROR if answer.broken else RuleStatus.INCONCLUSIVE
            return _outcome(self.rule, self.in_force, status, f"nothing was measured: {answer.nothing}")
        alpha = bench.policy.alpha_pass
        holds = [self._holds(answer, j, alpha) for j in judged]
        exceeded = [j for j in judged if answer.convicts and j.exceeded and not _within(j.cell, alpha)]
        needed: Mapping[str, int] = {}
        if exceeded:
            worst = min(exceeded, key=lambda j: (j.p, -_finite(j.cell.measurement.value)))
            status, reason = RuleStatus.FAIL, self._failed(worst)
        else:
            worst = max(judged, key=lambda j: _excess(j.cell, alpha))
            if not all(holds):
                status = RuleStatus.INCONCLUSIVE
                # Where something else withholds the pass, more records can but prove a violation.
                if not answer.withheld or worst.cell.measurement.value > worst.cell.limit:
                    needed = _needed(self.rule, self.in_force, worst, self.family, bench.policy, bench.evidence)
                reason = _joined(
                    self._open(answer, worst, alpha, needed), answer.withheld and f"also, {answer.withheld}"
                )
            elif answer.withheld:
                status, reason = RuleStatus.INCONCLUSIVE, f"{self._held(answer, worst, alpha)}, but {answer.withheld}"
            else:
                status, reason = RuleStatus.PASS, self._held(answer, worst, alpha, limit=True)
        measurement = worst.cell.measurement
        return replace(
            _outcome(self.rule, self.in_force, status, _joined(reason, answer.note)),
            limit=worst.cell.limit,
            value=_or_none(measurement.value),
            low=_or_none(worst.low),
            high=_or_none(measurement.upper(alpha)),
            cell=worst.cell.name,
            needed=needed,
        )

    def _failed(self, worst: _Judged) -> str:
        number, limit = _Number(self.rule.unit), worst.cell.limit
        value, low = worst.cell.measurement.value, worst.low
        reason = f"{self.rule.title} {number(value, limit)} (at least {number(low, limit)}) exceeds {number(limit)}"
        holm_alone = "proven by Holm's step-down procedure, the printed bound is Bonferroni's"
        return _joined(reason, "" if low > limit else holm_alone)

    def _held(self, answer: Measured, worst: _Judged, alpha: float, *, limit: bool = False) -> str:
        number, most = _Number(self.rule.unit), worst.cell.limit
        high = number(worst.cell.measurement.upper(alpha), most)
        if answer.burden == "gate":
            return f"{self.rule.title}: none above {number(most)} is proven (at most {high})"
        return f"{self.rule.title} is at most {high}" + (f", the limit is {number(most)}" if limit else "")

    def _open(self, answer: Measured, worst: _Judged, alpha: float, needed: Mapping[str, int]) -> str:
        number, limit = _Number(self.rule.unit), worst.cell.limit
        measurement = worst.cell.measurement
        shown = f"{self.rule.title} {number(measurement.value, limit)}"
        if not answer.convicts and worst.low > limit:
            return f"{shown} (at least {number(worst.low, limit)}) exceeds {number(limit)}: it leaves the verdict open"
        between = f"(between {number(worst.low, limit)} and {number(measurement.upper(alpha), limit)})"
        return f"{shown} {between} cannot be told from the limit {number(limit)}{_advice(needed)}"


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
    if rule.needed is None:
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

    def __init__(self, unit: Unit) -> None:
        self._unit = unit

    def __call__(self, value: float, limit: float | None = None) -> str:
        if not math.isfinite(value):
            return "not a number" if math.isnan(value) else "unknown"
        for digits in range(self._least(value), 7):
            text = self._text(value, digits)
            if limit is None or value == limit or text != self._text(limit, digits):
                break
        return text

    def _least(self, value: float) -> int:
        if self._unit == "persons" and abs(value) >= 100:
            return 0
        shown = 100 * value if self._unit == "percent" else float(value)
        return 2 if self._unit == "number" else 0 if round(shown, 9).is_integer() else 1

    def _text(self, value: float, digits: int) -> str:
        if self._unit == "percent":
            return f"{100 * value:.{digits}f} %"
        return f"{value:,.{digits}f}" if self._unit == "persons" else f"{value:.{digits}f}"


# --- is the evidence admissible? ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Admissible:
    """What fired validity checks leave: `no_pass` and `no_fail` say why a pass or a failure cannot be had."""

    no_pass: str
    no_fail: str

    @classmethod
    def of(cls, evidence: Evidence, policy: Policy) -> _Admissible:
        fired = [f for f in evidence.findings if f.status == "fail" and f.invalidates is not None]
        confounding = [f for f in fired if f.invalidates is Invalidates.BOTH]
        others = [f for f in fired if f not in confounding]
        return cls(_joined(_said([*confounding, *others]), _of_another(evidence, policy)), _said(confounding))

    def applied(self, outcome: RuleOutcome) -> RuleOutcome:
        """A rule's outcome on evidence that may not be admissible."""
        taken = {RuleStatus.PASS: self.no_pass, RuleStatus.FAIL: self.no_fail}.get(outcome.status, "")
        if not taken:
            return outcome
        reason = f"not admissible: {taken}; otherwise: {outcome.reason}"
        return replace(outcome, status=RuleStatus.INCONCLUSIVE, reason=reason)


def _of_another(evidence: Evidence, policy: Policy) -> str:
    """Why the numbers do not answer the policy's question; bounds over a sample of members hold for all of them."""
    wider = {policy.estimand} | ({Estimand.ARTEFACT} if policy.estimand is Estimand.CENSUS else set())
    if evidence.estimand in wider:
        return ""
    return f"the policy asks about {policy.estimand.value}, the evidence is about {evidence.estimand.value}"


def _said(findings: Sequence[Finding]) -> str:
    return "; ".join(f"{finding.check}: {finding.reason}" for finding in findings)


# --- the whole ------------------------------------------------------------------------------------------------------


def _verdict(
    outcomes: tuple[RuleOutcome, ...],
    admissible: _Admissible,
    warnings: Sequence[str],
    crashes: Sequence[str],
    proving: frozenset[str],
    waivers: tuple[WaiverState, ...],
) -> Verdict:
    blocking = [outcome for outcome in outcomes if outcome.action == "block"]
    by_status = {status: [o for o in blocking if o.status is status] for status in RuleStatus}
    passed, waived = by_status[RuleStatus.PASS], by_status[RuleStatus.WAIVED]
    quiet = (RuleStatus.PASS, RuleStatus.NOT_APPLICABLE)
    warned = [o for o in outcomes if o.action == "warn" and o.status not in quiet]
    if failed := by_status[RuleStatus.FAIL]:
        status, code = VerdictStatus.FAIL, ExitCode.VIOLATED
        headline = f"{_violation(failed[0])}{_more(failed)}"
    elif broken := by_status[RuleStatus.ERROR]:
        status, code = VerdictStatus.ERROR, ExitCode.FAILED
        headline = f"The evaluation failed: {broken[0].id} {broken[0].title}: {broken[0].reason}{_more(broken)}"
    # A pass needs a number that was measured and held: "the attacks ran" alone says nothing of the model.
    elif by_status[RuleStatus.INCONCLUSIVE] or admissible.no_pass or not proving & {o.id for o in [*passed, *waived]}:
        status, code = VerdictStatus.INCONCLUSIVE, ExitCode.INCONCLUSIVE
        headline = _open(by_status[RuleStatus.INCONCLUSIVE], admissible)
    else:
        cautioned = VerdictStatus.PASS_WITH_WARNINGS if warned or crashes else VerdictStatus.PASS
        status, code = VerdictStatus.PASS_WITH_WAIVERS if waived else cautioned, ExitCode.PASS
        headline = _passed(passed, waived, warned, crashes, warnings)
    counts = Counter(_counted_as(outcome) for outcome in outcomes)
    keys = ("fail", "warn", "passed", "waived", "inconclusive", "error", "not_applicable")
    return Verdict(status, int(code), headline, outcomes, {key: counts[key] for key in keys}, waivers)


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
        return "Nothing was evaluated: no rule that blocks has measured the model"
    also = f"; the evidence is not admissible either: {admissible.no_pass}" if admissible.no_pass else ""
    return f"Not decided: {outcomes[0].id} {outcomes[0].reason}{_more(outcomes)}{also}"


def _passed(
    passed: Sequence[RuleOutcome],
    waived: Sequence[RuleOutcome],
    warned: Sequence[RuleOutcome],
    crashes: Sequence[str],
    warnings: Sequence[str],
) -> str:
    measured = [o for o in passed if o.high is not None and o.limit and o.high <= o.limit]
    if not passed:
        text = "No rule that blocks is violated"
    else:
        all_of = "All" if not waived else "The other"
        text = f"{all_of} {len(passed)} blocking rules hold" if len(passed) > 1 else f"{passed[0].id} holds"
    if measured:
        # Relative to its limit, the rule that has the least room left.
        closest = max(measured, key=lambda o: (o.high or 0.0) / (o.limit or 1.0))
        text += f"; closest: {closest.id} {closest.reason.split('; ')[0]} ({closest.cell})"
    if waived:
        text += f"; waived: {', '.join(f'{o.id} ({o.waiver})' for o in waived)}"
    if warned:
        text += f"; {', '.join(o.id for o in warned)} only warned"
    if crashes:
        text += f"; {'; '.join(crashes)}"
    if warnings:
        text += f"; validity warnings: {', '.join(sorted(warnings))}"
    return text
