"""Whom an estimated risk misses is in the upper bound all the same."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom, norm

from privacy_gate import metrics
from privacy_gate.datamodel import Audit, Observations
from privacy_gate.risk import CATALOG, RiskInput
from privacy_gate.risk.ranking import Top
from privacy_gate.risk.summary import summarise

ALPHA = 0.05
CUT = 0.8


def twin(scores, member, cut, alpha):
    """Every score tried as the cut, one by one; the largest bound of those that may be it."""
    inside, outside = member.sum(), (~member).sum()
    bounds = []
    for t in [np.inf, *np.unique(scores)]:
        k, j = (int((side & (scores >= t)).sum()) for side in (member, ~member))
        odds = cut * inside / ((1 - cut) * outside) if cut < 1 else np.inf
        if k + j == 0 or binom.cdf(k, k + j, odds / (1 + odds) if cut < 1 else 1.0) >= alpha:
            bounds.append(metrics.share_excess(k, inside, j, outside).upper(alpha))
    return max(bounds)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("levels", [None, 40])
def test_the_bound_against_a_slow_twin(seed, levels):
    rng = np.random.default_rng(seed)
    n_in, n_out = rng.integers(30, 300, size=2)
    member = np.arange(n_in + n_out) < n_in
    scores = rng.normal(size=len(member)) + rng.choice([0.0, 1.0, 4.0]) * member
    scores = scores if levels is None else np.round(scores * levels / 8)
    shuffled = rng.permutation(len(member))
    for cut in (0.5, 0.8, 0.95, 1.0):
        for alpha in (0.05, 0.001):
            expected = twin(scores, member, cut, alpha)
            assert Top.ranked(scores, member, cut).upper(alpha) == pytest.approx(expected, abs=1e-12)
            again = Top.ranked(scores[shuffled], member[shuffled], cut)
            assert again.upper(alpha) == pytest.approx(expected, abs=1e-12)


def test_the_bound_by_hand():
    """Three members, one other, and then others only: with the first other, 3 of 4 may still be 80 %; 3 of 7 not."""
    member = np.array([True, True, True, False] + [False] * 6)
    top = Top.ranked(-np.arange(10.0), member, CUT)
    # Members are 3 and others 7: at prior one half 80 % are 12 / 19 of those above.
    assert top.plausible(ALPHA).tolist() == [binom.cdf(min(m, 3), m, 12 / 19) >= ALPHA or m == 0 for m in range(11)]
    assert top.upper(ALPHA) == metrics.share_excess(3, 3, 0, 7).upper(ALPHA)


def test_equal_scores_come_together():
    """Saturated: all members and as many others at the highest score cannot be told apart, and nobody is at risk."""
    member = np.arange(400) < 200
    top = Top.ranked(np.zeros(400), member, CUT)
    assert (top.members.tolist(), top.nonmembers.tolist()) == ([0, 200], [0, 200])
    assert top.upper(ALPHA) == metrics.share_excess(0, 200, 0, 200).upper(ALPHA)


# --- misses stay at the nominal rate ----------------------------------------------------------------------------------


def atom(n, excess, risk):
    """As many persons of one risk, above all others, as give this excess of members."""
    return excess * risk / (2 * risk - 1) / n, excess * (1 - risk) / (2 * risk - 1) / n


def drawn(rng, n, excess, risk):
    """[2n] scores: those at risk on top, in no order of their own; nothing is to be told of the others."""
    above = [rng.random(n) < share for share in atom(n, excess, risk)]
    return rng.normal(size=2 * n) + 100.0 * np.concatenate(above)


def wider(rng, n, factor):
    """[2n] scores of members that vary `factor` times as much: every risk up to 1 occurs."""
    return rng.normal(size=2 * n) * np.repeat([factor, 1.0], n)


def wider_share(factor):
    """Members in excess where the density ratio is 4 or more, both tails: by the score's distance from zero."""
    t = np.sqrt(2 * np.log(4 * factor) / (1 - factor**-2))
    return 2 * (norm.sf(t / factor) - norm.sf(t))


@pytest.mark.parametrize(
    ("n", "excess", "risk"),
    [
        (600, 6.05, 1.0),
        (600, 6.05, 0.85),
        (1000, 10.05, 0.8),
        (3000, 30.05, 0.8),
        (3000, 30.05, 0.85),
        (3000, 30.05, 0.95),
    ],
)
def test_just_above_the_limit_it_seldom_passes(n, excess, risk):
    """A limit of 1 %, the truth just above. 500 worlds: at 5 %, four standard errors are 3.9 %."""
    member = np.arange(2 * n) < n
    rng = np.random.default_rng([n, int(100 * risk)])
    passed = [Top.ranked(drawn(rng, n, excess, risk), member, CUT).upper(ALPHA) <= 0.01 for _ in range(500)]
    assert np.mean(passed) <= ALPHA + 4 * np.sqrt(ALPHA * (1 - ALPHA) / 500)


def test_a_smooth_spectrum_of_risks_seldom_passes_above_its_share():
    n, factor = 2000, 1.25
    limit = wider_share(factor) - 1e-4
    assert 0.005 < limit < 0.05
    member = np.arange(2 * n) < n
    rng = np.random.default_rng(7)
    passed = [Top.ranked(np.abs(wider(rng, n, factor)), member, CUT).upper(ALPHA) <= limit for _ in range(500)]
    assert np.mean(passed) <= ALPHA + 4 * np.sqrt(ALPHA * (1 - ALPHA) / 500)


def test_tied_at_the_top_with_others_they_seldom_pass():
    """A saturated score: those of risk 0.9 share the highest value; all others take one of five."""
    n, member = 2000, np.arange(4000) < 2000
    rng = np.random.default_rng(8)
    passed = []
    for _ in range(500):
        raw = drawn(rng, n, 20.05, 0.9)
        scores = np.where(raw > 50, 3, np.clip(np.round(raw), -2, 2))
        passed.append(Top.ranked(scores, member, CUT).upper(ALPHA) <= 0.01)
    assert np.mean(passed) <= ALPHA + 4 * np.sqrt(ALPHA * (1 - ALPHA) / 500)


@pytest.mark.parametrize(("n", "limit", "at_least"), [(3000, 0.01, 0.95), (2000, 0.05, 0.99)])
def test_a_model_that_leaks_nothing_passes(n, limit, at_least):
    member = np.arange(2 * n) < n
    rng = np.random.default_rng(9)
    passed = [Top.ranked(rng.normal(size=2 * n), member, CUT).upper(ALPHA) <= limit for _ in range(200)]
    assert np.mean(passed) >= at_least - 4 * np.sqrt(at_least * (1 - at_least) / 200)


# --- through the estimator --------------------------------------------------------------------------------------------


def certain(n, count, seed):
    """A risk input in which so many members have scores that nobody else has."""
    rng = np.random.default_rng(seed)
    member, scores = np.arange(2 * n) < n, rng.normal(size=2 * n)
    scores[:count] += 50.0
    labels, persons = np.zeros(2 * n, dtype=np.int64), np.arange(2 * n)
    seen = Observations({}, labels, np.full(2 * n, -1, dtype=np.int8), persons, 2)
    return RiskInput(seen, None, {"lira": scores}, Audit(member, labels, persons, ("a", "b")), seed)


def test_a_handful_who_are_named_for_certain_are_in_the_bound_if_the_estimate_has_none():
    """600 + 600 persons, 10 known for certain, each half too few for a bin: a limit of 1 % is not kept."""
    missed = 0
    for seed in range(3):
        given = certain(600, 10, seed)
        found = CATALOG["calibrated"].assess(given)
        told = summarise("calibrated", found.scores, given.audit, seed, found.interval, found.rankings)
        (high,) = [h for h in told.high if h.score == CUT]
        counted = metrics.share_excess(high.members, 600, high.nonmembers, 600)
        assert high.attributable.upper(ALPHA) >= metrics.share_excess(10, 600, 0, 600).upper(ALPHA)
        assert high.attributable.value == counted.value
        assert high.attributable.lower(ALPHA) == counted.lower(ALPHA)
        missed += counted.upper(ALPHA) <= 0.01
    assert missed  # by the estimate alone it would have passed


def test_a_person_counts_once_however_many_records():
    """Every person's records are alike: five each change nothing but which of them is drawn."""
    given = certain(200, 6, 0)
    often = np.tile(np.arange(400), 5)
    audit = Audit(given.audit.member[often], given.audit.labels[often], often, ("a", "b"), has_persons=True)
    scores, flat = given.scores["lira"], np.full(400, 0.5)
    once = summarise("x", flat, given.audit, rankings=(scores,)).high
    many = summarise("x", flat[often], audit, rankings=(scores[often],)).high
    for a, b in zip(once, many, strict=True):
        assert a.attributable.upper(ALPHA) == b.attributable.upper(ALPHA)
        assert a.attributable.upper(ALPHA) >= metrics.share_excess(6, 200, 0, 200).upper(ALPHA)


def test_the_worst_of_several_rankings_counts():
    given = certain(300, 20, 1)
    scores, noise, flat = given.scores["lira"], np.random.default_rng(2).normal(size=600), np.full(600, 0.5)

    def upper(*rankings):
        high = summarise("x", flat, given.audit, rankings=rankings).high
        return next(h for h in high if h.score == CUT).attributable.upper(ALPHA)

    assert upper(noise, scores) == upper(scores, noise) == max(upper(scores), upper(noise)) == upper(scores)
    assert upper() == metrics.share_excess(0, 300, 0, 300).upper(ALPHA) < upper(noise)


def test_the_attack_and_the_risk_order_the_persons():
    given = certain(100, 5, 3)
    found = CATALOG["calibrated"].assess(given)
    assert [ranking.tolist() for ranking in found.rankings] == [given.scores["lira"].tolist(), found.scores.tolist()]
    assert CATALOG["calibrated"].assess(replace(given, seed=4)).rankings[0].tolist() == given.scores["lira"].tolist()
