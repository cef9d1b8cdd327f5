"""What every signal owes: a finite number, or vector, per record, whatever a model answers."""

import numpy as np
import pytest

from privacy_gate.datamodel import Outputs
from privacy_gate.signals import CATALOG, Signal, collect

every_signal = pytest.mark.parametrize("signal", list(CATALOG), ids=CATALOG.names())
LABELS = np.array([0, 1, 2, 0, 1, 2])


def softmax(z):
    """Naive, for moderate logits only."""
    e = np.exp(z)
    return e / e.sum(axis=1, keepdims=True)


def moderate(seed=0, n=6, classes=4):
    return np.random.default_rng(seed).normal(0, 3, size=(n, classes))


EXTREMES = {
    "logits of 800": Outputs(np.array([[800.0, -800, 0], [-800, 800, 0], [800, -800, -800]] * 2), "logits"),
    "equal logits": Outputs(np.zeros((6, 3)), "logits"),
    "huge logits": Outputs(np.full((6, 3), 1e300), "logits"),
    "float32 logits": Outputs(np.array([[90.0, -90, 0]] * 6, dtype=np.float32), "logits"),
    "one-hot": Outputs(np.tile(np.eye(3), (2, 1))[[0, 0, 0, 1, 2, 0]], "probabilities"),
    "one-hot of a tree": Outputs(np.eye(3)[[0, 0, 0, 1, 2, 0]], "probabilities", 1.0),
    "one-hot float32": Outputs(np.eye(3, dtype=np.float32)[[1, 1, 1, 1, 2, 0]], "probabilities"),
    "one-hot float16": Outputs(np.eye(3, dtype=np.float16)[[1, 1, 1, 1, 2, 0]], "probabilities"),
    "subnormal": Outputs(np.array([[1.0, 5e-324, 0]] * 6), "probabilities", 5e-324),
    "rounded to nothing": Outputs(np.zeros((6, 3)), "probabilities", 0.1),
    "rounded to nothing by whole numbers": Outputs(np.zeros((6, 3)), "probabilities", 1.0),
    "top 1 of 3": Outputs(np.array([[0.6, 0, 0]] * 6), "probabilities"),
    "forest": Outputs(np.array([[0.99, 0.01, 0.0], [0.0, 0.5, 0.5]] * 3), "probabilities", 0.01),
}


@every_signal
@pytest.mark.parametrize("outputs", EXTREMES.values(), ids=EXTREMES)
def test_finite_on_extreme_answers(signal: Signal, outputs):
    with np.errstate(all="raise", under="ignore"):
        values = signal.compute(outputs, LABELS)
    assert len(values) == 6
    assert values.ndim == 1 + signal.vector
    assert values.dtype == np.float64
    assert np.isfinite(values).all()


@every_signal
def test_adding_a_constant_to_all_logits_changes_nothing(signal: Signal):
    z = moderate()
    moved = z + np.linspace(-500, 500, 6)[:, None]
    # Adding 500 to a logit of order 1 costs 9 bits; modified_entropy_1e30 takes 1 - p, which costs more.
    np.testing.assert_allclose(
        signal.compute(Outputs(moved, "logits"), LABELS),
        signal.compute(Outputs(z, "logits"), LABELS),
        rtol=1e-9,
        atol=1e-12,
    )


@every_signal
@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_relabelling_classes_changes_nothing(signal: Signal, kind):
    z = moderate()
    values = z if kind == "logits" else softmax(z)
    old = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(
        signal.compute(Outputs(values[:, old], kind), np.argsort(old)[LABELS]),
        signal.compute(Outputs(values.copy(), kind), LABELS),
        rtol=1e-9,
    )


@every_signal
def test_the_order_of_records_does_not_matter(signal: Signal):
    z = moderate()
    order = np.array([3, 1, 5, 0, 2, 4])
    np.testing.assert_array_equal(
        signal.compute(Outputs(z[order], "logits"), LABELS[order]), signal.compute(Outputs(z, "logits"), LABELS)[order]
    )


@every_signal
def test_logits_and_their_softmax_say_the_same(signal: Signal):
    z = moderate(1)
    np.testing.assert_allclose(
        signal.compute(Outputs(softmax(z), "probabilities"), LABELS),
        signal.compute(Outputs(z, "logits"), LABELS),
        rtol=1e-9,
        atol=1e-12,
    )


@every_signal
def test_pure(signal: Signal):
    z = moderate(2)
    kept = z.copy()
    outputs = Outputs(z, "logits")
    np.testing.assert_array_equal(signal.compute(outputs, LABELS), signal.compute(outputs, LABELS))
    np.testing.assert_array_equal(outputs.values, kept)


@every_signal
def test_says_what_it_is(signal: Signal):
    assert signal.unit
    assert any(char.isdigit() for char in signal.paper), "a paper has a year"
    assert (signal.compute.__doc__ or "").startswith("[n, " if signal.vector else "[n]")


def test_the_catalog_is_found_and_collected():
    names = {"logit_confidence", "entropy", "modified_entropy", "confidence", "loss", "correctness"}
    assert names | {"modified_entropy_1e30"} <= set(CATALOG.names())
    collected = collect(Outputs(moderate(), "logits"), LABELS, names)
    assert set(collected) == names
