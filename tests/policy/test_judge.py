"""The decision: bounds, correction, precedence, admissibility, wording, and how often it is wrong."""

import datetime
import math
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from privacy_gate.datamodel import (
    AttackFailed,
    AttackSkipped,
    Estimand,
    Finding,
    HighRisk,
    Invalidates,
    RiskScores,
    RuleStatus,
    Scope,
    ThreatModel,
)
from privacy_gate.policy import CATALOG, Decided, Measured, judge, resolve
from privacy_gate.policy.contract import Cell, Effort, Policy, RuleInForce
from privacy_gate.policy.examples import FAMILIES, SOUND, Known, compared, described, evidence, result, sliced

STANDARD = resolve("standard")
ALL = list(FAMILIES)


def policy(rules, **changes):
    """A policy of the given rules: id -> settings."""
    in_force = tuple(
        RuleInForce(id, CATALOG[id].settings.model_validate(given), None) for id, given in sorted(rules.items())
    )
    return Policy("test", None, "", {}, {}, in_force, **changes)


def attacks(**changes):
    """The full suite, with some attacks replaced."""
    return [changes.get(id, result(id)) for id in ALL]


def crashed(id):
    return AttackFailed(id, FAMILIES[id], ThreatModel.REFERENCE, "ValueError: boom")


def skipped(id):
    return AttackSkipped(id, FAMILIES[id], ThreatModel.REFERENCE, "needs reference models; there are none")


def fired(check, invalidates, status="fail"):
    return Finding(check, status, invalidates, 1.0, f"{check} is off")


def outcome(verdict, id):
    return next(rule for rule in verdict.rules if rule.id == id)


LEAK = result("lira", accuracy=0.66, auc=0.6, error=0.0063)
UNCLEAR = result("lira", accuracy=0.597, error=0.01)
PASS_ONLY = (fired("saturated_outputs", Invalidates.PASS),)
CONFOUNDED = (fired("out_model_placebo", Invalidates.BOTH),)


@pytest.mark.parametrize(
    ("outcomes", "findings", "status", "code"),
    [
        (attacks(), (), "pass", 0),
        (attacks(lira=LEAK), (), "fail", 1),
        (attacks(lira=UNCLEAR), (), "inconclusive", 4),
        # A required attack that crashed is an error, one that was skipped or is absent is an open question.
        (attacks(lira=crashed("lira")), (), "error", 3),
        (attacks(lira=skipped("lira")), (), "inconclusive", 4),
        ([result(id) for id in ALL if id != "entropy"], (), "inconclusive", 4),
        # One that nobody requires is only said.
        (attacks(rmia=crashed("rmia")), (), "pass_with_warnings", 0),
        (attacks(rmia=skipped("rmia")), (), "pass", 0),
        # Proven before broken before open.
        (attacks(lira=LEAK, entropy=crashed("entropy")), (), "fail", 1),
        (attacks(lira=LEAK, entropy=skipped("entropy")), (), "fail", 1),
        (attacks(lira=crashed("lira"), entropy=skipped("entropy")), (), "error", 3),
        (attacks(lira=UNCLEAR, entropy=crashed("entropy")), (), "error", 3),
        # Inadmissible evidence takes a pass; a confounded one takes a failure too.
        (attacks(), PASS_ONLY, "inconclusive", 4),
        (attacks(), CONFOUNDED, "inconclusive", 4),
        (attacks(lira=LEAK), PASS_ONLY, "fail", 1),
        (attacks(lira=LEAK), CONFOUNDED, "inconclusive", 4),
        (attacks(lira=LEAK, entropy=crashed("entropy")), CONFOUNDED, "error", 3),
        # Nothing at all.
        ([], (), "inconclusive", 4),
        ([crashed(id) for id in ALL], (), "error", 3),
        ([skipped(id) for id in ALL], (), "inconclusive", 4),
    ],
)
def test_status_and_exit_code(outcomes, findings, status, code):
    verdict = judge(STANDARD, replace(evidence(outcomes), findings=(*SOUND, *findings)))
    assert (verdict.status, verdict.exit_code) == (status, code)
    assert verdict.headline
    assert sum(verdict.counts.values()) == len(verdict.rules) == len(CATALOG)


def test_headline_of_a_violation_names_number_bound_limit_and_attack():
    verdict = judge(STANDARD, evidence(attacks(lira=LEAK)))
    # 6 accuracies, 5 AUCs, 5 + 5 TPRs and the risk as a share and in persons: 23 hypotheses.
    assert verdict.headline == "PG101 attack accuracy 66 % (at least 64.2 %) exceeds 60 %: lira, reference, global"
    rule = outcome(verdict, "PG101")
    assert rule.low == pytest.approx(0.66 - 0.0063 * norm.isf(0.05 / 23))
    assert rule.high == pytest.approx(0.66 + 0.0063 * norm.isf(0.05))
    assert (rule.value, rule.limit, rule.cell) == (0.66, 0.60, "lira, reference, global")


def test_headline_of_a_pass_names_the_tightest_rule():
    headline = judge(STANDARD, evidence()).headline
    assert headline.startswith("All 9 blocking rules hold; closest: PG101 attack accuracy is at most 50.7 %")


def test_headline_of_an_open_question_says_how_many_records_decide():
    verdict = judge(STANDARD, evidence(attacks(lira=UNCLEAR), n=500))
    rule = outcome(verdict, "PG101")
    # Normal theory at worst-case variance: n = .125 ((z(.05) + z(.2)) / .003)^2 to pass.
    assert rule.needed["members"] == math.ceil(0.125 * ((norm.isf(0.05) + norm.isf(0.2)) / 0.003) ** 2)
    assert "cannot be told from the limit 60 %; about 85," in verdict.headline
    failing = judge(STANDARD, evidence(attacks(lira=result("lira", accuracy=0.604, error=0.01)), n=500))
    expected = math.ceil(0.125 * ((norm.isf(0.05 / 23) + norm.isf(0.2)) / 0.004) ** 2)
    # The observed difference is 0.604 - 0.60 in floating point, so allow the last record.
    assert abs(outcome(failing, "PG101").needed["members"] - expected) <= 1


def test_headline_of_inadmissible_evidence_gives_the_reason():
    for findings in (PASS_ONLY, CONFOUNDED):
        headline = judge(STANDARD, replace(evidence(), findings=findings)).headline
        assert headline == f"The evidence is not admissible: {findings[0].check}: {findings[0].check} is off"
    verdict = judge(STANDARD, replace(evidence(attacks(lira=LEAK)), findings=CONFOUNDED))
    assert "out_model_placebo is off" in verdict.headline
    assert "exceeds 60 %" in outcome(verdict, "PG101").reason


def test_inadmissible_evidence_takes_the_pass_of_rules_that_measure_nothing():
    only = policy({"PG501": {"attacks": ["lira"]}, "PG101": {"max": 0.6}})
    assert judge(only, evidence()).exit_code == 0
    assert judge(only, replace(evidence(), findings=PASS_ONLY)).exit_code == 4


def test_that_the_attacks_ran_is_no_pass():
    """With no measured rule in force a model that leaks everything would go through."""
    only = policy({"PG501": {"attacks": ["lira"]}})
    assert judge(only, evidence(attacks(lira=LEAK))).exit_code == 4


def test_headline_of_a_crash_gives_the_reason():
    assert "ValueError: boom" in judge(STANDARD, evidence(attacks(lira=crashed("lira")))).headline


def test_numbers_get_as_many_digits_as_tell_them_from_the_limit():
    leak = result("lira", accuracy=0.60031, error=0.00005)
    headline = judge(policy({"PG101": {"max": 0.6}}), evidence([leak])).headline
    assert headline.startswith("PG101 attack accuracy 60.03 % (at least 60.02 %) exceeds 60 %")


def test_warn_rules_never_block_and_are_said():
    rules = {"PG101": {"max": 0.6}, "PG102": {"max": 0.65, "action": "warn", "reason": "pilot"}}
    for auc in (0.8, 0.645):
        verdict = judge(policy(rules), evidence([result("lira", auc=auc)]))
        assert (verdict.status, verdict.exit_code) == ("pass_with_warnings", 0)
        assert verdict.counts["warn"] == 1
        assert "PG102 only warned" in verdict.headline
        assert outcome(verdict, "PG102").reason.endswith("pilot")
    assert judge(policy(rules), evidence([result("lira")])).status == "pass"


def test_warn_rules_do_not_use_up_the_error_of_those_that_block():
    alone = judge(policy({"PG101": {"max": 0.6}}), evidence([LEAK]))
    beside = judge(policy({"PG101": {"max": 0.6}, "PG102": {"max": 0.65, "action": "warn"}}), evidence([LEAK]))
    assert outcome(alone, "PG101").low == outcome(beside, "PG101").low == pytest.approx(LEAK.accuracy.lower(0.05))


def test_rules_that_are_off_or_absent_are_listed():
    verdict = judge(policy({"PG101": {"max": 0.6}, "PG102": {"max": 0.5, "action": "off"}}), evidence())
    assert verdict.status == "pass"
    assert [rule.id for rule in verdict.rules] == CATALOG.names()
    assert outcome(verdict, "PG102").reason == "switched off by the policy"
    assert outcome(verdict, "PG103").reason == "the policy does not have this rule"
    assert verdict.counts["not_applicable"] == len(CATALOG) - 1


def test_nothing_that_blocks_is_never_a_pass():
    verdict = judge(policy({"PG101": {"max": 0.9, "action": "warn"}}), evidence())
    assert (verdict.status, verdict.exit_code) == ("inconclusive", 4)


def test_without_pg501_settings_every_attack_of_the_run_must_have_run():
    rules = {"PG101": {"max": 0.6}, "PG501": {}}
    assert judge(policy(rules), evidence()).exit_code == 0
    assert judge(policy(rules), evidence(attacks(rmia=skipped("rmia")))).exit_code == 4
    assert judge(policy(rules), evidence(attacks(rmia=crashed("rmia")))).exit_code == 3


def test_a_required_attack_must_run_under_all_its_threat_models_unless_told_otherwise():
    shadow = AttackSkipped("entropy", "metric", ThreatModel.SHADOW, "there are no shadows")
    outcomes = [*attacks(), shadow]
    assert judge(STANDARD, evidence(outcomes)).exit_code == 4
    lenient = {"PG501": {"attacks": ["entropy"], "threat_models": "any"}, "PG101": {"max": 0.6}}
    assert judge(policy(lenient), evidence(outcomes)).exit_code == 0
    broken = [*attacks(), AttackFailed("entropy", "metric", ThreatModel.SHADOW, "boom")]
    assert judge(policy(lenient), evidence(broken)).exit_code == 3


def test_an_attack_for_another_kind_of_record_is_not_missed():
    """Unless the policy names it: nobody asks an image attack about a table."""
    rules = {"PG101": {"max": 0.6}, "PG501": {}}
    elsewhere = AttackSkipped("augmentation", "label-only", ThreatModel.SHADOW, "it turns images", applies=False)
    fits = AttackSkipped("augmentation", "label-only", ThreatModel.SHADOW, "no references")
    assert outcome(judge(policy(rules), evidence([result("confidence"), elsewhere])), "PG501").status is RuleStatus.PASS
    partly = evidence([result("augmentation"), replace(elsewhere, threat_model=ThreatModel.KNOWN_SUBSET)])
    assert outcome(judge(policy(rules), partly), "PG501").status is RuleStatus.PASS
    missed = outcome(judge(policy(rules), evidence([result("confidence"), fits])), "PG501")
    named = {"PG101": {"max": 0.6}, "PG501": {"attacks": ["augmentation"]}}
    asked = outcome(judge(policy(named), evidence([result("confidence"), elsewhere])), "PG501")
    assert (missed.status, asked.status) == (RuleStatus.INCONCLUSIVE, RuleStatus.INCONCLUSIVE)


def test_a_model_that_breaks_under_an_attack_does_not_pass_for_it():
    rules = {"PG101": {"max": 0.6}, "PG501": {"attacks": ["confidence"]}}
    broke = AttackFailed("noise_robustness", "label-only", ThreatModel.SHADOW, "the probe failed", refused=True)
    found = outcome(judge(policy(rules), evidence([result("confidence"), broke])), "PG501")
    assert found.status is RuleStatus.INCONCLUSIVE
    assert "broke when noise_robustness asked it" in found.reason


def test_tpr_rules_do_not_pass_without_a_reference_attack():
    metric = [result(id) for id in ("correctness", "confidence")]
    verdict = judge(policy({"PG103": {"max": 0.05}}), evidence(metric))
    assert (verdict.status, verdict.exit_code) == ("inconclusive", 4)
    assert "needs a reference attack" in verdict.headline
    leaky = [result("confidence", tpr=(0.2, 0.1))]
    assert judge(policy({"PG103": {"max": 0.05}}), evidence(leaky)).exit_code == 1
    assert judge(policy({"PG101": {"max": 0.6}}), evidence(metric)).exit_code == 0


def test_a_ranking_seen_under_three_scopes_is_one_hypothesis():
    scores = np.arange(5.0)
    three = [replace(result("lira"), threshold=scope, scores=scores) for scope in Scope]
    other = replace(result("rmia"), scores=scores)
    examined = CATALOG["PG102"].examine(STANDARD.rule("PG102").settings, evidence([*three, other]))
    assert [cell.name for cell in examined.cells] == ["lira, reference", "rmia, reference"]
    accuracy = CATALOG["PG101"].examine(STANDARD.rule("PG101").settings, evidence([*three, other]))
    assert len(accuracy.cells) == 4
    # Another ranking is another hypothesis, even if its AUC is the same.
    changed = [replace(three[0], scores=scores[::-1]), *three[1:]]
    assert len(CATALOG["PG102"].examine(STANDARD.rule("PG102").settings, evidence(changed)).cells) == 2


def test_non_adaptive_attacks_are_hypotheses_of_their_own():
    pair = [result("lira"), replace(result("lira"), adaptive=False)]
    examined = CATALOG["PG101"].examine(STANDARD.rule("PG101").settings, evidence(pair))
    assert [cell.name for cell in examined.cells][1] == "lira, reference, global, non-adaptive"


def test_holm_finds_more_rules_than_bonferroni_and_says_so():
    # Two hypotheses at .05: the second needs p <= .05, not .025.
    two = [result("lira", accuracy=0.60 + 0.01 * norm.isf(0.001), auc=0.65 + 0.01 * norm.isf(0.04), error=0.01)]
    verdict = judge(policy({"PG101": {"max": 0.6}, "PG102": {"max": 0.65}}), evidence(two))
    second = outcome(verdict, "PG102")
    assert second.status is RuleStatus.FAIL
    assert second.low < second.limit
    assert "Holm" in second.reason
    assert verdict.headline.endswith("; also PG102")


def test_high_risk_must_be_verified_to_fail_but_not_to_block():
    def judged(precision):
        high = HighRisk(0.8, 1000, 100, Known(0.05, 0.001), Known(precision, 0.01))
        risk = RiskScores("calibrated", np.empty(0), (high,), {})
        return outcome(judge(STANDARD, replace(evidence(), risk=risk)), "PG201").status

    assert judged(0.9) is RuleStatus.FAIL
    assert judged(0.6) is RuleStatus.INCONCLUSIVE


def test_high_risk_counted_at_another_score_is_not_measured():
    verdict = judge(policy({"PG201": {"max": 0.5, "score": 0.9}}), evidence())
    assert verdict.exit_code == 4
    assert "counted at 0.8, not at 0.9" in verdict.headline


def test_not_a_number_is_never_a_pass_nor_a_failure():
    for measurement in (Known(math.nan), Known(0.5, math.nan), Known(0.9, math.nan)):
        broken = replace(result("lira"), accuracy=measurement)
        verdict = judge(policy({"PG101": {"max": 0.6}}), evidence([result("correctness"), broken]))
        assert verdict.exit_code == 4
        assert outcome(verdict, "PG101").status is RuleStatus.INCONCLUSIVE
    unknown = replace(result("lira"), accuracy=Known(math.nan))
    # A report has no NaN: what is not a number was not measured.
    assert outcome(judge(policy({"PG101": {"max": 0.6}}), evidence([unknown])), "PG101").value is None


def test_bounds_that_contradict_each_other_do_not_fail():
    @dataclass(frozen=True)
    class Crossed:
        value: float = 0.65

        def lower(self, alpha):
            return 0.65

        def upper(self, alpha):
            return 0.55

    crossed = replace(result("lira"), accuracy=Crossed())
    assert judge(policy({"PG101": {"max": 0.6}}), evidence([crossed])).exit_code == 0


def test_equivalence_takes_the_pass_when_a_check_only_warns():
    findings = (Finding("class_marginals", "warn", Invalidates.BOTH, 0.08, "may be above 0.1"),)
    warned = replace(evidence(), findings=findings)
    assert judge(STANDARD, warned).status == "pass"
    assert "validity warnings: class_marginals" in judge(STANDARD, warned).headline
    assert judge(resolve("strict"), evidence()).status == "pass"
    strict = judge(resolve("strict"), warned)
    assert (strict.status, strict.exit_code) == ("inconclusive", 4)
    assert "class_marginals" in strict.headline
    assert judge(resolve("strict"), replace(warned, attacks=tuple(attacks(lira=LEAK)))).exit_code == 1


def test_judging_twice_gives_the_same():
    seen = evidence(attacks(lira=LEAK, rmia=UNCLEAR))
    assert judge(STANDARD, seen) == judge(STANDARD, seen)


# --- properties -----------------------------------------------------------------------------------------------------

shares = st.floats(0.0, 1.0)
errors = st.floats(1e-6, 0.2)
results = st.builds(
    lambda name, accuracy, auc, tpr, error: result(name, accuracy, auc, (tpr, tpr / 2), error),
    st.sampled_from(ALL),
    shares,
    shares,
    shares,
    errors,
)
seen = st.builds(
    lambda found, attributable, precision: evidence(found, attributable=attributable, precision=precision),
    st.lists(results, max_size=4),
    st.one_of(st.none(), shares),
    shares,
)
limits = st.fixed_dictionaries(dict.fromkeys(("PG101", "PG102", "PG103", "PG104", "PG201"), shares))


def with_limits(limits):
    return policy({id: {"max": limit} for id, limit in limits.items()})


@settings(max_examples=150, deadline=None)
@given(seen, limits, st.floats(0.0, 1.0))
def test_raising_every_limit_never_turns_a_pass_into_a_failure(found, limits, by):
    raised = {id: limit + by * (1 - limit) for id, limit in limits.items()}
    before, after = judge(with_limits(limits), found), judge(with_limits(raised), found)
    if before.exit_code == 0:
        assert after.exit_code == 0
    if after.exit_code == 1:
        assert before.exit_code == 1


@settings(max_examples=150, deadline=None)
@given(seen, limits)
def test_a_rule_that_fails_has_an_upper_bound_beyond_its_limit(found, limits):
    for rule in judge(with_limits(limits), found).rules:
        if rule.status is RuleStatus.FAIL:
            assert rule.high > rule.limit
        if rule.status is RuleStatus.PASS:
            assert rule.high <= rule.limit
            assert rule.low <= rule.limit


@settings(max_examples=100, deadline=None)
@given(seen, limits)
def test_the_verdict_is_that_of_the_definition(found, limits):
    """A slow twin of the decision, in one place and without rules, families or wording."""
    with_rules = with_limits(limits)
    cells, complete = [], True
    for in_force in with_rules.rules:
        examined = CATALOG[in_force.id].examine(in_force.settings, found)
        cells += examined.cells
        complete &= bool(examined.cells) and not examined.withheld
    some_fail = any(c.measurement.lower(0.05 / len(cells)) > c.limit for c in cells)
    all_pass = complete and all(c.measurement.upper(0.05) <= c.limit for c in cells)
    assert judge(with_rules, found).exit_code == (1 if some_fail else 0 if all_pass else 4)


# --- how often it is wrong ------------------------------------------------------------------------------------------


def codes(truths, correlation, limit, replicates=1200, error=0.01, seed=0):
    """Exit codes over replicates of attacks whose estimates are correlated, as attacks on one model are."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(replicates, 1))
    own = rng.normal(size=(replicates, len(truths)))
    noise = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own
    estimates = np.asarray(truths) + error * noise
    rules = policy({"PG101": {"max": limit}})
    template = result("correctness")
    return np.array(
        [
            judge(
                rules,
                evidence([replace(template, id=f"a{i}", accuracy=Known(float(v), error)) for i, v in enumerate(row)]),
            ).exit_code
            for row in estimates
        ]
    )


def slack(rate, replicates=1200):
    """Three standard errors of a simulated rate: one in 700 runs is beyond by chance, and the seed is fixed."""
    return 3 * math.sqrt(rate * (1 - rate) / replicates)


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_false_passes_stay_at_their_rate(correlation):
    # One attack at the limit, seven below: the worst case for a pass, which that one alone must prevent.
    assert (codes([0.6] + [0.5] * 7, correlation, 0.6) == 0).mean() <= 0.05 + slack(0.05)
    # All eight at the limit: each of them must be unlucky at once.
    assert (codes([0.6] * 8, correlation, 0.6) == 0).mean() <= 0.05 + slack(0.05)


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_false_failures_stay_at_their_rate(correlation):
    # All at the limit: the most that a model may leak without violating the policy.
    assert (codes([0.6] * 8, correlation, 0.6) == 1).mean() <= 0.05 + slack(0.05)


def test_clear_cases_are_decided():
    assert (codes([0.5] * 8, 0.7, 0.6) == 0).mean() == 1.0
    assert (codes([0.5] * 7 + [0.7], 0.7, 0.6) == 1).mean() == 1.0


# --- dates, burdens, and what else decides --------------------------------------------------------------------------

DAY = datetime.date(2026, 12, 1)


@pytest.mark.parametrize(("days", "action", "code"), [(-1, "warn", 0), (0, "block", 1), (1, "block", 1)])
def test_a_rule_blocks_from_its_day_on(days, action, code):
    rules = {"PG101": {"max": 0.6, "enforce_from": "2026-12-01", "reason": "pilot"}, "PG102": {"max": 0.9}}
    verdict = judge(policy(rules), evidence([LEAK]), today=DAY + datetime.timedelta(days))
    rule = outcome(verdict, "PG101")
    assert (rule.action, verdict.exit_code, rule.status) == (action, code, RuleStatus.FAIL)
    assert rule.enforce_from == ("2026-12-01" if days < 0 else "")
    assert ("warns until 2026-12-01, blocks from then on" in rule.reason) is (days < 0)
    assert "pilot" in rule.reason


def test_a_date_makes_no_rule_block_that_only_warns():
    rules = {"PG101": {"max": 0.6, "enforce_from": "2026-12-01", "action": "warn"}, "PG102": {"max": 0.9}}
    for days in (-1, 1):
        rule = outcome(judge(policy(rules), evidence([LEAK]), today=DAY + datetime.timedelta(days)), "PG101")
        assert (rule.action, rule.enforce_from) == ("warn", "")


def test_the_day_is_a_utc_one_if_none_is_given(monkeypatch):
    class Late(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            assert tz is datetime.UTC
            return cls(2026, 12, 1, 0, 0, 1, tzinfo=tz)

    # The function of that name hides the module in the package.
    monkeypatch.setattr(
        sys.modules["privacy_gate.policy.judge"], "datetime", SimpleNamespace(datetime=Late, UTC=datetime.UTC)
    )
    rules = {"PG101": {"max": 0.6, "enforce_from": "2026-12-01"}}
    assert judge(policy(rules), evidence([LEAK])).exit_code == 1


def test_no_rule_that_blocks_yet_is_no_pass():
    rules = {"PG101": {"max": 0.6, "enforce_from": "2026-12-02"}}
    verdict = judge(policy(rules), evidence(), today=DAY)
    assert (verdict.status, verdict.exit_code) == ("inconclusive", 4)
    assert verdict.headline == "Nothing was evaluated: no rule that blocks has measured the model"


@pytest.mark.parametrize(
    ("context", "action"), [("internal", "warn"), ("open-weights", "block"), (None, "block"), ("public-api", "block")]
)
def test_an_instance_based_model_is_a_matter_of_where_it_goes(context, action):
    knn = described("sklearn.neighbors._classification.KNeighborsClassifier")
    rules = {"PG101": {"max": 0.6}, "PG301": {}}
    verdict = judge(policy(rules, release_context=context), evidence(model=knn))
    rule = outcome(verdict, "PG301")
    assert (rule.status, rule.action, verdict.exit_code) == (RuleStatus.FAIL, action, 1 if action == "block" else 0)
    assert ("release context is internal" in rule.reason) is (context == "internal")


def regression(value, error=0.004):
    return policy({"PG101": {"max": 0.6}, "PG401": {"max": 0.02}}), evidence(
        regression=replace(compared(), differences=(("lira", Known(value, error)),))
    )


def test_a_regression_blocks_only_when_it_is_proven():
    # One of seven hypotheses that block: six accuracies and the difference.
    edge = 0.02 + 0.004 * norm.isf(0.05 / 7)
    for value, status in (
        (edge + 1e-6, RuleStatus.FAIL),
        (edge - 1e-4, RuleStatus.PASS),
        (0.5 * edge, RuleStatus.PASS),
    ):
        verdict = judge(*regression(value))
        assert outcome(verdict, "PG401").status is status
        assert verdict.exit_code == (1 if status is RuleStatus.FAIL else 0)
    held = outcome(judge(*regression(0.028)), "PG401")
    assert held.reason == "regression against the approved model: none above 2 % is proven (at most 3.5 %)"
    assert held.high > held.limit


def test_a_regression_that_is_not_proven_is_no_pass_by_itself():
    rules, seen = regression(0.0)
    alone = replace(rules, rules=tuple(rule for rule in rules.rules if rule.id == "PG401"))
    assert judge(alone, seen).exit_code == 4


def test_calibration_never_convicts_and_takes_no_part_in_the_correction():
    rules = {"PG101": {"max": 0.6}, "PG204": {"max": 0.05}}
    for value, status, said in (
        (0.03, RuleStatus.PASS, "none above 0.05 is proven (at most 0.04)"),
        (0.05, RuleStatus.PASS, "none above 0.05 is proven"),
        (0.2, RuleStatus.INCONCLUSIVE, "exceeds 0.05: it leaves the verdict open"),
    ):
        verdict = judge(policy(rules), evidence(calibration=value))
        rule = outcome(verdict, "PG204")
        assert rule.status is status
        assert said in rule.reason
        assert verdict.exit_code == (0 if status is RuleStatus.PASS else 4)
        assert rule.low == pytest.approx(value - 0.004 * norm.isf(0.05))
    alone = judge(policy({"PG101": {"max": 0.6}}), evidence([LEAK]))
    beside = judge(policy(rules), evidence([LEAK], calibration=0.2))
    assert outcome(alone, "PG101").low == outcome(beside, "PG101").low
    assert beside.exit_code == 1  # it does not take a violation that others have proven
    assert judge(policy({"PG204": {"max": 0.05}}), evidence()).exit_code == 4  # nor is it a pass of the model


@pytest.mark.parametrize(
    ("asked", "seen", "code"),
    [
        ("artefact", "artefact", 0),
        ("artefact", "artefact-census", 4),
        ("artefact", "procedure", 4),
        ("artefact-census", "artefact-census", 0),
        ("artefact-census", "artefact", 0),
        ("artefact-census", "procedure", 4),
        ("procedure", "procedure", 0),
        ("procedure", "artefact", 4),
    ],
)
def test_numbers_about_something_else_are_no_pass(asked, seen, code):
    rules = policy({"PG101": {"max": 0.6}}, estimand=Estimand(asked))
    verdict = judge(rules, replace(evidence(), estimand=Estimand(seen)))
    assert verdict.exit_code == code
    if code:
        assert f"the policy asks about {asked}, the evidence is about {seen}" in verdict.headline
    # A violation that is proven stays one.
    assert judge(rules, replace(evidence([LEAK]), estimand=Estimand(seen))).exit_code == 1


def test_an_answer_that_was_found_elsewhere_is_taken_over():
    rules = policy({"PG101": {"max": 0.6}, "PG301": {}})
    verdict = judge(rules, evidence(), settled={"PG301": Decided(RuleStatus.FAIL, "as stored")})
    assert (verdict.exit_code, outcome(verdict, "PG301").reason) == (1, "as stored")


def test_what_was_left_out_is_said_whatever_the_outcome():
    for value in (0.5, 0.69, 0.9):
        lira = sliced("lira", {"a": value})
        small = replace(lira.slices[0], value="b", members=5)
        seen = evidence([replace(lira, slices=(*lira.slices, small))])
        rule = outcome(judge(policy({"PG101": {"max": 0.6}, "PG203": {"max": 0.7}}), seen), "PG203")
        assert rule.reason.endswith("with fewer than 100 persons on a side: class=b")


def test_a_bound_at_the_limit_is_within_it():
    @dataclass(frozen=True)
    class Exact:
        value: float
        low: float
        high: float

        def lower(self, alpha):
            return self.low

        def upper(self, alpha):
            return self.high

    rules = policy({"PG101": {"max": 0.6}})
    at = replace(result("lira"), accuracy=Exact(0.55, 0.5, 0.6))
    assert judge(rules, evidence([at])).exit_code == 0
    above = replace(result("lira"), accuracy=Exact(0.55, 0.5, math.nextafter(0.6, 1)))
    assert judge(rules, evidence([above])).exit_code == 4
    low_at = replace(result("lira"), accuracy=Exact(0.65, 0.6, 0.7))
    assert judge(rules, evidence([low_at])).exit_code == 4
    low_above = replace(result("lira"), accuracy=Exact(0.65, math.nextafter(0.6, 1), 0.7))
    assert judge(rules, evidence([low_above])).exit_code == 1


def test_rules_that_warn_and_do_not_apply_are_no_warning():
    rules = {"PG101": {"max": 0.6}, "PG401": {"max": 0.02, "action": "warn"}}
    assert judge(policy(rules), evidence()).status == "pass"


def test_persons_are_written_as_persons():
    rules = policy({"PG202": {"max": 100}, "PG101": {"max": 0.6}})
    verdict = judge(rules, evidence(attributable=0.1))
    assert verdict.headline.startswith("PG202 attributable high-risk persons 2,000 (at least 1,9")
    assert " exceeds 100: calibrated, score ≥ 0.8" in verdict.headline


# --- what a careless edit would change ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Between:
    """A measurement with the same bounds at every level."""

    value: float
    low: float
    high: float

    def lower(self, alpha):
        return self.low

    def upper(self, alpha):
        return self.high


@pytest.mark.parametrize(("members", "nonmembers"), [(0, 0), (-1, -1), (0, -1), (-1, 0)])
def test_more_records_are_no_advice_to_those_who_have_them(members, nonmembers):
    rules = policy({"PG101": {"max": 0.6}})
    few = replace(evidence([replace(result("lira"), accuracy=Between(0.58, 0.5, 0.61))]), member_persons=10)
    needed = outcome(judge(rules, few), "PG101").needed
    assert set(needed) == {"members", "nonmembers"}
    # Exactly as many as would decide are enough; one less on either side is not.
    counts = {"member_persons": needed["members"] + members, "nonmember_persons": needed["nonmembers"] + nonmembers}
    again = outcome(judge(rules, replace(few, **counts)), "PG101")
    assert again.needed == ({} if (members, nonmembers) == (0, 0) else needed)


def test_two_rules_that_hold_are_all_of_them():
    headline = judge(policy({"PG101": {"max": 0.6}, "PG102": {"max": 0.9}}), evidence()).headline
    assert headline.startswith("All 2 blocking rules hold; closest: PG101 ")
    assert judge(policy({"PG101": {"max": 0.6}}), evidence()).headline.startswith("PG101 holds; closest: PG101 ")


def test_a_regression_that_is_not_proven_is_not_the_closest():
    rules, seen = regression(0.02, 0.01)
    headline = judge(rules, seen).headline
    assert headline.startswith("All 2 blocking rules hold; closest: PG101 ")


def test_an_open_question_on_evidence_that_is_not_admissible_either_names_both():
    rules = policy({"PG101": {"max": 0.6}})
    headline = judge(rules, replace(evidence([UNCLEAR]), findings=PASS_ONLY)).headline
    assert headline.startswith("Not decided: PG101 ")
    assert headline.endswith("; the evidence is not admissible either: saturated_outputs: saturated_outputs is off")
    assert "admissible" not in judge(rules, evidence([UNCLEAR])).headline


def test_what_is_not_a_number_is_the_worst_of_all():
    rules = policy({"PG101": {"max": 0.6}})
    for odd in (Between(math.nan, 0.1, 0.2), Between(0.1, 0.1, math.nan)):
        seen = evidence([replace(result("lira"), accuracy=odd), UNCLEAR])
        rule = outcome(judge(rules, replace(seen, attacks=(seen.attacks[0], replace(UNCLEAR, id="rmia")))), "PG101")
        assert (rule.status, rule.cell) == (RuleStatus.INCONCLUSIVE, "lira, reference, global")
    unknown = replace(result("lira"), accuracy=Between(0.55, 0.5, math.inf))
    assert "(between 50 % and unknown)" in outcome(judge(rules, evidence([unknown])), "PG101").reason


def test_among_equal_proofs_the_largest_value_is_shown():
    sure = [replace(result(id), accuracy=Between(value, 0.65, 0.9)) for id, value in (("lira", 0.7), ("rmia", 0.8))]
    for order in (sure, sure[::-1]):
        assert outcome(judge(policy({"PG101": {"max": 0.6}}), evidence(order)), "PG101").cell.startswith("rmia")


def test_a_reason_has_nothing_to_add_where_nothing_withholds_a_pass():
    rule = outcome(judge(policy({"PG101": {"max": 0.6}}), evidence([UNCLEAR], n=10**6)), "PG101")
    assert rule.reason == "attack accuracy 59.7 % (between 58.1 % and 61.3 %) cannot be told from the limit 60 %"
    withheld = judge(policy({"PG103": {"max": 0.05}}), evidence([result("confidence", tpr=(0.05, 0.01))]))
    assert "; also, a pass needs a reference attack" in outcome(withheld, "PG103").reason


@pytest.mark.parametrize(("tpr", "help"), [(0.02, False), (0.07, True)])
def test_where_a_pass_is_withheld_more_records_are_named_only_if_they_prove_a_violation(tpr, help):
    unclear = replace(result("confidence"), tpr_at_fpr={0.01: Between(tpr, 0.01, 0.2)})
    rule = outcome(judge(policy({"PG103": {"max": 0.05}}), evidence([unclear], n=10)), "PG103")
    assert bool(rule.needed) == ("would decide" in rule.reason) == help
    assert "; also, a pass needs a reference attack" in rule.reason


JUDGE = sys.modules["privacy_gate.policy.judge"]  # the function of that name hides the module in the package


@pytest.mark.parametrize(
    ("unit", "value", "limit", "text"),
    [
        ("persons", 100.4, None, "100"),  # a hundred persons and more are written whole
        ("persons", 99.6, None, "99.6"),
        ("persons", -100.4, None, "-100"),
        ("persons", 1234.6, None, "1,235"),
        ("persons", 12.0, None, "12"),
        ("persons", 100.4, 100.0, "100.4"),  # unless that would hide which side of the limit they are on
        ("number", 150.44, None, "150.44"),
        ("number", 0.5, None, "0.50"),
        ("percent", 1.504, None, "150.4 %"),
        ("percent", 0.57, None, "57 %"),  # 100 * 0.57 is not quite 57
        ("number", 0.123451, 0.123452, "0.123451"),
        ("number", 0.1234511, 0.1234512, "0.123451"),  # six digits are the most
        ("number", 0.5, 0.5, "0.50"),
        ("number", math.nan, 0.5, "not a number"),
        ("number", math.inf, 0.5, "unknown"),
    ],
)
def test_numbers_are_written_as_short_as_they_can_be(unit, value, limit, text):
    assert JUDGE._Number(unit)(value, limit) == text


def test_a_headline_is_about_the_first_of_several_rules():
    two = policy({"PG101": {"max": 0.6}, "PG102": {"max": 0.65}})
    leak = judge(two, evidence([result("lira", accuracy=0.7, auc=0.8)]))
    assert leak.headline.startswith("PG101 attack accuracy 70 %")
    assert leak.headline.endswith("; also PG102")
    open_ = judge(two, evidence([result("lira", accuracy=0.6, auc=0.65)]))
    assert open_.headline.startswith("Not decided: PG101 attack accuracy 60 %")
    assert "also PG102" in open_.headline
    broken = judge(policy({"PG101": {"max": 0.6}, "PG501": {"attacks": ["lira"]}}), evidence([crashed("lira")]))
    first = outcome(broken, "PG101")
    assert broken.headline == f"The evaluation failed: PG101 attack accuracy: {first.reason}; also PG501"
    three = policy({"PG101": {"max": 0.6}, "PG102": {"max": 0.65}, "PG103": {"max": 0.05}})
    all_of = judge(three, evidence([result("lira", accuracy=0.7, auc=0.8, tpr=(0.2, 0.1))]))
    assert all_of.headline.endswith("; also PG102, PG103")


def test_a_headline_leaves_out_what_is_only_a_remark():
    rules = {"PG101": {"max": 0.6, "reason": "as agreed"}}
    leak = judge(policy(rules), evidence([LEAK]))
    assert leak.headline.endswith("exceeds 60 %: lira, reference, global")
    assert outcome(leak, "PG101").reason.endswith("; as agreed")
    held = judge(policy(rules), evidence([result("lira")]))
    assert held.headline.endswith("is at most 50.7 %, the limit is 60 % (lira, reference, global)")


def test_a_bound_of_nothing_is_the_farthest_from_its_limit():
    none = replace(result("lira"), accuracy=Between(0.0, 0.0, 0.0), auc=Between(0.5, 0.5, 0.51))
    headline = judge(policy({"PG101": {"max": 0.6}, "PG102": {"max": 0.65}}), evidence([none])).headline
    assert "; closest: PG102 " in headline


def test_how_far_a_bound_is_beyond_its_limit():
    assert JUDGE._excess(Cell("", Between(0.5, 0.4, 0.75), 0.5), 0.05) == 0.25
    assert JUDGE._excess(Cell("", Between(0.5, 0.4, 0.25), 0.5), 0.05) == -0.25


def test_rules_that_do_not_convict_are_corrected_among_their_own_cells():
    cells = (Cell("a", Known(0.5, 0.01), 0.48), Cell("b", Known(0.5, 0.01), 0.481))
    family = JUDGE._family([("PG101", Measured(cells[:1])), ("PG204", Measured(cells, convicts=False))], 0.05)
    assert family.alpha == 0.05
    assert [j.low for j in family.judged["PG204"]] == [pytest.approx(0.5 - 0.01 * norm.isf(0.025))] * 2
    assert [j.exceeded for j in family.judged["PG204"]] == [True, False]  # 0.4804


def test_a_pass_that_is_withheld_says_how_the_numbers_stood():
    rules = policy({"PG103": {"max": 0.05}})
    held = outcome(judge(rules, evidence([result("confidence")])), "PG103")
    assert held.reason.startswith("TPR at 1 % FPR is at most 1.3 %, but a pass needs a reference attack")


def test_a_bound_at_its_limit_is_the_closest_there_is():
    at = replace(result("lira"), accuracy=Between(0.5, 0.5, 0.6), auc=Between(0.5, 0.5, 0.51))
    rules = policy({"PG102": {"max": 0.52}, "PG101": {"max": 0.6}})
    assert "; closest: PG101 attack accuracy is at most 60 %" in judge(rules, evidence([at])).headline


def test_a_value_within_its_limit_is_asked_how_many_would_pass():
    rules = policy({"PG101": {"max": 0.6}, "PG103": {"max": 0.05}})
    rule = outcome(judge(rules, evidence([result("lira", tpr=(0.0475, 0.01))], n=10)), "PG103")
    expected = CATALOG["PG103"].needed(rules.rule("PG103").settings, Effort(0.0475, 0.05, 0.8, 10, 10))
    assert rule.needed == expected != {}
    at_the_limit = outcome(judge(rules, evidence([result("lira", tpr=(0.05, 0.01))], n=10)), "PG103")
    assert at_the_limit.needed == {}  # no number of records tells a value from itself


@pytest.mark.parametrize(
    ("measurement", "status", "said"),
    [
        (Between(0.06, 0.05, 0.07), RuleStatus.PASS, "none above 0.05 is proven"),
        (Between(0.06, math.nextafter(0.05, 1), 0.07), RuleStatus.INCONCLUSIVE, "it leaves the verdict open"),
        (Between(math.nan, 0.01, 0.07), RuleStatus.INCONCLUSIVE, "cannot be told from the limit 0.05"),
    ],
)
def test_a_rule_that_never_convicts_is_open_beyond_its_limit_alone(measurement, status, said):
    seen = evidence()
    seen = replace(seen, risk=replace(seen.risk, errors={"ece": measurement}))
    rule = outcome(judge(policy({"PG101": {"max": 0.6}, "PG204": {"max": 0.05}}), seen), "PG204")
    assert rule.status is status
    assert said in rule.reason
