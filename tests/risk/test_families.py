"""The ways of reading a risk from a score, each against a slow twin."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import dirichlet_multinomial, rankdata

from privacy_gate.risk import dirichlet, platt, spline_logit
from privacy_gate.risk.curve import Sample, held_out_loss, logit
from privacy_gate.risk.histogram import edges_at
from privacy_gate.thresholds import person_folds


def sample(seed=1, n=400, classes=4, shift=1.0):
    rng = np.random.default_rng(seed)
    labels, member = rng.integers(classes, size=n), rng.random(n) < 0.4
    scores = rng.normal(size=n) + member * (shift + 0.8 * labels) - labels
    return Sample(scores, member, labels, np.arange(n))


# --- a histogram per class ------------------------------------------------------------------------------------------


def test_counts_are_dirichlet_multinomial():
    """The likelihood differs from the textbook one by what does not depend on the strength."""
    rng = np.random.default_rng(2)
    counts = rng.integers(0, 9, size=(5, 4)).astype(float)
    pooled = counts.sum(axis=0) / counts.sum()
    ours = [dirichlet.log_likelihood(counts, pooled, m) for m in (0.5, 7.0, 300.0)]
    theirs = [
        sum(dirichlet_multinomial.logpmf(row.astype(int), m * pooled, int(row.sum())) for row in counts)
        for m in (0.5, 7.0, 300.0)
    ]
    np.testing.assert_allclose(np.diff(ours), np.diff(theirs), rtol=1e-9)


def test_alike_classes_are_shrunk_and_unlike_ones_are_not():
    rng = np.random.default_rng(3)
    pooled = np.full(10, 0.1)
    alike = rng.multinomial(40, pooled, size=30).astype(float)
    unlike = np.stack([rng.multinomial(40, np.roll([0.55] + [0.05] * 9, k)) for k in range(30)]).astype(float)
    assert dirichlet.likeliest(alike, pooled) >= 300
    assert dirichlet.likeliest(unlike, pooled) <= 10


def test_class_histograms_against_a_twin():
    given = sample()
    curve = dirichlet.shrunk(given, 4)
    edges = edges_at(given.scores, [b / 15 for b in range(1, 15)])
    np.testing.assert_array_equal(curve.edges, edges)
    place = [sum(edge <= s for edge in edges) for s in given.scores]
    density = {}
    for side in (True, False):
        rows = [i for i in range(400) if given.member[i] == side]
        counts = np.zeros((4, 15))
        for i in rows:
            counts[given.labels[i], place[i]] += 1
        pooled = (counts.sum(axis=0) + 0.5) / (len(rows) + 7.5)
        m = dirichlet.likeliest(counts, pooled)
        density[side] = (counts + m * pooled) / (counts.sum(axis=1) + m)[:, None]
        np.testing.assert_allclose(density[side].sum(axis=1), 1.0)  # I-9: nothing is dropped
    risk = density[True] / (density[True] + density[False])
    expected = np.clip([risk[c, b] for c, b in zip(given.labels, place, strict=True)], 1 / 802, 1 - 1 / 802)
    np.testing.assert_allclose(curve.at(given.scores, given.labels), expected, rtol=1e-12)
    assert np.isfinite(curve.at(np.array([-np.inf, np.inf]), np.array([3, 99]))).all()


# --- a smooth curve -------------------------------------------------------------------------------------------------


def test_the_normal_scale_is_that_of_ranks():
    from scipy.special import ndtri

    scores = np.round(np.random.default_rng(4).normal(size=200), 1)
    scale = spline_logit.NormalScale.of(scores)
    np.testing.assert_allclose(scale.at(scores), ndtri((rankdata(scores) - 0.5) / 200), atol=1e-12)
    assert np.isfinite(scale.at(np.array([-np.inf, np.inf]))).all()
    np.testing.assert_allclose(spline_logit.NormalScale.of(np.exp(scores)).at(np.exp(scores)), scale.at(scores))


def test_the_basis_is_a_natural_cubic_spline():
    """Linear beyond the outer knots, two derivatives everywhere."""
    x = np.linspace(-4, 4, 8001)
    z = spline_logit.basis(x)
    assert z.shape[1] == len(spline_logit.KNOTS)
    second = np.diff(z, 2, axis=0) / 0.001**2
    outside = (x[1:-1] < spline_logit.KNOTS[0] - 0.01) | (x[1:-1] > spline_logit.KNOTS[-1] + 0.01)
    np.testing.assert_allclose(second[outside], 0.0, atol=1e-6)
    assert np.abs(np.diff(second, axis=0)).max() < 0.05  # no jumps: slopes of second derivatives times the step
    assert np.linalg.matrix_rank(z) == z.shape[1]


@pytest.mark.parametrize("strength", [0.5, 12.0, np.inf])
def test_newtons_steps_find_the_minimum(strength):
    """Against a general minimiser of the penalised loss, class effects written out column by column."""
    given = sample(n=250, classes=3)
    z = spline_logit.basis(spline_logit.NormalScale.of(given.scores).at(given.scores))
    dummies = np.hstack([z[:, :2] * (given.labels == c)[:, None] for c in range(3)])
    columns = z if strength == np.inf else np.hstack([z, dummies])
    penalty = np.array([1e-3, 1e-3] + [0.1] * (z.shape[1] - 2) + ([] if strength == np.inf else [strength] * 6))
    weight = given.weight * 250

    def loss(beta):
        eta = columns @ beta
        return (weight * (np.logaddexp(0, eta) - given.member * eta)).sum() + (penalty * beta**2).sum() / 2

    def slope(beta):
        return columns.T @ (weight * (expit(columns @ beta) - given.member)) + penalty * beta

    best = minimize(loss, np.zeros(columns.shape[1]), jac=slope, method="BFGS", options={"gtol": 1e-7})
    found = spline_logit.fit(given, strength).at(given.scores, given.labels)
    # Newton's steps stop when one promises less than 1e-6 per record; the risk then is good to some 1e-4.
    np.testing.assert_allclose(found, np.clip(expit(columns @ best.x), 1 / 502, 1 - 1 / 502), atol=2e-3)


def test_folds_share_only_the_scale():
    """The quick way over folds and strengths is the slow one: each fold fitted anew (but for the scale)."""
    given = sample()
    (held_out,) = person_folds(given.member, given.persons, seed=0, repeats=1, folds=5)
    for option in spline_logit.options(given, held_out):
        assert option.loss == pytest.approx(held_out_loss(option.fit, given, held_out), abs=0.005)


def test_classes_that_differ_are_told_apart():
    rng = np.random.default_rng(5)
    labels, member = np.repeat([0, 1], 1000), np.tile([True, False], 1000)
    scores = rng.normal(size=2000) + np.where(labels == 0, 2.0, -2.0) * member
    given = Sample(scores, member, labels, np.arange(2000))
    (held_out,) = person_folds(member, given.persons, seed=0, repeats=1, folds=5)
    losses = {option.name: option.loss for option in spline_logit.options(given, held_out)}
    assert losses["smooth, class effects 0.1"] < losses["smooth, class effects 60"]
    curve = spline_logit.fit(given, 0.1)
    high = curve.at(np.array([3.0, 3.0, 3.0]), np.array([0, 1, 7]))
    assert high[0] > 0.8
    assert high[1] < 0.3
    assert high[1] < high[2] < high[0]  # a class never seen gets the common curve


def test_separable_records_stay_finite():
    member = np.arange(100) < 50
    for strength in (np.inf, 0.1):
        given = Sample(np.where(member, 5.0, -5.0) + np.arange(100) / 100, member, np.arange(100) % 2, np.arange(100))
        risk = spline_logit.fit(given, strength).at(given.scores, given.labels)
        assert risk[member].mean() > 0.95
        assert ((risk >= 1 / 202) & (risk <= 1 - 1 / 202)).all()


# --- two parameters -------------------------------------------------------------------------------------------------


def test_the_line_is_the_minimum():
    given = sample(n=200)
    found = platt.line(given)
    weight = given.weight * 200

    def loss(ab):
        eta = ab[0] + ab[1] * given.scores
        penalty = (ab[0] ** 2 + (ab[1] - 1) ** 2) / 2
        return (weight * (np.logaddexp(0, eta) - given.member * eta)).sum() + penalty

    best = minimize(loss, [0.0, 1.0], method="BFGS", options={"gtol": 1e-8})
    np.testing.assert_allclose([found.a, found.b], best.x, atol=1e-5)


def test_a_mismatched_risk_is_mended():
    """What shadows say is twice too sure and off by one: the line takes both back."""
    rng = np.random.default_rng(6)
    truth = rng.normal(size=8000) * 1.5
    member = rng.random(8000) < expit(truth)
    given = Sample(2 * truth + 1, member, np.zeros(8000, dtype=int), np.arange(8000))
    mended = platt.line(given).at(given.scores)
    # Parameters from 8,000 records are good to some 0.03.
    np.testing.assert_allclose(logit(np.clip(mended, 0.01, 0.99)), np.clip(truth, -4.59, 4.59), atol=0.35)


def test_a_line_through_separable_records_is_finite():
    member = np.arange(40) < 20
    found = platt.line(Sample(np.where(member, 30.0, -30.0), member, np.zeros(40, dtype=int), np.arange(40)))
    assert np.isfinite([found.a, found.b]).all()
