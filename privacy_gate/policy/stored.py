"""A report's numbers as evidence again, so that another policy can judge them without computing anything.

A report has one-sided bounds at one level, uncorrected, and for every rule one lower bound that is corrected for the
hypotheses of that run. So a pass under another policy rests on the former and a failure on the latter; at a stricter
level than the stored one, nothing is known, and what is not known stays open.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from privacy_gate.datamodel import (
    AttackFailed,
    AttackOutcome,
    AttackResult,
    AttackSkipped,
    Estimand,
    Evidence,
    Finding,
    HighRisk,
    Invalidates,
    Measurement,
    Regression,
    RiskScores,
    RuleStatus,
    Scope,
    SliceAccuracy,
    ThreatModel,
)
from privacy_gate.policy.contract import Decided, Policy

_NOT_STORED = ("PG301",)  # what the model is made of is not in a report: its answer is


@dataclass(frozen=True, slots=True)
class Stored:
    """A measurement of which little is known: bounds at `alpha`, and perhaps a lower bound that is corrected."""

    value: float
    low: float
    high: float
    alpha: float
    corrected: float = -math.inf

    def lower(self, alpha: float) -> float:
        """The stored bound at its own level or a laxer one; the corrected one, if there is one, at any other."""
        return self.low if alpha >= self.alpha else self.corrected

    def upper(self, alpha: float) -> float:
        """The stored bound at its own level or a laxer one; unknown at any other."""
        return self.high if alpha >= self.alpha else math.inf


@dataclass(frozen=True, slots=True, eq=False)
class Rebuilt:
    """What a report tells of its evidence.

    settled  answers that can only be taken over: rule id -> answer
    notes    what cannot be judged again, and why
    """

    evidence: Evidence
    settled: Mapping[str, Decided]
    notes: tuple[str, ...]


def rebuilt(report: Mapping[str, Any], policy: Policy) -> Rebuilt:
    """Evidence out of a report.json (as JSON), to be judged by `policy`."""
    reader = _Reader(report)
    data = report.get("data") or {}
    members, nonmembers = (data.get(side) or {"n": 0} for side in ("members", "nonmembers"))
    evidence = Evidence(
        attacks=tuple(reader.attacks()),
        risk=reader.risk(),
        findings=tuple(_finding(row) for row in report.get("validity", ())),
        members=members["n"],
        nonmembers=nonmembers["n"],
        member_persons=members.get("persons") or members["n"],
        nonmember_persons=nonmembers.get("persons") or nonmembers["n"],
        seed=report.get("seed") or 0,
        estimand=Estimand(report.get("estimand") or Estimand.ARTEFACT),
        regression=reader.regression(),
    )
    return Rebuilt(evidence, reader.settled(policy), tuple(_notes(report, reader.alpha, policy)))


def _notes(report: Mapping[str, Any], alpha: float, policy: Policy) -> Iterator[str]:
    if policy.alpha_pass < alpha:
        yield f"bounds are stored at level {alpha:g}, the policy asks for {policy.alpha_pass:g}: nothing can pass"
    if any(row["status"] == "waived" for row in report["rules"]):
        yield "the waivers of the stored run are left out"
    stored = {row["id"] for row in report["rules"] if row["status"] != "not_applicable"}
    missing = [rule.id for rule in policy.rules if rule.id not in stored and rule.settings.action != "off"]
    if missing:
        yield f"not judged in the stored run, so no corrected bound can prove a violation: {', '.join(missing)}"


@dataclass(frozen=True, slots=True)
class _Reader:
    report: Mapping[str, Any]

    @property
    def alpha(self) -> float:
        return float(self.report["levels"]["alpha"])

    def rule(self, id: str) -> Mapping[str, Any]:
        return next((row for row in self.report["rules"] if row["id"] == id), {})

    def measurement(self, interval: Mapping[str, Any], *rules: str) -> Stored:
        """Bounds of an interval; with the corrected lower bound of the rule that it decided."""
        decided = [row for row in map(self.rule, rules) if row.get("value") is not None]
        if interval["value"] is None and decided:  # hidden there, since it tells of few people; the rule has it
            interval = decided[0]
        corrected = [
            float(row["low"]) for row in decided if row["low"] is not None and row["value"] == interval["value"]
        ]
        return Stored(
            _number(interval["value"], math.nan),
            _number(interval["low"], -math.inf),
            _number(interval["high"], math.inf),
            self.alpha,
            max(corrected, default=-math.inf),
        )

    def attacks(self) -> Iterator[AttackOutcome]:
        slices = tuple(self.slices())
        for row in self.report["attacks"]:
            threat_model = ThreatModel(row["threat_model"])
            if row["status"] == "skipped":
                applies = row.get("applies") is not False
                yield AttackSkipped(row["id"], row["family"], threat_model, row.get("reason") or "", applies)
            elif row["status"] == "error" or row.get("metrics") is None:
                refused = row.get("refused") is True
                yield AttackFailed(row["id"], row["family"], threat_model, row.get("reason") or "", refused)
            else:
                yield self.result(row, threat_model, slices)
                slices = ()  # a report has the strongest attack of each slice: told once

    def result(
        self, row: Mapping[str, Any], threat_model: ThreatModel, slices: tuple[SliceAccuracy, ...]
    ) -> AttackResult:
        found = row["metrics"]
        gap = ("PG302",) if row["id"] == "correctness" else ()
        rates = {"0.01": "PG103", "0.001": "PG104"}
        return AttackResult(
            id=row["id"],
            family=row["family"],
            threat_model=threat_model,
            threshold=None if row.get("threshold") is None else Scope(row["threshold"]),
            adaptive=row.get("adaptive") is not False,
            accuracy=self.measurement(found["accuracy"], "PG101"),
            advantage=self.measurement(found["advantage"], *gap),
            auc=None if found.get("auc") is None else self.measurement(found["auc"], "PG102"),
            tpr_at_fpr={
                float(rate): self.measurement(interval, rates.get(rate, ""))
                for rate, interval in found["tpr_at_fpr"].items()
            },
            scores=np.empty(0),
            decisions=np.empty(0, dtype=np.bool_),
            slices=slices,
        )

    def slices(self) -> Iterator[SliceAccuracy]:
        """Lower bounds are corrected already; a pass needs the upper bound of the rule, which is over all attacks."""
        rule = self.rule("PG203")
        passed = rule.get("status") == "pass" and rule.get("high") is not None
        for row in self.report.get("slices", ()):
            low = _number(row["accuracy"]["low"], -math.inf)
            high = max(float(rule["high"]), _number(row["accuracy"]["high"], math.inf)) if passed else math.inf
            accuracy = Stored(_number(row["accuracy"]["value"], math.nan), low, high, self.alpha, low)
            yield SliceAccuracy(row["by"], row["value"], row["members"] or 0, row["nonmembers"] or 0, accuracy)

    def risk(self) -> RiskScores | None:
        row = self.report.get("risk")
        if row is None:
            return None
        errors: dict[str, Measurement] = {
            name: self.measurement(interval) for name, interval in (row.get("errors") or {}).items()
        }
        high = tuple(self.high(entry) for entry in row["high"])
        return RiskScores(row["estimator"], np.empty(0), high, {}, errors=errors)

    def high(self, row: Mapping[str, Any]) -> HighRisk:
        proven = (self.rule("PG201").get("low") or 0.0) > 0  # a lower bound above 0 was verified in the stored run
        rules = self.report["policy"]["resolved"].get("rules", {}) if self.report.get("policy") else {}
        stored = rules.get("PG201", {})
        floor = stored.get("score", math.inf) - stored.get("tolerance", 0.0) if proven else -math.inf
        precision = self.measurement(row["precision"])
        return HighRisk(
            row["score"],
            row["members"] or 0,
            row["nonmembers"] or 0,
            self.measurement(row["attributable"], "PG201"),
            Stored(
                precision.value, precision.low, precision.high, self.alpha, floor if math.isfinite(floor) else -math.inf
            ),
        )

    def regression(self) -> Regression | None:
        row = self.report.get("baseline")
        if row is None:
            return None
        found = tuple((d["attack"], self.measurement(d["accuracy"], "PG401")) for d in row["differences"])
        differences: tuple[tuple[str, Measurement], ...] = found
        return Regression(
            row["reference"],
            row["reference_digest"],
            row["paired"],
            row["members"],
            row["nonmembers"],
            differences,
            row["note"],
        )

    def settled(self, policy: Policy) -> dict[str, Decided]:
        answers: dict[str, Decided] = {}
        for id in _NOT_STORED:
            row = self.rule(id)
            known = row.get("status") in (RuleStatus.PASS, RuleStatus.FAIL, RuleStatus.INCONCLUSIVE)
            if policy.rule(id) is not None:
                answers[id] = (
                    Decided(RuleStatus(row["status"]), f"as stored: {row['reason']}")
                    if known
                    else Decided(RuleStatus.NOT_APPLICABLE, "the stored run says nothing of it")
                    if row.get("action") != "off"
                    else Decided(RuleStatus.INCONCLUSIVE, "the stored run did not look at it")
                )
        return answers


def _finding(row: Mapping[str, Any]) -> Finding:
    invalidates = None if row["invalidates"] is None else Invalidates(row["invalidates"])
    return Finding(row["check"], row["status"], invalidates, row["value"], row["reason"])


def _number(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else float(value)


def changes(stored: Sequence[Mapping[str, Any]], now: Sequence[tuple[str, str, str]]) -> list[str]:
    """Rules whose status or action differs: `PG101 pass → fail`; both as (id, action, status)."""
    before = {row["id"]: (row["action"], row["status"]) for row in stored}
    said = []
    for id, action, status in now:
        old_action, old = before.get(id, ("off", RuleStatus.NOT_APPLICABLE.value))
        if (old, status) == (RuleStatus.NOT_APPLICABLE.value,) * 2:
            continue
        if old != status or old_action != action:
            names = [
                f"{state}{' (warns)' if act == 'warn' else ''}" for act, state in ((old_action, old), (action, status))
            ]
            said.append(f"{id} {names[0]} → {names[1]}")
    return said
