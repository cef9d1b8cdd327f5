"""What each check does between its clean world and the one in which it fires."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2_contingency, ncx2
from scipy.stats import t as student

from privacy_gate import metrics
from privacy_gate.validity import CATALOG
from privacy_gate.validity.bounds import Effect, clustered_variance
from privacy_gate.validity.class_marginals import noncentrality
from privacy_gate.validity.risk_calibration import binned, bounds
from privacy_gate.validity.saturated_outputs import tied
from privacy_gate.validity.shadow_fidelity import difference
from tests.validity.worlds import circumstances, policy, without_shadows

CLEAN = circumstances(n=2000)


def run(check, world):
    return CATALOG[check].run(world)


def test_an_effect_is_proven_excluded_or_open():
    assert Effect(0.2, 0.11, 0.3).against(0.1) == "fail"
    assert Effect(0.05, 0.0, 0.1).against(0.1) == "pass"
    assert Effect(0.2, 0.1, 0.3).against(0.1) == "warn"
    assert Effect(math.nan, math.nan, math.nan).against(0.1) == "warn"


def test_clustered_variance_is_the_plain_one_without_clusters():
    values = np.random.default_rng(0).normal(size=50)
    assert clustered_variance(values, np.arange(50)) == pytest.approx(values.var(ddof=1) / 50)
    # Each value twice, by the same person: no more is known than before, up to the finite-sample factor.
    twice = clustered_variance(np.repeat(values, 2), np.repeat(np.arange(50), 2))
    assert twice == pytest.approx(values.var(ddof=1) / 50)
    assert clustered_variance(values, np.zeros(50, dtype=int)) == math.inf


class TestDuplicates:
    @pytest.mark.parametrize(
        ("count", "status"), [(0, "pass"), (10, "pass"), (11, "warn"), (50, "warn"), (51, "fail"), (1000, "fail")]
    )
    def test_share(self, count, status):
        finding = run("duplicates", replace(CLEAN, duplicates=count, candidates=1000))
        assert finding.status == status
        assert finding.value == count / 1000
        assert count == 0 or str(f"{count:,} of 1,000") in finding.reason

    def test_limit_can_be_set(self):
        world = replace(CLEAN, duplicates=30, candidates=1000, limits={"duplicates": 0.02})
        assert run("duplicates", world).status == "fail"

    def test_nothing_compared(self):
        assert run("duplicates", replace(CLEAN, duplicates=0, candidates=0)).status == "not_applicable"


class TestShadowFidelity:
    def test_small_differences_pass_and_large_ones_fire(self):
        statuses = [
            run("shadow_fidelity", circumstances(shadow_accuracy=(0.95 - gap, 0.85))).status
            for gap in (0.0, 0.01, 0.03, 0.06, 0.12)
        ]
        assert statuses == ["pass", "pass", "warn", "fail", "fail"]

    def test_a_warning_does_not_read_like_a_pass(self):
        reasons = [
            run("shadow_fidelity", circumstances(shadow_accuracy=(0.95 - gap, 0.85))).reason for gap in (0.0, 0.03)
        ]
        assert all("could be up to" in reason and "at most" not in reason for reason in reasons)
        warned = ["it may be more than 3 points: more shadows would tell" in reason for reason in reasons]
        assert warned == [False, True]

    def test_either_side_and_either_direction(self):
        for accuracy in ((0.85, 0.85), (0.95, 0.75), (0.95, 0.95), (0.99, 0.70)):
            assert run("shadow_fidelity", circumstances(shadow_accuracy=accuracy)).status == "fail"

    @pytest.mark.parametrize(("size", "status"), [(1.0, "pass"), (0.92, "pass"), (0.85, "fail"), (1.2, "fail")])
    def test_training_size(self, size, status):
        assert run("shadow_fidelity", circumstances(size=size)).status == status

    def test_sizes_of_loaded_shadows_are_not_known(self):
        world = circumstances(size=0.5)
        assert run("shadow_fidelity", replace(world, plan=replace(world.plan, kind="loaded"))).status == "pass"

    def test_few_shadows_only_warn(self):
        assert run("shadow_fidelity", circumstances(shadows=3)).status == "warn"
        assert run("shadow_fidelity", circumstances(n=300, shadows=1)).status == "warn"
        assert run("shadow_fidelity", without_shadows()).status == "not_applicable"

    def test_four_questions_and_all_checks_share_the_level(self):
        world = circumstances(n=500, target_accuracy=(0.95, 0.85), shadow_accuracy=(0.75, 0.85))
        value, corrected = difference(world, 0.05 / len(CATALOG) / 4, members=True)
        _, half_corrected = difference(world, 0.05 / len(CATALOG), members=True)
        low, too_high = value - corrected, value - half_corrected
        assert 0 < low < too_high
        for limit, status in ((low - 1e-6, "fail"), ((low + too_high) / 2, "warn")):
            assert run("shadow_fidelity", replace(world, limits={"shadow_fidelity": limit})).status == status

    def test_difference_by_hand(self):
        world = circumstances(n=40, shadows=5, records_per_person=2)
        inside, member = world.observations.reference_member, world.audit.member
        per_shadow = [world.shadow_correct[s][inside[s]].mean() for s in range(5)]
        variance = np.var(per_shadow, ddof=1) / 5
        target = world.target_correct[member].astype(float)
        per_record = np.array(
            [world.shadow_correct[inside[:, r], r].mean() if inside[:, r].any() else np.nan for r in range(80)]
        )
        seen = ~np.isnan(per_record)
        for values, persons in ((target, world.audit.persons[member]), (per_record[seen], world.audit.persons[seen])):
            sums = [(values[persons == p] - values.mean()).sum() for p in np.unique(persons)]
            variance += len(sums) / (len(sums) - 1) * np.square(sums).sum() / len(values) ** 2
        value, margin = difference(world, 0.01, members=True)
        assert value == pytest.approx(target.mean() - np.mean(per_shadow))
        assert margin == pytest.approx(student.isf(0.01, 4) * math.sqrt(variance))


class TestFewReferences:
    @pytest.mark.parametrize(
        ("shadows", "status"), [(2, "fail"), (3, "fail"), (4, "warn"), (7, "warn"), (8, "pass"), (32, "pass")]
    )
    def test_count(self, shadows, status):
        assert run("few_references", circumstances(n=500, shadows=shadows)).status == status

    def test_out_only_references_are_no_fault(self):
        world = circumstances(n=100, shadows=8)
        out = np.zeros((8, 200), dtype=np.bool_)
        finding = run("few_references", _with_references(world, out))
        assert finding.status == "pass"
        assert "one-sided form for all records: no record is in 2 reference models" in finding.reason

    def test_records_seen_by_too_few(self):
        world = circumstances(n=100, shadows=8)
        inside = np.zeros((8, 200), dtype=np.bool_)
        inside[:4] = True
        assert run("few_references", _with_references(world, inside)).status == "pass"
        inside = inside.copy()  # observations freeze what they are given
        inside[:, 7] = True
        finding = run("few_references", _with_references(world, inside))
        assert finding.status == "warn"
        assert "1 record is in or out of fewer than 2" in finding.reason

    @pytest.mark.parametrize(("thin", "told"), [(0, ""), (10, "prior for 10 of them"), (11, "one-sided form")])
    def test_says_what_became_of_the_attack(self, thin, told):
        """Of 200 records 5 % may lack references: with one more, the attack changes for all of them."""
        world = circumstances(n=100, shadows=8)
        inside = np.repeat(np.arange(8) < 4, 200).reshape(8, 200)
        inside[1:, :thin] = False
        finding = run("few_references", _with_references(world, inside))
        assert finding.status == ("warn" if thin else "pass")
        assert told in finding.reason
        assert ("LiRA" in finding.reason) == bool(thin)
        others = replace(world, attacks=[a for a in world.attacks if a.id != "lira"])
        assert "LiRA" not in run("few_references", _with_references(others, inside)).reason

    def test_no_matter_without_a_reference_attack(self):
        world = circumstances(n=100, shadows=2)
        assert run("few_references", replace(world, attacks=world.attacks[:1])).status == "not_applicable"


def _with_references(world, inside):
    return replace(world, observations=replace(world.observations, reference_member=inside))


@pytest.mark.parametrize(
    ("share", "status"), [(0.0, "pass"), (0.01, "pass"), (0.02, "warn"), (0.5, "warn"), (0.51, "fail")]
)
def test_saturation(share, status):
    assert run("saturated_outputs", replace(CLEAN, saturated=share)).status == status


@pytest.mark.parametrize(
    ("declared", "configured", "status"),
    [
        (None, "", "pass"),
        ("", "", "pass"),
        ("None", "", "pass"),
        (None, "rounding", "pass"),
        ("DP-SGD", "dp_sgd", "pass"),
        (" memguard ", "memguard", "pass"),
        ("memguard", "", "fail"),
        ("memguard", "rounding", "fail"),
    ],
)
def test_declared_defences(declared, configured, status):
    assert run("undeclared_defence", replace(CLEAN, declared_defence=declared, defence=configured)).status == status


def test_a_declared_digest_must_match():
    declared = {"declared_defence": "memguard", "declared_digest": "a" * 64, "defence": "memguard"}
    assert run("undeclared_defence", replace(CLEAN, **declared, defence_digest="a" * 64)).status == "pass"
    other = run("undeclared_defence", replace(CLEAN, **declared, defence_digest="b" * 64))
    assert other.status == "fail"
    assert "aaaaaaaaaaaa" in other.reason


class TestCoarseOutputs:
    def coarse(self, step, shadows_too):
        world = circumstances(n=500)
        seen = world.observations

        def rounded(values):
            return np.round(values / step) * step

        target = {"logit_confidence": rounded(seen.target["logit_confidence"])}
        answers = seen.references["logit_confidence"]
        references = {"logit_confidence": rounded(answers) if shadows_too else answers}
        return replace(world, observations=replace(seen, target=target, references=references))

    def test_a_target_coarser_than_its_shadows_was_rounded_on_the_way(self):
        finding = run("saturated_outputs", self.coarse(0.05, shadows_too=False))
        assert finding.status == "fail"
        assert "defence" in finding.reason

    def test_coarse_by_nature_is_no_fault(self):
        assert run("saturated_outputs", self.coarse(0.05, shadows_too=True)).status == "pass"

    def test_a_little_coarser_is_noticed(self):
        assert run("saturated_outputs", self.coarse(0.002, shadows_too=False)).status == "warn"

    def test_one_answer_for_most(self):
        finding = run("saturated_outputs", self.coarse(100.0, shadows_too=False))
        assert finding.status == "fail"
        assert "one and the same answer" in finding.reason
        # A tree on a rare class answers 1 for most records, and so do its shadows.
        by_nature = run("saturated_outputs", self.coarse(100.0, shadows_too=True))
        assert by_nature.status == "warn"
        assert "nature" in by_nature.reason

    def test_share_of_ties(self):
        assert tied(np.array([1.0, 2.0, 2.0, 2.0])) == 0.5
        assert tied(np.array([])) == 0.0


class TestTwoSample:
    def shifted(self, by, n=4000):
        world = circumstances(n=n, shadows=0)
        return replace(world, inputs=replace(world.inputs, scores=world.inputs.scores + by * world.inputs.member))

    @pytest.mark.parametrize(("by", "status"), [(0.0, "pass"), (0.18, "warn"), (0.5, "fail"), (-0.5, "fail")])
    def test_either_direction(self, by, status):
        # AUC Phi(by / sqrt 2): .500, .551, .638 and .362
        assert run("two_sample", self.shifted(by)).status == status

    def test_the_limit_can_be_set(self):
        assert run("two_sample", replace(self.shifted(0.5), limits={"two_sample": 0.3})).status == "pass"

    def test_below_one_half_speaks_of_copies(self):
        assert "copies" in run("two_sample", self.shifted(-0.5)).reason
        assert "source" in run("two_sample", self.shifted(0.5)).reason

    def test_too_few_to_hold_out(self):
        world = circumstances(n=100, shadows=0)
        none = replace(
            world.inputs, scores=np.empty(0), member=np.empty(0, dtype=np.bool_), persons=np.empty(0, dtype=np.int64)
        )
        assert run("two_sample", replace(world, inputs=none)).status == "warn"
        assert run("two_sample", replace(world, inputs=None)).status == "not_applicable"


class TestNearDuplicates:
    def found(self, near, expected, compared=1000):
        inputs = replace(CLEAN.inputs, near=near, expected=expected, compared=compared)
        return run("near_duplicates", replace(CLEAN, inputs=inputs))

    @pytest.mark.parametrize(
        ("near", "expected", "status"),
        [
            (0, 0.0, "pass"),
            (20, 0.0, "pass"),
            (50, 0.0, "warn"),
            (100, 0.0, "fail"),
            (900, 900.0, "pass"),
            (900, 700.0, "fail"),
            (500, 600.0, "pass"),
        ],
    )
    def test_the_excess_counts(self, near, expected, status):
        finding = self.found(near, expected)
        assert finding.status == status
        assert finding.value == pytest.approx(max(near - expected, 0) / 1000)

    def test_few_only_warn(self):
        assert self.found(3, 0.0, compared=20).status == "warn"

    def test_not_looked_for(self):
        assert self.found(None, 0.0).status == "not_applicable"
        assert self.found(0, 0.0, compared=0).status == "not_applicable"


class TestPower:
    def test_names_the_rules_that_cannot_be_decided(self):
        finding = run("power", replace(circumstances(n=1000), policy=policy("PG101", "PG104")))
        assert (finding.status, finding.value) == ("warn", 0.5)
        assert "PG104" in finding.reason
        assert "PG101" not in finding.reason

    def test_fires_when_nothing_can_be_decided(self):
        assert run("power", circumstances(n=300, policy=policy("PG103", "PG104"))).status == "fail"

    def test_either_decision_is_one(self):
        # 60 records prove a perfect attack's accuracy above 0.6, and cannot prove that a guess stays below it;
        # with 400 it is the other way round for a TPR at 1 %.
        for rule, n, cannot, can in (
            ("PG101", 60, "cannot pass", "cannot be proven"),
            ("PG103", 400, "cannot be proven", "cannot pass"),
        ):
            finding = run("power", circumstances(n=n, policy=policy(rule)))
            assert finding.status == "warn"
            assert cannot in finding.reason
            assert can not in finding.reason

    def test_rules_that_only_warn_do_not_count(self):
        only = policy("PG101", "PG104")
        warns = replace(only.rules[1], settings=only.rules[1].settings.model_copy(update={"action": "warn"}))
        world = replace(circumstances(n=1000), policy=replace(only, rules=(only.rules[0], warns)))
        assert run("power", world).status == "pass"

    def test_nothing_to_decide(self):
        assert run("power", replace(CLEAN, policy=None)).status == "not_applicable"
        assert run("power", replace(CLEAN, attacks=(), risk=None)).status == "not_applicable"
        assert run("power", replace(CLEAN, policy=policy("PG501"))).status == "not_applicable"


class TestRiskCalibration:
    def off(self, by, n=4000, **knobs):
        world = circumstances(n=n, shadows=0, **knobs)
        return replace(world, risk=replace(world.risk, scores=np.clip(world.risk.scores + by, 0, 1)))

    @pytest.mark.parametrize(
        ("by", "status"), [(0.0, "pass"), (0.05, "pass"), (0.1, "warn"), (0.2, "fail"), (-0.2, "fail")]
    )
    def test_scores_that_are_off_by_so_much(self, by, status):
        finding = run("risk_calibration", self.off(by))
        assert finding.status == status
        assert finding.value == pytest.approx(abs(by), abs=0.03)  # three standard errors of a bin of 500 a side

    def test_chance_is_taken_off(self):
        # The plain error of 60 records is about sqrt(10 * .25 / 120) = .14; without chance it is 0 on average.
        squares = []
        for seed in range(200):
            world = circumstances(n=60, shadows=0, seed=seed)
            squares.append(binned(world.risk.scores, world.audit.member, world.audit.persons).squared_error)
        error = np.std(squares) / math.sqrt(len(squares))
        assert abs(np.mean(squares)) < 3 * error
        assert max(squares) > 0.01

    def test_the_bounds_hold_at_their_rates(self):
        # Off by exactly the limit: proven above it in at most 5 %, and within it in at most 5 %; 200 worlds, three
        # standard errors of slack.
        wrong = {"fail": 0, "pass": 0}
        for seed in range(200):
            world = self.off(0.1, n=800, seed=seed)
            low, high = bounds(binned(world.risk.scores, world.audit.member, world.audit.persons), (0.05, 0.95), seed)
            wrong["fail"] += low > 0.1
            wrong["pass"] += high < 0.1
        assert max(wrong.values()) <= 200 * (0.05 + 3 * math.sqrt(0.05 * 0.95 / 200))

    def test_sums_by_hand(self):
        scores = np.array([0.05, 0.05, 0.95, 0.91, 0.05, 0.95])
        member = np.array([False, True, True, True, False, False])
        bins = binned(scores, member, np.arange(6))
        weight = 1 / 6  # three records on either side
        assert bins.mass == pytest.approx([0.5, 0.5])
        assert bins.gap == pytest.approx([weight * (0.05 - 0.95 + 0.05), weight * (-0.05 - 0.09 + 0.95)])
        variance = 0.0
        for values in ([0.0, -0.95, 0.0], [0.05, 0.05, 0.0]):  # members, then others, as they add to the first bin
            centred = weight * (np.array(values) - np.mean(values))
            variance += 3 / 2 * np.square(centred).sum()
        assert bins.covariance[0, 0] == pytest.approx(variance)

    def test_records_of_one_person_prove_less(self):
        alone, together = (self.off(0.13, n=2000, records_per_person=m) for m in (1, 20))
        # Every record of a person gets the person's first score: one record says as much as twenty.
        first = np.arange(4000) // 20 * 20
        together = replace(together, risk=replace(together.risk, scores=together.risk.scores[first]))
        widths = []
        for world in (alone, together):
            low, high = bounds(binned(world.risk.scores, world.audit.member, world.audit.persons), (0.05, 0.95), 0)
            widths.append(high - low)
        assert widths[1] > 2 * widths[0]

    def test_no_scores(self):
        assert run("risk_calibration", replace(CLEAN, risk=None)).status == "not_applicable"
        broken = replace(CLEAN.risk, scores=np.full(CLEAN.observations.n, np.nan))
        assert run("risk_calibration", replace(CLEAN, risk=broken)).status == "warn"


class TestOutModelPlacebo:
    @pytest.mark.parametrize(("shift", "word"), [(0.5, "easier"), (-0.5, "harder")])
    def test_members_that_are_easier_or_harder(self, shift, word):
        finding = run("out_model_placebo", circumstances(shift=shift))
        assert finding.status == "fail"
        assert word in finding.reason

    def test_a_leak_is_not_a_shift(self):
        # The IN models know their records by a wide margin; only OUT answers are compared.
        world = circumstances()
        leaky = world.observations.references["logit_confidence"] + 5.0 * world.observations.reference_member
        observations = replace(world.observations, references={"logit_confidence": leaky})
        before, after = (
            run("out_model_placebo", world),
            run("out_model_placebo", replace(world, observations=observations)),
        )
        assert after.status == "pass"
        assert after.value == pytest.approx(before.value)

    def test_mean_over_out_models_by_hand(self):
        world = circumstances(n=30, shadows=2)
        answers, inside = world.observations.references["logit_confidence"], world.observations.reference_member
        rows = [r for r in range(60) if not inside[:, r].all()]
        scores = np.array([answers[~inside[:, r], r].mean() for r in rows])
        auc = metrics.auc(scores, world.audit.member[rows], world.audit.persons[rows])
        assert run("out_model_placebo", world).value == pytest.approx(auc.value)

    def test_small_sets_only_warn(self):
        assert run("out_model_placebo", circumstances(n=100)).status == "warn"

    def test_without_out_models(self):
        world = circumstances(n=30, shadows=4)
        assert (
            run("out_model_placebo", _with_references(world, np.ones((4, 60), dtype=np.bool_))).status
            == "not_applicable"
        )
        assert run("out_model_placebo", without_shadows()).status == "not_applicable"


class TestClassMarginals:
    def test_the_effect_is_cramers_v_without_its_bias(self):
        world = circumstances(n=500, label_shift=0.3)
        table = np.array(
            [[(world.audit.labels[s] == k).sum() for k in range(4)] for s in (world.audit.member, ~world.audit.member)]
        )
        expected = math.sqrt((chi2_contingency(table, correction=False).statistic - 3) / table.sum())
        assert run("class_marginals", world).value == pytest.approx(expected)

    def test_small_differences_do_not_fire_however_many_records_prove_them(self):
        finding = run("class_marginals", circumstances(n=40_000, shadows=2, label_shift=0.05))
        assert finding.status == "pass"
        assert finding.value > 0.02

    def test_small_sets_only_warn(self):
        assert run("class_marginals", circumstances(n=100, shadows=2)).status == "warn"

    def test_many_classes_alone_are_no_difference(self):
        # Plain V is sqrt(29/2000) = .12 on average here, above the limit, with equal mixtures.
        findings = [run("class_marginals", circumstances(n=1000, classes=30, shadows=2, seed=s)) for s in range(10)]
        assert np.mean([finding.value for finding in findings]) < 0.04
        assert {finding.status for finding in findings} <= {"pass", "warn"}

    def test_persons_with_many_records_prove_less(self):
        alone, together = (
            run("class_marginals", circumstances(n=600, shadows=2, label_shift=0.25, records_per_person=m))
            for m in (1, 10)
        )
        assert alone.status == "fail"
        assert together.status == "warn"

    def test_one_class_or_one_set(self):
        world = circumstances(n=50, shadows=2, label_shift=1.0)
        same = replace(world, audit=replace(world.audit, labels=np.zeros(100, dtype=np.int64)))
        assert run("class_marginals", same).status == "not_applicable"
        members = replace(world, audit=replace(world.audit, member=np.ones(100, dtype=np.bool_)))
        assert run("class_marginals", members).status == "not_applicable"

    @pytest.mark.parametrize(("statistic", "freedom"), [(20.0, 3), (500.0, 29), (5000.0, 1)])
    def test_noncentrality_inverts_the_distribution(self, statistic, freedom):
        for tail in (0.006, 0.5, 0.95):
            noncentral = noncentrality(statistic, freedom, tail)
            assert ncx2.sf(statistic, freedom, noncentral) == pytest.approx(tail, rel=1e-6)

    def test_noncentrality_of_a_statistic_that_chance_explains(self):
        assert noncentrality(1.0, 3, 0.05) == 0.0

    def test_the_bounds_hold_at_their_rates(self):
        # V = .08 in truth; 400 worlds, 3 standard errors of slack.
        rng = np.random.default_rng(5)
        n, freedom, v = 4000, 3, 0.08
        draws = ncx2.rvs(freedom, n * v**2, size=400, random_state=rng)
        above = np.mean([math.sqrt(noncentrality(x, freedom, 0.05) / n) > v for x in draws])
        below = np.mean([math.sqrt(noncentrality(x, freedom, 0.95) / n) < v for x in draws])
        assert max(above, below) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
