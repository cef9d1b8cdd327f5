"""The worlds of the self-test: true to their closed forms, and able to find a gate that breaks its promises."""

import importlib
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from privacy_gate import metrics, selftest
from privacy_gate.selftest import CATALOG
from privacy_gate.selftest import tpr_rule as tpr
from privacy_gate.selftest.k01_gaussian_shift import gaussian
from privacy_gate.selftest.k02_randomised_response import responses
from privacy_gate.selftest.k06_heterogeneous_risk import Classes
from privacy_gate.selftest.k10_trained_models import EPSILON, private
from privacy_gate.selftest.models import SHADOWS, Models

FEW = 40


def held(id, replicates=FEW, seed=0):
    return {promise.id: promise.held for promise in CATALOG[id].run(seed, replicates)}


# --- the worlds are what they are said to be --------------------------------------------------------------------------


def test_responses_have_the_accuracy_asked_for():
    member = selftest.halves(200_000)
    bits = responses(np.random.default_rng(0), member, 0.6)
    assert set(np.unique(bits)) == {0.0, 1.0}
    # 4 standard errors of a share of 400,000
    assert np.mean(bits == member) == pytest.approx(0.6, abs=4 * math.sqrt(0.24 / 400_000))


@pytest.mark.parametrize(("shift", "published"), [(0.5, 0.03390), (2.0, 0.37208)])
def test_the_gaussian_world_has_the_published_rates(shift, published):
    scores, member = gaussian(np.random.default_rng(1), 300_000, shift)
    reached = np.mean(scores[member] >= norm.isf(0.01))
    assert reached == pytest.approx(published, abs=4 * math.sqrt(published / 300_000))
    assert float(tpr.Shifted(shift).tpr(np.array(0.01))) == pytest.approx(published, abs=5e-6)


@pytest.mark.parametrize("leak", [tpr.Shifted(1.0), tpr.Tied()])
def test_the_curves_are_those_of_the_scores(leak):
    n = 300_000
    scores, member = leak.draw(np.random.default_rng(2), n), selftest.halves(n)
    for fpr in (0.01, 0.1, 0.4):
        found = metrics.tpr_at_fpr(scores, member, np.arange(2 * n), fpr, seed=3).value
        # The threshold's error moves along the curve, whose slope is below 4 here; 4 errors of both.
        assert found == pytest.approx(float(leak.tpr(np.array(fpr))), abs=4 * (1 + 4) * math.sqrt(0.25 / n))


def test_the_expected_power_agrees_with_counting():
    n, fpr, limit, leak = 200, 0.1, 0.4, tpr.Shifted(1.0)
    passed, failed, runs = 0, 0, 2000
    for r in range(runs):
        scores = leak.draw(np.random.default_rng([3, r]), n)
        found = metrics.tpr_at_fpr(scores, selftest.halves(n), np.arange(2 * n), fpr, seed=r)
        passed += found.upper(selftest.ALPHA) <= limit
        failed += found.lower(selftest.ALPHA) > limit
    # 4 standard errors of a share of 2,000
    assert tpr.chances(leak.tpr, fpr, limit, n) == pytest.approx((passed / runs, failed / runs), abs=0.045)
    assert tpr.chances(leak.tpr, fpr, 0.8, n)[0] > 0.5  # clear cases are decided: the TPR is 0.39
    assert tpr.chances(leak.tpr, fpr, 0.2, n)[1] > 0.5


def test_shadows_are_balanced_and_leak_as_told():
    drawn = Models(n=4000, leak=2.0).draw(np.random.default_rng(2))
    audit, plan = drawn.audit, drawn.plan
    assert (plan.member.sum(axis=0) == SHADOWS // 2).all()

    def margins(outputs):
        values = outputs.values
        return np.where(audit.labels == 1, values[:, 1] - values[:, 0], values[:, 0] - values[:, 1])

    for outputs, trained in ((drawn.target, audit.member), *zip(drawn.shadows, plan.member, strict=True)):
        gap = margins(outputs)[trained].mean() - margins(outputs)[~trained].mean()
        assert gap == pytest.approx(2.0, abs=4 * math.sqrt(2) * math.sqrt(2 / 4000))  # margins have variance 2


def test_the_true_risk_is_the_share_of_members():
    rng = np.random.default_rng(4)
    classes = Classes.draw(rng)
    u, member, labels = classes.records(rng, 3000)
    risk = classes.risk(u, labels)
    for low in np.arange(0.0, 1.0, 0.1):
        here = (risk >= low) & (risk < low + 0.1)
        error = 4 * math.sqrt(0.25 / here.sum())
        assert member[here].mean() == pytest.approx(risk[here].mean(), abs=error)


def test_private_noise_has_the_length_that_epsilon_asks_for():
    n, d, runs = 200, 5, 150
    rng = np.random.default_rng(5)
    x = rng.normal(size=(n, d))
    x /= np.maximum(1.0, np.linalg.norm(x, axis=1, keepdims=True))
    y = (x[:, 0] > 0).astype(np.int64)
    weights = np.array([np.diff(private(x, y, r)(np.eye(d)).values, axis=1).ravel() for r in range(runs)])
    lengths = np.linalg.norm(weights - weights.mean(axis=0), axis=1)
    scale = 2 / (n * 0.05 * EPSILON)  # gamma distributed lengths: mean d * scale, deviation sqrt(d) * scale
    assert lengths.mean() == pytest.approx(d * scale, rel=0.05 + 4 / math.sqrt(d * runs))


# --- promises are kept ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "replicates"),
    [
        ("K-01", FEW),
        ("K-02", FEW),
        ("K-02 persons", FEW),
        ("K-03", 20),
        ("K-04", 10),
        ("K-05", 10),
        ("K-06", 4),
        ("K-08", 100),
        ("many attacks", FEW),
        ("null risk", 3),
        ("slices", 30),
        ("tpr", 20),
    ],
)
def test_the_gate_keeps_its_promises(id, replicates):
    assert all(held(id, replicates).values())


def test_the_reference_data_are_a_world_only_where_they_are(monkeypatch):
    monkeypatch.delenv("PRIVACY_GATE_REFERENCE_DATA", raising=False)
    assert list(CATALOG["K-10 Location30"].run(0, 10)) == []


@pytest.mark.reference
@pytest.mark.slow
def test_on_location30_more_epochs_leak_more(reference_data):
    assert held("K-10 Location30", 2) == {"K-10.location30.fail": True, "K-10.location30.order": True}


WHOLE_STREET = {"K-07": 1, "K-09": 2, "K-10": 2, "street": 1, "tpr power": 2, "many attacks power": 2}
AT_NIGHT = [pytest.param(id, 4, marks=pytest.mark.nightly) for id in WHOLE_STREET]


@pytest.mark.slow
@pytest.mark.parametrize(("id", "replicates"), [*WHOLE_STREET.items(), *AT_NIGHT])
def test_the_gate_keeps_its_promises_on_the_whole_street(id, replicates):
    assert all(held(id, replicates).values())


def test_the_same_seed_gives_the_same_promises():
    def found(seed):
        return list(CATALOG["K-02 persons"].run(seed, 10))

    assert found(5) == found(5)
    assert found(5) != found(6)


# --- a gate that breaks them is found ---------------------------------------------------------------------------------


def test_bounds_that_are_too_tight_are_found(monkeypatch):
    monkeypatch.setattr(metrics.Averaged, "upper", lambda self, alpha: self.value)
    assert not held("K-02")["K-2.false_pass"]


def test_lower_bounds_that_are_too_tight_are_found(monkeypatch):
    monkeypatch.setattr(metrics.Averaged, "lower", lambda self, alpha: self.value)
    assert not held("K-02")["K-2.false_fail"]


def test_records_counted_as_persons_are_found(monkeypatch):
    module = importlib.import_module("privacy_gate.selftest.k02_persons")
    real = module.answer_key
    monkeypatch.setattr(module, "answer_key", lambda member, persons=None: real(member))
    assert not held("K-02 persons")["K-2.persons.false_pass"]


def test_a_missing_correction_for_many_attacks_is_found(monkeypatch):
    judge = importlib.import_module("privacy_gate.policy.judge")
    monkeypatch.setattr(judge, "holm", lambda p_values, alpha: [p <= alpha for p in p_values])
    assert not held("many attacks", 80)["many.false_fail"]


def test_a_missing_correction_for_slices_is_found(monkeypatch):
    judge = importlib.import_module("privacy_gate.policy.judge")
    monkeypatch.setattr(judge, "holm", lambda p_values, alpha: [p <= alpha for p in p_values])
    assert not held("slices", 30)["slices.false_fail"]


def test_thresholds_at_the_empirical_rate_are_found(monkeypatch):
    naive = lambda self, alpha: metrics.clopper_pearson_upper(self.hits[self.rank], self.n_members, alpha)  # noqa: E731
    monkeypatch.setattr(metrics.TprAtFpr, "upper", naive)
    # The threshold is as uncertain as the hits: bounds that forget it are wrong several times as often as promised.
    assert not held("tpr", 40)["tpr.0.01.untied.false_pass"]


def test_an_attack_that_sees_nothing_at_low_rates_is_found(monkeypatch):
    real = selftest.measure

    def blind(attack, view, audit, seed):
        return [
            replace(
                outcome,
                tpr_at_fpr={
                    fpr: metrics.tpr_at_fpr(outcome.scores * 0, audit.member, audit.persons, fpr, 0)
                    for fpr in outcome.tpr_at_fpr
                },
            )
            for outcome in real(attack, view, audit, seed)
        ]

    monkeypatch.setattr(selftest, "measure", blind)
    assert not held("K-05", 10)["K-5.tpr"]


def test_an_overconfident_risk_is_found(monkeypatch):
    real = CATALOG["K-04"]
    module = importlib.import_module("privacy_gate.selftest.k04_naive_bayes")
    sure = replace(module.ESTIMATORS["calibrated"], estimate=lambda given: np.clip(given.scores["lira"], 0.01, 0.99))
    monkeypatch.setattr(module, "ESTIMATORS", {"calibrated": sure})
    assert not {p.id: p.held for p in real.run(0, 10)}["K-4.calibrated"]


def test_a_bound_on_epsilon_that_is_too_tight_is_found(monkeypatch):
    module = importlib.import_module("privacy_gate.selftest.k08_canaries")
    real = module.one_run_lower
    monkeypatch.setattr(module, "one_run_lower", lambda guesses, delta=0.0, beta=0.05: real(guesses, delta, 6 * beta))
    assert not held("K-08", 100)["K-8.rr.1.guesses"]
