import numpy as np
import pytest
from scipy import stats

from privacy_gate.causes.association import association, compare, generator, one_each, wilson


def test_against_scipy():
    rng = np.random.default_rng(1)
    x = rng.normal(size=60).round(1)
    y = x + rng.normal(size=60) * 2
    found = association(x, y, generator(0, 1))
    assert found.pearson == pytest.approx(stats.pearsonr(x, y).statistic)
    assert found.spearman == pytest.approx(stats.spearmanr(x, y).statistic)
    # 2,000 shuffles: a p-value near 0.01 is known to 0.0022; four of these.
    assert found.p_value == pytest.approx(stats.spearmanr(x, y).pvalue, abs=0.009)


def test_p_values_of_nothing_are_uniform():
    rng = np.random.default_rng(2)
    p = [association(rng.normal(size=20), rng.normal(size=20), generator(seed, 1)).p_value for seed in range(60)]
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_nothing_to_compare():
    assert association(np.arange(3.0), np.arange(3.0), generator(0, 1)) is None
    assert association(np.zeros(9), np.arange(9.0), generator(0, 1)) is None


def test_one_row_per_person_of_those_marked():
    persons = np.repeat(np.arange(50), 4)
    rows = np.arange(200) % 4 != 0
    drawn = one_each(rows, persons, generator(0, 1))
    assert rows[drawn].all()
    np.testing.assert_array_equal(persons[drawn], np.arange(50))
    assert len({int(r) % 4 for r in drawn}) == 3


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 10), (10, 10), (170, 1000)])
def test_wilson_against_scipy(hits, n):
    expected = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert wilson(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_enrichment_is_fishers_test():
    rng = np.random.default_rng(3)
    member, high = np.arange(400) < 300, rng.random(400) < 0.3
    suspect = rng.random(400) < np.where(high, 0.3, 0.1)
    found = compare(suspect, high, member, np.arange(400), generator(0, 1))
    assert (found.high, found.all) == ((high & member).sum(), 300)
    assert (found.high_hits, found.all_hits) == ((high & suspect & member).sum(), (suspect & member).sum())
    table = [[(a & b & member).sum() for b in (suspect, ~suspect)] for a in (high, ~high)]
    assert found.p_value == pytest.approx(stats.fisher_exact(table, alternative="greater").pvalue)
    assert compare(suspect, np.zeros(400, dtype=bool), member, np.arange(400), generator(0, 1)) is None
