"""Which part of a report is evidence for what texts on privacy and AI ask for. A map, not a judgement.

The wording is that of evidence for resistance to the attacks listed: what a text demands as a whole is not the gate's
to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from privacy_gate.documents import load_yaml
from privacy_gate.errors import EvaluationFailed
from privacy_gate.reports.document import Report
from privacy_gate.resources import template

EvidenceStatus = Literal["present", "absent", "not_applicable"]

STATEMENT = (
    "What follows says where this report is evidence for resistance to the attacks listed. It does not say that any "
    "demand is met as a whole: that takes people, and more than this report."
)
SECONDHAND = "known from secondary sources; check the text itself"


class _Clause(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1)
    source: str = Field(min_length=1)
    asks: str = Field(min_length=1)
    section: str = Field(min_length=1)
    needs: tuple[str, ...] = Field(min_length=1)
    when: str | None = None
    known: Literal["primary", "secondary"]


class _Map(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    clauses: tuple[_Clause, ...]


@dataclass(frozen=True, slots=True)
class ClauseEvidence:
    """One clause against one report.

    asks     what the text asks for, in short
    section  the parts of the report that are evidence
    status   whether all of them are there
    missing  what is not there, in words
    caution  where the text is known from others only; "" otherwise
    """

    id: str
    source: str
    asks: str
    section: str
    status: EvidenceStatus
    missing: tuple[str, ...] = ()
    caution: str = ""


@dataclass(frozen=True, slots=True)
class _Part:
    words: str
    there: Callable[[Report], bool]


def _low_rates(report: Report) -> bool:
    return any(
        interval.value is not None
        for attack in report.attacks
        if attack.metrics is not None
        for interval in attack.metrics.tpr_at_fpr.values()
    )


def _release_context(report: Report) -> bool:
    return report.policy is not None and bool(report.policy.resolved.get("release_context"))


def _fixed_before(report: Report) -> bool:
    """The day the limits were fixed is named, and is not after the day of the run."""
    fixed = report.policy.resolved.get("fixed_on") if report.policy is not None else None
    began = report.run.started_at
    return isinstance(fixed, str) and began is not None and fixed[:10] <= began[:10]


def _instance_based(report: Report) -> bool:
    return any(rule.metric == "model.instance_based" for rule in report.rules)


PARTS: Mapping[str, _Part] = {
    "attacks": _Part("attacks that ran", lambda r: any(a.status == "executed" for a in r.attacks)),
    "low_rates": _Part("true-positive rates at low false-positive rates", _low_rates),
    "single_people": _Part("the risk of single people", lambda r: r.risk is not None),
    "release_context": _Part("the release context in the policy", _release_context),
    "scope": _Part("the attacks that are out of scope", lambda r: bool(r.threat_model.out_of_scope)),
    "validity": _Part("checks of the evidence itself", lambda r: bool(r.validity)),
    "data": _Part("the records the evidence rests on", lambda r: r.data is not None),
    "signed": _Part("a date and a signature", lambda r: bool(r.signoff.date and r.signoff.reviewed_by)),
    "rules": _Part("rules with limits", lambda r: bool(r.rules)),
    "fixed_before": _Part("the day the limits were fixed, before the run", _fixed_before),
    "reproducible": _Part(
        "digests of model, policy and data, and the seed",
        lambda r: (
            r.subject.digest is not None
            and r.policy is not None
            and r.seed is not None
            and r.data is not None
            and r.data.members.digest is not None
        ),
    ),
    "defence": _Part("the defence the model is released with", lambda r: r.defence is not None),
    "instance_based": _Part("a rule on models that hold training records", _instance_based),
    "model": _Part("the model itself", lambda r: r.subject.digest is not None),
}


@cache
def _known() -> tuple[_Clause, ...]:
    clauses = load_yaml(template("clauses.yaml"), _Map, "templates/clauses.yaml").value.clauses
    unknown = {name for c in clauses for name in (*c.needs, c.when) if name is not None} - set(PARTS)
    if unknown:
        raise EvaluationFailed(
            f"templates/clauses.yaml names unknown parts: {', '.join(sorted(unknown))}", "reinstall privacy-gate"
        )
    return clauses


def clauses(report: Report) -> tuple[ClauseEvidence, ...]:
    """Every clause of the map, and whether this report holds the evidence it points at."""
    return tuple(_judged(clause, report) for clause in _known())


def _judged(clause: _Clause, report: Report) -> ClauseEvidence:
    missing = tuple(PARTS[name].words for name in clause.needs if not PARTS[name].there(report))
    applies = clause.when is None or PARTS[clause.when].there(report)
    status: EvidenceStatus = "not_applicable" if not applies else "absent" if missing else "present"
    return ClauseEvidence(
        id=clause.id,
        source=clause.source,
        asks=clause.asks,
        section=clause.section,
        status=status,
        missing=missing if applies else (),
        caution=SECONDHAND if clause.known == "secondary" else "",
    )
