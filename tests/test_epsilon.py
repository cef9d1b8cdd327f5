"""Bounds on epsilon: published values, slow twins, and what must rise and fall with what."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from privacy_gate import metrics
from privacy_gate.epsilon import (
    LARGEST,
    Guesses,
    gaussian_epsilon,
    guess,
    most_accuracy,
    most_advantage,
    most_tpr,
    one_run_gaussian_lower,
    one_run_lower,
    one_run_p_value,
    rates_lower,
)

EPSILONS = st.floats(0.0, 8.0)
DELTAS = st.sampled_from([0.0, 1e-6, 1e-3, 0.1])


# --- what privacy allows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epsilon", "accuracy"), [(0.0, 0.5), (0.1, 0.52498), (0.5, 0.62246), (1.0, 0.73106), (2.0, 0.88080)]
)
def test_published_accuracies(epsilon, accuracy):
    assert most_accuracy(epsilon) == pytest.approx(accuracy, abs=5e-6)
    assert most_advantage(epsilon) == pytest.approx(math.expm1(epsilon) / (math.exp(epsilon) + 1))
    assert most_accuracy(epsilon, 0.01) == pytest.approx((math.exp(epsilon) + 0.01) / (1 + math.exp(epsilon)))


@given(EPSILONS, DELTAS)
def test_the_best_point_of_the_curve_is_the_best_accuracy(epsilon, delta):
    grid = np.linspace(0, 1, 2001)
    accuracies = [(most_tpr(epsilon, f, delta) + 1 - f) / 2 for f in grid]
    assert max(accuracies) <= most_accuracy(epsilon, delta) + 1e-12
    corner = (1 - delta) / (1 + math.exp(epsilon))  # where the two lines meet
    assert (most_tpr(epsilon, corner, delta) + 1 - corner) / 2 == pytest.approx(most_accuracy(epsilon, delta))


def test_the_curve_by_its_two_inequalities():
    """TPR <= e^eps FPR + delta and 1 - FPR <= e^eps (1 - TPR) + delta, and nothing else."""
    for epsilon, delta in ((0.5, 0.0), (2.0, 0.05)):
        for f in np.linspace(0, 1, 21):
            allowed = [t for t in np.linspace(0, 1, 4001)
                       if t <= math.exp(epsilon) * f + delta + 1e-12
                       and 1 - f <= math.exp(epsilon) * (1 - t) + delta + 1e-12]  # fmt: skip
            assert most_tpr(epsilon, f, delta) == pytest.approx(max(allowed), abs=3e-4)
    assert most_tpr(500.0, 0.1) == 1.0


def test_gaussian_mechanisms():
    assert gaussian_epsilon(1.0, 1e-5) == pytest.approx(4.3772, abs=5e-5)
    assert gaussian_epsilon(0.0, 1e-5) == 0.0
    for mu, delta in ((0.5, 1e-3), (1.0, 1e-5), (3.0, 1e-6)):
        e = gaussian_epsilon(mu, delta)
        spent = norm.cdf(-e / mu + mu / 2) - math.exp(e) * norm.cdf(-e / mu - mu / 2)
        assert spent == pytest.approx(delta, rel=1e-6)
    assert gaussian_epsilon(0.1, 0.5) == 0.0  # so much delta needs no epsilon


# --- one run ----------------------------------------------------------------------------------------------------------


def naive_p_value(guesses, epsilon, delta):
    """Term by term."""
    q, r, v = 1 / (1 + math.exp(-epsilon)), guesses.made, guesses.correct
    tail = sum(binom.pmf(k, r, q) for k in range(v, r + 1))
    windows = [sum(binom.pmf(k, r, q) for k in range(v - i, v)) / i for i in range(1, v + 1)]
    return min(1.0, tail + 2 * guesses.canaries * delta * max(windows, default=0.0))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 25), st.data(), st.floats(0.0, 4.0), DELTAS)
def test_the_p_value_term_by_term(made, data, epsilon, delta):
    guesses = Guesses(made + data.draw(st.integers(0, 20)), made, data.draw(st.integers(0, made)))
    assert one_run_p_value(guesses, epsilon, delta) == pytest.approx(naive_p_value(guesses, epsilon, delta), abs=1e-9)


@pytest.mark.parametrize(
    ("canaries", "made", "correct", "delta", "bound", "digits"),
    [
        (1000, 1000, 600, 0.0, 0.29747, 5),
        (1000, 1000, 750, 0.0, 0.97667, 5),
        (1000, 1000, 1000, 0.0, 5.80907, 5),
        (1000, 100, 100, 0.0, 3.49297, 5),
        (1000, 100, 100, 1e-5, 3.46538, 5),
        (1000, 100, 95, 1e-5, 2.165, 3),
        (500, 500, 400, 1e-5, 1.198, 3),
        (1000, 1000, 600, 1e-5, 0.297, 3),
        (500, 500, 250, 1e-5, 0.0, 5),
    ],
)
def test_published_bounds(canaries, made, correct, delta, bound, digits):
    assert one_run_lower(Guesses(canaries, made, correct), delta) == pytest.approx(bound, abs=0.51 * 10**-digits)


@pytest.mark.parametrize(
    ("canaries", "made", "correct", "bound"),
    [(1000, 100, 95, 3.3233), (500, 500, 400, 2.327), (1000, 1000, 600, 0.5835), (500, 500, 250, 0.0)],
)
def test_published_bounds_for_gaussian_mechanisms(canaries, made, correct, bound):
    assert one_run_gaussian_lower(Guesses(canaries, made, correct), 1e-5) == pytest.approx(bound, abs=5e-4)


def test_the_bound_is_where_the_p_value_is_beta():
    for guesses, delta in ((Guesses(200, 50, 40), 0.0), (Guesses(200, 200, 150), 1e-4)):
        bound = one_run_lower(guesses, delta, 0.02)
        assert one_run_p_value(guesses, bound, delta) == pytest.approx(0.02, rel=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 200), st.data(), DELTAS)
def test_more_correct_guesses_prove_more_and_more_doubt_proves_less(made, data, delta):
    correct = data.draw(st.integers(0, made - 1))
    few, many = Guesses(made, made, correct), Guesses(made, made, correct + 1)
    assert one_run_lower(few, delta) <= one_run_lower(many, delta) + 1e-9
    assert one_run_lower(many, delta, 0.01) <= one_run_lower(many, delta, 0.05) + 1e-9
    assert one_run_lower(many, delta) <= one_run_lower(many, 0.0) + 1e-9
    assert one_run_lower(Guesses(made + 50, made, correct + 1), delta) <= one_run_lower(many, delta) + 1e-9
    if delta:
        assert one_run_gaussian_lower(few, delta) <= one_run_gaussian_lower(many, delta) + 1e-9


def test_guesses_by_hand():
    scores = np.array([0.1, 0.9, 0.5, 0.8, 0.2, 0.4, 0.3, 0.7, 0.6, 0.0])
    included = scores > 0.45
    assert guess(scores, included, 0.4) == Guesses(10, 4, 4)
    assert guess(scores, ~included, 0.4) == Guesses(10, 4, 0)
    assert guess(scores, included, 1.0) == Guesses(10, 10, 10)
    assert guess(np.zeros(10), included, 0.29 * 2) == guess(np.zeros(10), included, 0.4)  # 5.8 are 2 a side
    assert guess(np.arange(100.0), np.arange(100) >= 50, 0.58).made == 58  # 0.29 * 100 is a little below 29
    for wrong in (0.0, 1.1, 0.1, math.nan):
        with pytest.raises(ValueError, match="share"):
            guess(scores, included, wrong)
    with pytest.raises(ValueError, match="number"):
        guess(np.where(scores > 0.85, np.nan, scores), included, 0.4)


@pytest.mark.parametrize("counts", [(10, 11, 5), (10, 5, 6), (10, 0, 0), (10, 5, -1)])
def test_impossible_guesses_are_refused(counts):
    with pytest.raises(ValueError, match="guesses"):
        Guesses(*counts)


# --- one threshold ----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.data(), DELTAS)
def test_rates_by_two_clopper_pearson_bounds(n1, n0, data, delta):
    a, b = data.draw(st.integers(0, n1)), data.draw(st.integers(0, n0))
    tpr, fpr = metrics.clopper_pearson_lower(a, n1, 0.025), metrics.clopper_pearson_upper(b, n0, 0.025)
    candidates = [0.0]
    if tpr > delta:
        candidates.append(math.log((tpr - delta) / fpr))
    if 1 - fpr > delta:
        candidates.append(math.log((1 - fpr - delta) / (1 - tpr)))
    assert rates_lower(a, n1, b, n0, delta, 0.05) == pytest.approx(max(candidates), abs=1e-9)
    if a < n1:
        assert rates_lower(a + 1, n1, b, n0, delta) >= rates_lower(a, n1, b, n0, delta)
    if b < n0:
        assert rates_lower(a, n1, b + 1, n0, delta) <= rates_lower(a, n1, b, n0, delta)


def test_either_direction_can_prove():
    few_alarms, few_misses = rates_lower(400, 1000, 0, 1000), rates_lower(1000, 1000, 600, 1000)
    assert few_alarms == pytest.approx(few_misses)  # the same table seen from the other side
    assert few_alarms > 4


def test_out_of_range_is_refused():
    for call in (
        lambda: most_accuracy(-0.1),
        lambda: most_accuracy(1.0, 1.5),
        lambda: most_tpr(1.0, 1.5),
        lambda: gaussian_epsilon(-1.0, 0.1),
        lambda: gaussian_epsilon(1.0, 0.0),
        lambda: one_run_lower(Guesses(10, 10, 5), 0.0, 0.0),
        lambda: one_run_gaussian_lower(Guesses(10, 10, 5), 0.0),
        lambda: rates_lower(2, 1, 0, 1),
        lambda: rates_lower(0, 0, 0, 1),
        lambda: rates_lower(1, 2, 0, 1, beta=1.0),
    ):
        with pytest.raises(ValueError, match=r"lies? in|negative|hits among"):
            call()


def test_nothing_is_resolved_above_the_largest():
    assert one_run_lower(Guesses(10, 10, 0)) == 0.0
    assert gaussian_epsilon(1000.0, 1e-5) == LARGEST
