"""Temperature, top-k, rounding, label only: each against what it says, and what it may never do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.datamodel import Outputs
from privacy_gate.defences.output_coarsening import OutputCoarsening
from privacy_gate.signals import CATALOG as SIGNALS
from privacy_gate.signals import collect
from tests.worlds import observations_of

P = np.array([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4]])


def protect(values, kind="probabilities", resolution=0.0, **settings) -> Outputs:
    return OutputCoarsening(**settings).protect(Outputs(np.array(values), kind, resolution))


def test_top_k_answers_the_largest_as_they_are():
    """Not renormalised: services return the top k of the full answer."""
    out = protect(P, top_k=2)
    np.testing.assert_array_equal(out.values, [[0.5, 0.3, 0, 0], [0, 0, 0.3, 0.4]])
    np.testing.assert_array_equal(protect(P, top_k=9).values, P)


def test_top_k_keeps_exactly_k_of_equals():
    np.testing.assert_array_equal(protect([[0.25] * 4], top_k=2).values, [[0.25, 0.25, 0, 0]])
    many = protect(np.full((3, 500), 1 / 500), top_k=7).values
    np.testing.assert_array_equal(many > 0, np.arange(500) < [[7]] * 3)


def test_decimals_round_and_set_the_resolution():
    out = protect(P, decimals=1)
    np.testing.assert_array_equal(out.values, np.round(P, 1))
    assert out.resolution == 0.1
    assert protect(P, decimals=3, resolution=0.01).resolution == 0.01  # a forest does not get finer by rounding


def test_temperature_acts_on_logits_and_on_log_probabilities_alike():
    z = np.log(P)
    for temperature in (0.5, 1.0, 3.0):
        e = np.exp(z / temperature)
        expected = e / e.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(protect(z + 7, "logits", temperature=temperature).values, expected, rtol=1e-12)
        np.testing.assert_allclose(protect(P, temperature=temperature).values, expected, rtol=1e-12)


def test_label_only_is_one_hot():
    out = protect(P, label_only=True)
    np.testing.assert_array_equal(out.values, [[1, 0, 0, 0], [0, 0, 0, 1]])
    assert out.resolution == 1.0


def test_order_of_the_steps():
    """Temperature, top-k, rounding, label."""
    e = np.exp(np.log(P) / 2)
    flat = e / e.sum(axis=1, keepdims=True)
    kept = np.where(flat >= np.sort(flat, axis=1)[:, [-2]], flat, 0)
    np.testing.assert_array_equal(protect(P, temperature=2.0, top_k=2, decimals=2).values, np.round(kept, 2))


@given(
    arrays(np.float64, (6, 4), elements=st.floats(-50, 50)),
    st.floats(0.05, 50),
    st.integers(1, 4),
)
def test_the_label_survives_temperature_and_top_k(z, temperature, k):
    """I-5: the correctness attack is a floor that no label-preserving defence lowers."""
    labels = np.arange(6) % 4
    before = observations_of(Outputs(z.copy(), "logits"), labels)
    after = observations_of(protect(z, "logits", temperature=temperature, top_k=k), labels)
    score = ATTACKS["correctness"].score
    np.testing.assert_array_equal(score(after), score(before))


@pytest.mark.parametrize("temperature", [1e-3, 1.0, 1e3])
def test_the_label_survives_the_last_bit(temperature):
    """Two logits that differ by less than a softmax can tell."""
    z = np.array([[0.0, 5e-324, -1.0], [1.0, 1.0 + 2e-16, 0.0]])
    assert list(protect(z, "logits", temperature=temperature).values.argmax(axis=1)) == [1, 1]


@given(
    arrays(np.float64, (5, 12), elements=st.floats(-30, 30)),
    st.integers(0, 3),
    st.one_of(st.none(), st.integers(1, 12)),
)
def test_whatever_is_left_can_be_scored(z, decimals, k):
    """Many classes rounded to one digit may leave nothing at all: no NaN, no infinity in any signal."""
    outputs = protect(z / 30, "logits", decimals=decimals, top_k=k)
    for name, values in collect(outputs, np.arange(5), SIGNALS.names()).items():
        assert np.isfinite(values).all(), name


def test_rows_rounded_to_nothing():
    nothing = protect(np.full((2, 30), 1 / 30), decimals=1)
    assert (nothing.values == 0).all()
    again = OutputCoarsening(temperature=2.0).protect(nothing)
    np.testing.assert_allclose(again.values, 1 / 30)


def optimal_auc(inside, outside):
    """AUC of the likelihood-ratio score between two discrete distributions, by pairs of values."""
    ratio = np.divide(inside, outside, out=np.full(len(inside), np.inf), where=outside > 0)
    total = 0.0
    for a, p in zip(ratio, inside, strict=True):
        for b, q in zip(ratio, outside, strict=True):
            total += p * q * (1.0 if a > b else 0.5 if a == b else 0.0)
    return total


@given(st.integers(0, 10_000), st.integers(0, 2))
def test_coarsening_never_helps_the_optimal_attacker(seed, decimals):
    """I-13: merging outputs cannot raise the AUC of the optimal score, on exactly known distributions."""
    rng = np.random.default_rng(seed)
    inside, outside = rng.dirichlet(np.ones(20), size=2)
    confidence = rng.random(20)
    values = np.stack([confidence, 1 - confidence], axis=1)
    answers = protect(values, decimals=decimals).values
    _, merged = np.unique(answers, axis=0, return_inverse=True)
    merged = merged.ravel()
    coarse = [np.bincount(merged, weights=side) for side in (inside, outside)]
    assert optimal_auc(*coarse) <= optimal_auc(inside, outside) + 1e-12


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"label_only": False},
        {"top_k": 0},
        {"decimals": -1},
        {"temperature": 0},
        {"temperature": float("inf")},
        {"k": 1},
    ],
)
def test_nonsense_is_refused(settings):
    with pytest.raises(ValidationError):
        OutputCoarsening(**settings)
