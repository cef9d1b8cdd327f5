"""The worlds of the self-test: true to their closed forms, and able to find a gate that breaks its promises."""

import importlib
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom, norm

from privacy_gate import metrics, selftest

FEW = 60


def held(world, replicates=FEW, seed=0):
    return {promise.id: promise.held for promise in world(seed, replicates)}


# --- promises ---------------------------------------------------------------------------------------------------------


def test_rates_are_held_against_the_binomial():
    errors = [True] * 9 + [False] * 91
    promise = selftest._rarely("x", "", "", errors)
    assert promise.measured == 0.09
    assert promise.held
    limit = round(100 * promise.high)
    assert binom.sf(limit, 100, 0.06) <= selftest.SURE < binom.sf(limit - 1, 100, 0.06)
    assert not selftest._rarely("x", "", "", [True] * (limit + 1) + [False] * (99 - limit)).held
    assert selftest._mostly("x", "", "", [True] * 95 + [False] * 5).held
    assert not selftest._mostly("x", "", "", [True] * 80 + [False] * 20).held


def test_a_mean_is_held_against_its_own_error():
    values = [0.4, 0.6] * 50
    noise = norm.isf(selftest.SURE / 2) * np.std(values, ddof=1) / 10
    promise = selftest._near("x", "", "", values, 0.55, 0.02)
    assert (promise.low, promise.high) == pytest.approx((0.53 - noise, 0.57 + noise))
    assert promise.held
    assert not selftest._near("x", "", "", values, 0.60, 0.02).held


# --- the worlds are what they are said to be --------------------------------------------------------------------------


def test_responses_have_the_accuracy_asked_for():
    member = selftest._halves(200_000)
    bits = selftest._responses(np.random.default_rng(0), member, 0.6)
    assert set(np.unique(bits)) == {0.0, 1.0}
    # 4 standard errors of a share of 400,000
    assert np.mean(bits == member) == pytest.approx(0.6, abs=4 * math.sqrt(0.24 / 400_000))


@pytest.mark.parametrize(("shift", "tpr"), [(0.5, 0.03390), (2.0, 0.37208)])
def test_the_gaussian_world_has_the_published_rates(shift, tpr):
    scores, member = selftest._gaussian(np.random.default_rng(1), 300_000, shift)
    reached = np.mean(scores[member] >= norm.isf(0.01))
    assert reached == pytest.approx(tpr, abs=4 * math.sqrt(tpr / 300_000))


def test_shadows_are_balanced_and_leak_as_told():
    world = selftest._Model(n=4000, leak=2.0)
    target, shadows, plan, audit = world.draw(np.random.default_rng(2))
    assert (plan.member.sum(axis=0) == selftest._SHADOWS // 2).all()

    def margins(outputs):
        values = outputs.values
        return np.where(audit.labels == 1, values[:, 1] - values[:, 0], values[:, 0] - values[:, 1])

    for outputs, trained in ((target, audit.member), *zip(shadows, plan.member, strict=True)):
        gap = margins(outputs)[trained].mean() - margins(outputs)[~trained].mean()
        assert gap == pytest.approx(2.0, abs=4 * math.sqrt(2) * math.sqrt(2 / 4000))  # margins have variance 2


# --- promises are kept ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("world", "replicates"),
    [
        (selftest.gaussian_shift, FEW),
        (selftest.randomised_response, FEW),
        (selftest.persons, FEW),
        (selftest.mean_release, 20),
        (selftest.memoriser, 10),
        (selftest.low_false_positives, FEW),
    ],
)
def test_the_gate_keeps_its_promises(world, replicates):
    assert all(held(world, replicates).values())


@pytest.mark.slow
def test_the_gate_keeps_all_its_promises():
    promises = list(selftest.run(100, seed=0))
    assert [p.id for p in promises if not p.held] == []
    assert len({p.id for p in promises}) == len(promises)


def test_the_same_seed_gives_the_same_promises():
    assert list(selftest.persons(5, 10)) == list(selftest.persons(5, 10))
    assert list(selftest.persons(5, 10)) != list(selftest.persons(6, 10))


# --- a gate that breaks them is found ---------------------------------------------------------------------------------


def test_bounds_that_are_too_tight_are_found(monkeypatch):
    monkeypatch.setattr(metrics.Averaged, "upper", lambda self, alpha: self.value)
    assert not held(selftest.randomised_response)["K-2.false_pass"]


def test_lower_bounds_that_are_too_tight_are_found(monkeypatch):
    monkeypatch.setattr(metrics.Averaged, "lower", lambda self, alpha: self.value)
    assert not held(selftest.randomised_response)["K-2.false_fail"]


def test_records_counted_as_persons_are_found(monkeypatch):
    real = selftest._audit
    monkeypatch.setattr(selftest, "_audit", lambda member, persons=None: real(member))
    assert not held(selftest.persons)["K-2.persons.false_pass"]


def test_a_missing_correction_for_many_attacks_is_found(monkeypatch):
    monkeypatch.setattr(
        importlib.import_module("privacy_gate.policy.judge"),
        "holm",
        lambda p_values, alpha: [p <= alpha for p in p_values],
    )
    assert not held(selftest.many_attacks, 40)["many.false_fail"]


def test_thresholds_at_the_empirical_rate_are_found(monkeypatch):
    naive = lambda self, alpha: metrics.clopper_pearson_upper(self.hits[self.rank], self.n_members, alpha)  # noqa: E731
    monkeypatch.setattr(metrics.TprAtFpr, "upper", naive)
    # The threshold is as uncertain as the hits: bounds that forget it are wrong about three times as often as promised.
    assert not held(selftest.low_false_positives, 150)["tpr.false_pass"]


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
    assert not held(selftest.memoriser, 10)["K-5.tpr"]
