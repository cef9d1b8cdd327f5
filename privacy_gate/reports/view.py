"""What every rendering needs from the document: what decides first, worst first, and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from privacy_gate.datamodel import RuleStatus, VerdictStatus
from privacy_gate.reports import wording
from privacy_gate.reports.document import Attack, Group, HighRisk, Report, Risk, Rule, SliceAccuracy

_ORDER = (
    RuleStatus.FAIL,
    RuleStatus.ERROR,
    RuleStatus.INCONCLUSIVE,
    RuleStatus.WAIVED,
    RuleStatus.PASS,
    RuleStatus.NOT_APPLICABLE,
)
_OPEN = (RuleStatus.FAIL, RuleStatus.ERROR, RuleStatus.INCONCLUSIVE)


def effect(rule: Rule) -> str:
    """What the rule does to the release."""
    if rule.status is RuleStatus.WAIVED:
        return "waived"
    if rule.status not in _OPEN:
        return "–" if rule.status is RuleStatus.NOT_APPLICABLE else "holds"
    if rule.action == "off":
        return "off"
    if rule.action == "block":
        return "blocks"
    return f"warns, blocks from {rule.enforce_from}" if rule.enforce_from else "warns"


def ordered(report: Report) -> list[Rule]:
    """All rules: what fails first, and among equals what blocks."""
    return sorted(report.rules, key=lambda rule: (_ORDER.index(rule.status), rule.action != "block", rule.id))


def pressing(report: Report) -> list[Rule]:
    """The rules that need somebody's attention, in that order; neither waived nor switched off."""
    return [rule for rule in ordered(report) if effect(rule).startswith(("blocks", "warns"))]


def strength(attack: Attack) -> tuple[float, float]:
    """A sort key, strongest first; what was not measured comes last."""
    if attack.metrics is None:
        return (1.0, 1.0)
    rates = [measured.value or 0.0 for measured in attack.metrics.tpr_at_fpr.values()]
    return (-(attack.metrics.accuracy.value or 0.0), -max(rates, default=0.0))


@dataclass(frozen=True, slots=True)
class Family:
    """Attacks that share their idea: the strongest form of each, and all forms."""

    name: str
    worst: tuple[Attack, ...]
    forms: tuple[Attack, ...]


def families(report: Report) -> list[Family]:
    """Families of the attacks that ran, strongest first, and within them too."""
    ran = sorted((attack for attack in report.attacks if attack.status == "executed"), key=strength)
    names = dict.fromkeys(attack.family for attack in ran)
    return [_family(name, [attack for attack in ran if attack.family == name]) for name in names]


def _family(name: str, forms: Sequence[Attack]) -> Family:
    worst = {attack.id: attack for attack in reversed(forms)}
    return Family(name, tuple(sorted(worst.values(), key=strength)), tuple(forms))


def worst(report: Report) -> list[Attack]:
    """The strongest form of each attack that ran, strongest first."""
    return sorted((attack for family in families(report) for attack in family.worst), key=strength)


def curves(report: Report) -> list[Attack]:
    """Attacks with a curve, strongest attack first; a curve belongs to the attack whichever form carries it."""
    place = {attack.id: index for index, attack in enumerate(worst(report))}
    return sorted((a for a in report.attacks if a.roc is not None), key=lambda attack: place.get(attack.id, len(place)))


def headline_risk(risk: Risk | None) -> HighRisk | None:
    """The counts at the score that groups use too."""
    if risk is None or not risk.high:
        return None
    wanted = 0.8 if risk.group_score is None else risk.group_score
    return min(risk.high, key=lambda high: abs(high.score - wanted))


def groups(risk: Risk | None) -> list[Group]:
    """Groups, those with the largest share of high-risk members first; hidden ones last."""
    if risk is None:
        return []
    return sorted(
        risk.groups,
        key=lambda g: (g.members is None, -(g.high_members or 0.0), -(g.mean_members or 0.0), g.by, g.value),
    )


def rates(report: Report) -> list[str]:
    """The false-positive rates at which anything was measured, largest first."""
    found = {rate for attack in report.attacks if attack.metrics for rate in attack.metrics.tpr_at_fpr}
    return sorted(found, key=float, reverse=True)


def title(report: Report) -> str:
    """The model's name for people."""
    subject = report.subject
    if subject.name:
        return f"{subject.name} v{subject.version}" if subject.version else subject.name
    return subject.resolved_uri or subject.uri or "predictions alone"


def word(report: Report) -> str:
    """The verdict in a word or three, the same in every format."""
    return wording.VERDICTS[report.verdict.status]


def question(report: Report) -> str:
    """The heading of the cards that explain the verdict."""
    return {
        VerdictStatus.FAIL: "Why it failed",
        VerdictStatus.INCONCLUSIVE: "What is undecided",
        VerdictStatus.ERROR: "What went wrong",
    }.get(report.verdict.status, "What needs attention")


def not_measured(report: Report) -> list[str]:
    """The parts of the evaluation that left nothing in the report."""
    parts = {
        "rules": report.rules,
        "attacks": report.attacks,
        "risk of single people": report.risk,
        "validity checks": report.validity,
        "shadow models": report.shadows,
        "data": report.data,
    }
    return [name for name, content in parts.items() if not content]


def slices(report: Report) -> list[SliceAccuracy]:
    """Slices, the one with the strongest attack first."""
    return sorted(report.slices, key=lambda s: (-(s.accuracy.value or 0.0), s.by, s.value))
