"""The resolution that an output path shows, and what is made of classes that it holds back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_gate.datamodel import Outputs
from privacy_gate.signals.logit_space import odds, resolution_of, softplus


def softmaxes(n=2000, classes=10, scale=3.0, seed=0, dtype=np.float64):
    z = np.random.default_rng(seed).normal(0, scale, size=(n, classes))
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return (e / e.sum(axis=1, keepdims=True)).astype(dtype)


def forest(trees, n=500, classes=4, seed=1):
    """Shares of votes, summed tree by tree as scikit-learn does: not exact multiples in floating point."""
    votes = np.random.default_rng(seed).integers(classes, size=(trees, n))
    total = np.zeros((n, classes))
    for vote in votes:
        total[np.arange(n), vote] += 1 / trees
    return total


@pytest.mark.parametrize("trees", [10, 100])
def test_a_forest_counts_its_trees(trees):
    assert resolution_of(forest(trees)) == pytest.approx(1 / trees)


def test_a_forest_of_another_number_of_trees():
    p = np.concatenate([forest(128), np.eye(4), [[1 / 128, 127 / 128, 0, 0]]])
    assert resolution_of(p) == pytest.approx(1 / 128)


@pytest.mark.parametrize("digits", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_shows_its_digits(digits, dtype):
    assert resolution_of(np.round(softmaxes(dtype=dtype), digits)) == 10.0**-digits


def test_a_tree_says_yes_or_no():
    assert resolution_of(np.eye(3)) == 1.0


def test_a_fine_softmax_gets_a_floor_that_is_never_reached():
    p = softmaxes(scale=8.0)
    assert resolution_of(p) == p.min() > 0


def test_a_calibrated_model_that_says_zero():
    """Isotonic calibration gives exact zeros and a few odd levels: half of the least level is below all of them."""
    p = np.array([[0.0, 1.0], [1 / 7, 6 / 7], [3 / 11, 8 / 11], [1.0, 0.0]])
    assert resolution_of(p) == pytest.approx(1 / 7)


def test_top_k_does_not_make_the_path_coarse():
    """The least value shown of the top class is 1/K or so; half of that as a floor would flatten all confident rows."""
    p = softmaxes(scale=8.0)
    top = np.where(p == p.max(axis=1, keepdims=True), p, 0.0)
    assert resolution_of(top) < 1e-4
    assert top[top > 0].min() > 0.1


@given(st.sampled_from([1.0, 0.1, 0.01, 0.001]), st.integers(0, 1000))
@settings(max_examples=30)
def test_zero_stays_below_everything_seen(step, seed):
    """Half of the resolution is below every probability above zero: the floor loses no order."""
    p = np.round(softmaxes(n=50, seed=seed) / step) * step
    shown = p[p > 0]
    assert not len(shown) or resolution_of(p) / 2 < shown.min()


def test_nothing_to_see():
    assert resolution_of(np.empty((0, 3))) == 0.0
    # Rounded to nothing: the hidden mass is shared, a third each.
    assert resolution_of(np.zeros((5, 3))) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("classes", "top"), [(100, 1), (200, 2), (1000, 10)])
def test_zeros_do_not_make_a_coarse_grid(classes, top):
    """Top-k of many classes is nearly all zeros: they fit every grid and must not count."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(classes, 0.05), size=400)
    p[p < np.sort(p, axis=1)[:, [-top]]] = 0.0
    assert resolution_of(p) < 0.02


def test_a_confident_softmax_is_not_coarse():
    p = np.array([[1 - 1e-9, 1e-9]] * 50)
    assert resolution_of(p) == 1e-9


def test_one_odd_leaf_does_not_make_a_forest_fine():
    """100 trees: multiples of 1/100, but for a leaf that two identical records of different classes share."""
    rng = np.random.default_rng(0)
    votes = rng.integers(0, 101, size=2000) / 100
    votes[7] = 1 / 600
    assert resolution_of(np.stack([votes, 1 - votes], axis=1)) == 0.01


def test_hidden_mass_is_shared_by_the_hidden_classes():
    """Top 2 of 4 with 0.2 not shown: 0.1 each. The rest of the top class is what it is: 0.4."""
    outputs = Outputs(np.array([[0.6, 0.2, 0.0, 0.0]]), "probabilities")
    seen = odds(outputs)
    np.testing.assert_allclose(seen.p, [[0.6, 0.2, 0.1, 0.1]])
    np.testing.assert_allclose(seen.rest, [[0.4, 0.8, 0.9, 0.9]])
    np.testing.assert_allclose(seen.phi, np.log(seen.p / seen.rest))


def test_a_hidden_class_never_overtakes_a_shown_one():
    p = odds(Outputs(np.array([[0.3, 0.05, 0.0]]), "probabilities")).p
    assert p[0, 2] <= p[0, 1]


def test_rounding_alone_hides_nothing():
    """Three classes of 1/3 rounded to 0.33 leave 0.01 over; the zero of the fourth is a zero."""
    outputs = Outputs(np.array([[0.33, 0.33, 0.33, 0.0]]), "probabilities", 0.01)
    p = odds(outputs).p
    assert p[0, 3] == 0.0


def test_softmax_of_float32_hides_nothing():
    p = odds(Outputs(np.array([[1 - 1e-7, 0.0, 0.0]]), "probabilities")).p
    assert p[0, 1] == 0.0


def test_confident_top_one_answers_stay_apart():
    """What a caller of a top-1 service learns: 0.999 and 0.9999 are ten times apart in odds."""
    phi = odds(Outputs(np.array([[0.999, 0, 0], [0.9999, 0, 0]]), "probabilities")).phi[:, 0]
    assert phi[1] - phi[0] == pytest.approx(np.log(10), rel=1e-3)


@given(st.floats(-800, 800))
def test_softplus(t):
    value = float(softplus(np.array(t)))
    assert value == pytest.approx(np.logaddexp(0.0, t), rel=1e-14)
    assert value > 0 or t < -700


def test_answers_are_never_taken_for_each_other():
    """The odds of the last model asked are kept; another model with equal shape must not get them."""
    first, second = (Outputs(softmaxes(n=5, seed=seed), "probabilities") for seed in (1, 2))
    alone = odds(second).phi.copy()
    odds(first)
    np.testing.assert_array_equal(odds(second).phi, alone)
    assert not np.array_equal(odds(first).phi, alone)
    assert not odds(first).phi.flags.writeable
