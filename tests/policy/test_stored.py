"""Reports judged again: what they tell is judged as it was, what they do not tell stays open."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from privacy_gate.datamodel import AttackFailed, AttackSkipped, Audit, Finding, Invalidates, ThreatModel
from privacy_gate.policy import judge, resolve
from privacy_gate.policy.examples import FAMILIES, SOUND, compared, described, evidence, result, sliced
from privacy_gate.policy.stored import Stored, changes, rebuilt
from privacy_gate.reports import assemble
from privacy_gate.reports.document import dumps
from tests.policy.test_judge import LEAK, UNCLEAR, outcome, policy

STANDARD = resolve("standard")


def written(seen, by=STANDARD):
    """report.json of a run with this evidence."""
    n = seen.members + seen.nonmembers
    audit = Audit(
        member=np.arange(n) < seen.members,
        labels=np.zeros(n, dtype=np.int64),
        persons=np.arange(n),
        classes=("a", "b"),
        has_persons=True,
    )
    verdict = judge(by, seen)
    risk = None if seen.risk is None else replace(seen.risk, scores=np.full(n, 0.5))
    parts = assemble.Parts(
        verdict=verdict,
        policy=assemble.policy(by.name, by.profile, by.digest, by.resolved),
        audit=audit,
        attacks=[replace(a, scores=np.zeros(0)) if hasattr(a, "scores") else a for a in seen.attacks],
        risk=risk,
        findings=seen.findings,
        regression=seen.regression,
        estimand=seen.estimand,
    )
    return dumps(assemble.report(parts))


def again(seen, by, first=STANDARD):
    stored = json.loads(written(seen, first))
    found = rebuilt(stored, by)
    return judge(by, found.evidence, settled=found.settled), found


ALL = list(FAMILIES)
LEAKY = [result(id) for id in ALL if id != "lira"] + [LEAK]
OPEN = [result(id) for id in ALL if id != "lira"] + [UNCLEAR]
CRASHED = [result(id) for id in ALL if id != "lira"] + [
    AttackFailed("lira", "reference", ThreatModel.REFERENCE, "boom")
]
SKIPPED = [result(id) for id in ALL if id != "lira"] + [
    AttackSkipped("lira", "reference", ThreatModel.REFERENCE, "none")
]
DUPLICATES = (*SOUND, Finding("shift", "fail", Invalidates.BOTH, 0.2, "is off"))


@pytest.mark.parametrize(
    "seen",
    [
        evidence(n=3000),
        evidence(LEAKY, n=3000),
        evidence(OPEN, n=3000),
        evidence(CRASHED, n=3000),
        evidence(SKIPPED, n=3000),
        evidence(attributable=0.05, n=3000),
        evidence(attributable=0.05, precision=0.5, n=3000),
        evidence(attributable=None, n=3000),
        evidence(calibration=0.2, n=3000),
        evidence(findings=DUPLICATES, n=3000),
        evidence(findings=(), n=3000),
        evidence(regression=compared(lira=0.1), n=3000),
        evidence(model=described("sklearn.svm._classes.SVC"), n=3000),
        evidence([*map(result, ALL[:-1]), sliced("rmia", {"a": 0.5, "b": 0.8})], n=3000),
    ],
)
def test_by_the_policy_of_the_run_the_verdict_is_that_of_the_run(seen):
    first = judge(STANDARD, seen)
    verdict, _ = again(seen, STANDARD)
    assert (verdict.status, verdict.exit_code) == (first.status, first.exit_code)
    statuses = {rule.id: rule.status for rule in first.rules}
    # A pass within slices rests on all attacks, of which a report keeps the strongest.
    assert {rule.id: rule.status for rule in verdict.rules} == statuses


def test_a_stricter_limit_is_judged_by_the_stored_bounds():
    seen = evidence([result(id, accuracy=0.57) for id in ALL], n=3000)
    for limit, code in ((0.58, 0), (0.572, 4), (0.55, 1)):
        verdict, _ = again(seen, policy({"PG101": {"max": limit}}))
        assert verdict.exit_code == code


def test_a_failure_needs_the_corrected_bound():
    seen = evidence([LEAK], n=3000)
    (row,) = [r for r in json.loads(written(seen))["rules"] if r["id"] == "PG101"]
    assert again(seen, policy({"PG101": {"max": row["low"] - 1e-9}}))[0].exit_code == 1
    assert again(seen, policy({"PG101": {"max": row["low"]}}))[0].exit_code == 4
    # Another attack than the one that decided has no corrected bound.
    second = replace(LEAK, id="rmia", accuracy=replace(LEAK.accuracy, value=0.655))
    lower = again(evidence([LEAK, second], n=3000), policy({"PG101": {"max": 0.6}}))[0]
    assert outcome(lower, "PG101").cell.startswith("lira")


def test_a_level_that_was_not_stored_lets_nothing_pass():
    strict = policy({"PG101": {"max": 0.6}}, alpha_pass=0.01)
    verdict, found = again(evidence(n=3000), strict)
    assert verdict.exit_code == 4
    assert "bounds are stored at level 0.05, the policy asks for 0.01: nothing can pass" in found.notes
    lax = policy({"PG101": {"max": 0.6}}, alpha_pass=0.2)
    assert again(evidence(n=3000), lax)[0].exit_code == 0


def test_a_rule_that_the_run_did_not_judge_is_said():
    first = policy({"PG101": {"max": 0.6}})
    _, found = again(evidence(n=3000), policy({"PG101": {"max": 0.6}, "PG102": {"max": 0.6}}), first)
    assert found.notes == ("not judged in the stored run, so no corrected bound can prove a violation: PG102",)


def test_what_the_model_is_made_of_is_taken_over():
    svc = described("sklearn.svm._classes.SVC")
    rules = policy({"PG101": {"max": 0.6}, "PG301": {}})
    verdict, _ = again(evidence(model=svc, n=3000), rules, rules)
    assert outcome(verdict, "PG301").reason.startswith("as stored: sklearn.svm._classes.SVC")
    absent, _ = again(evidence(model=svc, n=3000), rules, policy({"PG101": {"max": 0.6}}))
    assert outcome(absent, "PG301").status == "inconclusive"


def test_stored_bounds():
    m = Stored(0.6, 0.55, 0.65, 0.05, 0.52)
    assert [m.lower(a) for a in (0.2, 0.05, 0.01)] == [0.55, 0.55, 0.52]
    assert [m.upper(a) for a in (0.2, 0.05, 0.01)] == [0.65, 0.65, math.inf]


def test_changes_name_status_and_action():
    before = [
        {"id": "PG101", "action": "block", "status": "pass"},
        {"id": "PG102", "action": "warn", "status": "fail"},
        {"id": "PG103", "action": "block", "status": "pass"},
        {"id": "PG104", "action": "off", "status": "not_applicable"},
    ]
    now = [
        ("PG101", "block", "fail"),
        ("PG102", "block", "fail"),
        ("PG103", "block", "pass"),
        ("PG104", "block", "not_applicable"),
        ("PG201", "block", "pass"),
    ]
    assert changes(before, now) == [
        "PG101 pass → fail",
        "PG102 fail (warns) → fail",
        "PG201 not_applicable → pass",
    ]
