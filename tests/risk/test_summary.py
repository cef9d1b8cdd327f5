"""Counts of persons, and calibration over ten equal bins."""

import math

import numpy as np
import pytest

from privacy_gate import metrics
from privacy_gate.datamodel import Audit
from privacy_gate.errors import NotEvaluable
from privacy_gate.risk.summary import CUTS, Bins, equal_mass, recall, squared_error, summarise


def audit_of(member, persons=None):
    n = len(member)
    persons = np.arange(n) if persons is None else np.array(persons)
    return Audit(np.array(member), np.zeros(n, dtype=np.int64), persons, ("a", "b"))


def test_counts_persons_not_records():
    """Person 0 has three records above the cut and counts once; one record is enough."""
    scores = np.array([0.9, 0.85, 0.95, 0.1, 0.81, 0.2, 0.3, 0.4])
    audit = audit_of([True] * 5 + [False] * 3, [0, 0, 0, 1, 1, 2, 3, 3])
    high = {h.score: h for h in summarise("x", scores, audit).high}
    assert tuple(high) == CUTS
    assert (high[0.8].members, high[0.8].nonmembers) == (2, 0)
    assert (high[0.9].members, high[0.9].nonmembers) == (1, 0)
    assert high[0.9].attributable == metrics.share_excess(1, 2, 0, 2)
    assert high[0.9].precision == metrics.precision(1, 2, 0, 2, prior=0.5)
    assert high[0.8].attributable.value == 1.0


def test_a_cut_is_reached_at_the_cut():
    high = summarise("x", np.array([1.0, 0.8, 0.5, 0.0]), audit_of([True, True, False, False])).high
    assert [(h.members, h.nonmembers) for h in high] == [(2, 1), (2, 0), (2, 0), (2, 0), (1, 0), (1, 0)]


def test_calibration_against_a_twin():
    rng = np.random.default_rng(1)
    member = rng.random(500) < 0.2
    scores = np.round(rng.random(500), 2)
    found = summarise("x", scores, audit_of(member))
    weight = [0.5 / member.sum() if m else 0.5 / (~member).sum() for m in member]
    gaps, masses, log_loss, brier = [], [], 0.0, 0.0
    for b in range(10):
        rows = [i for i in range(500) if min(int(scores[i] * 10), 9) == b]
        mass = sum(weight[i] for i in rows)
        gaps.append(sum(weight[i] * scores[i] for i in rows) / mass - sum(weight[i] for i in rows if member[i]) / mass)
        masses.append(mass)
    for i in range(500):
        p = min(max(scores[i], 1e-3), 1 - 1e-3)
        log_loss -= weight[i] * math.log(p if member[i] else 1 - p)
        brier += weight[i] * (scores[i] - member[i]) ** 2
    expected = {
        "rmse": math.sqrt(sum(g * g for g in gaps) / 10),
        "rmse_weighted": math.sqrt(sum(m * g * g for m, g in zip(masses, gaps, strict=True))),
        "ece": sum(m * abs(g) for m, g in zip(masses, gaps, strict=True)),
        "brier": brier,
        "log_loss": log_loss,
    }
    expected["reliability"] = sum(m * g * g for m, g in zip(masses, gaps, strict=True))
    assert {name: found.calibration[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert sum(records for *_, records in found.reliability) == 500


def test_members_and_nonmembers_weigh_alike_whatever_their_numbers():
    """Ten copies of every non-member change nothing."""
    rng = np.random.default_rng(2)
    member = np.arange(200) < 100
    scores = rng.random(200)
    copies = np.concatenate([np.arange(100), np.repeat(np.arange(100, 200), 10)])
    once = summarise("x", scores, audit_of(member)).calibration
    often = summarise("x", scores[copies], audit_of(member[copies])).calibration
    # All but the debiased error: how much of it is noise does depend on the number of persons.
    assert {**often, "ece_debiased": 0} == pytest.approx({**once, "ece_debiased": 0}, rel=1e-9)
    assert often["ece_debiased"] != once["ece_debiased"]


def test_a_calibrated_forecast_has_no_error():
    """Scores of one half for as many members as non-members."""
    calibration = summarise("x", np.full(100, 0.5), audit_of(np.arange(100) < 50)).calibration
    errors = ("rmse", "rmse_weighted", "ece", "ece_equal_mass", "ece_debiased", "reliability", "resolution")
    expected = {**dict.fromkeys(errors, 0.0), "brier": 0.25, "log_loss": math.log(2), "uncertainty": 0.25}
    assert dict(calibration) == pytest.approx(expected, abs=1e-12)


def test_certain_and_wrong_is_bad_but_finite():
    calibration = summarise("x", np.array([0.0, 1.0]), audit_of([True, False])).calibration
    assert calibration["log_loss"] == pytest.approx(-math.log(1e-3))
    assert calibration["brier"] == 1.0


@pytest.mark.parametrize("member", [[True, True], [False, False]])
def test_refuses_one_sided_records(member):
    with pytest.raises(NotEvaluable, match="one kind"):
        summarise("x", np.array([0.1, 0.2]), audit_of(member))


def test_persons_with_more_records_are_not_flagged_more_often():
    """5 % of member records and 0.5 % of others reach the cut; the others have ten records each."""
    rng = np.random.default_rng(0)
    persons = np.concatenate([np.arange(4000), 4000 + np.arange(40_000) // 10])
    member = np.arange(44_000) < 4000
    scores = np.where(rng.random(44_000) < np.where(member, 0.05, 0.005), 0.9, 0.3)
    audit = Audit(member, np.zeros(44_000, dtype=np.int64), persons, ("a", "b"), has_persons=True)
    (high,) = [row for row in summarise("test", scores, audit).high if row.score == 0.8]
    # Any-of-ten would flag 4.9 % of the others; sd of the excess of 4,000 against 4,000 persons: 0.0036.
    assert high.attributable.value == pytest.approx(0.045, abs=4 * 0.0036)


def forecasts(seed, n=2000, off=0.0):
    """Scores that are right but for `off`, and who is a member."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.1, 0.8, size=n)
    return truth + off, rng.random(n) < truth


def test_precision_at_every_prior_and_recall():
    scores = np.repeat([0.9, 0.1, 0.9, 0.1], [30, 70, 10, 190])
    audit = audit_of(np.repeat([True, False], [100, 200]))
    (high,) = [h for h in summarise("x", scores, audit).high if h.score == 0.8]
    assert tuple(high.precision_at) == (0.5, 0.1, 0.01)
    for prior, found in high.precision_at.items():
        assert found.value == pytest.approx(prior * 0.3 / (prior * 0.3 + (1 - prior) * 0.05))
    share = recall(high, 100)
    assert share.value == 0.3
    assert share.lower(0.05) == metrics.clopper_pearson_lower(30, 100, 0.05)
    assert share.upper(0.05) == metrics.clopper_pearson_upper(30, 100, 0.05)


def test_sure_are_persons_whose_interval_lies_above():
    scores = np.array([0.9, 0.9, 0.85, 0.1, 0.95])
    audit = audit_of([True, True, True, True, False])
    interval = np.array([0.8, 0.79, 0.7, 0.0, 0.9]), np.ones(5)
    found = summarise("x", scores, audit, interval=interval)
    assert found.interval == interval
    assert {h.score: h.sure for h in found.high} == {0.5: 3, 0.6: 3, 0.7: 3, 0.8: 1, 0.9: 0, 1.0: 0}
    assert {h.sure for h in summarise("x", scores, audit).high} == {None}


def test_murphys_parts_add_up_to_the_brier_score():
    """Exactly so for scores that are the same within each bin."""
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 10, size=800) / 10 + 0.05
    found = summarise("x", scores, audit_of(rng.random(800) < scores)).calibration
    assert found["reliability"] - found["resolution"] + found["uncertainty"] == pytest.approx(found["brier"], abs=1e-12)
    assert found["reliability"] == pytest.approx(found["rmse_weighted"] ** 2, abs=1e-15)


def test_bins_of_equal_weight():
    """A tenth of the weight each; members and non-members one half together; ties in one bin."""
    scores, member = forecasts(4, n=3000)
    places = equal_mass(scores, member)
    weight = np.where(member, 0.5 / member.sum(), 0.5 / (~member).sum())
    # A record weighs up to 1/2400 here, and an edge can miss by one.
    np.testing.assert_allclose(np.bincount(places, weight), 0.1, atol=2 * weight.max())
    tied = equal_mass(np.repeat([0.2, 0.7], [900, 100]), np.arange(1000) % 2 == 0)
    assert set(tied[:900]) == {tied[0]}
    assert set(tied[900:]) <= {tied[0], tied[0] + 1}


def test_noise_of_the_gaps_against_many_draws():
    """The variance by person is that of the gaps over fresh samples of persons with three records each."""
    gaps, noises = [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        member = np.repeat(np.arange(200) < 100, 3)
        scores = 0.5 + 0.3 * np.repeat(rng.integers(0, 2, size=200), 3) + 0.01 * rng.random(600)
        bins = Bins.of(scores, audit_of(member, np.repeat(np.arange(200), 3)), (scores > 0.7).astype(int))
        gaps.append(bins.gaps()[1])
        noises.append(bins.noise())
    # 300 draws: a variance is known to sqrt(2 / 300) = 8 %; four of these.
    np.testing.assert_allclose(np.mean(noises, axis=0), np.var(gaps, axis=0), rtol=0.33)


def test_the_debiased_error_of_a_perfect_forecast_is_about_none():
    """Over 40 samples: the plain error sees some 0.02 of noise; without the noise half of the squares fall below 0."""
    cases = [two_sides(seed, np.arange(0.05, 1, 0.1)) for seed in range(40)]
    found = [summarise("x", scores, audit_of(member)).calibration for scores, member in cases]
    assert np.mean([c["ece_equal_mass"] for c in found]) > 0.01
    assert np.mean([c["ece_debiased"] == 0 for c in found]) > 0.3
    assert np.mean([c["ece_debiased"] for c in found]) < np.mean([c["ece_equal_mass"] for c in found]) / 1.5


def two_sides(seed, levels, n=500):
    """n members and n others whose scores, of these equally frequent levels, are the truth at prior one half."""
    rng = np.random.default_rng(seed)
    levels = np.asarray(levels)
    sides = [rng.choice(levels, size=n, p=weight / weight.sum()) for weight in (levels, 1 - levels)]
    return np.concatenate(sides), np.arange(2 * n) < n


def test_bounds_of_the_calibration_error_hold():
    """Off by 0 or by 0.1 everywhere: either bound at 5 % misses that rarely."""
    levels = np.arange(0.25, 0.8, 0.1)
    for off in (0.0, 0.1):
        measured = []
        for seed in range(60):
            scores, member = two_sides(seed, levels)
            measured.append(summarise("x", scores + off, audit_of(member)).errors["rmse_weighted"])
        missed = [sum(m.upper(0.05) < off for m in measured), sum(m.lower(0.05) > off for m in measured)]
        # 60 draws at 5 %: 9 or more come up once in 300 runs.
        assert max(missed) <= 8


def test_the_bootstrap_against_a_twin():
    """Persons drawn again one by one: mean and spread of the mean squared gap."""
    scores, member = forecasts(5, n=120, off=0.1)
    persons = np.arange(120) // 2
    audit = audit_of(member, persons)
    places = np.minimum((scores * 10).astype(int), 9)
    found = squared_error(Bins.of(scores, audit, places), seed=1)
    rng = np.random.default_rng(2)
    squares = []
    for _ in range(400):
        rows = np.concatenate([np.flatnonzero(persons == p) for p in rng.integers(60, size=60)])
        weight = np.where(member[rows], 0.5 / member[rows].sum(), 0.5 / (~member[rows]).sum())
        total = 0.0
        for b in set(places[rows]):
            here = places[rows] == b
            gap = (weight * (scores[rows] - member[rows]))[here].sum() / weight[here].sum()
            total += weight[here].sum() * gap**2
        squares.append(total)
    # 200 and 400 draws: the spreads are known to 5 % and 4 %, the means to spread / sqrt(200); four of these.
    assert found.deviation == pytest.approx(np.std(squares), rel=0.26)
    assert found.raw + found.excess == pytest.approx(np.mean(squares), abs=0.35 * np.std(squares))


def test_bounds_are_ordered_at_any_level():
    scores, member = forecasts(6, n=300)
    for measured in summarise("x", scores, audit_of(member)).errors.values():
        lows, highs = zip(*((measured.lower(a), measured.upper(a)) for a in (0.4, 0.05, 1e-3, 1e-12)), strict=True)
        assert list(lows) == sorted(lows, reverse=True)
        assert list(highs) == sorted(highs)
        assert 0 <= lows[0] <= measured.value <= highs[0] <= 1
