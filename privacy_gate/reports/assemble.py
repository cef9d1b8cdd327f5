"""From the nouns of the run to the document. Pure functions; NaN and infinity become null, small cells are hidden."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from privacy_gate import datamodel
from privacy_gate.datamodel import Bools, Floats
from privacy_gate.defences import NOTHING, Defences
from privacy_gate.errors import GateError
from privacy_gate.release import VERSION
from privacy_gate.reports import document as doc
from privacy_gate.reports import wording

ALPHA = 0.05
MIN_CELL = 10  # no count of fewer records leaves the gate
BINS = 20
HIGH_SCORE = 0.8  # four to one odds
ROC_POINTS = 81

Curve = tuple[Floats, Floats]  # fpr, tpr: both ascending


# --- numbers and texts ----------------------------------------------------------------------------------------------


def number(value: float | None) -> float | None:
    """The number, or None where there is none (None, NaN, infinite)."""
    return None if value is None or not math.isfinite(value) else float(value)


_USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_SECRET = re.compile(r"(?i)([?&](?:[\w-]*(?:token|secret|signature|password|key|sig))=)[^&\s\"']+")


def without_secrets(text: str) -> str:
    """The text with credentials in URLs (user:password@host, ?token=...) replaced by `***`."""
    return _SECRET.sub(r"\1***", _USERINFO.sub("***", text))


def plain(value: Any) -> JsonValue:
    """A JSON value without secrets, NaN or infinity; anything else as text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return without_secrets(str(value))
    if isinstance(value, float):
        return number(value)
    if isinstance(value, Mapping):
        return {without_secrets(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return without_secrets(str(value))


def _object(value: Mapping[str, Any]) -> doc.JsonObject:
    return {key: plain(item) for key, item in value.items()}


def interval(measurement: datamodel.Measurement, alpha: float = ALPHA) -> doc.Interval:
    """Value with one-sided bounds, each at confidence 1 - alpha."""
    return doc.Interval(
        value=number(measurement.value), low=number(measurement.lower(alpha)), high=number(measurement.upper(alpha))
    )


def rate_key(fpr: float) -> str:
    """A false-positive rate as a key: 0.001 -> "0.001", never "1e-05"."""
    return np.format_float_positional(fpr, trim="-")


# --- one noun each --------------------------------------------------------------------------------------------------


def verdict(
    verdict: datamodel.Verdict, valid_until: str | None = None, exit_zero: bool = False, exit_code: int | None = None
) -> doc.Verdict:
    """The verdict; `exit_code` where the process ends with another one (--exit-zero)."""
    return doc.Verdict(
        status=verdict.status,
        exit_code=int(verdict.exit_code if exit_code is None else exit_code),
        headline=without_secrets(verdict.headline),
        valid_until=valid_until,
        counts={key: int(count) for key, count in verdict.counts.items()},
        exit_zero=exit_zero,
    )


def subject(
    candidate: datamodel.Candidate | None, description: datamodel.Description | None = None, uri: str | None = None
) -> doc.Subject:
    """The model; where it could not be resolved, just what was asked for."""
    if candidate is None:
        return doc.Subject(uri=None if uri is None else without_secrets(uri))
    return doc.Subject(
        uri=without_secrets(candidate.uri),
        resolved_uri=without_secrets(candidate.resolved_uri),
        name=candidate.name,
        version=candidate.version,
        model_id=candidate.model_id,
        run_id=candidate.run_id,
        digest=candidate.digest,
        flavor=candidate.flavor,
        executes_code=candidate.executes_code,
        kind=None if description is None else description.kind,
        datasets=tuple(
            doc.DatasetHint(
                name=without_secrets(hint.name), context=hint.context, source_type=hint.source_type, digest=hint.digest
            )
            for hint in candidate.datasets
        ),
    )


def policy(name: str, profile: str | None, digest: str, resolved: Mapping[str, Any]) -> doc.Policy:
    """The policy, with its digest and all of its resolved content."""
    return doc.Policy(name=name, profile=profile, digest=digest, resolved=_object(resolved))


def rule(outcome: datamodel.RuleOutcome) -> doc.Rule:
    """One judged rule."""
    place = outcome.location
    return doc.Rule(
        id=outcome.id,
        title=outcome.title,
        metric=outcome.metric,
        limit=number(outcome.limit),
        value=number(outcome.value),
        low=number(outcome.low),
        high=number(outcome.high),
        status=outcome.status,
        action=outcome.action,
        severity=outcome.severity,
        location=None if place is None else doc.Location(file=place.file, line=place.line, column=place.column),
        reason=without_secrets(outcome.reason),
        cell=outcome.cell,
        needed={key: int(count) for key, count in outcome.needed.items()},
        waiver=outcome.waiver,
        enforce_from=outcome.enforce_from,
    )


def thin(curve: Curve, points: int = ROC_POINTS) -> doc.Roc:
    """The curve on a logarithmic grid of FPRs: at each the highest TPR reached without exceeding that FPR.

    A curve with every step of its own would give away the rank of single records.
    """
    fpr, tpr = (np.concatenate([[0.0], np.asarray(side, dtype=np.float64)]) for side in curve)
    steps = np.unique(fpr[fpr > 0])
    # From the second step on: the first is the most conspicuous of all non-members, one person.
    start = min(max(float(steps[min(1, steps.size - 1)]) if steps.size else 1.0, 1e-5), 0.5)
    grid = np.geomspace(start, 1.0, points)
    grid[0], grid[-1] = start, 1.0  # exact: geomspace may end one rounding error short of a step
    heights = np.maximum.accumulate(tpr)[np.searchsorted(fpr, grid, side="right") - 1]
    return doc.Roc(fpr=tuple(np.round(grid, 7).tolist()), tpr=tuple(np.round(heights, 6).tolist()))


def attack(outcome: datamodel.AttackOutcome, curve: Curve | None = None, alpha: float = ALPHA) -> doc.Attack:
    """One attack that ran, was skipped or crashed."""
    if not isinstance(outcome, datamodel.AttackResult):
        return doc.Attack(
            id=outcome.id,
            family=outcome.family,
            status="skipped" if isinstance(outcome, datamodel.AttackSkipped) else "error",
            reason=without_secrets(outcome.reason),
            applies=not isinstance(outcome, datamodel.AttackSkipped) or outcome.applies,
            refused=isinstance(outcome, datamodel.AttackFailed) and outcome.refused,
            threat_model=outcome.threat_model,
        )
    return doc.Attack(
        id=outcome.id,
        family=outcome.family,
        status="executed",
        threat_model=outcome.threat_model,
        threshold=outcome.threshold,
        adaptive=outcome.adaptive,
        metrics=doc.Metrics(
            accuracy=interval(outcome.accuracy, alpha),
            auc=None if outcome.auc is None else interval(outcome.auc, alpha),
            advantage=interval(outcome.advantage, alpha),
            tpr_at_fpr={
                rate_key(rate): interval(measured, alpha)
                for rate, measured in sorted(outcome.tpr_at_fpr.items(), reverse=True)
            },
            precision=_by_rate(outcome.precision, alpha),
        ),
        answered=_answered(outcome, alpha),
        roc=None if curve is None else thin(curve),
    )


def _answered(outcome: datamodel.AttackResult, alpha: float) -> doc.Answered | None:
    """Where enough people stand behind a share that it tells of none of them."""
    enough = [part for part in outcome.answered if min(part.members, part.nonmembers) >= MIN_CELL]
    return doc.Answered(**{part.value: interval(part.accuracy, alpha) for part in enough}) if enough else None


def _by_rate(measured: Mapping[float, datamodel.Measurement], alpha: float) -> dict[str, doc.Interval]:
    return {rate_key(rate): interval(measured[rate], alpha) for rate in sorted(measured, reverse=True)}


def slices(outcomes: Iterable[datamodel.AttackOutcome], alpha: float = ALPHA) -> tuple[doc.SliceAccuracy, ...]:
    """The strongest attack per slice; its lower bound is corrected for all attacks in all slices."""
    found = [(o, part) for o in outcomes if isinstance(o, datamodel.AttackResult) for part in o.slices]
    strongest: dict[tuple[str, str], tuple[datamodel.AttackResult, datamodel.SliceAccuracy]] = {}
    for outcome, part in found:
        place = (part.by, part.value)
        if place not in strongest or part.accuracy.value > strongest[place][1].accuracy.value:
            strongest[place] = (outcome, part)
    return tuple(
        doc.SliceAccuracy(
            by=part.by,
            value=part.value,
            members=_shown(part.members),
            nonmembers=_shown(part.nonmembers),
            attack=", ".join(
                [
                    outcome.id,
                    *datamodel.threat_told(outcome.threat_model, outcome.threshold),
                    *([outcome.threshold.value] if outcome.threshold else []),
                ]
            ),
            accuracy=doc.Interval(
                value=number(part.accuracy.value),
                low=number(part.accuracy.lower(alpha / len(found))),
                high=number(part.accuracy.upper(alpha)),
            ),
        )
        for outcome, part in strongest.values()
    )


def _shown(count: int | None) -> int | None:
    """A count, unless it would tell of one to nine people."""
    return None if count is None or 0 < count < MIN_CELL else int(count)


def cause(found: datamodel.Cause) -> doc.Cause:
    """One cause; rows about fewer than ten members lose their numbers."""
    return doc.Cause(
        id=found.id,
        title=found.title,
        value=number(found.value),
        p_value=number(found.p_value),
        reason=without_secrets(found.reason),
        rows=tuple(
            doc.CauseRow(
                name=without_secrets(row.name),
                members=row.members if row.members >= MIN_CELL else None,
                numbers={key: number(value) if row.members >= MIN_CELL else None for key, value in row.numbers.items()},
            )
            for row in found.rows
        ),
    )


def waivers(states: Iterable[datamodel.WaiverState]) -> doc.Waivers:
    """All waivers by what became of them."""
    made = [
        doc.Waiver(
            id=without_secrets(w.id),
            rule=without_secrets(w.rule),
            state=w.state,
            reason=without_secrets(w.reason),
            note=without_secrets(w.note),
            approved_by=tuple(without_secrets(name) for name in w.approved_by),
            ticket=without_secrets(w.ticket),
            created=w.created,
            expires=w.expires,
        )
        for w in states
    ]

    def those(*wanted: str) -> tuple[doc.Waiver, ...]:
        return tuple(w for w in made if w.state in wanted)

    return doc.Waivers(
        active=those("active"), expired=those("expired"), unused=those("unused"), refused=those("refused", "exceeded")
    )


def baseline(found: datamodel.Regression, alpha: float = ALPHA) -> doc.Baseline:
    """The comparison with an approved model."""
    return doc.Baseline(
        reference=without_secrets(found.reference),
        reference_digest=found.reference_digest,
        paired=found.paired,
        members=found.members,
        nonmembers=found.nonmembers,
        differences=tuple(
            doc.Difference(attack=name, accuracy=interval(measured, alpha)) for name, measured in found.differences
        ),
        note=without_secrets(found.note),
    )


def _stop(found: datamodel.Stop, alpha: float) -> doc.Stop:
    return doc.Stop(
        name=without_secrets(found.name),
        train_accuracy=number(found.train_accuracy),
        test_accuracy=number(found.test_accuracy),
        attacks={id: interval(measured, alpha) for id, measured in found.attacks.items()},
    )


def frontier(found: datamodel.Frontier, alpha: float = ALPHA) -> doc.Frontier:
    """The early-stopping benchmark."""
    return doc.Frontier(
        source=found.source,
        candidate=_stop(found.candidate, alpha),
        stops=tuple(_stop(stop, alpha) for stop in found.stops),
        matched=found.matched,
        differences={id: interval(measured, alpha) for id, measured in found.differences.items()},
        dominated_by=found.dominated_by,
        notes=tuple(without_secrets(note) for note in found.notes),
    )


def alternative(found: datamodel.Alternative, alpha: float = ALPHA) -> doc.Alternative:
    """One line of the comparison of defences."""
    blocking = [rule for rule in found.verdict.rules if rule.action == "block"]
    open_ones = (datamodel.RuleStatus.INCONCLUSIVE, datamodel.RuleStatus.ERROR)
    return doc.Alternative(
        name=without_secrets(found.name),
        settings=_object(found.settings),
        status=found.verdict.status,
        exit_code=found.verdict.exit_code,
        headline=without_secrets(found.verdict.headline),
        violated=tuple(rule.id for rule in blocking if rule.status is datamodel.RuleStatus.FAIL),
        undecided=tuple(rule.id for rule in blocking if rule.status in open_ones),
        train_accuracy=number(found.train_accuracy),
        test_accuracy=number(found.test_accuracy),
        gain=number(found.gain),
        attack=found.attack,
        accuracy=None if found.accuracy is None else interval(found.accuracy, alpha),
        tpr_at_fpr=_by_rate(found.tpr_at_fpr, alpha),
        high_risk=None if found.high_risk is None else _high_risk(found.high_risk, 1, alpha).attributable,
        retrained=found.retrained,
    )


def finding(finding: datamodel.Finding) -> doc.Finding:
    """One validity check's answer."""
    return doc.Finding(
        check=finding.check,
        value=number(finding.value),
        status=finding.status,
        invalidates=finding.invalidates,
        reason=without_secrets(finding.reason),
    )


def suppress(counts: Sequence[int] | NDArray[Any], minimum: int = MIN_CELL) -> tuple[int | None, ...]:
    """Counts below `minimum` hidden, and as many of the next smallest as it takes that the hidden ones together
    are not fewer than `minimum` either: with the total known, a single hidden cell could be worked out."""
    cells = [int(count) for count in counts]
    hidden = {index for index, count in enumerate(cells) if count < minimum}
    for index in sorted(range(len(cells)), key=lambda i: (cells[i], i)):
        total = sum(cells[i] for i in hidden)
        if total == 0 or total >= minimum:
            break
        hidden.add(index)
    return tuple(None if index in hidden else count for index, count in enumerate(cells))


def histogram(
    name: str, values: Floats, member: Bools, span: tuple[float, float] | None = None
) -> doc.Histogram | None:
    """Counts of members and non-members in equal cells over `span`; the outer cells take the rest.

    Without a span: between the 1 % and 99 % points, since extremes are single records and set no edge. There are fewer
    cells where there are few records. None when there is nothing to show.
    """
    finite = np.isfinite(values)
    fewer = int(min((finite & member).sum(), (finite & ~member).sum()))
    if fewer < MIN_CELL:
        return None
    edges = np.linspace(*(span or _span(values[finite])), min(BINS, max(4, fewer // (2 * MIN_CELL))) + 1)
    clipped = np.clip(values, edges[0], edges[-1])
    counts = [suppress(np.histogram(clipped[finite & side], bins=edges)[0]) for side in (member, ~member)]
    if all(count is None for side in counts for count in side):
        return None
    return doc.Histogram(
        name=name, edges=tuple(float(f"{edge:.6g}") for edge in edges), members=counts[0], nonmembers=counts[1]
    )


def _span(values: Floats) -> tuple[float, float]:
    low, high = (float(f"{point:.3g}") for point in np.quantile(values, [0.01, 0.99]))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def groups(scores: Floats, audit: datamodel.Audit, score: float) -> tuple[doc.Group, ...]:
    """Risk per class and per value of each declared group; records at or above `score` count as high-risk."""
    classes = np.array(audit.classes, dtype=object)[audit.labels].astype(str)
    tables: dict[str, NDArray[np.str_]] = {"class": classes, **dict(audit.groups)}
    return tuple(
        group for by, values in tables.items() for group in _groups_by(by, values, scores, audit.member, score)
    )


def _groups_by(by: str, values: NDArray[np.str_], scores: Floats, member: Bools, score: float) -> tuple[doc.Group, ...]:
    names = [str(value) for value in np.unique(values)]
    sides = [[scores[side & (values == name)] for name in names] for side in (member, ~member)]
    sizes = [suppress([part.size for part in parts]) for parts in sides]
    return tuple(
        doc.Group(
            by=by,
            value=name,
            members=sizes[0][i],
            nonmembers=sizes[1][i],
            mean_members=_mean(sides[0][i], sizes[0][i]),
            mean_nonmembers=_mean(sides[1][i], sizes[1][i]),
            high_members=_high_share(sides[0][i], sizes[0][i], score),
            high_nonmembers=_high_share(sides[1][i], sizes[1][i], score),
            quantiles=_quantiles(sides[0][i], sizes[0][i]),
        )
        for i, name in enumerate(names)
    )


QUANTILES = (0.25, 0.5, 0.75, 0.9, 0.99)


def _quantiles(scores: Floats, shown: int | None) -> dict[str, float]:
    """Where the scores lie; a quantile that fewer than ten records lie beyond would be one of theirs."""
    kept = [q for q in QUANTILES if shown and min(q, 1 - q) * scores.size >= MIN_CELL]
    return {f"{q:g}": round(float(np.quantile(scores, q)), 6) for q in kept}


def _mean(scores: Floats, shown: int | None) -> float | None:
    return number(round(float(scores.mean()), 9)) if shown else None


def _high_share(scores: Floats, shown: int | None, score: float) -> float | None:
    """The share at or above the score; hidden where it would tell of one to nine records."""
    count = int((scores >= score).sum())
    return count / scores.size if shown and (count == 0 or count >= MIN_CELL) else None


_SLACK = 0.1  # how much below the score a proven precision may be
_NOTHING = doc.Interval(value=None, low=None, high=None)


def _high_risk(high: datamodel.HighRisk, persons: int, alpha: float) -> doc.HighRisk:
    members, nonmembers = _shown(high.members), _shown(high.nonmembers)
    hidden = members is None or nonmembers is None
    attributable = interval(high.attributable, alpha)
    return doc.HighRisk(
        score=high.score,
        members=members,
        nonmembers=nonmembers,
        recall=None if members is None else number(members / persons),
        verified=high.members > 0 and high.precision.lower(alpha) >= high.score - _SLACK,
        sure=_shown(high.sure),
        # A share of so many persons is a count; its upper bound, rounded up to a tenth of a per cent, is not.
        attributable=doc.Interval(
            value=None, low=None, high=None if attributable.high is None else math.ceil(1000 * attributable.high) / 1000
        )
        if hidden
        else attributable,
        precision=_NOTHING if hidden else interval(high.precision, alpha),
        precision_at={} if hidden else _by_rate(high.precision_at, alpha),
    )


def risk(
    scores: datamodel.RiskScores,
    audit: datamodel.Audit,
    shown: Sequence[datamodel.RiskScores] = (),
    alpha: float = ALPHA,
    notes: Sequence[str] = (),
) -> doc.Risk:
    """The estimator that verdicts use; `shown` are others for comparison."""
    return doc.Risk(
        estimator=scores.estimator,
        high=tuple(_high_risk(high, len(np.unique(audit.persons[audit.member])), alpha) for high in scores.high),
        calibration={key: number(value) for key, value in scores.calibration.items()},
        errors={key: interval(measured, alpha) for key, measured in scores.errors.items()},
        reliability=tuple(
            doc.ReliabilityBin(
                score=float(score),
                members=number(share) if records >= MIN_CELL else None,
                n=int(records) if records >= MIN_CELL else None,
            )
            for score, share, records in scores.reliability
            if records and number(score) is not None
        ),
        distribution=histogram("risk score", scores.scores, audit.member, (0.0, 1.0)),
        group_score=HIGH_SCORE,
        groups=groups(scores.scores, audit, HIGH_SCORE),
        notes=tuple(without_secrets(note) for note in notes),
        shown=tuple(risk(other, audit, (), alpha) for other in shown),
    )


def shadows(
    plan: datamodel.ShadowPlan,
    accuracy_in: float | None = None,
    accuracy_out: float | None = None,
    target_accuracy_members: float | None = None,
    target_accuracy_nonmembers: float | None = None,
) -> doc.Shadows:
    """The shadow models: how many, trained on how much, and how alike the target they are."""
    return doc.Shadows(
        plan=plan.kind,
        count=len(plan.member),
        train_size=int(plan.size),
        accuracy_in=number(accuracy_in),
        accuracy_out=number(accuracy_out),
        target_accuracy_members=number(target_accuracy_members),
        target_accuracy_nonmembers=number(target_accuracy_nonmembers),
        notes=tuple(without_secrets(note) for note in plan.notes),
        proxy=without_secrets(plan.proxy),
    )


def data(
    audit: datamodel.Audit,
    digests: Mapping[str, str],
    others: Mapping[str, int],
    removed: Mapping[str, int],
    train_size: int | None,
    sampled: Mapping[str, tuple[int, int]] = MappingProxyType({}),
) -> doc.Data:
    """Counts of the audited records; `others` are records of population and seen, `digests` and `sampled` by role."""

    def audited(role: str, where: Bools) -> doc.RecordSet:
        persons = len(np.unique(audit.persons[where])) if audit.has_persons else None
        drawn = sampled.get(role, (0, 0))
        drawn_from = drawn[1] if drawn[0] < drawn[1] else None
        return doc.RecordSet(n=int(where.sum()), persons=persons, digest=digests.get(role), drawn_from=drawn_from)

    def other(role: str) -> doc.RecordSet | None:
        return doc.RecordSet(n=int(others[role]), digest=digests.get(role)) if role in others else None

    members, nonmembers = audited("members", audit.member), audited("nonmembers", ~audit.member)
    return doc.Data(
        members=members,
        nonmembers=nonmembers,
        population=other("population"),
        seen=other("seen"),
        removed={reason: int(count) for reason, count in removed.items()},
        classes=len(audit.classes),
        train_size=train_size,
        coverage=wording.coverage(members, nonmembers, train_size, sum(removed.values())),
    )


def problem(error: BaseException) -> doc.Problem:
    """What went wrong, without a stack trace: it may hold records."""
    if isinstance(error, GateError):
        return doc.Problem(
            type=type(error).__name__, what=without_secrets(error.what), hint=without_secrets(error.hint)
        )
    return doc.Problem(
        type=type(error).__name__,
        what="an unexpected error ended the evaluation",
        hint="--debug shows the stack trace; please report it",
    )


def threats(access: str, outcomes: Iterable[datamodel.AttackOutcome]) -> doc.Threats:
    """What was run, what was not, and why."""
    ran = [outcome for outcome in outcomes if isinstance(outcome, datamodel.AttackResult)]
    rest = [outcome for outcome in outcomes if not isinstance(outcome, datamodel.AttackResult)]
    told = {model for outcome in ran for model in datamodel.threat_told(outcome.threat_model, outcome.threshold)}
    if any(outcome.family == "white-box" for outcome in ran):
        access += "; white-box attacks also read its weights"
    return doc.Threats(
        access=access,
        threat_models=tuple(model for model in datamodel.ThreatModel if model in told),
        attacks_run=tuple(dict.fromkeys(outcome.id for outcome in ran)),
        attacks_not_run=tuple(
            doc.NotRun(
                id=outcome.id,
                threat_model=outcome.threat_model,
                status="skipped" if isinstance(outcome, datamodel.AttackSkipped) else "error",
                reason=without_secrets(outcome.reason),
            )
            for outcome in rest
        ),
        out_of_scope=wording.OUT_OF_SCOPE,
    )


# --- all of it ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Parts:
    """All that a run can hand over; only the verdict is always there.

    verdict                 of the policy, or the one that an error implies
    uri                     what was asked for, where no candidate was resolved
    candidate, description  the model
    access                  what the attacker sees of the model
    policy                  see `policy`
    audit                   answer key of the R records
    digests, others         by role: sha256 of the records; records in population and seen
    removed                 records left out, by reason
    sampled                 by role: (records drawn by lot, of how many)
    attacks                 outcomes in the order in which they ran
    curves                  attack id -> (fpr, tpr); shown once per attack
    risk, shown_risk        the calibrated estimator's scores; those of others
    signals                 signal name -> [R] of the target, for member against non-member histograms
    findings                of the validity checks
    shadows                 see `shadows`
    defences                what the candidate was trained with, or is released behind
    causes, risk_notes      why records are at risk; how the risk was estimated
    frontier, alternatives  the undefended model stopped early; the same recipe with other defences
    regression              against an approved model
    estimand, attempt       what the numbers are about; how often the model was evaluated
    would_decide            evidence that would decide the rules that stay open
    limitations, warnings   of this run, beside the standing ones
    errors                  what broke
    """

    verdict: datamodel.Verdict
    valid_until: str | None = None
    exit_zero: bool = False
    exit_code: int | None = None
    uri: str | None = None
    candidate: datamodel.Candidate | None = None
    description: datamodel.Description | None = None
    access: str = "class probabilities for chosen inputs, any number of queries"
    policy: doc.Policy | None = None
    audit: datamodel.Audit | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, int] = field(default_factory=dict)
    removed: Mapping[str, int] = field(default_factory=dict)
    sampled: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    train_size: int | None = None
    attacks: Sequence[datamodel.AttackOutcome] = ()
    curves: Mapping[str, Curve] = field(default_factory=dict)
    risk: datamodel.RiskScores | None = None
    shown_risk: Sequence[datamodel.RiskScores] = ()
    signals: Mapping[str, Floats] = field(default_factory=dict)
    findings: Sequence[datamodel.Finding] = ()
    shadows: doc.Shadows | None = None
    defences: Defences = NOTHING
    causes: Sequence[datamodel.Cause] = ()
    risk_notes: Sequence[str] = ()
    frontier: datamodel.Frontier | None = None
    alternatives: Sequence[datamodel.Alternative] = ()
    regression: datamodel.Regression | None = None
    estimand: datamodel.Estimand = datamodel.Estimand.ARTEFACT
    attempt: doc.Attempt | None = None
    would_decide: Sequence[str] = ()
    limitations: Sequence[str] = ()
    warnings: Sequence[str] = ()
    errors: Sequence[BaseException] = ()
    seed: int | None = None
    suite: str | None = None
    alpha: float = ALPHA
    run: doc.Run = field(default_factory=doc.Run)


def _attacks(parts: Parts) -> tuple[doc.Attack, ...]:
    drawn: set[str] = set()
    made = []
    for outcome in parts.attacks:
        first = outcome.id not in drawn and isinstance(outcome, datamodel.AttackResult)
        made.append(attack(outcome, parts.curves.get(outcome.id) if first else None, parts.alpha))
        if first:
            drawn.add(outcome.id)
    return tuple(made)


def _distributions(parts: Parts) -> tuple[doc.Histogram, ...]:
    if parts.audit is None:
        return ()
    made = (histogram(name, parts.signals[name], parts.audit.member) for name in sorted(parts.signals))
    return tuple(h for h in made if h is not None)


def _defence(defences: Defences) -> doc.Defence | None:
    """One defence with its settings, or several with the settings of each."""
    if not defences:
        return None
    each = defences.document
    settings = each if len(each) > 1 else next(iter(each.values()))
    return doc.Defence(id=defences.name, settings=_object(settings), digest=defences.digest)


def report(parts: Parts) -> doc.Report:
    """The sealed document."""
    audit = parts.audit
    run = doc.Run.model_validate(plain(parts.run.model_dump(mode="json")))
    return doc.seal(
        doc.Report(
            tool=doc.Tool(version=VERSION),
            verdict=verdict(parts.verdict, parts.valid_until, parts.exit_zero, parts.exit_code),
            subject=subject(parts.candidate, parts.description, parts.uri),
            policy=parts.policy,
            threat_model=threats(parts.access, parts.attacks),
            data=None
            if audit is None
            else data(audit, parts.digests, parts.others, parts.removed, parts.train_size, parts.sampled),
            rules=tuple(rule(outcome) for outcome in parts.verdict.rules),
            estimand=parts.estimand,
            attempt=parts.attempt,
            attacks=_attacks(parts),
            slices=slices(parts.attacks, parts.alpha),
            causes=tuple(cause(found) for found in parts.causes),
            risk=None
            if parts.risk is None or audit is None
            else risk(parts.risk, audit, parts.shown_risk, parts.alpha, parts.risk_notes),
            distributions=_distributions(parts),
            validity=tuple(finding(item) for item in parts.findings),
            shadows=parts.shadows,
            defence=_defence(parts.defences),
            frontier=None if parts.frontier is None else frontier(parts.frontier, parts.alpha),
            alternatives=tuple(alternative(found, parts.alpha) for found in parts.alternatives),
            baseline=None if parts.regression is None else baseline(parts.regression, parts.alpha),
            waivers=waivers(parts.verdict.waivers),
            would_decide=tuple(without_secrets(text) for text in parts.would_decide),
            limitations=(*wording.LIMITATIONS, *(without_secrets(text) for text in parts.limitations)),
            warnings=tuple(without_secrets(text) for text in parts.warnings),
            errors=tuple(problem(error) for error in parts.errors),
            signoff=doc.Signoff(),
            seed=parts.seed,
            suite=parts.suite,
            levels=doc.Levels(alpha=parts.alpha),
            integrity=doc.Integrity(report_sha256=""),
            run=run,
        )
    )
