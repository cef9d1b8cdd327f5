"""A candidate that answers with labels alone: what is attacked, what is judged, what is left open and said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.datamodel import (
    AttackResult,
    AttackSkipped,
    Outputs,
    RuleStatus,
    ShadowPlan,
    VerdictStatus,
)
from privacy_gate.evaluate import evaluate
from privacy_gate.observe import LABELS_ALONE, Answers, from_shadows, observe, of_labels
from privacy_gate.policy import judge, resolve, suite
from privacy_gate.reports import wording
from privacy_gate.signals import CATALOG as SIGNALS
from privacy_gate.signals import PROBES
from tests.label_only_world import label_only_world

STANDARD = resolve("standard")
ON_LABELS = {"correctness", "noise_robustness", "boundary_distance"}  # what the world's probes allow
SUITE = [*suite("deep")]


def decisions(values) -> Outputs:
    return Outputs(np.asarray(values), "probabilities", 1.0)


def of_labels_alone(answers: Answers) -> Answers:
    return replace(answers, target=decisions(answers.target.values))


@pytest.fixture(scope="module")
def leaking():
    answers, audit = label_only_world(members=200, nonmembers=200)
    answers = of_labels_alone(answers)
    observed = observe(answers, audit, SUITE)
    return evaluate(observed, audit, SUITE, 0, candidates=len(audit.labels), policy=STANDARD), answers, audit


def test_only_signals_of_labels_are_left():
    assert {name for name in [*SIGNALS.names(), *PROBES.names()] if of_labels(name)} == {
        "correctness",
        "noise_robustness",
        "boundary_distance",
        "augmentation_robustness",
    }


def test_attacks_on_scores_are_missed_and_attacks_on_labels_run(leaking):
    evaluation, _, _ = leaking
    outcomes = evaluation.evidence.attacks
    assert {o.id for o in outcomes if isinstance(o, AttackResult)} == ON_LABELS
    others = [o for o in outcomes if o.id not in ON_LABELS | {"augmentation"}]
    assert {o.id for o in others} == set(SUITE) - ON_LABELS - {"augmentation"}
    for outcome in others:
        assert isinstance(outcome, AttackSkipped), outcome
        assert outcome.applies  # there are scores behind the labels
        assert LABELS_ALONE in outcome.reason


def test_a_leak_is_proven_by_labels_and_what_they_cannot_show_is_open(leaking):
    evaluation, _, _ = leaking
    verdict = judge(STANDARD, evaluation.evidence)
    assert verdict.status is VerdictStatus.FAIL
    rules = {rule.id: rule for rule in verdict.rules}
    assert rules["PG101"].status is RuleStatus.FAIL
    assert "noise_robustness" in rules["PG101"].cell or "boundary_distance" in rules["PG101"].cell
    for id in ("PG201", "PG202", "PG204", "PG501"):
        assert rules[id].status is RuleStatus.INCONCLUSIVE
    for id in ("PG103", "PG104"):
        assert rules[id].status is not RuleStatus.PASS
    assert "confidence (shadow) was skipped" in rules["PG501"].reason


def test_checks_and_causes_cope_and_mislead_nobody(leaking):
    evaluation, _, _ = leaking
    findings = {f.check: f for f in evaluation.evidence.findings}
    assert not [f.check for f in findings.values() if "itself failed" in f.reason]
    assert findings["saturated_outputs"].status == "not_applicable"
    assert findings["positive_control"].status in ("pass", "warn")
    assert findings["negative_control"].status == "pass"
    assert findings["few_references"].status == "not_applicable"
    assert "AUC" in findings["out_model_placebo"].reason  # of who is right, where there is no confidence
    assert evaluation.evidence.risk is None
    assert all("failed" not in text for text in evaluation.warnings), evaluation.warnings
    assert evaluation.signals == {}


def test_a_model_that_gives_nothing_away_does_not_pass_a_policy_that_wants_scores():
    rng = np.random.default_rng(0)
    n, shadows = 4000, 4
    labels = rng.integers(0, 2, size=n)

    def answers(rows=None):
        told = np.where(rng.random(n) < 0.9, labels, 1 - labels)
        return decisions(np.eye(2)[told])

    _, world = label_only_world(members=20, nonmembers=20, shadows=0)
    audit = replace(world, member=np.arange(n) < n // 2, labels=labels, persons=np.arange(n), classes=("no", "yes"))
    half = rng.permutation(n) < n // 2
    inside = np.array([half, ~half] * (shadows // 2))
    plan = ShadowPlan("balanced", inside, np.ones(n, dtype=np.bool_), np.arange(shadows), n // 2)
    found = from_shadows(answers(), [answers() for _ in range(shadows)], plan, labels)
    for attacks in (["correctness"], ["correctness", "confidence", "lira"]):
        evaluation = evaluate(
            observe(found, audit, attacks), audit, attacks, 0, candidates=n, plan=plan, policy=STANDARD
        )
        verdict = judge(STANDARD, evaluation.evidence)
        assert verdict.status is VerdictStatus.INCONCLUSIVE
        rules = {rule.id: rule.status for rule in verdict.rules}
        assert rules["PG501"] is rules["PG103"] is rules["PG201"] is RuleStatus.INCONCLUSIVE
        assert findings_of(evaluation)["out_model_placebo"].value == pytest.approx(0.5, abs=0.05)


OWN = """\
apiVersion: privacy-gate/v1
name: own
release_context: internal
alpha: {pass: 0.05, fail: 0.05}
valid_days: 30
data_sensitivity: ordinary
rules:
  PG101: {max: 0.60, action: block, severity: high}
"""


def test_a_model_that_hides_its_scores_buys_no_pass(tmp_path):
    """Right for the same share on either side, sure of its members alone: labels show nothing, scores all."""
    rng = np.random.default_rng(0)
    n, classes = 2000, 2
    labels, member = rng.integers(0, classes, size=n), np.arange(n) < n // 2
    sure = np.where(member, 0.99, 0.7) + rng.uniform(-0.005, 0.005, size=n)
    chosen = np.where(rng.random(n) < 0.9, labels, 1 - labels)
    scores = Outputs(np.where(np.eye(classes)[chosen] > 0, sure[:, None], 1 - sure[:, None]), "probabilities")
    _, world = label_only_world(members=20, nonmembers=20, shadows=0)
    audit = replace(world, member=member, labels=labels, persons=np.arange(n), classes=("no", "yes"))
    path, attacks = tmp_path / "own.yaml", ["correctness", "confidence"]

    def status(target: Outputs, policy: str) -> VerdictStatus:
        path.write_text(policy)
        in_force = resolve(path)
        seen = observe(Answers(target), audit, attacks)
        evaluation = evaluate(seen, audit, attacks, 0, candidates=n, policy=in_force)
        return judge(in_force, evaluation.evidence).status

    hidden = decisions(np.eye(classes)[chosen])
    # No shadows here: one threat model of each attack is all there is.
    content = OWN + "  PG501: {threat_models: any, action: block, severity: high}\n"
    assert status(scores, content) is VerdictStatus.FAIL
    assert status(hidden, content) is VerdictStatus.INCONCLUSIVE
    named = OWN + "  PG501: {attacks: [correctness], action: block, severity: high}\n"
    assert status(hidden, named) in (VerdictStatus.PASS, VerdictStatus.PASS_WITH_WARNINGS)


def findings_of(evaluation):
    return {finding.check: finding for finding in evaluation.evidence.findings}


def test_the_same_answers_behind_a_defence_are_still_attacked_as_scores(leaking):
    """A declared `label_only` stands before scores: its attackers keep what they have. Only the candidate decides."""
    _, answers, audit = leaking
    seen = observe(replace(answers, target=replace(answers.target, resolution=0.0)), audit, ["lira"]).views[0]
    assert "logit_confidence" in seen.seen.target
    assert ATTACKS["lira"].requires <= set(seen.seen.target)


def test_the_limitation_names_what_is_open_and_what_would_decide_it():
    text = wording.labels_alone(cannot_pass=["PG103"], unmeasured=["PG201", "PG204"], required=["lira", "lira"])
    assert text.count("lira") == 1
    for part in ("PG103 cannot pass", "PG201, PG204 cannot be measured", "(lira)", "answers with probabilities"):
        assert part in text
    assert "From labels" not in wording.labels_alone(cannot_pass=[], unmeasured=[], required=[])
