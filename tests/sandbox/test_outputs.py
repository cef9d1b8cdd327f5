"""What counts as an answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from privacy_gate.datamodel import Outputs
from privacy_gate.errors import ModelOutputUnusable
from privacy_gate.sandbox.outputs import averaged, changed, checked, difference


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 9), st.integers(2, 5)), elements=st.floats(-50, 50)))
def test_logits_and_their_softmax_are_told_apart(z):
    assert checked(softmax(z), "auto", len(z)).kind == "probabilities"
    shifted = z - z.min(axis=1, keepdims=True) + 1  # positive, and no row sums to 1
    assert checked(shifted, "auto", len(z)).kind == "logits"
    assert checked(z, "logits", len(z)).values is z


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 9), st.integers(2, 5)), elements=st.floats(-50, 50)))
def test_checking_twice_changes_nothing(z):
    once = checked(softmax(z).astype(np.float32), "auto", len(z))
    twice = checked(once.values, once.kind, len(z))
    np.testing.assert_array_equal(once.values, twice.values)
    assert (once.kind, once.resolution) == (twice.kind, twice.resolution)


def test_rounded_probabilities_are_renormalised_and_exact_ones_left_alone():
    values = checked(np.array([[0.333, 0.333, 0.333], [0.2, 0.3, 0.5]]), "auto", 2).values
    assert values[0].sum() == pytest.approx(1, abs=1e-15)
    np.testing.assert_array_equal(values[1], [0.2, 0.3, 0.5])


@pytest.mark.parametrize(
    ("raw", "kind", "says"),
    [
        (np.array([[0.5, 0.5], [np.nan, 0.5]]), "auto", "for 1 of 2"),
        (np.array([[0.5, 0.5], [np.inf, -np.inf]]), "logits", "for 1 of 2"),
        (np.array([[0.5, 0.6], [0.5, 0.5]]), "probabilities", "1 of 2 answers are not probabilities"),
        (np.array([[1.5, -0.5], [-1.0, 2.0]]), "probabilities", "2 of 2 answers are not probabilities"),
        (np.zeros((3, 2)), "auto", "shape"),
        (np.zeros((2, 2, 2)), "auto", "shape"),
        (np.zeros((2, 0)), "auto", "shape"),
        (np.float64(3), "auto", "shape"),
        (np.array([["a", "b"], ["a", "b"]]), "auto", "not with numbers"),
        (np.array([[0.5, 0.5], [0.5, 0.5]], dtype=object), "auto", "not with numbers"),
        (np.array([0.0, 1.0]), "auto", "labels only"),
        (np.array([0, 3]), "auto", "labels only"),
        (np.array([0.5, 1.5]), "probabilities", "not probabilities"),
    ],
)
def test_other_answers_are_unusable(raw, kind, says):
    with pytest.raises(ModelOutputUnusable, match=says):
        checked(raw, kind, 2)


def test_small_types_are_widened():
    assert checked(np.array([[0.5, 0.5], [0.25, 0.75]], dtype=np.float16), "auto", 2).values.dtype == np.float64
    assert checked(np.array([[5, 1], [2, 3]]), "logits", 2).values.dtype == np.float64


# --- several answers ------------------------------------------------------------------------------------------------


def test_probabilities_are_averaged_as_they_are():
    rng = np.random.default_rng(0)
    answers = [Outputs(rng.dirichlet(np.ones(3), 5).astype(np.float32), "probabilities", 1e-7) for _ in range(16)]
    mean = averaged(answers)
    by_hand = [[sum(float(a.values[i, k]) for a in answers) / 16 for k in range(3)] for i in range(5)]
    # Sixteen float64 sums of numbers below 1.
    np.testing.assert_allclose(mean.values, by_hand, rtol=0, atol=1e-14)
    assert (mean.kind, mean.values.dtype, mean.resolution) == ("probabilities", np.float64, 0.0)


def test_logits_are_averaged_as_the_probabilities_that_they_stand_for():
    rng = np.random.default_rng(1)
    answers = [Outputs(rng.normal(0, 4, size=(5, 3)), "logits") for _ in range(16)]
    mean = averaged(answers)
    for i in range(5):
        for k in range(3):
            shares = [math.exp(a.values[i, k]) / sum(math.exp(v) for v in a.values[i]) for a in answers]
            assert math.isclose(math.exp(mean.values[i, k]), sum(shares) / 16, rel_tol=1e-12)
    assert mean.kind == "logits"


def test_tails_of_logits_survive_the_average():
    mean = averaged([Outputs(np.array([[900.0, 0.0]]), "logits"), Outputs(np.array([[800.0, 0.0]]), "logits")])
    # e^-900 is 0 in float64; the mean of e^-900 and e^-800 is e^-800 / 2 but for a share of e^-100.
    assert math.isclose(mean.values[0, 1], -800 - math.log(2), rel_tol=1e-15)


def test_a_difference_is_taken_over_the_records_that_both_have():
    one = Outputs(np.array([[0.2, 0.8], [0.6, 0.4], [0.5, 0.5]]), "probabilities")
    other = Outputs(np.array([[0.2, 0.8], [0.4, 0.6]]), "probabilities")
    assert math.isclose(difference(one, other), 0.2)
    assert changed(one, other) == 0.5
    for compare in (difference, lambda *both: averaged(both)):
        with pytest.raises(ModelOutputUnusable, match="number of classes"):
            compare(one, Outputs(np.ones((3, 3)), "probabilities"))
