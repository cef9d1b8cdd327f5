"""Each signal against its definition, in exact or high-precision arithmetic, and against golden values."""

import math
from decimal import Decimal, getcontext

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from privacy_gate.datamodel import Outputs
from privacy_gate.signals import CATALOG

getcontext().prec = 320  # 1 - e^-600 has to be told from 1: 261 digits, and 17 or more of the difference
LOGITS = st.lists(st.floats(-60, 60), min_size=2, max_size=5)


def one(name, values, label, kind="logits", resolution=0.0, dtype=np.float64):
    """A signal of a single record."""
    outputs = Outputs(np.array([values], dtype=dtype), kind, resolution)
    return float(CATALOG[name].compute(outputs, np.array([label]))[0])


def exact(z, label, name):
    """The definition in 320 digits."""
    e = [Decimal(v).exp() for v in z]
    p = [v / sum(e) for v in e]
    rest = [sum(v for j, v in enumerate(p) if j != i) for i in range(len(p))]
    if name == "logit_confidence":
        return (p[label] / rest[label]).ln()
    if name == "confidence":
        return p[label]
    if name == "loss":
        return -p[label].ln()
    if name == "entropy":
        return -sum(v * v.ln() for v in p)
    wrong = sum(p[i] * rest[i].ln() for i in range(len(p)) if i != label)
    return -rest[label] * p[label].ln() - wrong


@pytest.mark.parametrize("name", ["logit_confidence", "confidence", "loss", "entropy", "modified_entropy"])
@pytest.mark.parametrize(
    "z",
    [[0.0, 0, 0], [5, 0, 0], [40, 0, 0], [1, 2, 3], [0, 90, 90], [-300, 300, 299], [12.5, 12.5], [100, 0], [0.1, 30]],
)
def test_against_exact_arithmetic(name, z):
    for label in range(len(z)):
        # Sums of at most 3 terms, each to a few units in the last place; log odds near 0 are differences of logits.
        slack = 1e-13 if name == "logit_confidence" else 1e-300
        assert one(name, z, label) == pytest.approx(float(exact(z, label, name)), rel=2e-13, abs=slack)


@pytest.mark.parametrize(
    ("z", "golden"),
    [
        ([0, 0, 0], 1.002718264517516),
        ([5, 0, 0], 2.666848442442715e-4),
        ([40, 0, 0], 1.0829108e-34),
        ([0, 800, 0], 1599.30685281944),
    ],
)
def test_modified_entropy_golden(z, golden):
    assert one("modified_entropy", z, 0) == pytest.approx(golden, rel=1e-7 if golden < 1e-30 else 1e-14)


@pytest.mark.parametrize(
    ("p", "golden"), [([0, 1, 0], 138.15510557964274), ([1, 0, 0], 0.0), ([0.5, 0.5, 0], np.log(2))]
)
def test_modified_entropy_1e30_golden(p, golden):
    assert one("modified_entropy_1e30", p, 0, "probabilities") == pytest.approx(golden, rel=1e-14)


def test_modified_entropy_1e30_computes_in_the_dtype_that_arrives():
    """1 - p of a float32 answer has steps of 6e-8: above 16.6 nats everything ties at 0. The logit-space signal not."""
    z = [[20.0, 0.0], [30.0, 0.0]]
    assert [one("modified_entropy_1e30", row, 0, dtype=np.float32) for row in z] == [0.0, 0.0]
    exactly = [one("modified_entropy", row, 0, dtype=np.float32) for row in z]
    assert exactly[0] > exactly[1] > 0


# --- modified entropy, as it is meant -------------------------------------------------------------------------------


@given(LOGITS, st.integers(0, 4))
def test_modified_entropy_is_never_negative(z, label):
    """I-1."""
    label %= len(z)
    assert one("modified_entropy", z, label) > 0  # no answer of finite logits below 60 is one-hot


@given(st.integers(2, 6), st.integers(0, 5), st.integers(0, 5))
def test_modified_entropy_is_zero_for_the_right_one_hot_only(classes, label, top):
    """I-1."""
    label, top = label % classes, top % classes
    value = one("modified_entropy", np.eye(classes)[top], label, "probabilities")
    assert (value == 0) == (label == top)


@given(LOGITS, st.integers(0, 4), st.floats(0, 30))
def test_modified_entropy_falls_as_the_true_class_gains(z, label, gain):
    """I-1: raising the true logit moves the answer towards the correct one-hot; every term falls."""
    label %= len(z)
    raised = list(z)
    raised[label] += gain
    before, after = one("modified_entropy", z, label), one("modified_entropy", raised, label)
    assert after <= before * (1 + 1e-12)
    if gain > 1e-3:
        assert after < before


@given(arrays(np.float64, 4, elements=st.floats(0.01, 1)), st.floats(0, 0.98), st.floats(0.001, 0.02))
def test_modified_entropy_along_the_segment_to_the_correct_corner(p, t, step):
    """I-1 on the simplex: p(t) = (1 - t) p + t e_y."""
    p = p / p.sum()
    at = [one("modified_entropy", (1 - s) * p + s * np.eye(4)[0], 0, "probabilities") for s in (t, t + step)]
    assert at[1] < at[0]


def test_modified_entropy_limits():
    """I-2: 0 as the true class takes all, unbounded as a wrong one does."""
    rising = [one("modified_entropy", [m, 0, 0], 0) for m in (1, 10, 100, 170)]
    falling = [one("modified_entropy", [0, m, 0], 0) for m in (1, 10, 100, 10_000)]
    assert rising == sorted(rising, reverse=True)
    assert 0 < rising[-1] < 1e-140
    assert falling == sorted(falling)
    assert falling[-1] == pytest.approx(2e4 - np.log(2), rel=1e-12)


@given(st.floats(-300, 300))
def test_two_classes(margin):
    """I-4: for K = 2 modified entropy is 2 (1 - p_y)(-log p_y)."""
    value = one("modified_entropy", [margin, 0.0], 0)
    assert value == pytest.approx(2 * math.exp(-np.logaddexp(0, margin)) * np.logaddexp(0, -margin), rel=1e-12)


@given(st.lists(st.floats(-300, 300), min_size=3, max_size=3), st.lists(st.floats(-300, 300), min_size=3, max_size=3))
def test_confidence_loss_and_log_odds_agree_on_the_order(a, b):
    """I-4: strictly monotone transforms of each other; weakly so where a float saturates."""
    phi = one("logit_confidence", a, 0), one("logit_confidence", b, 0)
    assume(phi[0] < phi[1])
    assert one("confidence", a, 0) <= one("confidence", b, 0)
    assert one("loss", a, 0) >= one("loss", b, 0)


# --- probabilities --------------------------------------------------------------------------------------------------


def test_floor_is_half_the_resolution():
    """A forest of 100 trees that says 0 has said: below 1 of 100."""
    assert one("logit_confidence", [0.0, 1.0], 0, "probabilities", 0.01) == pytest.approx(math.log(0.005))
    assert one("logit_confidence", [0.99, 0.01], 0, "probabilities", 0.01) == pytest.approx(math.log(99))
    assert one("logit_confidence", [1.0, 0.0], 0, "probabilities", 0.01) == pytest.approx(-math.log(0.005))


def test_without_a_resolution_the_floor_is_that_of_the_dtype():
    tiny = {dtype: float(np.finfo(dtype).tiny) for dtype in (np.float32, np.float64)}
    for dtype, floor in tiny.items():
        assert one("logit_confidence", [0, 1], 0, "probabilities", 0.0, dtype) == pytest.approx(math.log(floor))


def test_the_rest_of_a_confident_class_is_added_up_not_subtracted_from_one():
    p = [1.0, 1e-20, 2e-20]
    assert one("logit_confidence", p, 0, "probabilities") == pytest.approx(-math.log(3e-20), rel=1e-15)


@given(st.lists(st.integers(0, 100), min_size=2, max_size=6), st.integers(0, 5))
def test_log_odds_of_a_forest_against_a_twin(votes, label):
    """Votes of 100 trees: floored shares, the rest summed class by class."""
    assume(sum(votes) > 0)
    label %= len(votes)
    total = sum(votes)
    p = [v / total for v in votes]
    rest = sum(v for i, v in enumerate(p) if i != label)
    expected = math.log(max(p[label], 0.5 / total)) - math.log(max(rest, 0.5 / total))
    assert one("logit_confidence", p, label, "probabilities", 1 / total) == pytest.approx(expected, abs=1e-9)


def test_correctness_takes_the_lowest_of_equal_classes():
    assert [one("correctness", [0.4, 0.4, 0.2], label, "probabilities") for label in range(3)] == [1.0, 0.0, 0.0]
