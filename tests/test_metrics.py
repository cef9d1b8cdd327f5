"""Numbers and their bounds: against hand computations, brute force, and simulations with known truth."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from privacy_gate import metrics
from privacy_gate.errors import EvaluationFailed, NotEvaluable

ALPHAS = (1e-12, 1e-6, 0.001, 0.05, 0.3, 0.5, 0.7, 0.95, 1 - 1e-6, 1 - 1e-12)


def alone(n: int) -> np.ndarray:
    """Everybody has one record."""
    return np.arange(n)


def allowed_misses(runs: int, nominal: float) -> int:
    """More misses than this happen by chance once in 10,000 tests if the bound has its nominal level."""
    return int(stats.binom.ppf(1 - 1e-4, runs, nominal))


@st.composite
def scored(draw, least=1, most=30):
    """Scores with many ties and infinities, membership with both sides, persons with several records."""
    inside, outside = draw(st.integers(least, most)), draw(st.integers(least, most))
    n = inside + outside
    values = st.sampled_from([-math.inf, -1.5, -1.0, 0.0, 0.5, 1.0, 2.0, 3.0, math.inf])
    scores = draw(hnp.arrays(np.float64, n, elements=values))
    persons = draw(hnp.arrays(np.int64, n, elements=st.integers(0, n - 1)))
    member = draw(st.permutations([True] * inside + [False] * outside))
    return scores, np.array(member), persons


# --- proportions ----------------------------------------------------------------------------------------------------


def test_wilson_by_hand():
    # 1 of 10 at 95 % two-sided: (0.0179, 0.4042), Wilson 1927 as tabulated.
    one = metrics.Proportion(0.1, 10)
    z = 1.959963984540054
    assert one.wilson(-z) == pytest.approx(0.01787621, abs=1e-7)
    assert one.wilson(z) == pytest.approx(0.40415003, abs=1e-7)


def test_wilson_solves_its_equation():
    for p, n, z in ((0.0, 7, 1.6), (0.3, 50, 2.5), (0.99, 400, 3.0)):
        bound = metrics.Proportion(p, n).wilson(z)
        assert (bound - p) / math.sqrt(bound * (1 - bound) / n) == pytest.approx(z)


def test_corrected_wilson_solves_its_equation():
    for p, n, z in ((0.1, 7, 1.6), (0.3, 50, -2.5), (0.9, 400, 3.0)):
        bound = metrics.Proportion(p, n).wilson(z, continuity=0.5)
        moved = p + math.copysign(0.5 / n, z)
        assert (bound - moved) / math.sqrt(bound * (1 - bound) / n) == pytest.approx(z)
    assert metrics.Proportion(0.3, 50).wilson(0.0, continuity=0.5) == 0.3
    # Half a record is all there was.
    assert metrics.Proportion(0.005, 100).wilson(-1.6, continuity=0.5) == pytest.approx(0.0)
    assert metrics.Proportion(0.995, 100).wilson(1.6, continuity=0.5) == pytest.approx(1.0)


def test_advantage_reproduces_newcombe_1998():
    # 56/70 against 48/80: difference 0.2, method 11 gives 0.0428 to 0.3422 (two-sided 95 %; method 10: .0524, .3339).
    member = np.arange(150) < 70
    hits = np.zeros(150, dtype=bool)
    hits[:56] = hits[70:118] = True
    found = metrics.advantage(hits, member, alone(150))
    assert found.value == pytest.approx(0.2)
    assert found.lower(0.025) == pytest.approx(0.0428, abs=5e-5)
    assert found.upper(0.025) == pytest.approx(0.3422, abs=5e-5)
    accuracy = metrics.balanced_accuracy(hits, member, alone(150))
    assert accuracy.value == pytest.approx(0.6)
    assert accuracy.lower(0.025) == pytest.approx(0.5 + 0.0428 / 2, abs=5e-5)
    assert metrics.share_excess(56, 70, 48, 80).upper(0.025) == pytest.approx(0.3422, abs=5e-5)


def mover(a, b, n1, n0, deviate, continuity):
    """Newcombe's bound of a/n1 - b/n0, written out: method 10 without, 11 with continuity correction."""

    def wilson(hits, n, z):
        p = min(max(hits / n + math.copysign(continuity, z) / n, 0.0), 1.0)
        root = math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        bound = (p + z**2 / (2 * n) + z * root) / (1 + z**2 / n)
        return min(max(bound, 0.0), hits / n) if z < 0 else max(min(bound, 1.0), hits / n)

    near, far = wilson(a, n1, deviate) - a / n1, wilson(b, n0, -deviate) - b / n0
    return a / n1 - b / n0 + math.copysign(math.hypot(near, far), deviate)


@given(st.integers(1, 60), st.integers(1, 60), st.data(), st.floats(0.001, 0.4))
def test_advantage_is_mover_of_corrected_wilson_bounds(n1, n0, data, alpha):
    a, b = data.draw(st.integers(0, n1)), data.draw(st.integers(0, n0))
    found = metrics.Advantage(metrics.Proportion(a / n1, n1), metrics.Proportion(b / n0, n0))
    z = stats.norm.isf(alpha)
    assert found.lower(alpha) == pytest.approx(max(mover(a, b, n1, n0, -z, 0.5), -1.0))
    assert found.upper(alpha) == pytest.approx(min(mover(a, b, n1, n0, z, 0.5), 1.0))


def misses(n, continuity):
    """Largest probability that the upper bound at 5 % lies below p - q, over p - q where a limit can stand.

    Exact: summed over all pairs of counts, nothing is drawn. Lower bounds are the mirror image: TPR <-> FPR.
    """
    z, k, shares = stats.norm.isf(0.05), np.arange(n + 1), np.array([0.02, 0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9, 0.98])
    bound = np.array([[mover(a, b, n, n, z, continuity) for b in k] for a in k])
    of = [stats.binom.pmf(k, n, p) for p in shares]
    return max(
        max(of[i] @ (bound < p - q - 1e-12) @ of[j], of[j] @ (q - p + 1e-12 < -bound.T) @ of[i])
        for i, p in enumerate(shares)
        for j, q in enumerate(shares)
        if 0 <= p - q <= 0.401
    )


@pytest.mark.parametrize(("n", "without", "corrected"), [(50, 0.06, 0.0535), (100, 0.055, 0.05), (200, 0.055, 0.05)])
def test_the_correction_brings_the_bounds_to_their_level(n, without, corrected):
    assert misses(n, 0.0) > without
    assert misses(n, 0.5) <= corrected


def test_the_correction_costs_two_percent_at_a_thousand_records():
    z = stats.norm.isf(0.05)
    plain, corrected = (mover(600, 500, 1000, 1000, z, c) - 0.1 for c in (0.0, 0.5))
    assert 1.0 < corrected / plain < 1.025


def test_a_census_leaves_the_nonmembers_error_alone():
    # 1000 a side, TPR .6, FPR .5: half-widths of the accuracy .0217 for a sample of members, .0155 for all of them;
    # the continuity correction adds half a record (.0005) to each sampled side's half-width before they are combined.
    member, hits = np.arange(2000) < 1000, np.zeros(2000, dtype=bool)
    hits[:600] = hits[1000:1500] = True
    z = stats.norm.isf(0.025)
    up, low = (mover(600, 500, 1000, 1000, d, 0.0) for d in (z, -z))
    assert (up - low) / 4 == pytest.approx(0.0217, abs=5e-5)
    alone_ = metrics.Proportion(0.5, 1000)
    down = (alone_.wilson(z) - alone_.wilson(-z)) / 2
    assert down / 2 == pytest.approx(0.0155, abs=5e-5)
    sample = metrics.balanced_accuracy(hits, member, alone(2000))
    census = metrics.balanced_accuracy(hits, member, alone(2000), census=True)
    assert census.value == sample.value == pytest.approx(0.55)
    width = sample.upper(0.025) - sample.lower(0.025)
    other = metrics.Proportion(0.6, 1000)
    across = (other.wilson(z) - other.wilson(-z)) / 2
    # To first order: the halves are not quite symmetrical.
    assert width / 2 == pytest.approx(math.hypot(across + 0.0005, down + 0.0005) / 2, abs=1e-5)
    assert census.upper(0.025) - 0.55 == pytest.approx((down + 0.0005) / 2, abs=2e-5)
    assert 0.55 - census.lower(0.025) == pytest.approx((down + 0.0005) / 2, abs=2e-5)  # at 1/2 it is symmetrical


def naive_effective_size(hits, persons):
    """The definition, person by person."""
    groups = [[bool(h) for h, q in zip(hits, persons, strict=True) if q == p] for p in sorted(set(persons.tolist()))]
    sums, sizes = [sum(g) for g in groups], [len(g) for g in groups]
    if len(sizes) == len(hits):
        return len(hits)
    squares, fourths = sum(s**2 for s in sizes), sum(s**4 for s in sizes)
    plain = naive_over_design_effect(sums, sizes, len(sizes), sum(sizes) / len(sizes))
    sparing = naive_over_design_effect(sums, sizes, squares**2 / fourths, math.sqrt(fourths / squares))
    return min(plain, max(sparing, sum(sizes) ** 2 / squares))


def naive_over_design_effect(sums, sizes, m, pseudo):
    n = sum(sizes)
    sums, sizes = [*sums, pseudo, 0.0], [*sizes, pseudo, pseudo]
    p = sum(sums) / sum(sizes)
    robust = (m + 2) / (m + 1) * sum((s - p * k) ** 2 for s, k in zip(sums, sizes, strict=True)) / sum(sizes) ** 2
    return n / max(1.0, robust / (p * (1 - p) / (sum(sizes) - 1)))


@settings(deadline=None)
@given(scored())
def test_effective_size_is_its_definition_and_never_above_n(case):
    scores, _, persons = case
    found = metrics.effective_size(scores > 0, persons)
    assert found == pytest.approx(naive_effective_size(scores > 0, persons))
    assert 0 < found <= len(scores)


@settings(deadline=None)
@given(scored(least=3), st.integers(0, 2**32), st.booleans())
def test_parts_are_the_advantage_of_each_subset(case, seed, census):
    scores, member, persons = case
    rng, decisions = np.random.default_rng(seed), scores > 0
    subsets = [np.ones(len(scores), dtype=bool), *(rng.random((6, len(scores))) < 0.6)]
    subsets = [s for s in subsets if member[s].any() and not member[s].all()]
    found = metrics.parts(subsets, member, persons).advantages(decisions, census=census)
    for one, subset in zip(found, subsets, strict=True):
        alone_ = metrics.advantage(decisions[subset], member[subset], persons[subset], census=census)
        assert one.value == pytest.approx(alone_.value)
        assert one.lower(0.01) == pytest.approx(alone_.lower(0.01))
        assert one.upper(0.3) == pytest.approx(alone_.upper(0.3))


def test_parts_need_both_sides_and_may_be_none():
    member = np.arange(6) < 3
    with pytest.raises(NotEvaluable):
        metrics.parts([member], member, alone(6))
    assert metrics.parts([], member, alone(6)).advantages(member) == []


@settings(deadline=None)
@given(hnp.arrays(np.bool_, st.integers(2, 60)))
def test_with_one_record_each_the_interval_is_plain_wilson(hits):
    assert metrics.effective_size(hits, alone(len(hits))[::-1]) == len(hits)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_copies_of_a_person_are_no_evidence(p):
    people = np.arange(200) < 200 * p
    found = metrics.effective_size(np.repeat(people, 10), np.repeat(alone(200), 10))
    # Exactly n (m + 1) / (s (m + 2) - 1) for m persons of s equal records: between m - 1 and m.
    assert 199 <= found <= 200


def test_independent_records_of_a_person_count_in_full():
    rng = np.random.default_rng(0)
    hits, persons = rng.random(20_000) < 0.4, np.repeat(alone(2000), 10)
    # The design effect is 1 with a standard error of about sqrt(2 / 2000).
    assert metrics.effective_size(hits, persons) > 20_000 / (1 + 4 * math.sqrt(2 / 2000))


@settings(deadline=None)
@given(st.integers(2, 300), st.integers(2, 9), st.integers(0, 2**32))
def test_persons_of_equal_size_are_told_from_their_own_spread(people, size, seed):
    hits = np.random.default_rng(seed).random((people, size)) < 0.3
    found = metrics.effective_size(hits.ravel(), np.repeat(alone(people), size))
    own = naive_over_design_effect(hits.sum(axis=1).tolist(), [size] * people, people, size)
    assert found == pytest.approx(own, rel=1e-12)


def the_sizes(shape, rng):
    """Records of each of a side's persons."""
    if isinstance(shape, tuple):
        few, share, people = shape  # few persons hold a share of all records, the others have one each
        return np.where(alone(people) < few, int(share / (1 - share) * people / few), 1)
    if shape == "lognormal":
        return np.ceil(rng.lognormal(0, 1.5, 600)).astype(np.int64)
    if shape == "pareto":
        return np.ceil(rng.pareto(1.2, 600) + 0.01).astype(np.int64)
    return np.full(300, 5)


@pytest.mark.parametrize(
    "shape",
    [(3, 0.3, 600), (3, 0.6, 600), (5, 0.5, 600), (3, 0.15, 600), (12, 0.5, 600), "lognormal", "pareto", "equal"],
)
@pytest.mark.parametrize(("tpr", "fpr"), [(0.3, 0.1), (0.6, 0.4)])
def test_accuracy_bounds_hold_however_records_are_spread_over_persons(shape, tpr, fpr):
    """All records of a person are alike, which is the worst case; the non-members have one each."""
    rng, runs, truth, small = np.random.default_rng(20), 1500, (1 + tpr - fpr) / 2, 0.05 / 60
    low, lowest, high = 0, 0, 0
    sizes = the_sizes(shape, rng)
    people, cell = len(sizes), np.zeros(len(sizes), dtype=np.int64)
    few = shape[0] if isinstance(shape, tuple) else people
    for hits, others in zip(rng.random((runs, people)) < tpr, rng.binomial(1000, fpr, runs) / 1000, strict=True):
        size = metrics._effective_sizes(hits * sizes, sizes, cell, 1)[0]
        share = metrics.Proportion(float(hits @ sizes / sizes.sum()), float(size))
        found = metrics.BalancedAccuracy(metrics.Advantage(share, metrics.Proportion(float(others), 1000.0)))
        low, high = low + (found.lower(0.05) > truth), high + (found.upper(0.05) < truth)
        lowest += found.lower(small) > truth
    # Three persons of whom none is hit are a lump of (1 - tpr)^3 that no bound between the lumps can share out.
    lump = (1 - tpr) ** few if few == 3 else 0.0
    assert high <= allowed_misses(runs, max(0.05, lump))
    assert low <= allowed_misses(runs, 0.05)
    assert lowest <= allowed_misses(runs, 3 * small)


def test_with_few_large_persons_the_size_is_the_worst_cases():
    """Three persons with 60 % of the records, all of them hits: their own spread is 0 and says nothing."""
    sizes = the_sizes((3, 0.6, 1000), None)
    persons = np.repeat(alone(1000), sizes)
    hits = persons < 3
    kish = sizes.sum() ** 2 / (sizes**2).sum()
    assert metrics.effective_size(hits, persons) == pytest.approx(kish)
    assert kish < 9
    plain = naive_over_design_effect(np.where(alone(1000) < 3, sizes, 0).tolist(), sizes.tolist(), 1000, sizes.mean())
    assert plain > 1.4 * kish


def test_steps_of_two_decisions_have_their_size_by_the_same_formula():
    """In -1, 0 and 1, by its definition, person by person; few of whom have many records get the worst case's."""
    rng = np.random.default_rng(4)
    persons = np.repeat(alone(150), 4)
    steps = np.where(rng.random(600) < 0.5, rng.choice([-1, 0, 1], 150)[persons], rng.choice([-1, 0, 1], 600))
    # Two pseudo-persons of four records, one all +1, one all -1.
    mean = steps.sum() / 608
    sums = [sum(steps[persons == person] - mean) for person in range(150)] + [4 * (1 - mean), 4 * (-1 - mean)]
    clustered = 152 / 151 * sum(s * s for s in sums) / 608**2
    alike = (sum(steps**2) + 8) / 608 - mean**2
    expected = 600 / (clustered / (alike / 607))
    assert metrics.effective_size((1 + steps) / 2, persons) == pytest.approx(expected)
    assert expected < 500
    sizes = the_sizes((3, 0.6, 1000), None)
    people = np.repeat(alone(1000), sizes)
    found = metrics.effective_size(np.where(people < 3, 1.0, 0.5), people)
    assert found == pytest.approx(sizes.sum() ** 2 / (sizes**2).sum())


@pytest.mark.parametrize(("tpr", "fpr", "n"), [(0.5, 0.5, 100), (0.6, 0.5, 1000), (0.95, 0.9, 50), (0.999, 0.6, 1000)])
def test_advantage_bounds_hold_at_their_level(tpr, fpr, n):
    rng, runs, truth = np.random.default_rng(1), 3000, tpr - fpr
    draws = rng.binomial(n, [tpr, fpr], size=(runs, 2)) / n
    found = [metrics.Advantage(metrics.Proportion(a, n), metrics.Proportion(b, n)) for a, b in draws]
    limit = allowed_misses(runs, 0.05)
    assert sum(f.lower(0.05) > truth for f in found) <= limit
    assert sum(f.upper(0.05) < truth for f in found) <= limit
    # The bounds are not merely wide: together they miss at least half as often as they may, less what the half
    # records of the correction take in small samples.
    if n >= 100:
        assert sum(f.lower(0.05) > truth or f.upper(0.05) < truth for f in found) >= 0.05 * runs


def test_clustered_advantage_bounds_hold_where_record_bounds_do_not():
    rng, runs, people = np.random.default_rng(2), 800, 120
    clustered = record = 0
    for _ in range(runs):
        sizes = rng.integers(1, 9, people)
        persons = np.repeat(alone(people), sizes)
        member = persons < people // 2
        hits = rng.random(len(persons)) < rng.beta(0.5, 0.5, people)[persons]  # no advantage, alike within a person
        clustered += metrics.advantage(hits, member, persons).lower(0.05) > 0
        record += metrics.advantage(hits, member, alone(len(persons))).lower(0.05) > 0
    assert clustered <= allowed_misses(runs, 0.055)
    assert record > allowed_misses(runs, 0.1)


# --- counts ---------------------------------------------------------------------------------------------------------


def test_share_excess_is_never_negative():
    found = metrics.share_excess(10, 100, 30, 100)
    assert (found.value, found.lower(0.05)) == (0.0, 0.0)
    assert found.upper(0.05) == 0.0  # surely below zero
    assert metrics.share_excess(0, 100, 0, 100).upper(0.05) > 0


def test_precision_by_hand():
    found = metrics.precision(30, 100, 10, 200)
    assert found.value == pytest.approx(0.30 / 0.35)
    low = stats.beta.ppf(0.025, 30, 71)
    high = stats.beta.ppf(0.975, 11, 190)
    assert found.lower(0.05) == pytest.approx(low / (low + high))
    assert metrics.precision(30, 100, 10, 200, prior=0.1).value == pytest.approx(0.03 / (0.03 + 0.045))


def test_precision_of_nothing_flagged_is_unknown():
    found = metrics.precision(0, 100, 0, 100)
    assert math.isnan(found.value)
    assert (found.lower(0.05), found.upper(0.05)) == (0.0, 1.0)


@pytest.mark.parametrize(("tpr", "fpr"), [(0.02, 0.01), (0.3, 0.1), (0.01, 0.0)])
def test_precision_bounds_never_err_more_than_alpha(tpr, fpr):
    rng, runs, truth = np.random.default_rng(3), 2000, tpr / (tpr + fpr)
    found = [metrics.precision(int(a), 300, int(b), 400) for a, b in rng.binomial([300, 400], [tpr, fpr], (runs, 2))]
    assert sum(f.lower(0.05) > truth for f in found) <= allowed_misses(runs, 0.05)
    assert sum(f.upper(0.05) < truth for f in found) <= allowed_misses(runs, 0.05)


def test_precision_of_decisions_by_hand():
    member, hits = np.arange(300) < 100, np.zeros(300, dtype=bool)
    hits[:30] = hits[100:110] = True
    rates = metrics.advantage(hits, member, alone(300))
    for prior in (0.5, 0.1, 0.01):
        found = metrics.precision_of(rates, prior)
        assert found.value == pytest.approx(prior * 0.3 / (prior * 0.3 + (1 - prior) * 0.05))
        low, high = stats.beta.ppf(0.025, 30, 71), stats.beta.ppf(0.975, 11, 190)
        assert found.lower(0.05) == pytest.approx(prior * low / (prior * low + (1 - prior) * high))
    census = metrics.precision_of(metrics.advantage(hits, member, alone(300), census=True), 0.1)
    high = stats.beta.ppf(0.95, 11, 190)  # all of alpha, nothing for the members
    assert census.lower(0.05) == pytest.approx(0.1 * 0.3 / (0.1 * 0.3 + 0.9 * high))


@pytest.mark.parametrize("prior", [0.5, 0.01])
def test_clustered_precision_bounds_hold_where_record_bounds_do_not(prior):
    rng, runs, people = np.random.default_rng(12), 500, 120
    member = np.arange(people * 8) < people * 4
    persons = np.repeat(alone(people), 8)
    tpr, fpr = 0.6, 0.4  # of records; a person's records are decided alike
    truth = prior * tpr / (prior * tpr + (1 - prior) * fpr)
    clustered = record = 0
    for _ in range(runs):
        hits = (rng.random(people) < np.where(np.arange(people) < people // 2, tpr, fpr))[persons]
        for names in (persons, alone(people * 8)):
            found = metrics.precision_of(metrics.advantage(hits, member, names), prior)
            wrong = found.lower(0.05) > truth or found.upper(0.05) < truth
            clustered, record = (clustered + wrong, record) if names is persons else (clustered, record + wrong)
    assert clustered <= allowed_misses(runs, 0.1)  # both sides of 5 %
    assert record > allowed_misses(runs, 0.1)


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 10), (10, 10), (17, 1000)])
def test_clopper_pearson_inverts_the_binomial(hits, n):
    low, high = metrics.clopper_pearson_lower(hits, n, 0.05), metrics.clopper_pearson_upper(hits, n, 0.05)
    assert low == 0.0 if hits == 0 else stats.binom.sf(hits - 1, n, low) == pytest.approx(0.05)
    assert high == 1.0 if hits == n else stats.binom.cdf(hits, n, high) == pytest.approx(0.05)


# --- repeats --------------------------------------------------------------------------------------------------------


def test_averaged_takes_the_mean_and_the_widest_repeat():
    narrow, wide = metrics.share_excess(500, 1000, 100, 1000), metrics.share_excess(30, 100, 10, 100)
    found = metrics.averaged([narrow, wide])
    assert found.value == pytest.approx((0.4 + 0.2) / 2)
    assert found.lower(0.05) == pytest.approx(0.3 - (0.2 - wide.lower(0.05)))
    assert found.upper(0.05) == pytest.approx(0.3 + (wide.upper(0.05) - 0.2))
    assert metrics.averaged([narrow] * 3).lower(0.05) == pytest.approx(narrow.lower(0.05))


def test_averaged_refuses_what_is_no_repeat_and_keeps_the_unknown():
    with pytest.raises(NotEvaluable):
        metrics.averaged([])
    with pytest.raises(ValueError, match="same measurement"):
        metrics.averaged([metrics.share_excess(1, 2, 1, 2), metrics.share_excess(1, 2, 1, 2).advantage])
    unknown = metrics.averaged([metrics.precision(0, 9, 0, 9), metrics.precision(5, 9, 0, 9)])
    assert math.isnan(unknown.value)
    assert (unknown.lower(0.05), unknown.upper(0.05)) == (0.0, 1.0)


# --- AUC ------------------------------------------------------------------------------------------------------------


def beats(scores, member):
    """[members, non-members] of 1, 0.5 and 0: the kernel of the AUC."""
    inside, outside = scores[member][:, None], scores[~member][None, :]
    return (inside > outside) + 0.5 * (inside == outside)


@settings(deadline=None)
@given(scored())
def test_auc_is_the_share_of_pairs_won_and_its_mirror(case):
    scores, member, persons = case
    found = metrics.auc(scores, member, persons)
    assert found.value == pytest.approx(beats(scores, member).mean(), abs=1e-12)
    assert found.value + metrics.auc(-scores, member, persons).value == pytest.approx(1.0, abs=1e-12)


def test_delong_is_the_brute_force_covariance():
    rng = np.random.default_rng(4)
    scores, member = np.round(rng.normal(size=90) + 0.7 * (np.arange(90) < 40), 1), np.arange(90) < 40
    kernel = beats(scores, member)
    variance = np.var(kernel.mean(axis=1), ddof=1) / 40 + np.var(kernel.mean(axis=0), ddof=1) / 50
    found = metrics.auc(scores, member, alone(90))
    assert found.method == "delong"
    assert found.error == pytest.approx(math.sqrt(variance), rel=1e-12)
    centre, step = math.log(found.value / (1 - found.value)), found.error / (found.value * (1 - found.value))
    assert found.lower(0.025) == pytest.approx(1 / (1 + math.exp(-centre + 1.959963984540054 * step)))


def test_clustered_delong_is_obuchowski_1997_person_by_person():
    rng = np.random.default_rng(5)
    persons = rng.integers(0, 80, 300)
    member = rng.random(300) < 0.4
    scores = np.round(rng.normal(size=300) + 0.5 * member + rng.normal(size=80)[persons], 1)
    kernel = beats(scores, member)
    value, n1, n0 = kernel.mean(), *kernel.shape
    ten, one = np.zeros(80), np.zeros(80)
    for row, person in zip(kernel.mean(axis=1), persons[member], strict=True):
        ten[person] += row - value
    for column, person in zip(kernel.mean(axis=0), persons[~member], strict=True):
        one[person] += column - value
    m1, m0, m = len(set(persons[member])), len(set(persons[~member])), len(set(persons))
    s10, s01 = m1 / ((m1 - 1) * n1) * (ten @ ten), m0 / ((m0 - 1) * n0) * (one @ one)
    s11 = m / (m - 1) * (ten @ one)
    found = metrics.auc(scores, member, persons)
    assert found.method == "delong"
    assert found.error == pytest.approx(math.sqrt(s10 / n1 + s01 / n0 + 2 * s11 / (n1 * n0)), rel=1e-12)


def test_auc_falls_back_to_a_wider_bound_when_a_normal_one_cannot_be_trusted():
    rng, member = np.random.default_rng(6), np.arange(200) < 100
    perfect = metrics.auc(member + 0.0, member, alone(200))
    assert (perfect.method, perfect.value, perfect.upper(0.05)) == ("chernoff", 1.0, 1.0)
    assert perfect.lower(0.05) == pytest.approx(0.05 ** (1 / 100))
    constant = metrics.auc(np.zeros(200), member, alone(200))
    assert constant.method == "chernoff"
    assert constant.lower(0.05) < 0.4 < 0.6 < constant.upper(0.05)
    few = metrics.auc(rng.normal(size=200) + member, member, alone(200) % 25 + 100 * member)
    assert few.method == "chernoff"
    assert few.units == pytest.approx(25)
    scores, member = rng.normal(size=80) + (np.arange(80) < 40), np.arange(80) < 40
    normal = metrics.auc(scores, member, alone(80))
    wide = metrics.Auc(normal.value, math.nan, 40, "chernoff")
    assert normal.method == "delong"
    assert wide.lower(0.05) < normal.lower(0.05) < normal.upper(0.05) < wide.upper(0.05)


def test_chernoff_bound_solves_its_equation():
    low = metrics.Auc(0.8, math.nan, 20, "chernoff").lower(0.05)
    divergence = 0.8 * math.log(0.8 / low) + 0.2 * math.log(0.2 / (1 - low))
    assert 20 * divergence == pytest.approx(math.log(20))


def test_auc_of_a_census_varies_with_the_nonmembers_alone():
    rng, member = np.random.default_rng(13), np.arange(90) < 40
    scores = np.round(rng.normal(size=90) + 0.7 * member, 1)
    kernel = beats(scores, member)
    found = metrics.auc(scores, member, alone(90), census=True)
    assert found.value == metrics.auc(scores, member, alone(90)).value
    assert found.error == pytest.approx(math.sqrt(np.var(kernel.mean(axis=0), ddof=1) / 50), rel=1e-12)
    assert found.units == 50
    few = metrics.auc(scores[:60], member[:60], alone(60), census=True)
    assert (few.method, few.units) == ("chernoff", 20)


def test_census_bounds_hold_for_these_members():
    rng, runs, members = np.random.default_rng(14), 600, stats.norm.rvs(0.8, size=60, random_state=0)
    member = np.arange(260) < 60
    area = float(stats.norm.cdf(members).mean())  # P(this member beats a fresh non-member), over these members
    right = (float((members > 0.4).mean()) + stats.norm.cdf(0.4)) / 2
    missed = np.zeros((2, 2), dtype=int)
    for _ in range(runs):
        scores = np.concatenate((members, rng.normal(size=200)))
        for row, truth, found in (
            (0, area, metrics.auc(scores, member, alone(260), census=True)),
            (1, right, metrics.balanced_accuracy(scores > 0.4, member, alone(260), census=True)),
        ):
            missed[row] += found.lower(0.05) > truth, found.upper(0.05) < truth
    # The AUC's interval is normal on the logit scale: one point of slack, as with a sample of members.
    assert missed[0].max() <= allowed_misses(runs, 0.06)
    assert missed[1].max() <= allowed_misses(runs, 0.05)
    assert missed.sum(axis=1).min() >= 0.05 * runs  # and the bounds are no wider than that calls for


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_auc_bounds_hold_at_their_level(shift):
    rng, runs, truth = np.random.default_rng(7), 800, stats.norm.cdf(shift / math.sqrt(2))
    member = np.arange(150) < 70
    found = [metrics.auc(rng.normal(size=150) + shift * member, member, alone(150)) for _ in range(runs)]
    # The normal approximation on the logit scale: one point of slack at 70 and 80 records.
    assert sum(f.lower(0.05) > truth for f in found) <= allowed_misses(runs, 0.06)
    assert sum(f.upper(0.05) < truth for f in found) <= allowed_misses(runs, 0.06)
    assert sum(f.lower(0.05) > truth or f.upper(0.05) < truth for f in found) >= 0.05 * runs


# --- TPR at FPR -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "fpr"), [(1, 0.5), (10, 0.01), (100, 0.05), (400, 0.01), (997, 0.01), (5000, 0.001)])
@pytest.mark.parametrize("alpha", [1e-6, 0.025, 0.5])
def test_ranks_are_the_first_and_last_whose_beta_quantiles_comply(n, fpr, alpha):
    at_least = [k for k in range(1, n + 1) if stats.beta.ppf(alpha, k, n + 1 - k) >= fpr]
    at_most = [k for k in range(1, n + 1) if stats.beta.isf(alpha, k, n + 1 - k) <= fpr]
    assert metrics.rank_with_fpr_at_least(n, fpr, alpha) == (min(at_least) if at_least else None)
    assert metrics.rank_with_fpr_at_most(n, fpr, alpha) == (max(at_most) if at_most else None)


def test_tpr_at_fpr_by_hand():
    # 200 non-members 0..199; members above the highest, between the two highest, ..., one per gap.
    scores = np.concatenate((np.arange(200) + 0.5, np.arange(200.0)))
    member = np.arange(400) < 200
    found = metrics.tpr_at_fpr(scores, member, alone(400), 0.05, seed=0)
    assert (found.n_members, found.n_nonmembers, found.rank, found.realised) == (200, 200, 10, 0.05)
    assert found.hits.tolist() == list(range(1, 201))  # k + 1 members with k false positives
    assert found.value == 11 / 200
    low, high = metrics.rank_with_fpr_at_most(200, 0.05, 0.05), metrics.rank_with_fpr_at_least(200, 0.05, 0.05)
    assert found.lower(0.1) == pytest.approx(stats.beta.ppf(0.05, low, 201 - low))
    assert found.upper(0.1) == pytest.approx(stats.beta.ppf(0.95, high + 1, 200 - high))


def test_above_the_maximum_when_the_rate_is_below_one_nonmember():
    scores, member = np.array([5.0, 3.0, 1.0, 4.0, 2.0, 0.0]), np.array([True] * 3 + [False] * 3)
    found = metrics.tpr_at_fpr(scores, member, alone(6), 0.01, seed=0)
    assert (found.rank, found.value) == (0, 1 / 3)


@settings(deadline=None)
@given(scored(), st.integers(0, 5))
def test_tpr_does_not_depend_on_the_order_of_the_records(case, seed):
    scores, member, persons = case
    shuffled = np.random.default_rng(seed).permutation(len(scores))
    before = metrics.tpr_at_fpr(scores, member, persons, 0.1, seed)
    after = metrics.tpr_at_fpr(scores[shuffled], member[shuffled], persons[shuffled], 0.1, seed)
    assert np.array_equal(before.hits, after.hits)


@settings(deadline=None)
@given(scored())
def test_tpr_counts_each_person_once_per_side(case):
    scores, member, persons = case
    found = metrics.tpr_at_fpr(scores, member, persons, 0.1, 0)
    assert found.n_members == len(set(persons[member]))
    assert found.n_nonmembers == len(set(persons[~member])) == len(found.hits)


@settings(deadline=None)
@given(scored())
def test_without_ties_across_the_sides_hits_are_counts(case):
    scores, member, _ = case
    scores = np.where(np.isinf(scores), 9.0, scores) + 0.25 * member
    found = metrics.tpr_at_fpr(scores, member, alone(len(scores)), 0.1, 0)
    expected = [np.sum(scores[member] > s) for s in sorted(scores[~member], reverse=True)]
    assert found.hits.tolist() == expected


def test_ties_are_broken_at_random_and_without_favour():
    member = np.arange(4000) < 2000
    found = [metrics.tpr_at_fpr(np.zeros(4000), member, alone(4000), 0.3, seed) for seed in range(100)]
    values = np.array([f.value for f in found])
    # Constant scores: the interpolated ROC is the diagonal. The mean of 100 draws with standard deviation at most
    # sqrt(.3 * .7 * 2 / 2000) each.
    assert abs(values.mean() - 0.3) < 4 * math.sqrt(0.3 * 0.7 * 2 / 2000 / 100)
    assert values.std() > 0
    again = metrics.tpr_at_fpr(np.zeros(4000), member, alone(4000), 0.3, 7)
    assert np.array_equal(again.hits, found[7].hits)


def test_one_person_on_both_sides_does_not_tie_with_themself():
    persons, member = np.tile(alone(500), 2), np.arange(1000) < 500
    values = [metrics.tpr_at_fpr(np.zeros(1000), member, persons, 0.3, seed).value for seed in range(60)]
    # As if they were two persons. Over 60 seeds the spread is known to 9 %; without a draw per side it would be zero.
    expected = math.sqrt(0.3 * 0.7 * 2 / 500)
    assert np.std(values) == pytest.approx(expected, rel=0.4)
    assert abs(np.mean(values) - 0.3) < 4 * expected / math.sqrt(60)


def test_any_record_of_a_person_may_be_the_one_drawn():
    # 1000 members with a record below and one above all non-members: half of the draws are above.
    scores = np.concatenate((np.full(1000, -1.0), np.full(1000, 1.0), np.zeros(100)))
    persons = np.concatenate((alone(1000), alone(1000), 1000 + alone(100)))
    found = metrics.tpr_at_fpr(scores, np.arange(2100) < 2000, persons, 0.01, seed=0)
    assert abs(found.value - 0.5) < 4 * math.sqrt(0.25 / 1000)


@pytest.mark.parametrize("n", [1, 5, 10, 100])
def test_too_few_records_are_never_confident(n):
    # The attack is perfect; and then it is useless.
    for scores in (np.arange(2.0 * n)[::-1], np.arange(2.0 * n)):
        found = metrics.tpr_at_fpr(scores, np.arange(2 * n) < n, alone(2 * n), 0.01, 0)
        assert found.lower(0.05) == 0.0
    assert found.upper(0.05) > 1 - 0.025 ** (1 / n) - 1e-12  # as if no non-member had been seen
    if n == 1:
        assert found.upper(0.05) > 0.95


@settings(deadline=None)
@given(scored(), st.integers(0, 5))
def test_hits_of_a_census_are_the_mean_over_draws_of_the_members(case, seed):
    scores, member, persons = case
    found = metrics.tpr_at_fpr(scores, member, persons, 0.1, seed, census=True)
    sample = metrics.tpr_at_fpr(scores, member, persons, 0.1, seed)
    assert found.n_members == member.sum()
    assert found.n_nonmembers == sample.n_nonmembers
    # At each step the share that is hit lies between "no tied member is drawn" and "all are".
    outside = np.sort(scores[~member])[::-1]
    if len(outside) == found.n_nonmembers:  # nobody has two records
        for hits, at in zip(found.hits, outside, strict=True):
            assert np.sum(scores[member] > at) <= hits <= np.sum(scores[member] >= at)
    assert np.all(np.diff(found.hits) >= 0)


def test_a_census_draws_nothing_about_the_members():
    # Constant scores: the k-th of n draws from above is 1 - k/(n+1) in the mean, so hits/n1 - k/(n+1) averages to 0
    # and varies as that order statistic does; a draw per member would add sqrt(.3 * .7 / 100).
    member = np.arange(1100) < 100
    values = [metrics.tpr_at_fpr(np.zeros(1100), member, alone(1100), 0.3, s, census=True).value for s in range(200)]
    assert abs(np.mean(values) - 0.3) < 4 * math.sqrt(0.21 / 1000 / 200) + 1 / 1000
    assert np.std(values) == pytest.approx(math.sqrt(0.21 / 1000), rel=0.2)  # 200 values: known to 5 %


@pytest.mark.parametrize("grid", [0.0, 0.5])
def test_census_tpr_errs_at_most_at_its_level(grid):
    rng, runs, fpr = np.random.default_rng(15), 400, 0.01

    def rounded(x):
        return np.round(x / grid) * grid if grid else x

    members, member = rounded(stats.norm.rvs(1.5, size=200, random_state=1)), np.arange(2200) < 200
    at = stats.norm.isf(fpr)
    if grid:  # the tie block that holds the 1 % quantile, and which share of it is flagged
        block = next(k for k in range(-20, 20) if stats.norm.sf((k + 0.5) * grid) <= fpr)
        above, below = stats.norm.sf((block + 0.5) * grid), stats.norm.sf((block - 0.5) * grid)
        share = (fpr - above) / (below - above)
        truth = np.mean(members > block * grid + 1e-9) + share * np.mean(np.abs(members - block * grid) < 1e-9)
    else:
        truth = np.mean(members > at)
    missed = np.zeros(2, dtype=int)
    narrower = 0
    for seed in range(runs):
        scores = np.concatenate((members, rounded(rng.normal(size=2000))))
        found = metrics.tpr_at_fpr(scores, member, alone(2200), fpr, seed, census=True)
        missed += found.lower(0.05) > truth, found.upper(0.05) < truth
        sample = metrics.tpr_at_fpr(scores, member, alone(2200), fpr, seed)
        narrower += found.upper(0.05) - found.lower(0.05) < sample.upper(0.05) - sample.lower(0.05)
    assert missed.max() <= allowed_misses(runs, 0.05)
    assert narrower == runs


def true_tpr(shift: float, fpr: float, grid: float) -> float:
    """Of N(shift, 1) against N(0, 1), with scores rounded to a grid and ties randomised."""
    if grid == 0.0:
        return float(stats.norm.sf(stats.norm.isf(fpr) - shift))
    edges = (np.arange(-20, 40) + 0.5)[::-1] * grid
    return float(np.interp(fpr, stats.norm.sf(edges), stats.norm.sf(edges - shift)))


@pytest.mark.slow
@pytest.mark.parametrize("grid", [0.0, 0.5, 2.0])
@pytest.mark.parametrize(("fpr", "n"), [(0.01, 2000), (0.001, 8000)])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_tpr_rule_errs_at_most_at_its_level(fpr, n, shift, grid):
    rng, runs, truth = np.random.default_rng(8), 400, true_tpr(shift, fpr, grid)
    too_high = too_low = naive = 0
    lows = []
    member = np.arange(n + 1000) < 1000
    for seed in range(runs):
        scores = rng.normal(size=n + 1000) + shift * member
        if grid:
            scores = np.round(scores / grid) * grid
        found = metrics.tpr_at_fpr(scores, member, alone(n + 1000), fpr, seed)
        lows.append(found.lower(0.05))
        too_high += lows[-1] > truth
        too_low += found.upper(0.05) < truth
        naive += metrics.clopper_pearson_lower(found.value * 1000, 1000, 0.05) > truth
    assert too_high <= allowed_misses(runs, 0.05)
    assert too_low <= allowed_misses(runs, 0.05)
    if shift and not grid and fpr == 0.01:
        assert np.mean(lows) > truth / 3  # it does say something,
        assert naive > allowed_misses(runs, 0.05)  # and a threshold taken as known would have erred


# --- known answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shift", "accuracy", "area", "at_1_percent", "at_1_permille"),
    [
        (0.25, 0.54974, 0.57016, 0.01893, 0.00225),
        (0.5, 0.59871, 0.63816, 0.03390, 0.00480),
        (1.0, 0.69146, 0.76025, 0.09236, 0.01830),
        (2.0, 0.84134, 0.92135, 0.37208, 0.13781),
    ],
)
def test_gaussian_shift_known_answers(shift, accuracy, area, at_1_percent, at_1_permille):
    """K-1, on the quantiles of the two normals in place of draws, so that no sampling error is left."""
    n = 50_000
    quantiles = stats.norm.ppf((np.arange(n) + 0.5) / n)
    scores, member = np.concatenate((quantiles + shift, quantiles)), np.arange(2 * n) < n
    people = alone(2 * n)
    # Steps of 1/n on either axis: the slope of the curve at these FPR is below 10.
    within = {"abs": 11 / n}
    assert metrics.balanced_accuracy(scores >= shift / 2, member, people).value == pytest.approx(accuracy, **within)
    assert metrics.auc(scores, member, people).value == pytest.approx(area, **within)
    assert metrics.tpr_at_fpr(scores, member, people, 0.01, 0).value == pytest.approx(at_1_percent, **within)
    # At 0.1 % the slope reaches 80 for a shift of 2.
    assert metrics.tpr_at_fpr(scores, member, people, 0.001, 0).value == pytest.approx(at_1_permille, abs=80 / n)


# --- curves ---------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(scored())
def test_roc_is_brute_force_over_all_thresholds(case):
    scores, member, _ = case
    fpr, tpr = metrics.roc(scores, member)
    cuts = sorted(set(scores.tolist()), reverse=True)
    assert fpr == pytest.approx([0.0] + [float(np.mean(scores[~member] >= t)) for t in cuts])
    assert tpr == pytest.approx([0.0] + [float(np.mean(scores[member] >= t)) for t in cuts])


@settings(deadline=None)
@given(scored())
def test_roc_area_and_advantage_obey_the_known_inequalities(case):
    """I-8: the area under the curve is the AUC; AUC <= 1/2 + a - a^2/2 for the largest advantage a (KS statistic)."""
    scores, member, persons = case
    fpr, tpr = metrics.roc(scores, member)
    area = float(np.trapezoid(tpr, fpr))
    best = float(np.max(tpr - fpr))
    assert area == pytest.approx(metrics.auc(scores, member, persons).value)
    assert best >= 0
    assert area <= 0.5 + best - best**2 / 2 + 1e-12
    assert np.all(np.diff(fpr) >= 0)
    assert np.all(np.diff(tpr) >= 0)
    finite = np.clip(scores, -99, 99)  # order is kept, and the statistic needs numbers
    ks = max(stats.ks_2samp(finite[member], finite[~member], alternative="less", method="asymp").statistic, 0.0)
    assert best == pytest.approx(ks)


@settings(deadline=None)
@given(scored())
def test_curves_ignore_order_copies_and_monotone_transforms(case):
    """I-3 and I-4."""
    scores, member, persons = case
    fpr, tpr = metrics.roc(scores, member)
    for other in (
        metrics.roc(scores[::-1], member[::-1]),
        metrics.roc(np.tile(scores, 2), np.tile(member, 2)),
        metrics.roc(np.arctan(scores), member),
    ):
        assert np.array_equal(other[0], fpr)
        assert np.array_equal(other[1], tpr)
    assert metrics.auc(np.arctan(scores), member, persons).value == metrics.auc(scores, member, persons).value
    hits = metrics.tpr_at_fpr(scores, member, persons, 0.2, 0).hits
    assert np.array_equal(metrics.tpr_at_fpr(np.arctan(scores), member, persons, 0.2, 0).hits, hits)


def test_thin_roc_keeps_the_ends_and_the_low_rates():
    rng, member = np.random.default_rng(9), np.arange(20_000) < 10_000
    fpr, tpr = metrics.roc(rng.normal(size=20_000) + member, member)
    few_fpr, few_tpr = metrics.thin_roc(fpr, tpr, 160)
    assert 100 < len(few_fpr) <= 160
    assert (few_fpr[0], few_tpr[0], few_fpr[-1], few_tpr[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert few_tpr[few_fpr == 0].max() == tpr[fpr == 0].max()
    assert np.sum((few_fpr > 0) & (few_fpr < 0.01)) > 20
    assert set(zip(few_fpr, few_tpr, strict=True)) <= set(zip(fpr, tpr, strict=True))
    assert np.array_equal(metrics.thin_roc(fpr[:50], tpr[:50])[0], fpr[:50])


# --- imbalance ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [2, 7])
@pytest.mark.parametrize("side", [True, False])
def test_more_records_of_one_side_leave_every_point_estimate(times, side):
    """Each side weighs one half: imbalance is met by weights, and no record is ever left out for balance."""
    rng, member = np.random.default_rng(16), np.arange(700) < 200
    scores = rng.normal(size=700) + member
    again = np.concatenate((alone(700), np.tile(np.flatnonzero(member == side), times - 1)))
    more, larger = scores[again], member[again]
    people = alone(len(again))

    def estimates(scores, member, persons):
        rates = metrics.advantage(scores > 0.5, member, persons)
        return [
            rates.value,
            metrics.balanced_accuracy(scores > 0.5, member, persons).value,
            metrics.auc(scores, member, persons).value,
            metrics.precision_of(rates, 0.1).value,
            metrics.tpr_at_fpr(scores, member, persons, 0.05, 0).value if side else 0.0,
        ]

    assert estimates(more, larger, people) == pytest.approx(estimates(scores, member, alone(700)))
    assert metrics.advantage(more > 0.5, larger, people).upper(0.05) < metrics.advantage(
        scores > 0.5, member, alone(700)
    ).upper(0.05)  # none of them was thrown away either


# --- runs and bootstrap ---------------------------------------------------------------------------------------------


def test_t_interval_by_hand():
    values = [0.61, 0.58, 0.66, 0.60, 0.63]
    found = metrics.t_interval(values)
    assert found.value == pytest.approx(np.mean(values))
    for alpha in (0.001, 0.05, 0.3):
        low, high = stats.t.interval(1 - 2 * alpha, 4, np.mean(values), stats.sem(values))
        assert (found.lower(alpha), found.upper(alpha)) == pytest.approx((low, high))
    assert metrics.t_interval([0.9, 0.99, 1.0]).upper(0.001) == 1.0
    assert metrics.t_interval([-0.3, 0.3], (-1.0, 1.0)).lower(0.2) < -0.3


def test_runs_without_spread_are_no_certainty():
    nothing = metrics.t_interval([0.0] * 6)
    assert (nothing.value, nothing.lower(0.05)) == (0.0, 0.0)
    assert nothing.upper(0.05) == pytest.approx(1 - 0.05 ** (1 / 6))  # as if each run were one trial
    level = metrics.t_interval([0.1] * 8, (-1.0, 1.0))
    p, q = 0.55, (level.upper(0.05) + 1) / 2
    assert 8 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))) == pytest.approx(math.log(20))
    assert metrics.t_interval([0.3] * 3, (-math.inf, math.inf)).upper(0.05) == math.inf
    unknown = metrics.t_interval([0.5, math.nan, 0.7])
    assert math.isnan(unknown.value)
    assert (unknown.lower(0.05), unknown.upper(0.05)) == (0.0, 1.0)
    with pytest.raises(NotEvaluable):
        metrics.t_interval([0.5])


def test_t_bounds_hold_at_their_level():
    rng, runs = np.random.default_rng(17), 3000
    found = [metrics.t_interval(row) for row in rng.normal(0.6, 0.02, (runs, 5)).tolist()]
    low, high = sum(f.lower(0.05) > 0.6 for f in found), sum(f.upper(0.05) < 0.6 for f in found)
    # Exact for normal runs: neither more nor fewer than chance allows.
    assert stats.binom.ppf(1e-4, runs, 0.05) <= min(low, high) <= max(low, high) <= allowed_misses(runs, 0.05)


def test_what_runs_share_is_added_in_quadrature():
    values = [0.61, 0.58, 0.66, 0.60, 0.63]
    own, both = metrics.t_interval(values), metrics.t_interval(values, shared=0.05)
    assert both.value == own.value
    assert both.error == pytest.approx(math.hypot(own.error, 0.05))


@settings(deadline=None)
@given(scored(least=2))
def test_influences_are_first_order_changes(case):
    """Against the definitions, record by record."""
    scores, member, persons = case
    hits, kernel = scores > 0, beats(scores, member)
    of_tpr, of_fpr = metrics.rate_influences(hits, member)
    for i in range(len(scores)):
        mine, other = (of_tpr, of_fpr) if member[i] else (of_fpr, of_tpr)
        side = member == member[i]
        assert mine[i] == pytest.approx((hits[i] - hits[side].mean()) / side.sum())
        assert other[i] == 0
    area = metrics.auc_influences(scores, member)
    assert area[member] == pytest.approx((kernel.mean(axis=1) - kernel.mean()) / len(kernel))
    assert area[~member] == pytest.approx((kernel.mean(axis=0) - kernel.mean()) / kernel.shape[1])
    names = sorted(set(persons.tolist()))
    if len(names) > 1:
        squares = sum(area[persons == p].sum() ** 2 for p in names)
        expected = math.sqrt(len(names) / (len(names) - 1) * squares)
        assert metrics.clustered_error(area, persons) == pytest.approx(expected)


def test_errors_from_influences_are_the_true_ones():
    """Over 400 draws of two normals the spread is known to 4 %, and the mean of the estimates far better."""
    rng, member = np.random.default_rng(22), np.arange(3000) < 1000
    found, estimated = [], []
    for seed in range(400):
        scores = rng.normal(size=3000) + member
        rates = metrics.advantage(scores > 0.5, member, alone(3000))
        of_tpr, of_fpr = metrics.rate_influences(scores > 0.5, member)
        found.append(
            (
                rates.value,
                metrics.auc(scores, member, alone(3000)).value,
                metrics.tpr_at_fpr(scores, member, alone(3000), 0.02, seed).value,
            )
        )
        influences = (
            of_tpr - of_fpr,
            metrics.auc_influences(scores, member),
            metrics.tpr_influences(scores, member, 0.02),
        )
        estimated.append([metrics.clustered_error(i, alone(3000)) for i in influences])
    true, mean = np.std(found, axis=0), np.mean(estimated, axis=0)
    assert mean[:2] == pytest.approx(true[:2], rel=4 * 0.036)
    # The slope is that of a chord, which is steeper or flatter than the curve by less than a tenth here.
    assert mean[2] == pytest.approx(true[2], rel=4 * 0.036 + 0.1)


def gap(values, member):
    """Mean of members - mean of non-members, weighted: a statistic whose answer is known."""

    def statistic(weights):
        inside, outside = weights * member, weights * ~member
        return float(inside @ values / inside.sum() - outside @ values / outside.sum())

    return statistic


def test_bootstrap_draws_persons_side_by_side():
    rng = np.random.default_rng(18)
    persons = np.concatenate((np.repeat(alone(30), 3), 30 + alone(40) // 2, alone(20)))  # 20 persons on both sides
    member = np.arange(150) < 90
    seen = []

    def statistic(weights):
        seen.append(weights.copy())
        return float(rng.normal())

    metrics.bootstrap(statistic, member, persons, 0, replicates=100)
    assert np.array_equal(seen[0], np.ones(150))
    for weights in seen[1:101]:
        for side, people in ((member, 30), (~member, 40)):
            times = [set(weights[side & (persons == p)].tolist()) for p in set(persons[side].tolist())]
            assert all(len(t) == 1 for t in times)  # all records of a person on a side together
            assert sum(t.pop() for t in times) == people  # as many persons as there are
    for weights in seen[101:]:  # the jackknife leaves out one group of one side at a time and keeps the side's weight
        assert (weights == 0).any()
        assert weights[member].min() == 1 or weights[~member].min() == 1


def test_bootstrap_is_bca_written_out():
    rng, member = np.random.default_rng(19), np.arange(130) < 60
    values, people = rng.exponential(size=130), alone(130)
    statistic = gap(values, member)
    found = metrics.bootstrap(statistic, member, people, 3, replicates=1000)
    assert found.value == pytest.approx(values[:60].mean() - values[60:].mean())
    share = np.mean(found.replicates < found.value)
    bias = stats.norm.ppf(share)
    # Leaving one person out of a mean of n moves it by (x - mean)/(n - 1): the influences in closed form.
    inside, outside = (values[:60] - values[:60].mean()) / 60, -(values[60:] - values[60:].mean()) / 70
    influence = np.concatenate((inside, outside))
    acceleration = np.sum(influence**3) / (6 * np.sum(influence**2) ** 1.5)
    assert found.acceleration == pytest.approx(acceleration, rel=1e-9)
    for alpha in (0.01, 0.05, 0.4):
        z = bias + stats.norm.ppf(alpha)
        level = stats.norm.cdf(bias + z / (1 - acceleration * z))
        assert found.lower(alpha) == pytest.approx(np.quantile(found.replicates, level), rel=1e-9)
    median = np.quantile(found.replicates, stats.norm.cdf(bias + bias / (1 - acceleration * bias)))
    steps = [found.upper(a) - median for a in (0.01, 1e-4, 1e-8)]
    deepest = stats.norm.isf(0.01)
    # Beyond ten replicates the distance from the median is proportional to the deviate.
    assert steps == pytest.approx([steps[0] * stats.norm.isf(a) / deepest for a in (0.01, 1e-4, 1e-8)])


def test_bootstrap_does_not_depend_on_the_order_of_the_records():
    rng, member = np.random.default_rng(20), np.arange(300) < 120
    values, persons = rng.normal(size=300), rng.integers(0, 100, 300)
    order = rng.permutation(300)
    one = metrics.bootstrap(gap(values, member), member, persons, 1, replicates=100)
    two = metrics.bootstrap(gap(values[order], member[order]), member[order], persons[order], 1, replicates=100)
    assert one.lower(0.05) == pytest.approx(two.lower(0.05))
    assert metrics.bootstrap(gap(values, member), member, persons, 2, replicates=100).lower(0.05) != one.lower(0.05)


def test_bootstrap_refuses_what_it_cannot_tell():
    member = np.arange(100) < 50
    with pytest.raises(NotEvaluable, match="19 member persons"):
        metrics.bootstrap(gap(np.ones(100), member), member, np.minimum(alone(100), 18 + 50 * ~member), 0)
    with pytest.raises(NotEvaluable, match="nan"):
        metrics.bootstrap(lambda weights: math.nan if weights.max() > 1 else 0.0, member, alone(100), 0)
    with pytest.raises(ValueError, match="replicates"):
        metrics.bootstrap(lambda _: 0.3, member, alone(100), 0, replicates=99)
    constant = metrics.bootstrap(lambda _: 0.3, member, alone(100), 0, replicates=100, within=(0.0, 1.0))
    assert (constant.value, constant.lower(0.05), constant.upper(0.05)) == (0.3, 0.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("records", [1, 4])
def test_bootstrap_bounds_hold_at_their_level(records):
    """A skewed statistic (the Brier score of squared errors that are exponential), persons with alike records."""
    rng, runs, people = np.random.default_rng(21), 400, 120
    persons = np.repeat(alone(people), records)
    member = persons < people // 2
    missed = np.zeros(2, dtype=int)
    record_missed = 0
    for seed in range(runs):
        values = rng.exponential(size=people)[persons]
        found = metrics.bootstrap(lambda w, v=values: float(w @ v / w.sum()), member, persons, seed, replicates=400)
        missed += found.lower(0.05) > 1.0, found.upper(0.05) < 1.0
        if records > 1:
            naive = values.mean() + 1.645 * values.std() / math.sqrt(len(values))
            record_missed += naive < 1.0
    # BCa is correct to order 1/n only: two points of slack with 60 persons a side.
    assert missed.max() <= allowed_misses(runs, 0.07)
    if records > 1:
        assert record_missed > allowed_misses(runs, 0.1)


# --- the shape of all bounds ----------------------------------------------------------------------------------------


def measurements(scores, member, persons):
    decisions = scores >= 0.5
    difference = metrics.advantage(decisions, member, persons)
    accuracy = metrics.balanced_accuracy(decisions, member, persons)
    counts = (int(np.sum(decisions[member])), int(member.sum()), int(np.sum(decisions[~member])), int((~member).sum()))
    return [
        difference,
        accuracy,
        metrics.averaged([accuracy, metrics.balanced_accuracy(scores >= 2, member, persons)]),
        metrics.auc(scores, member, persons),
        metrics.Auc(0.7, 0.05, 60, "delong"),
        metrics.tpr_at_fpr(scores, member, persons, 0.2, 0),
        metrics.share_excess(*counts),
        metrics.precision(*counts),
        metrics.averaged([metrics.precision_of(difference, 0.01)] * 2),
        metrics.balanced_accuracy(decisions, member, persons, census=True),
        metrics.precision_of(metrics.advantage(decisions, member, persons, census=True), 0.1),
        metrics.auc(scores, member, persons, census=True),
        metrics.tpr_at_fpr(scores, member, persons, 0.2, 0, census=True),
        metrics.t_interval([float(s) for s in np.clip(scores, 0, 1)]),
        metrics.t_interval([0.25] * 3, (-1.0, 1.0)),
        metrics.Bootstrapped(0.4, np.sort(np.tile(np.clip(scores, 0, 1), 60)), 0.2, -0.1, (0.0, 1.0)),
    ]


@settings(max_examples=60, deadline=None)
@given(scored())
def test_bounds_are_ordered_nested_and_within_range(case):
    """I-10: higher confidence contains lower; pass and fail exclude each other; all alphas can be asked for."""
    for found in measurements(*case):
        least, largest = found.range
        lows, highs = [found.lower(a) for a in ALPHAS], [found.upper(a) for a in ALPHAS]
        assert all(a <= b + 1e-12 for a, b in pairwise(lows))
        assert all(a >= b - 1e-12 for a, b in pairwise(highs))
        assert all(least <= b <= largest for b in lows + highs)
        assert found.lower(0.05) <= found.upper(0.05)
        if not math.isnan(found.value) and not isinstance(found, metrics.TprAtFpr):
            assert found.lower(0.05) <= found.value + 1e-12
            assert found.value <= found.upper(0.05) + 1e-12


@settings(max_examples=40, deadline=None)
@given(scored(least=4))
def test_more_records_of_the_same_kind_narrow_the_bounds(case):
    scores, member, _ = case
    decisions, n = scores >= 0.5, len(scores)
    tiled = [np.tile(a, 9) for a in (decisions, member)]
    few, many = metrics.advantage(decisions, member, alone(n)), metrics.advantage(*tiled, alone(9 * n))
    assert many.upper(0.05) - many.lower(0.05) < few.upper(0.05) - few.lower(0.05)
    area, larger = metrics.Auc(0.7, 0.03, 50, "chernoff"), metrics.Auc(0.7, 0.01, 450, "chernoff")
    assert larger.upper(0.05) - larger.lower(0.05) < area.upper(0.05) - area.lower(0.05)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 2.0])
def test_an_alpha_outside_the_unit_interval_is_refused(alpha):
    rng, member = np.random.default_rng(0), np.arange(80) < 40
    for found in measurements(rng.normal(size=80), member, alone(80)):
        for bound in (found.lower, found.upper):
            with pytest.raises(ValueError, match="alpha"):
                bound(alpha)


@pytest.mark.parametrize("member", [np.ones(5, dtype=bool), np.zeros(5, dtype=bool)])
def test_one_side_alone_cannot_be_measured(member):
    scores, people = np.arange(5.0), alone(5)
    for measure in (
        lambda: metrics.advantage(scores > 2, member, people),
        lambda: metrics.balanced_accuracy(scores > 2, member, people),
        lambda: metrics.auc(scores, member, people),
        lambda: metrics.tpr_at_fpr(scores, member, people, 0.01, 0),
        lambda: metrics.roc(scores, member),
        lambda: metrics.share_excess(0, 0, 1, 5),
    ):
        with pytest.raises(NotEvaluable):
            measure()


def test_nan_scores_are_an_error_not_a_low_score():
    scores, member = np.array([1.0, math.nan, 2.0, 0.0]), np.array([True, True, False, False])
    for measure in (
        lambda: metrics.auc(scores, member, alone(4)),
        lambda: metrics.tpr_at_fpr(scores, member, alone(4), 0.01, 0),
        lambda: metrics.roc(scores, member),
    ):
        with pytest.raises(EvaluationFailed, match="NaN"):
            measure()


def test_impossible_requests_are_refused():
    with pytest.raises(ValueError, match="hits"):
        metrics.share_excess(5, 4, 0, 4)
    with pytest.raises(ValueError, match="prior"):
        metrics.precision(1, 4, 0, 4, prior=1.0)
    with pytest.raises(ValueError, match="false-positive rate"):
        metrics.tpr_at_fpr(np.arange(4.0), np.arange(4) < 2, alone(4), 0.0, 0)


# --- tests and sizes ------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(scored(), st.floats(-0.5, 0.9), st.sampled_from([1e-9, 1e-4, 0.01, 0.05, 0.4]))
def test_p_value_agrees_with_the_lower_bound(case, limit, alpha):
    for found in measurements(*case):
        p = metrics.p_value(found, limit)
        assert p == 1.0 or found.lower(p) > limit
        assume(abs(p / alpha - 1) > 1e-6)
        assert (found.lower(alpha) > limit) == (p <= alpha)


def test_p_value_of_a_difference_is_the_normal_tail():
    # Large equal samples, p near one half: MOVER-Wilson is the z test.
    found = metrics.Advantage(metrics.Proportion(0.5, 1e6), metrics.Proportion(0.4975, 1e6))
    assert metrics.p_value(found, 0.0) == pytest.approx(stats.norm.sf(0.0025 / math.sqrt(0.5 / 1e6)), rel=0.01)
    assert metrics.p_value(found, 0.5) == 1.0
    assert metrics.p_value(metrics.Advantage(metrics.Proportion(1.0, 1e6), metrics.Proportion(0.0, 1e6)), 0.0) == 1e-15


def test_holm_by_hand():
    # Holm 1979: steps at alpha/4, alpha/3, alpha/2, alpha; the third fails, so the fourth is not tried.
    assert metrics.holm([0.03, 0.01, 0.04, 0.005], 0.05) == [False, True, False, True]
    assert metrics.holm([0.04, 0.02, 0.04], 0.05) == [False, False, False]  # 0.02 > 0.05/3
    assert metrics.holm([0.04, 0.016, 0.02], 0.05) == [True, True, True]
    assert metrics.holm([], 0.05) == []
    with pytest.raises(ValueError, match="nan"):
        metrics.holm([0.01, math.nan], 0.05)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.5))
def test_holm_lies_between_bonferroni_and_no_correction(p_values, alpha):
    rejected = metrics.holm(p_values, alpha)
    for p, decision in zip(p_values, rejected, strict=True):
        assert decision or p > alpha / len(p_values)
        assert not decision or p <= alpha


@pytest.mark.parametrize(
    ("gap", "alpha", "sizes"),
    [
        (0.05, 0.05, (310, 429, 542)),
        (0.05, 0.05 / 8, (558, 715, 859)),
        (0.03, 0.05, (859, 1190, 1504)),
        (0.02, 0.05, (1933, 2677, 3382)),
    ],
)
def test_records_for_accuracy_reproduces_the_table(gap, alpha, sizes):
    """The textbook table, at 80, 90 and 95 % power."""
    found = [metrics.records_for_accuracy(0.6, 0.6 - gap, alpha, power) for power in (0.8, 0.9, 0.95)]
    assert found == pytest.approx(sizes, abs=1)
    assert found == [metrics.records_for_accuracy(0.6 - gap, 0.6, alpha, power) for power in (0.8, 0.9, 0.95)]


def test_no_number_of_records_decides_a_tie():
    assert metrics.records_for_accuracy(0.6, 0.6, 0.05, 0.8) == metrics.MOST_RECORDS


@pytest.mark.parametrize(("fpr", "alpha"), [(0.01, 0.05), (0.001, 0.05), (0.01, 0.05 / 40), (0.3, 0.5)])
def test_fewest_nonmembers_for_a_lower_bound(fpr, alpha):
    n = metrics.nonmembers_for_tpr(fpr, alpha)
    for size, can in ((n, True), (n - 1, False)):
        perfect = metrics.TprAtFpr(fpr, np.full(size, 50), 50, size)
        assert (perfect.lower(alpha) > 0) == can
    assert metrics.nonmembers_for_tpr(0.01, 0.05) == 368  # ln .025 / ln .99 = 367.04


def test_fewest_nonmembers_to_pass():
    n = metrics.nonmembers_to_pass_tpr(0.01, 0.05, 0.05, 1000)
    assert n is not None
    rank = metrics.rank_with_fpr_at_least(n, 0.01, 0.025)
    assert stats.beta.ppf(0.975, 1000 * rank / (n + 1) + 1, 1000 - 1000 * rank / (n + 1)) <= 0.05
    assert metrics.nonmembers_to_pass_tpr(0.01, 0.01, 0.05, 1000) is None  # chance itself never passes
    assert metrics.nonmembers_to_pass_tpr(0.001, 0.01, 0.05, 30) is None  # too few members, whatever the non-members
    passed = 0
    rng, member = np.random.default_rng(10), np.arange(1000 + 2 * n) < 1000
    for seed in range(200):
        found = metrics.tpr_at_fpr(rng.normal(size=len(member)), member, alone(len(member)), 0.01, seed)
        passed += found.upper(0.05) <= 0.05
    assert passed > 100  # twice the size that gives even odds


# --- what a mutation run found untested -----------------------------------------------------------------------------


def test_every_number_knows_its_range():
    rates = metrics.Advantage(metrics.Proportion(0.6, 100), metrics.Proportion(0.5, 100))
    assert rates.range == (-1.0, 1.0)
    assert metrics.averaged([rates]).range == (-1.0, 1.0)
    for found in (
        metrics.BalancedAccuracy(rates),
        metrics.ShareExcess(rates),
        metrics.precision_of(rates, 0.5),
        metrics.Auc(0.6, 0.05, 60, "delong"),
        metrics.TprAtFpr(0.1, np.arange(10), 10, 10),
    ):
        assert found.range == (0.0, 1.0)


def test_what_is_missing_is_named():
    people, scores = alone(3), np.arange(3.0)
    for member, said in ((np.zeros(3, dtype=bool), "no members"), (np.ones(3, dtype=bool), "no non-members")):
        with pytest.raises(NotEvaluable, match=f"there are {said} "):
            metrics.auc(scores, member, people)
    with pytest.raises(NotEvaluable, match="there are no non-members "):
        metrics.share_excess(1, 1, 0, 0)
    with pytest.raises(NotEvaluable, match="there are no members "):
        metrics.share_excess(0, 0, 1, 1)
    assert metrics.share_excess(1, 1, 0, 1).value == 1.0  # one person on a side is few, not none


@pytest.mark.parametrize("prior", [-0.5, 0.0, 1.0, 1.5])
def test_a_prior_leaves_both_possible(prior):
    with pytest.raises(ValueError, match="prior"):
        metrics.precision(1, 4, 0, 4, prior=prior)


def test_nothing_flagged_in_a_census_leaves_everything_possible():
    nothing = metrics.Proportion(0.0, math.inf)
    for rates in (metrics.Advantage(nothing, nothing), metrics.Advantage(nothing, metrics.Proportion(0.0, 100))):
        found = metrics.precision_of(rates, 0.1)
        assert (found.lower(0.05), found.upper(0.05)) == (0.0, 1.0)


@pytest.mark.parametrize(("fewest", "method"), [(30, "delong"), (29, "chernoff")])
@pytest.mark.parametrize("few_members", [True, False])
def test_a_normal_approximation_needs_thirty_persons_a_side(fewest, method, few_members):
    n = fewest + 60
    few = np.arange(n) < fewest
    found = metrics.auc(np.arange(n) * 7.0 % 31, few if few_members else ~few, alone(n))
    assert found.method == method


def test_the_upper_chernoff_bound_mirrors_the_lower_one():
    high = metrics.Auc(0.8, math.nan, 20, "chernoff").upper(0.05)
    assert 0.8 < high < 1.0
    divergence = 0.8 * math.log(0.8 / high) + 0.2 * math.log(0.2 / (1 - high))
    assert 20 * divergence == pytest.approx(math.log(20))


def test_the_rank_is_the_last_that_the_rate_allows():
    hits = np.arange(1, 11)
    for fpr, rank in ((0.05, 0), (0.1, 1), (0.29, 2), (0.3, 3), (0.9, 9), (1 - 1e-12, 9)):
        found = metrics.TprAtFpr(fpr, hits, 10, 10)
        assert (found.rank, found.realised, found.value) == (rank, rank / 10, (rank + 1) / 10)
    # 0.29 * 100 is below 29 in floating point, and means 29.
    assert metrics.TprAtFpr(0.29, np.arange(100), 100, 100).rank == 29


def test_the_records_of_a_person_are_drawn_on_each_side_by_itself():
    # 100 persons with a low and a high record on both sides; with one draw for both, as many would be high.
    persons, member = np.tile(alone(100), 4), np.arange(400) < 200
    scores = np.repeat([-1.0, 1.0, 0.0, 2.0], 100)
    alike = 0
    for seed in range(5):
        hits = metrics.tpr_at_fpr(scores, member, persons, 0.1, seed).hits
        high_members, high_others = hits[-1], np.sum(hits == 0)
        assert 25 < high_members < 75
        assert 25 < high_others < 75  # five standard deviations
        alike += high_members == high_others
    assert alike < 3  # each with a chance of 6 %


def test_ties_in_a_census_are_shared_out():
    scores = np.concatenate(([2.0, 1.0, 1.0, 0.0], np.ones(200)))
    found = metrics.tpr_at_fpr(scores, np.arange(204) < 4, alone(204), 0.1, 0, census=True)
    # One member above, two that tie: from one to three hits, by the share of each draw.
    assert 1.0 <= found.hits.min() < 1.2
    assert 2.8 < found.hits.max() <= 3.0
    assert found.hits.mean() == pytest.approx(2.0, abs=4 * 2 / math.sqrt(12 * 200))


def test_a_thin_curve_is_even_in_the_logarithm():
    fpr = np.arange(100_001) / 100_000
    few, _ = metrics.thin_roc(fpr, fpr, points=8)
    # A grid point may be rounded to just below a point of the curve: one step of slack.
    assert few == pytest.approx([0.0, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0], abs=1.01e-5)
    same = metrics.thin_roc(fpr[:8], fpr[:8], points=8)[0]
    assert np.array_equal(same, fpr[:8])


class Steps:
    """A measurement whose lower bound is `limit` up to a level, and higher from there on."""

    value = 1.0

    def __init__(self, limit: float, level: float) -> None:
        self.limit, self.level = limit, level

    def lower(self, alpha: float) -> float:
        return self.limit if alpha <= self.level else self.limit + 1

    def upper(self, alpha: float) -> float:
        return 2.0


def test_a_bound_at_the_limit_is_not_beyond_it():
    assert metrics.p_value(Steps(0.5, 1.0), 0.5) == 1.0
    assert metrics.p_value(Steps(0.5, 0.5), 0.5) == 1.0
    assert metrics.p_value(Steps(0.5, 0.001), 0.5) == pytest.approx(0.001)
    assert metrics.p_value(Steps(0.5, 1e-15), 0.5) == pytest.approx(1e-15)
    assert metrics.p_value(Steps(0.5, 1e-16), 0.5) == metrics.SMALLEST_P == 1e-15


def test_holm_rejects_at_the_level_itself():
    assert metrics.holm([0.05], 0.05) == [True]
    assert metrics.holm([0.025, 0.05], 0.05) == [True, True]


def test_a_sample_has_at_least_one_record():
    assert metrics.records_for_accuracy(0.6, 0.5, 0.5, 0.5) == 1
    assert metrics.MOST_RECORDS == 10_000_000
    # At 80 % power: (z + z)^2 / 8 = .7728 over the square of the gap.
    assert metrics.records_for_accuracy(0.6, 0.6 + 0.00028, 0.05, 0.8) == pytest.approx(9_857_650, rel=1e-3)
    assert metrics.records_for_accuracy(0.6, 0.6 + 0.00027, 0.05, 0.8) == metrics.MOST_RECORDS


@pytest.mark.parametrize("n_members", [200, 1000])
def test_one_nonmember_less_would_not_pass(n_members):
    n = metrics.nonmembers_to_pass_tpr(0.01, 0.05, 0.05, n_members)

    def high(n):
        rank = next((k for k in range(1, n + 1) if stats.beta.ppf(0.025, k, n + 1 - k) >= 0.01), None)
        hits = math.inf if rank is None else n_members * rank / (n + 1)
        return 1.0 if rank is None else stats.beta.ppf(0.975, hits + 1, n_members - hits)

    assert high(n) <= 0.05 < high(n - 1)


def said(first, drawn, then):
    """A statistic that says what it is told, call by call; -> it, and how often it was called."""
    calls = []

    def statistic(weights):
        calls.append(weights)
        number = len(calls) - 1
        return first if number == 0 else drawn[(number - 1) % len(drawn)] if number <= 100 else then

    return statistic, calls


@pytest.mark.parametrize(
    ("drawn", "behind"),
    [((-1.0, 0.0, 0.0, 1.0), 0.5), ((-1.0, -1.0, 0.0, 1.0), 0.625), ((1.0, 2.0), 0.005), ((-1.0, -2.0), 0.995)],
)
def test_the_bias_counts_half_of_the_ties_and_is_never_infinite(drawn, behind):
    statistic, _ = said(0.0, drawn, 0.0)
    found = metrics.bootstrap(statistic, np.arange(40) < 20, alone(40), 0, replicates=100)
    assert found.bias == pytest.approx(stats.norm.ppf(behind))
    assert found.acceleration == 0.0  # leaving persons out changes nothing


def test_at_most_a_hundred_groups_of_persons_are_left_out():
    for people, groups in ((20, 20), (100, 100), (130, 100)):
        statistic, calls = said(0.0, (-1.0, 1.0), 0.0)
        metrics.bootstrap(statistic, np.arange(2 * people) < people, alone(2 * people), 0, replicates=100)
        assert len(calls) == 1 + 100 + 2 * groups


def test_the_acceleration_is_limited():
    member = np.arange(40) < 20
    for outlier, acceleration in ((0, 0.15), (20, -0.15)):
        values = np.zeros(40)
        values[outlier] = 1.0
        # One of 20 is all there is: .855 / (6 * .95^1.5) = .154.
        assert metrics.bootstrap(gap(values, member), member, alone(40), 0, 100).acceleration == acceleration


def test_a_bootstrap_bound_stays_in_the_range_and_on_its_side():
    draws = np.array([0.0] + [1.0] * 99)
    found = metrics.Bootstrapped(0.9, draws, 0.0, 0.0, (-5.0, 5.0))
    assert found.lower(0.05) == 0.9  # 1.0, which is on the wrong side
    assert found.upper(0.05) == 1.0
    assert metrics.Bootstrapped(0.9, draws, 0.0, 0.0, (0.0, 0.95)).upper(0.05) == 0.95


def test_midranks_by_hand():
    assert metrics.midranks(np.array([10.0, 20.0, 20.0, 5.0, 20.0])).tolist() == [2.0, 4.0, 4.0, 1.0, 4.0]


def test_influences_on_the_tpr_by_hand():
    # 100 non-members 1..100; 50 members, of which 10 are above 95, 20 above 90 and 35 above 80: one on each of these.
    inside = [95.5] * 10 + [95.0] + [90.5] * 9 + [90.0] + [80.5] * 14 + [80.0] + [35.5] * 7 + [0.0] * 7
    scores, member = np.array(inside + list(range(1, 101))), np.arange(150) < 50
    found = metrics.tpr_influences(scores, member, 0.1)
    slope = (0.7 - 0.2) / (0.2 - 0.05)
    hits = scores > 90
    assert found[member] == pytest.approx((hits[member] - 0.4) / 50)
    assert found[~member] == pytest.approx(-slope * (hits[~member] - 0.1) / 100)
    # Twice a rate above one half is every non-member but the last.
    found = metrics.tpr_influences(scores, member, 0.6)
    slope = (43 / 50 - 36 / 50) / (0.99 - 0.3)
    assert found[~member] == pytest.approx(-slope * ((scores[~member] > 40) - 0.6) / 100)
    # Where the rates fall on one tie the curve has no slope.
    tied = np.where(member, scores, np.where(scores > 90, 95.0, 85.0))
    assert metrics.tpr_influences(tied, member, 0.5)[~member].tolist() == [0.0] * 100


def test_one_hit_is_more_than_none():
    assert metrics.clopper_pearson_lower(1, 10, 0.05) == pytest.approx(1 - 0.95 ** (1 / 10))
    assert metrics.clopper_pearson_upper(9, 10, 0.05) == pytest.approx(0.95 ** (1 / 10))
    for counts in ((-1, 4, 0, 4), (0, 4, -1, 4), (0, 4, 5, 4)):
        with pytest.raises(ValueError, match="hits"):
            metrics.share_excess(*counts)


def test_a_bootstrap_has_two_thousand_replicates_unless_told_otherwise():
    assert len(metrics.bootstrap(lambda _: 0.3, np.arange(40) < 20, alone(40), 0).replicates) == 2000


def test_equal_runs_have_no_error_at_all():
    found = metrics.t_interval([0.1] * 3)  # their mean is not 0.1 in floating point
    assert (found.value, found.error) == (0.1, 0.0)


def test_what_was_measured_cannot_be_changed():
    member = np.arange(40) < 20
    hits = metrics.tpr_at_fpr(np.arange(40.0), member, alone(40), 0.1, 0).hits
    replicates = metrics.bootstrap(gap(np.arange(40.0), member), member, alone(40), 0, 100).replicates
    for array in (hits, replicates):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_a_group_that_is_left_out_leaves_the_weight_of_its_side():
    statistic, calls = said(0.0, (-1.0, 1.0), 0.0)
    member = np.arange(60) < 25
    metrics.bootstrap(statistic, member, alone(60), 0, replicates=100)
    for weights in calls[101:]:
        assert weights[member].sum() == pytest.approx(25)
        assert weights[~member].sum() == pytest.approx(35)


@pytest.mark.parametrize("zeros", [1, 50, 99])
def test_any_spread_among_replicates_is_spread(zeros):
    found = metrics.Bootstrapped(0.5, np.array([0.0] * zeros + [1.0] * (100 - zeros)), 0.0, 0.0, (-5.0, 5.0))
    assert -1.0 < found.lower(0.3) <= 0.5 <= found.upper(0.3) < 2.0
