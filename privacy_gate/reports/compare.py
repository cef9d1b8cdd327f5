"""Two reports side by side: what changed, by how much, and whether the change is more than noise. Pure.

Two stored reports are compared unpaired: the bounds of a difference come from the bounds of both numbers. Where the
two share records this is wider than need be, never too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from privacy_gate.datamodel import Measurement, RuleStatus, VerdictStatus, threat_told
from privacy_gate.metrics import Proportion, Ranged, normal_deviate
from privacy_gate.reports.document import Attack, Interval, RecordSet, Report, Rule

Direction = Literal["worse", "better", "noise", "same", "unknown"]


# --- measurements out of stored bounds ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stored:
    """A share in [0, 1] read back from a report, with its one-sided bounds at the level `alpha`.

    At other levels the bounds are Wilson's for as many records as would have given the stored ones.
    """

    value: float
    low: float
    high: float
    alpha: float

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest possible value."""
        return 0.0, 1.0

    def lower(self, alpha: float) -> float:
        """One-sided lower bound at confidence 1 - alpha."""
        return self._at(self.low, -normal_deviate(alpha))

    def upper(self, alpha: float) -> float:
        """One-sided upper bound at confidence 1 - alpha."""
        return self._at(self.high, normal_deviate(alpha))

    def _at(self, bound: float, deviate: float) -> float:
        if bound == self.value:
            return bound
        # Wilson: (p - b)^2 = z^2 b (1 - b) / n, solved for n.
        records = normal_deviate(self.alpha) ** 2 * bound * (1.0 - bound) / (self.value - bound) ** 2
        if not records > 0.0:
            return 0.0 if deviate < 0 else 1.0
        return Proportion(self.value, records).wilson(deviate)


def stored(interval: Interval, alpha: float) -> Stored | None:
    """A share out of a report; None unless its value and both bounds are there and make sense."""
    value, low, high = interval.value, interval.low, interval.high
    if value is None or low is None or high is None or not 0.0 <= low <= value <= high <= 1.0:
        return None
    return Stored(value, low, high, alpha)


@dataclass(frozen=True, slots=True)
class Unpaired:
    """new - old in [-1, 1] of two shares measured apart; bounds by MOVER of theirs (Zou & Donner 2008)."""

    new: Measurement
    old: Measurement

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest possible value."""
        return -1.0, 1.0

    @property
    def value(self) -> float:
        """The point estimate."""
        return self.new.value - self.old.value

    def lower(self, alpha: float) -> float:
        """One-sided lower bound at confidence 1 - alpha."""
        reach = math.hypot(self.new.value - self.new.lower(alpha), self.old.upper(alpha) - self.old.value)
        return max(-1.0, self.value - reach)

    def upper(self, alpha: float) -> float:
        """One-sided upper bound at confidence 1 - alpha."""
        reach = math.hypot(self.new.upper(alpha) - self.new.value, self.old.value - self.old.lower(alpha))
        return min(1.0, self.value + reach)


def unpaired(new: Measurement, old: Measurement) -> Ranged:
    """new - old, of two measurements made apart."""
    return Unpaired(new, old)


def cell_name(attack: Attack) -> str:
    """`confidence, known-subset, class`: an attack as rules name their cells."""
    parts = [attack.id, *threat_told(attack.threat_model, attack.threshold)]
    if attack.threshold is not None:
        parts.append(attack.threshold.value)
    if attack.adaptive is False:
        parts.append("non-adaptive")
    return ", ".join(parts)


def stored_accuracies(report: Report) -> dict[str, Stored]:
    """Balanced accuracy of every attack that ran, by cell name."""
    found: dict[str, Stored] = {}
    for attack in report.attacks:
        if attack.metrics is not None and (kept := stored(attack.metrics.accuracy, report.levels.alpha)) is not None:
            found[cell_name(attack)] = kept
    return found


# --- two reports ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """A number in two reports. More is worse.

    change     new - old; None where one is missing
    low, high  one-sided bounds of the change; None without bounds on both sides
    """

    old: float | None
    new: float | None
    change: float | None
    low: float | None
    high: float | None

    @property
    def direction(self) -> Direction:
        """`worse` and `better` only where even the bound nearest to none is beyond it; else the change is noise."""
        if self.change is None:
            return "unknown"
        if self.low is None or self.high is None:
            return "same" if self.change == 0.0 else "unknown"
        if self.low > 0.0:
            return "worse"
        if self.high < 0.0:
            return "better"
        return "same" if self.change == 0.0 else "noise"


@dataclass(frozen=True, slots=True)
class RuleChange:
    """One rule in two reports; None where a policy does not have it.

    proven  the rule blocks in the new policy, and the number it limits became worse beyond noise
    """

    id: str
    title: str
    metric: str
    old_status: RuleStatus | None
    new_status: RuleStatus | None
    old_limit: float | None
    new_limit: float | None
    values: Change
    proven: bool


@dataclass(frozen=True, slots=True)
class AttackChange:
    """One number of one attack in two reports."""

    cell: str
    metric: str
    values: Change


@dataclass(frozen=True, slots=True)
class HighRiskChange:
    """Persons at or above a risk score in two reports; None: hidden, or not measured."""

    score: float
    old_members: int | None
    new_members: int | None
    attributable: Change


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that two reports differ in.

    identical  the two have the same content
    apart      what differs beside the model, so that the numbers are not about the same question
    """

    old: Mapping[str, Any]
    new: Mapping[str, Any]
    identical: bool
    apart: tuple[str, ...]
    rules: tuple[RuleChange, ...]
    attacks: tuple[AttackChange, ...]
    high_risk: tuple[HighRiskChange, ...]
    turned: bool  # from a pass to a failure

    @property
    def proven(self) -> tuple[str, ...]:
        """Ids of the blocking rules whose number became worse beyond noise."""
        return tuple(rule.id for rule in self.rules if rule.proven)

    @property
    def regressed(self) -> bool:
        """Whether the new model is proven worse."""
        return self.turned or bool(self.proven)


_PASSES = (VerdictStatus.PASS, VerdictStatus.PASS_WITH_WARNINGS, VerdictStatus.PASS_WITH_WAIVERS)


def compare(old: Report, new: Report) -> Comparison:
    """What changed from `old` to `new`."""
    identical = old.integrity.report_sha256 == new.integrity.report_sha256
    return Comparison(
        old=_header(old),
        new=_header(new),
        identical=identical,
        apart=tuple(_apart(old, new)),
        rules=tuple(_rules(old, new)),
        attacks=tuple(_attacks(old, new)),
        high_risk=tuple(_high_risk(old, new)),
        turned=old.verdict.status in _PASSES and new.verdict.status is VerdictStatus.FAIL,
    )


def _header(report: Report) -> dict[str, Any]:
    return {
        "verdict": report.verdict.status.value,
        "headline": report.verdict.headline,
        "subject": report.subject.resolved_uri or report.subject.uri,
        "digest": report.subject.digest,
        "report_sha256": report.integrity.report_sha256,
    }


_ROLES = {"nonmembers": "non-members", "seen": "seen records"}


def _apart(old: Report, new: Report) -> Iterator[str]:
    """What beside the model differs, in words."""
    told: list[tuple[Any, ...]] = [
        ("policy", *(r.policy.digest if r.policy else None for r in (old, new))),
        ("suite", old.suite, new.suite),
        ("seed", old.seed, new.seed),
        ("alpha", old.levels.alpha, new.levels.alpha),
        ("estimand", old.estimand.value, new.estimand.value),
        ("defence", *(r.defence.model_dump() if r.defence else None for r in (old, new))),
        ("version of the gate", old.tool.version, new.tool.version),
    ]
    for role in ("members", "nonmembers", "population", "seen"):
        sets: list[RecordSet | None] = [getattr(r.data, role) if r.data else None for r in (old, new)]
        told.append((_ROLES.get(role, role), *((s.digest, s.n) if s else None for s in sets)))
    yield from (f"{name} differ" + "s" * (not name.endswith("s")) for name, a, b in told if a != b)
    if old.subject.digest is not None and old.subject.digest == new.subject.digest:
        yield "both are about the same model"


def _change(old: Interval | None, new: Interval | None, *, same: bool) -> Change:
    """`same`: one measurement of one thing, written twice; it has not changed, whatever its bounds."""
    was, now = old.value if old else None, new.value if new else None
    if old is None or new is None or was is None or now is None:
        return Change(was, now, None, None, None)
    if same and was == now:
        return Change(was, now, 0.0, 0.0, 0.0)
    change = now - was
    if old.low is None or old.high is None or new.low is None or new.high is None:
        return Change(was, now, change, None, None)
    return Change(
        was,
        now,
        change,
        change - math.hypot(max(now - new.low, 0.0), max(old.high - was, 0.0)),
        change + math.hypot(max(new.high - now, 0.0), max(was - old.low, 0.0)),
    )


def _same(old: Report, new: Report) -> bool:
    """Whether two reports hold the very same measurements: one model, one set of records, one seed."""
    if old.subject.digest is None or old.data is None or new.data is None:
        return old.integrity.report_sha256 == new.integrity.report_sha256
    return (old.subject.digest, old.data, old.seed, old.defence) == (
        new.subject.digest,
        new.data,
        new.seed,
        new.defence,
    )


def _rules(old: Report, new: Report) -> Iterator[RuleChange]:
    was, now = ({rule.id: rule for rule in report.rules if rule.action != "off"} for report in (old, new))
    for id in sorted({*was, *now}):
        a, b = was.get(id), now.get(id)
        either = b if b is not None else a
        assert either is not None
        # A number of another name is another number.
        comparable = a is None or b is None or a.metric == b.metric
        values = _change(_bounds(a), _bounds(b), same=_same(old, new)) if comparable else _UNKNOWN
        yield RuleChange(
            id=id,
            title=either.title,
            metric=either.metric,
            old_status=a.status if a else None,
            new_status=b.status if b else None,
            old_limit=a.limit if a else None,
            new_limit=b.limit if b else None,
            values=values,
            proven=b is not None and b.action == "block" and values.direction == "worse",
        )


_UNKNOWN = Change(None, None, None, None, None)


def _bounds(rule: Rule | None) -> Interval | None:
    return None if rule is None else Interval(value=rule.value, low=rule.low, high=rule.high)


def _numbers(report: Report) -> dict[tuple[str, str], Interval]:
    found: dict[tuple[str, str], Interval] = {}
    for attack in report.attacks:
        if attack.metrics is None:
            continue
        cell = cell_name(attack)
        found[cell, "accuracy"] = attack.metrics.accuracy
        if attack.metrics.auc is not None:
            found[cell, "auc"] = attack.metrics.auc
        for rate, interval in attack.metrics.tpr_at_fpr.items():
            found[cell, f"tpr_at_fpr_{rate}"] = interval
    return found


def _attacks(old: Report, new: Report) -> Iterator[AttackChange]:
    was, now = _numbers(old), _numbers(new)
    for cell, metric in dict.fromkeys([*was, *now]):
        values = _change(was.get((cell, metric)), now.get((cell, metric)), same=_same(old, new))
        yield AttackChange(cell, metric, values)


def _high_risk(old: Report, new: Report) -> Iterator[HighRiskChange]:
    was, now = ({high.score: high for high in report.risk.high} if report.risk else {} for report in (old, new))
    for score in sorted({*was, *now}):
        a, b = was.get(score), now.get(score)
        shares = (a.attributable if a else None, b.attributable if b else None)
        yield HighRiskChange(
            score, a.members if a else None, b.members if b else None, _change(*shares, same=_same(old, new))
        )


def as_json(found: Comparison) -> dict[str, Any]:
    """The comparison as JSON-like values; numbers that do not exist are null."""

    def change(values: Change) -> dict[str, Any]:
        return {
            "old": values.old,
            "new": values.new,
            "change": values.change,
            "low": values.low,
            "high": values.high,
            "direction": values.direction,
        }

    return {
        "old": dict(found.old),
        "new": dict(found.new),
        "identical": found.identical,
        "paired": False,
        "apart": list(found.apart),
        "turned_from_pass_to_fail": found.turned,
        "proven_regressions": list(found.proven),
        "regressed": found.regressed,
        "rules": [
            {
                "id": rule.id,
                "title": rule.title,
                "metric": rule.metric,
                "status": {"old": rule.old_status, "new": rule.new_status},
                "limit": {"old": rule.old_limit, "new": rule.new_limit},
                "value": change(rule.values),
                "proven": rule.proven,
            }
            for rule in found.rules
        ],
        "attacks": [{"attack": a.cell, "metric": a.metric, "value": change(a.values)} for a in found.attacks],
        "high_risk": [
            {
                "score": high.score,
                "members": {"old": high.old_members, "new": high.new_members},
                "attributable": change(high.attributable),
            }
            for high in found.high_risk
        ],
    }
