"""Signals that are vectors, each against a slow twin."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy_gate.datamodel import Outputs
from privacy_gate.signals import CATALOG
from privacy_gate.signals.log_probabilities import WIDTH

ROWS = st.integers(2, 40).flatmap(lambda k: st.tuples(st.lists(st.floats(-20, 20), min_size=k, max_size=k), st.just(k)))


def of(name, z, label, kind="logits"):
    return CATALOG[name].compute(Outputs(np.array([z], dtype=np.float64), kind), np.array([label]))[0]


def log_softmax(z):
    return [v - math.log(math.fsum(math.exp(u - max(z)) for u in z)) - max(z) for v in z]


@given(ROWS, st.integers(0, 39))
def test_log_probabilities(row, label):
    z, classes = row
    label %= classes
    logs = log_softmax(z)
    expected = [logs[label], *sorted((v for i, v in enumerate(logs) if i != label), reverse=True)][:WIDTH]
    # A logarithm near 0 is what the exponentials of the others leave; the twin takes a difference of logits of 20.
    np.testing.assert_allclose(of("log_probabilities", z, label), expected, rtol=1e-9, atol=1e-13)


@given(ROWS, st.integers(0, 39))
def test_top_margins(row, label):
    z, classes = row
    odds = [v - math.log(math.fsum(math.exp(u) for j, u in enumerate(z) if j != i)) for i, v in enumerate(z)]
    expected = sorted(odds, reverse=True)[:3]
    expected += [expected[-1]] * (3 - len(expected))
    found = of("top_margins", z, label % classes)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(found, of("top_margins", z, 0)), "the label is not read"


def test_log_probabilities_keep_what_a_probability_loses():
    """1 - 1e-30 rounds to 1; its logarithm is -1e-30, not 0."""
    found = of("log_probabilities", [math.log(1e30), 0.0], 0)
    assert found[0] == pytest.approx(-1e-30, rel=1e-9)
    assert found[1] == pytest.approx(-math.log(1e30))


def test_the_own_class_stays_first_however_low_it_is():
    z = np.arange(50.0)
    found = of("log_probabilities", z, 0)
    assert found.shape == (WIDTH,)
    assert found[0] < found[1:].min()
    assert (np.diff(found[1:]) < 0).all()
