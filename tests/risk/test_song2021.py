"""The published risk score: counts on real data, its quirks, and a slow twin."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_gate.errors import NotEvaluable
from privacy_gate.risk import CATALOG, RiskInput
from privacy_gate.risk.song2021 import at_prior, scores
from privacy_gate.risk.summary import summarise
from tests.worlds import gaussian_world, location30, pool_of


def published(folder: Path, model: str) -> RiskInput:
    """The authors' own predictions as a risk estimator sees them."""
    target, pool, audit = location30(folder, model)
    return RiskInput(target, pool, {}, audit, seed=0)


GOLDEN = {
    "undefended": [(959, 456), (949, 439), (936, 412), (920, 372), (813, 310), (780, 299)],
    "memguard": [(1000, 626), (837, 520), (478, 282), (217, 142), (93, 59), (26, 7)],
}
MEANS = {"undefended": 0.9440, "memguard": 0.7183}


@pytest.mark.reference
@pytest.mark.parametrize("model", GOLDEN)
def test_counts_of_the_published_code_on_location30(reference_data, model):
    """Members and non-members at 0.5, 0.6, ... 1.0, to the count."""
    case = published(reference_data, model)
    found = CATALOG["song2021"].estimate(case)
    summary = summarise("song2021", found, case.audit)
    assert [(high.members, high.nonmembers) for high in summary.high] == GOLDEN[model]
    assert found[case.audit.member].mean() == pytest.approx(MEANS[model], abs=5e-5)


@pytest.mark.reference
def test_quantiles_and_scores_of_the_published_code_on_location30(reference_data):
    case = published(reference_data, "undefended")
    found = CATALOG["song2021"].estimate(case)
    quantiles = np.quantile(found[case.audit.member], [0, 0.1, 0.25, 0.5])
    np.testing.assert_allclose(quantiles, [0.2759, 0.8361, 1.0, 1.0], atol=5e-5)
    calibration = summarise("song2021", found, case.audit).calibration
    assert calibration["brier"] == pytest.approx(0.213, abs=5e-4)
    assert calibration["log_loss"] == pytest.approx(1.216, abs=5e-4)
    # Published as .238 and .236; the borders of the calibration bins are not specified there.
    assert calibration["rmse"] == pytest.approx(0.238, abs=5e-3)
    assert calibration["rmse_weighted"] == pytest.approx(0.236, abs=5e-3)


def twin(shadow, member, shadow_labels, target, labels):
    """Value by value, bin by bin, in float64."""
    out = []
    for value, label in zip(target, labels, strict=True):
        inside = [max(v, 1e-10) for v, m, c in zip(shadow, member, shadow_labels, strict=True) if c == label and m]
        outside = [max(v, 1e-10) for v, m, c in zip(shadow, member, shadow_labels, strict=True) if c == label and not m]
        if not inside or not outside:
            out.append(0.5)
            continue
        pool = inside + outside
        edges = list(np.logspace(np.log10(min(pool)), np.log10(max(pool)), 6))

        def share(values, b, edges=edges):
            upper_closed = b == 4
            hits = [v for v in values if edges[b] <= v and (v < edges[b + 1] or (upper_closed and v == edges[b + 1]))]
            return len(hits) / len(values)

        place = 0
        for b in range(5):
            if max(value, 1e-10) >= edges[b]:
                place = b
        for near in [place, place - 1, place + 1, place - 2, place + 2, place - 3, place + 3, place - 4, place + 4]:
            if 0 <= near <= 4 and share(inside, near) + share(outside, near) > 0:
                out.append(share(inside, near) / (share(inside, near) + share(outside, near)))
                break
        else:
            out.append(0.5)
    return out


@given(st.integers(0, 10_000), st.integers(4, 60), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_against_the_twin(seed, n, classes):
    rng = np.random.default_rng(seed)
    shadow, target = np.exp(rng.normal(-4, 6, size=n)), np.exp(rng.normal(-4, 6, size=20))
    member, shadow_labels, labels = rng.random(n) < 0.5, rng.integers(classes, size=n), rng.integers(classes, size=20)
    np.testing.assert_allclose(
        scores(shadow, member, shadow_labels, target, labels), twin(shadow, member, shadow_labels, target, labels)
    )


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_swapping_members_and_nonmembers_mirrors_the_score(seed):
    """I-9: relabelling m <-> 1 - m gives 1 - r; always finite and in [0, 1]."""
    rng = np.random.default_rng(seed)
    shadow, target = np.exp(rng.normal(-4, 4, size=60)), np.exp(rng.normal(-4, 4, size=30))
    member, shadow_labels, labels = rng.random(60) < 0.5, rng.integers(3, size=60), rng.integers(4, size=30)
    found = scores(shadow, member, shadow_labels, target, labels)
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_allclose(scores(shadow, ~member, shadow_labels, target, labels), 1 - found, atol=1e-15)


@given(st.floats(0.01, 0.99), st.floats(0.001, 0.999))
def test_prior_odds(prior, score):
    """I-9: r_pi / (1 - r_pi) = pi / (1 - pi) times r / (1 - r)."""
    at = float(at_prior(np.array([score]), prior)[0])
    assert at / (1 - at) == pytest.approx(prior / (1 - prior) * score / (1 - score), rel=1e-9)


def test_a_value_on_an_edge_belongs_to_the_upper_bin():
    """Edges 1, 10, ... 1e5, exact in floating point: 10 counts with 10 to 100, as in the histogram."""
    shadow, member = np.array([1.0, 2.1, 10.0, 1e5, 1.0, 20.0, 1e5]), np.array([1, 1, 1, 1, 0, 0, 0], dtype=bool)
    found = scores(shadow, member, np.zeros(7, int), np.array([9.9, 10.0, 1e5, 1e9, 0.1]), np.zeros(5, int))
    first, second, last = (2 / 4) / (2 / 4 + 1 / 3), (1 / 4) / (1 / 4 + 1 / 3), (1 / 4) / (1 / 4 + 1 / 3)
    np.testing.assert_allclose(found, [first, second, last, last, first])


def test_a_class_unknown_to_the_shadows_scores_one_half():
    found = scores(np.array([0.1, 0.2]), np.array([True, False]), np.array([0, 0]), np.array([0.1]), np.array([1]))
    assert found == 0.5


def test_all_shadow_values_equal():
    found = scores(np.full(8, 0.3), np.arange(8) < 4, np.zeros(8, int), np.array([0.3, 0.1, 9.0]), np.zeros(3, int))
    assert np.isfinite(found).all()


def test_refuses_without_shadows():
    seen, audit = gaussian_world(20, 20, classes=3, leak=1.0, shadows=0, seed=1)
    assert CATALOG["song2021"].needs_pool
    with pytest.raises(NotEvaluable, match="no shadow records"):
        CATALOG["song2021"].estimate(RiskInput(seen, None, {}, audit, 0))


def test_withheld_pool_records_are_not_counted():
    seen, audit = gaussian_world(60, 60, classes=2, leak=2.0, shadows=4, seed=2)
    pool = pool_of(seen)
    half = np.arange(pool.n) % 2 == 0
    hidden = pool.reveal(pool.known == 1, half)
    estimate = CATALOG["song2021"].estimate
    one = estimate(RiskInput(seen, hidden, {}, audit, 0))
    lied = pool.reveal(np.where(half, pool.known == 1, pool.known != 1), half)
    np.testing.assert_array_equal(one, estimate(RiskInput(seen, lied, {}, audit, 0)))
    assert not np.array_equal(one, estimate(RiskInput(seen, pool, {}, audit, 0)))
