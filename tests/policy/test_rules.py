"""What single rules do beyond what every rule promises."""

import functools
import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.stats import binom, norm

from privacy_gate import metrics
from privacy_gate.datamodel import (
    AttackFailed,
    AttackSkipped,
    Description,
    Finding,
    Invalidates,
    RuleStatus,
    Scope,
    SliceAccuracy,
    ThreatModel,
)
from privacy_gate.policy import CATALOG, Decided, Measured, cells, judge
from privacy_gate.policy.contract import Effort, Policy, RuleInForce
from privacy_gate.policy.examples import Known, compared, described, evidence, result, sliced
from privacy_gate.policy.high_risk import chance_of_a_pass
from privacy_gate.policy.pg301_instance_based_model import estimators, instance_based


def examine(id, seen, **settings):
    needs = {"max": 0.7} if "max" in CATALOG[id].settings.model_fields and "max" not in settings else {}
    return CATALOG[id].examine(CATALOG[id].settings.model_validate({**needs, **settings}), seen)


# --- PG202 ----------------------------------------------------------------------------------------------------------


def test_persons_are_the_share_times_the_member_persons():
    seen = replace(evidence(attributable=0.004), member_persons=3000, members=9000)
    (cell,) = examine("PG202", seen, max=10).cells
    (share,) = examine("PG201", seen).cells
    assert cell.measurement.value == pytest.approx(12.0)
    for alpha in (0.001, 0.05, 0.4):
        assert cell.measurement.lower(alpha) == pytest.approx(3000 * share.measurement.lower(alpha))
        assert cell.measurement.upper(alpha) == pytest.approx(3000 * share.measurement.upper(alpha))
    assert cell.limit == 10


def test_persons_whose_scores_are_not_verified_are_not_held_against_a_model():
    (cell,) = examine("PG202", evidence(attributable=0.05, precision=0.6), max=10).cells
    assert cell.measurement.lower(0.05) == 0.0
    assert cell.measurement.upper(0.05) > 1000  # nor are they no persons
    # The precision that has to be proven is score - tolerance.
    lenient = examine("PG202", evidence(attributable=0.05, precision=0.6), max=10, tolerance=0.3).cells[0]
    assert lenient.measurement.lower(0.05) > 900


@pytest.mark.parametrize("max", [10.5, "10", True, -1])
def test_a_number_of_persons_is_whole(max):
    with pytest.raises(ValueError, match="max"):
        examine("PG202", evidence(), max=max)


@pytest.mark.parametrize("id", ["PG201", "PG202"])
def test_which_settings_count_fewer_persons(id):
    parse = CATALOG[id].settings.model_validate
    base = parse({"max": 1, "score": 0.8, "tolerance": 0.1})
    assert parse({"max": 1, "score": 0.9, "tolerance": 0.1}).loosened(base) == ["score"]
    assert parse({"max": 1, "score": 0.8, "tolerance": 0.05}).loosened(base) == ["tolerance"]
    assert parse({"max": 0, "score": 0.7, "tolerance": 0.2}).loosened(base) == []
    assert base.loosened(parse({"max": 0})) == ["max"]


# --- PG203 ----------------------------------------------------------------------------------------------------------


def test_every_attack_in_every_large_slice_is_one_hypothesis():
    seen = evidence([sliced("lira", {"a": 0.5, "b": 0.6}), sliced("entropy", {"a": 0.5, "b": 0.6})])
    cells = examine("PG203", seen).cells
    assert [(c.attack, c.group) for c in cells] == [
        ("lira", "class=a"),
        ("lira", "class=b"),
        ("entropy", "class=a"),
        ("entropy", "class=b"),
    ]
    assert cells[1].name == "class=b: lira, reference, global"


def test_the_same_numbers_under_several_scopes_count_once():
    one = sliced("lira", {"a": 0.5})
    three = [replace(one, threshold=scope) for scope in Scope]
    assert len(examine("PG203", evidence(three)).cells) == 1
    other = replace(sliced("lira", {"a": 0.51}), threshold=Scope.CLASS)
    assert len(examine("PG203", evidence([*three, other])).cells) == 2
    elsewhere = replace(one, threat_model=ThreatModel.SHADOW)
    assert len(examine("PG203", evidence([*three, elsewhere])).cells) == 2


@pytest.mark.parametrize(("members", "nonmembers", "judged"), [(100, 100, 1), (99, 100, 0), (100, 99, 0)])
def test_a_slice_must_pass_with_enough_persons_on_both_sides(members, nonmembers, judged):
    found = examine("PG203", small_slice(0.6, 0.1, members=members, nonmembers=nonmembers))
    _, small = found.cells
    assert small.measurement.upper(0.05) == (Known(0.6, 0.1).upper(0.05) if judged else -math.inf)
    assert small.measurement.lower(0.05) == Known(0.6, 0.1).lower(0.05)
    assert ("class=s" in found.note) is (not judged)


def small_slice(accuracy, error, *, by="class", members=40, nonmembers=40):
    small = SliceAccuracy(by, "s", members, nonmembers, Known(accuracy, error))
    lira = sliced("lira", {"a": 0.5})
    return evidence([result("correctness"), replace(lira, slices=(*lira.slices, small))])


def slice_outcome(seen, **settings):
    rules = {"PG101": {"max": 0.6}, "PG203": {"max": 0.7, **settings}}
    in_force = tuple(RuleInForce(id, CATALOG[id].settings.model_validate(given), None) for id, given in rules.items())
    verdict = judge(Policy("test", None, "", {}, {}, in_force), seen)
    return next(rule for rule in verdict.rules if rule.id == "PG203")


@pytest.mark.parametrize(
    ("accuracy", "error", "status"),
    [
        (1.0, 0.02, RuleStatus.FAIL),  # proven, whatever the number of persons
        (0.8, 0.05, RuleStatus.INCONCLUSIVE),  # z = 2: suspicious alone, not proven among all that was measured
        (0.75, 0.05, RuleStatus.PASS),  # z = 1
        (0.5, 0.30, RuleStatus.PASS),  # nothing is known of it
    ],
)
def test_a_small_slice_can_fail_a_model_and_never_for_want_of_numbers(accuracy, error, status):
    rule = slice_outcome(small_slice(accuracy, error))
    assert rule.status is status
    if status is RuleStatus.FAIL:
        assert (rule.value, rule.cell) == (1.0, "class=s: lira, reference, global")
    if status is RuleStatus.PASS:
        assert rule.cell.startswith("class=a")
        assert math.isfinite(rule.high)
        assert rule.reason.endswith("not proven safe, with fewer than 100 persons on a side: class=s")


def test_a_small_slice_that_the_policy_asks_for_leaves_the_rule_open():
    rule = slice_outcome(small_slice(0.5, 0.1), by=["class"])
    assert rule.status is RuleStatus.INCONCLUSIVE
    assert "the policy asks for slices that are not proven safe" in rule.reason
    assert slice_outcome(small_slice(0.5, 0.1, by="sex"), by=["class"]).status is RuleStatus.PASS
    assert slice_outcome(small_slice(1.0, 0.02), by=["class"]).status is RuleStatus.FAIL


def test_a_slice_too_small_to_be_measured_is_named():
    seen = replace(small_slice(0.5, 0.1), left_out=(("class", "t"), ("sex", "f")))
    assert slice_outcome(seen).reason.endswith("persons on a side: class=s, class=t, sex=f")
    alone = replace(evidence([result("correctness"), sliced("lira", {"a": 0.5})]), left_out=(("class", "t"),))
    assert slice_outcome(alone).status is RuleStatus.PASS
    assert slice_outcome(alone).reason.endswith("persons on a side: class=t")
    asked = slice_outcome(alone, by=["class"])
    assert (asked.status, "class=t" in asked.reason) == (RuleStatus.INCONCLUSIVE, True)


def test_where_no_slice_is_large_a_proven_leak_fails_and_a_suspected_one_is_open():
    def found(accuracy, error):
        one = sliced("lira", {"a": accuracy}, persons=40, error=error)
        return slice_outcome(evidence([result("correctness"), one]))

    assert found(0.95, 0.02).status is RuleStatus.FAIL
    assert found(0.79, 0.05).status is RuleStatus.INCONCLUSIVE
    assert found(0.75, 0.05).status is RuleStatus.NOT_APPLICABLE


def test_without_a_large_slice_the_rule_says_what_there_is():
    seen = evidence([sliced("lira", {"a": 0.5, "b": 0.5}, persons=40)])
    found = examine("PG203", seen)
    assert found.status is RuleStatus.NOT_APPLICABLE
    assert "no slice has 100 persons" in found.reason
    assert "40 members and 40 non-members" in found.reason
    assert isinstance(examine("PG203", seen, fewest=40), Measured)
    assert examine("PG203", evidence([result("lira")])).status is RuleStatus.NOT_APPLICABLE


def test_a_slice_that_the_policy_asks_for_must_be_there():
    seen = evidence([sliced("lira", {"a": 0.5})])
    found = examine("PG203", seen, by=["sex", "class"])
    assert found.status is RuleStatus.INCONCLUSIVE
    assert "no slices by sex; the records are sliced by class" in found.reason
    both = replace(
        sliced("lira", {"a": 0.5}),
        slices=(*sliced("lira", {"a": 0.5}).slices, *sliced("x", {"f": 0.9}, by="sex").slices),
    )
    assert [c.group for c in examine("PG203", evidence([both]), by=["sex"]).cells] == ["sex=f"]
    assert len(examine("PG203", evidence([both])).cells) == 2


def test_slices_of_attacks_that_broke_are_an_error():
    broken = examine("PG203", evidence([AttackFailed("lira", "reference", ThreatModel.REFERENCE, "boom")]))
    assert (broken.cells, broken.broken) == ((), True)


def test_which_slices_are_left_out_is_loosening():
    parse = CATALOG["PG203"].settings.model_validate
    base = parse({"max": 0.7})
    assert parse({"max": 0.7, "by": ["class"]}).loosened(base) == ["by"]
    assert base.loosened(parse({"max": 0.7, "by": ["class"]})) == []
    assert parse({"max": 0.7, "by": ["class"]}).loosened(parse({"max": 0.7, "by": ["class", "sex"]})) == ["by"]
    assert parse({"max": 0.7, "fewest": 101}).loosened(base) == ["fewest"]
    assert parse({"max": 0.7, "fewest": 99}).loosened(base) == []


# --- PG204 ----------------------------------------------------------------------------------------------------------


def test_the_debiased_error_counts_where_there_is_one():
    seen = evidence()
    both = replace(seen, risk=replace(seen.risk, errors={"ece": Known(0.09), "ece_debiased": Known(0.02)}))
    (cell,) = examine("PG204", both).cells
    assert (cell.measurement.value, cell.name) == (0.02, "calibrated, ece_debiased")
    assert examine("PG204", seen).cells[0].measurement.value == 0.01
    none = examine("PG204", replace(seen, risk=replace(seen.risk, errors={"rmse": Known(0.01)})))
    assert none.cells == ()
    assert "was not measured" in none.nothing
    assert examine("PG204", evidence(attributable=None)).nothing == "no risk scores were estimated"


# --- PG301 ----------------------------------------------------------------------------------------------------------

KNN = "sklearn.neighbors._classification.KNeighborsClassifier"
FOREST = "sklearn.ensemble._forest.RandomForestClassifier"


@pytest.mark.parametrize(
    ("name", "keeps"),
    [
        (KNN, True),
        ("sklearn.neighbors._nearest_centroid.NearestCentroid", False),
        ("sklearn.svm._classes.SVC", True),
        ("sklearn.svm._classes.LinearSVC", False),
        ("sklearn.gaussian_process._gpc.GaussianProcessClassifier", True),
        ("sklearn.neighbors._kde.KernelDensity", True),
        ("sklearnex.neighbors.knn_classification.KNeighborsClassifier", True),
        ("sklearn.linear_model._logistic.LogisticRegression", False),
        # A name alone, or a path that only looks alike, is none.
        ("mine.KNeighborsClassifier", False),
        ("mysklearn.neighbors.KNeighborsClassifier", False),
        ("sklearn.neighborsx.KNeighborsClassifier", False),
        ("sklearn.tree.KNeighborsClassifier", False),
        ("sklearn.SVC", False),
    ],
)
def test_which_estimators_keep_records(name, keeps):
    assert instance_based(name) is keeps


def wrapped(inner, **more):
    return {"class": "sklearn.calibration.CalibratedClassifierCV", "params": {"estimator": inner, **more}}


@pytest.mark.parametrize(
    ("recipe", "status"),
    [
        ({"class": FOREST, "params": {}}, RuleStatus.PASS),
        ({"class": KNN, "params": {}}, RuleStatus.FAIL),
        (wrapped({"class": KNN, "params": {}}), RuleStatus.FAIL),
        (
            {
                "class": "sklearn.pipeline.Pipeline",
                "params": {
                    "steps": [
                        ["s", {"class": "sklearn.preprocessing._data.StandardScaler", "params": {}}],
                        ["c", wrapped({"class": "sklearn.svm._classes.SVC", "params": {"kernel": "linear"}})],
                    ]
                },
            },
            RuleStatus.FAIL,
        ),
        (wrapped({"class": "mine.Model", "params": {}}), RuleStatus.INCONCLUSIVE),
        ({"class": "mine.Model", "params": {}}, RuleStatus.INCONCLUSIVE),
        (wrapped({"sha256": "ab"}), RuleStatus.INCONCLUSIVE),  # a part without get_params hides its class
        ({"class": FOREST, "params": {"monotonic_cst": {"sha256": "ab"}}}, RuleStatus.PASS),  # a setting, no part
        # What a search might have chosen, nobody can say.
        (
            {
                "class": "sklearn.model_selection._search.GridSearchCV",
                "params": {
                    "estimator": {"class": FOREST, "params": {}},
                    "param_grid": {"items": [["'m'", [{"class": KNN, "params": {}}]]]},
                },
            },
            RuleStatus.INCONCLUSIVE,
        ),
        ({}, RuleStatus.INCONCLUSIVE),
    ],
)
def test_recipes(recipe, status):
    found = examine("PG301", evidence(model=Description("sklearn", "classifier", (0, 1), recipe)))
    assert found.status is status
    if status is RuleStatus.FAIL:
        assert "made of training records" in found.reason


def test_a_proven_part_outweighs_an_unknown_one():
    recipe = {"class": "mine.Stack", "params": {"estimators": [["k", {"class": KNN, "params": {}}]]}}
    assert (
        examine("PG301", evidence(model=Description("sklearn", "classifier", None, recipe))).status is RuleStatus.FAIL
    )
    assert list(estimators(recipe)) == [("mine.Stack", True), (KNN, True)]


def test_a_class_that_somebody_has_looked_at_is_cleared():
    mine = evidence(model=described("mine.Model"))
    found = examine("PG301", mine, cleared=["mine.Model"])
    assert found.status is RuleStatus.PASS
    assert "cleared by the policy: mine.Model" in found.reason
    assert examine("PG301", mine, cleared=["mine.Other"]).status is RuleStatus.INCONCLUSIVE
    # What is known to keep records cannot be cleared away.
    assert examine("PG301", evidence(model=described(KNN)), cleared=[KNN]).status is RuleStatus.FAIL


@pytest.mark.parametrize(
    ("flavor", "status"),
    [
        ("pytorch", RuleStatus.PASS),
        ("lightgbm", RuleStatus.PASS),
        ("xgboost", RuleStatus.PASS),
        ("pyfunc", RuleStatus.INCONCLUSIVE),
        ("sklearn", RuleStatus.INCONCLUSIVE),
    ],
)
def test_models_without_a_recipe(flavor, status):
    found = examine("PG301", evidence(model=Description(flavor, "unknown", None, None)))
    assert found.status is status
    assert flavor in found.reason


def test_predictions_alone_have_no_model():
    assert examine("PG301", evidence()).status is RuleStatus.NOT_APPLICABLE


def test_more_contexts_and_classes_are_looser():
    parse = CATALOG["PG301"].settings.model_validate
    base = parse({})
    assert parse({"warn_in": ["internal", "public-api"]}).loosened(base) == ["warn_in"]
    assert parse({"warn_in": []}).loosened(base) == []
    assert parse({"cleared": ["mine.Model"]}).loosened(base) == ["cleared"]
    assert base.loosened(parse({"cleared": ["mine.Model"]})) == []


# --- PG302 ----------------------------------------------------------------------------------------------------------


def test_the_gap_is_the_advantage_of_correctness_alone():
    seen = evidence([result("correctness", accuracy=0.53), result("lira", accuracy=0.9)])
    (cell,) = examine("PG302", seen).cells
    assert cell.measurement.value == pytest.approx(0.06)
    gone = examine("PG302", evidence([result("lira")]))
    assert (gone.cells, gone.nothing) == ((), "the attack correctness did not run")
    broken = [AttackFailed("correctness", "correctness", ThreatModel.KNOWN_SUBSET, "boom"), result("lira")]
    assert examine("PG302", evidence(broken)).broken
    others = [result("correctness"), AttackFailed("lira", "reference", ThreatModel.REFERENCE, "boom")]
    assert not examine("PG302", evidence(others)).broken


def test_the_gap_needs_the_records_of_half_its_size():
    gap = CATALOG["PG302"].settings.model_validate({"max": 0.1})
    accuracy = CATALOG["PG101"].settings.model_validate({"max": 0.55})
    for assumed, same in ((None, None), (0.04, 0.52)):
        ours = CATALOG["PG302"].needed(gap, Effort(assumed, 0.05, 0.8, 10, 10))
        theirs = CATALOG["PG101"].needed(accuracy, Effort(same, 0.05, 0.8, 10, 10))
        assert ours["members"] == pytest.approx(theirs["members"], abs=1)  # 0.55 - 0.52 is not exactly 0.03


# --- PG401 ----------------------------------------------------------------------------------------------------------


def test_without_a_baseline_there_is_nothing_to_compare():
    assert examine("PG401", evidence()).status is RuleStatus.NOT_APPLICABLE
    assert examine("PG401", evidence(), required=True).status is RuleStatus.INCONCLUSIVE
    parse = CATALOG["PG401"].settings.model_validate
    assert parse({"max": 0.02}).loosened(parse({"max": 0.02, "required": True})) == ["required"]
    assert parse({"max": 0.02, "required": True}).loosened(parse({"max": 0.02})) == []


def test_differences_are_named_and_the_gate_has_to_prove():
    found = examine("PG401", evidence(regression=compared(lira=0.01, entropy=0.02)), max=0.02)
    assert (found.burden, found.note) == ("gate", "")
    assert [(c.name, c.attack) for c in found.cells] == [
        ("lira, reference, global, against models:/churn/11", "lira"),
        ("entropy, reference, global, against models:/churn/11", "entropy"),
    ]
    unpaired = replace(compared(lira=0.01), paired=False)
    assert "stored reports" in examine("PG401", evidence(regression=unpaired)).note
    missed = "lira could not be compared: no report of the reference has them"
    for part in (compared(entropy=0.01), unpaired):
        assert missed in examine("PG401", evidence(regression=replace(part, note=missed))).note
    assert examine("PG401", evidence(regression=compared(entropy=0.01))).note == ""
    empty = examine("PG401", evidence(regression=replace(compared(), note="no attack in common")))
    assert (empty.cells, empty.nothing) == ((), "no attack in common")


# --- PG502 ----------------------------------------------------------------------------------------------------------


def finding(check, status, takes):
    return Finding(check, status, takes, 0.2, f"{check} is off")


def test_fired_checks_are_told_the_confounding_ones_first():
    found = [
        finding("power", "fail", Invalidates.PASS),
        finding("duplicates", "fail", Invalidates.BOTH),
        finding("shift", "warn", Invalidates.BOTH),
        finding("told", "fail", None),
    ]
    answer = examine("PG502", evidence(findings=found))
    assert answer == Decided(
        RuleStatus.INCONCLUSIVE, "not admissible: duplicates: duplicates is off; power: power is off"
    )


def test_evidence_that_nobody_looked_at_is_not_admissible():
    for found in ((), (finding("power", "not_applicable", Invalidates.PASS),)):
        assert examine("PG502", evidence(findings=found)).status is RuleStatus.INCONCLUSIVE
    warned = examine("PG502", evidence(findings=[finding("shift", "warn", Invalidates.BOTH)]))
    assert warned.status is RuleStatus.PASS
    assert warned.reason == "1 checks looked, none fired; warnings: shift"


def test_it_cannot_be_weakened_but_its_checks_get_limits():
    parse = CATALOG["PG502"].settings.model_validate
    for weak in ({"action": "warn"}, {"action": "off"}, {"enforce_from": "2030-01-01"}, {"limits": {"a": -0.1}}):
        with pytest.raises(ValueError, match="validation error"):
            parse(weak)
    base = parse({"limits": {"duplicates": 0.05}})
    assert parse({"limits": {"duplicates": 0.06}}).loosened(base) == ["limits"]
    assert parse({"limits": {"duplicates": 0.05}}).loosened(base) == []
    assert parse({"limits": {"duplicates": 0.01, "shift": 0.0}}).loosened(base) == [
        "limits"
    ]  # may be looser than its own
    assert parse({}).loosened(base) == []
    assert not CATALOG["PG502"].waivable
    assert not CATALOG["PG501"].waivable


# --- numbers that are none ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Nothing:
    value: float = math.nan

    def lower(self, alpha):
        return math.nan

    def upper(self, alpha):
        return math.nan


def test_what_is_not_a_number_is_no_pass_under_either_burden():
    from privacy_gate.policy import judge
    from tests.policy.test_judge import outcome, policy  # the helpers of the verdict

    empty = replace(compared(), differences=(("lira", Nothing()),))
    verdict = judge(policy({"PG401": {"max": 0.02}, "PG101": {"max": 0.6}}), evidence(regression=empty))
    assert outcome(verdict, "PG401").status is RuleStatus.INCONCLUSIVE


# --- how many records decide, and which numbers are the same --------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "same"), [({}, True), ({"value": 0.6}, False), ({"low": 0.3}, False), ({"high": 0.8}, False)]
)
def test_numbers_are_the_same_only_if_all_of_them_are(changed, same):
    @dataclass(frozen=True)
    class Between:
        value: float = 0.5
        low: float = 0.4
        high: float = 0.7

        def lower(self, alpha):
            return self.low

        def upper(self, alpha):
            return self.high

    assert cells.same_numbers(Between(), Between(**changed)) is same


def test_what_kept_every_attack_from_being_measured_is_told_once():
    crashed = AttackFailed("lira", "reference", ThreatModel.REFERENCE, "boom")
    skipped = AttackSkipped("rmia", "reference", ThreatModel.REFERENCE, "no references")
    told = cells.absences(evidence([result("entropy"), crashed, skipped, crashed]))
    assert told == "lira crashed: boom; rmia was skipped: no references"
    assert cells.absences(evidence([result("entropy")])) == "no attack ran that measures it"


def test_nobody_is_advised_to_find_ten_million_persons():
    assert cells.both(9_999_998.5) == {"members": 9_999_999, "nonmembers": 9_999_999}
    assert cells.both(9_999_999.5) == {"members": 10_000_000, "nonmembers": 10_000_000}
    assert cells.both(10_000_000) == {}


def needed(id, assumed, max, alpha=0.05, power=0.8):
    return CATALOG[id].needed(CATALOG[id].settings.model_validate({"max": max}), Effort(assumed, alpha, power, 10, 10))


@pytest.mark.parametrize(("assumed", "max"), [(0.6, 0.65), (0.7, 0.65), (0.55, 0.6), (0.9, 0.85)])
def test_records_for_an_auc_are_those_of_hanley_and_mcneil(assumed, max):
    q1, q2 = assumed / (2 - assumed), 2 * assumed**2 / (1 + assumed)
    z = norm.isf(0.05) + norm.ppf(0.8)
    # With n a side: variance (A (1 - A) + (n - 1)(Q1 - A^2) + (n - 1)(Q2 - A^2)) / n^2; its leading term.
    count = math.ceil((q1 + q2 - 2 * assumed**2) * (z / (max - assumed)) ** 2 + 1)
    assert needed("PG102", assumed, max) == {"members": count, "nonmembers": count}


def test_records_for_an_auc_of_chance():
    assert needed("PG102", None, 0.65) == needed("PG102", 0.5, 0.65) != {}
    assert needed("PG102", 0.65, 0.65) == {}
    assert needed("PG102", 1.0, 0.65) == {"members": 1, "nonmembers": 1}  # a perfect ranking varies no more


@pytest.mark.parametrize(
    ("score", "limit", "n", "certain"),
    [(0.8, 0.01, 700, 0), (0.8, 0.01, 1500, 0), (0.8, 0.02, 1000, 5), (0.8, 0.004, 2000, 1), (0.9, 0.01, 1200, 2)],
)
def test_the_chance_of_a_pass_against_a_slow_twin(score, limit, n, certain):
    """All walks, place by place."""

    @functools.cache
    def met(members, nonmembers):
        plausible = binom.cdf(members, members + nonmembers, score) >= 0.05
        return plausible and metrics.share_excess(members, n, nonmembers, n).upper(0.05) > limit

    walks = {(certain, 0): 1.0}
    for _ in range(120):
        walks = {place: chance for place, chance in walks.items() if not met(*place)}
        after = Counter()
        for (members, nonmembers), chance in walks.items():
            after[members + 1, nonmembers] += chance / 2
            after[members, nonmembers + 1] += chance / 2
        walks = after
    expected = sum(walks.values())
    assert 0.05 < expected < 0.995
    assert chance_of_a_pass(score, limit, n, certain / n, 0.05) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("max", [0.01, 0.05, 0.3])
def test_persons_without_a_leak_that_pass_are_those_with_the_power_asked_for(max):
    found = needed("PG201", None, max)
    assert found == needed("PG201", 0.0, max)
    count = found["members"]
    assert count == found["nonmembers"]
    # Counts are whole, so the power rises in steps and not quite steadily: found to one in a hundred.
    assert chance_of_a_pass(0.8, max, count, 0.0, 0.05) >= 0.8
    assert chance_of_a_pass(0.8, max, count * 9 // 10, 0.0, 0.05) < 0.8
    # Nobody of n at the top, and no bound of zero hits, is a pass: more than Wilson's are needed.
    assert count > norm.isf(0.05) ** 2 * (1 - max) / max
    assert needed("PG201", None, 0.0) == {}


def test_persons_that_decide_an_excess_are_those_of_a_share():
    assumed, max = 0.05, 0.02
    count = math.ceil(assumed * (1 - assumed) * ((norm.isf(0.05) + norm.ppf(0.8)) / (max - assumed)) ** 2)
    assert needed("PG201", assumed, max) == {"members": count, "nonmembers": count}
    below = [needed("PG201", assumed, 0.02)["members"] for assumed in (0.0, 0.004, 0.008)]
    assert below == sorted(below)
    assert needed("PG201", 0.02, 0.02) == {}


@pytest.mark.parametrize("there", [0, 1])
def test_the_fewest_records_in_all_are_looked_for_from_the_members_up(monkeypatch, there):
    asked = []

    def enough(fpr, limit, alpha, members, tpr):
        assert tpr == fpr
        asked.append(members)
        return None if members < 4 else 64 // members

    monkeypatch.setattr(cells.metrics, "nonmembers_to_pass_tpr", enough)
    effort = Effort(None, 0.05, 0.8, there, 10)
    settings = CATALOG["PG103"].settings.model_validate({"max": 0.05})
    # 4 + 16, 8 + 8; from 16 members on, more of them are more than 16 in all.
    assert cells.needed_for_tpr(settings, effort, 0.01) == {"members": 8, "nonmembers": 8}
    assert asked == [1, 2, 4, 8]
    monkeypatch.setattr(cells.metrics, "nonmembers_to_pass_tpr", lambda *_: None)
    assert cells.needed_for_tpr(settings, effort, 0.01) == {}


@pytest.mark.parametrize("tpr", [0.05, 0.09, 0.17, 0.28, 0.4, 0.7, 1.0])
def test_records_that_decide_a_tpr_are_found_by_trying_them_all(tpr):
    """What there is lets pass or proves a violation, by the bounds themselves, of a binormal ROC curve."""
    settings = CATALOG["PG103"].settings.model_validate({"max": 0.2})
    fpr, alpha, members = 0.05, 0.02, 300
    found = cells.needed_for_tpr(settings, Effort(tpr, alpha, 0.8, members, 50), fpr)
    there = found["members"]
    shift = norm.isf(fpr) - norm.isf(tpr)

    def decided(n):
        hits = there * norm.cdf(norm.ppf(np.arange(1, n + 1) / (n + 1)) + shift)
        measured = metrics.TprAtFpr(fpr, hits, there, n)
        return measured.lower(alpha) > 0.2 if tpr > 0.2 else measured.upper(alpha) <= 0.2

    assert decided(found["nonmembers"])
    assert not decided(found["nonmembers"] - 1)
    first = next(n for n in range(found["nonmembers"] // 2, 20_000) if decided(n))
    # Ranks are whole, so one record more may be one too many; the answer lies where that begins to end.
    assert first <= found["nonmembers"] <= 1.5 * first
    assert tpr <= 0.2 or first >= metrics.nonmembers_for_tpr(fpr, alpha)
    guessing = cells.needed_for_tpr(settings, Effort(None, alpha, 0.8, members, 50), fpr)
    assert (found == guessing) == (tpr == fpr)


def test_a_measured_violation_is_proven_with_about_as_many_records_as_are_named():
    fpr, limit, tpr, alpha = 0.05, 0.2, 0.4, 0.02
    settings = CATALOG["PG103"].settings.model_validate({"max": limit})
    found = cells.needed_for_tpr(settings, Effort(tpr, alpha, 0.8, 300, 50), fpr)
    guessing = cells.needed_for_tpr(settings, Effort(None, alpha, 0.8, 300, 50), fpr)
    draws = np.random.default_rng(7)
    shares = []
    for counts in (found, guessing):
        member = np.arange(counts["members"] + counts["nonmembers"]) < counts["members"]
        shift = norm.isf(fpr) - norm.isf(tpr)
        proven = [
            metrics.tpr_at_fpr(draws.normal(size=len(member)) + shift * member, member, np.arange(len(member)), fpr, 0)
            for _ in range(100)
        ]
        shares.append(np.mean([measured.lower(alpha) > limit for measured in proven]))
    assert 0.35 < shares[0] < 0.8
    assert shares[1] < 0.1


@pytest.mark.parametrize(("there", "limit"), [(3, 0.2), (3000, 0.01)])
def test_members_are_asked_for_where_those_there_prove_nothing(there, limit):
    settings = CATALOG["PG103"].settings.model_validate({"max": limit})
    found = cells.needed_for_tpr(settings, Effort(1.25 * limit, 0.05, 0.8, there, 10), limit / 10)
    assert found["members"] > there
    assert metrics.nonmembers_to_fail_tpr(limit / 10, limit, 0.05, there, 1.25 * limit) is None
    assert cells.needed_for_tpr(settings, Effort(limit, 0.05, 0.8, there, 10), limit / 10) == {}


# --- what is said ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("small", "named"),
    [
        ("b", "class=b"),
        ("bcd", "class=b, class=c, class=d"),
        ("bcde", "class=b, class=c, class=d and 1 more"),
        ("bcdefg", "class=b, class=c, class=d and 3 more"),
    ],
)
def test_of_many_small_slices_three_are_named(small, named):
    lira = sliced("lira", {"a": 0.5})
    few = tuple(SliceAccuracy("class", name, 5, 5, Known(0.5)) for name in small)
    found = examine("PG203", evidence([replace(lira, slices=(*lira.slices, *few))]))
    assert found.note == f"not proven safe, with fewer than 100 persons on a side: {named}"


def test_the_slices_that_are_asked_for_are_at_least_one():
    with pytest.raises(ValueError, match="by"):
        examine("PG203", evidence(), by=[])
    with pytest.raises(ValueError, match="fewest"):
        examine("PG203", evidence(), fewest=0)
    assert isinstance(examine("PG203", evidence([sliced("lira", {"a": 0.5}, persons=1)]), fewest=1), Measured)
    with pytest.raises(ValueError, match="attacks"):
        examine("PG501", evidence(), attacks=[])


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"class": FOREST, "params": {}}, "no part keeps training records (RandomForestClassifier)"),
        (wrapped({"class": FOREST, "params": {}}), "no part keeps training records (CalibratedClassifierCV)"),
        (wrapped({"class": "mine.Model", "params": {}}), "carries training records: mine.Model; after a look"),
        (wrapped({"sha256": "ab"}), "carries training records: a part that does not tell its class; after a look"),
        ({"sha256": "ab"}, "carries training records: a part that does not tell its class; after a look"),
        ({}, "carries training records: no estimator was found; after a look"),
        (wrapped({"class": KNN, "params": {}}), f"{KNN}: the model is made of training records"),
    ],
)
def test_what_is_said_of_a_recipe(recipe, said):
    assert said in examine("PG301", evidence(model=Description("sklearn", "classifier", (0, 1), recipe))).reason


def test_why_there_is_no_gap_is_said():
    broken = [AttackFailed("correctness", "correctness", ThreatModel.KNOWN_SUBSET, "boom"), result("lira")]
    assert examine("PG302", evidence(broken)).nothing == "correctness crashed: boom"
    other = [AttackFailed("lira", "reference", ThreatModel.REFERENCE, "boom")]
    assert examine("PG302", evidence(other)).nothing == "the attack correctness did not run"


def test_a_baseline_is_required_by_true_alone():
    for given in ("yes", 1, "true"):
        with pytest.raises(ValueError, match="required"):
            examine("PG401", evidence(), required=given)


@pytest.mark.parametrize(("kind", "verb"), [(AttackFailed, "crashed"), (AttackSkipped, "was skipped")])
def test_of_several_threat_models_that_are_missing_the_first_is_named(kind, verb):
    outcomes = [
        result("entropy"),
        kind("entropy", "metric", ThreatModel.SHADOW, "first"),
        kind("entropy", "metric", ThreatModel.KNOWN_SUBSET, "second"),
    ]
    found = examine("PG501", evidence(outcomes), attacks=["entropy"])
    assert found.reason == f"entropy (shadow) {verb}: first"


@pytest.mark.parametrize("limit", ["0.1", math.inf, math.nan, -0.001])
def test_a_limit_of_a_check_is_a_number_that_is_not_negative(limit):
    with pytest.raises(ValueError, match="limits"):
        examine("PG502", evidence(), limits={"duplicates": limit})
    assert CATALOG["PG502"].settings.model_validate({"limits": {"duplicates": 0.0}}).limits == {"duplicates": 0.0}
