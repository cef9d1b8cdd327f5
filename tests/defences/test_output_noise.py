"""Noise on the answers: its size, what averaging leaves of it, and where its randomness comes from."""

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from privacy_gate.datamodel import Outputs
from privacy_gate.defences.output_noise import OutputNoise
from privacy_gate.defences.row_randomness import _mixed, uniforms

Z = np.random.default_rng(1).normal(size=(4000, 5))


def noise(seed: int = 0, **settings) -> np.ndarray:
    """[n, K - 1] what was added to the logits' differences from the last class."""
    answers = OutputNoise(**settings).drawn(seed)(Outputs(Z.copy(), "logits")).values
    found = np.log(answers) - Z
    return np.asarray(found[:, :-1] - found[:, -1:])


def difference(kind: str, scale: float, queries: int) -> tuple[float, float]:
    """Variance and kurtosis of the difference of two independent means of so many draws (cumulants add up)."""
    variance, excess = {"gaussian": (scale**2, 0.0), "laplace": (2 * scale**2, 3.0)}[kind]
    return 2 * variance / queries, 3 + excess / (2 * queries)


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
@pytest.mark.parametrize("one_time", [True, False])
def test_size_and_shape_of_what_is_left(kind, one_time):
    """One draw, or the mean of sixteen: an attacker who asks again leaves a quarter of the standard deviation."""
    found = noise(kind=kind, scale=0.7, one_time=one_time, queries=16)
    variance, kurtosis = difference(kind, 0.7, 1 if one_time else 16)
    for column in found.T:
        assert abs(column.mean()) < 5 * np.sqrt(variance / len(Z))
        # The variance of a sample variance is (kurtosis - 1) / n of its square.
        assert column.var() == pytest.approx(variance, rel=5 * np.sqrt((kurtosis - 1) / len(Z)))
    if one_time and kind == "laplace":
        assert stats.kurtosis(found.ravel()) > 0.7  # 1.5 expected; of a gaussian 0
    if kind == "gaussian":
        assert abs(stats.kurtosis(found[:, 0])) < 5 * np.sqrt(24 / len(Z))


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_nothing_is_left_for_who_may_ask_without_limit(kind):
    found = OutputNoise(scale=5.0, kind=kind).drawn(3)(Outputs(Z.copy(), "logits")).values
    np.testing.assert_allclose(found, np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True), rtol=1e-12)


def test_log_probabilities_stand_in_for_logits():
    p = np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True)
    answers = OutputNoise(scale=0.7, one_time=True).drawn(0)(Outputs(p.copy(), "probabilities")).values
    found = np.log(answers / p)
    found = found[:, :-1] - found[:, -1:]
    assert found.var() == pytest.approx(2 * 0.49, rel=0.1)


def test_a_class_that_is_ruled_out_stays_so_and_nothing_stays_nothing():
    p = np.array([[0.0, 0.4, 0.6], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    answers = OutputNoise(scale=1.0).drawn(0)(Outputs(p.copy(), "probabilities")).values
    np.testing.assert_array_equal(answers[:2] > 0, p[:2] > 0)
    assert (answers[2] > 0).all()
    np.testing.assert_allclose(answers.sum(axis=1), 1.0)


@pytest.mark.parametrize("settings", [{}, {"scale": 0}, {"scale": -1}, {"scale": np.inf}, {"scale": 1, "kind": "salt"}])
def test_nonsense_is_refused(settings):
    with pytest.raises(ValidationError):
        OutputNoise(**settings)


# --- where the randomness comes from ---------------------------------------------------------------------------------


def test_the_generator_is_splitmix64():
    """The first two numbers that the published generator gives for the seed 1234567."""
    step = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        state = np.uint64(1234567) + np.arange(1, 3, dtype=np.uint64) * step
        assert list(_mixed(state)) == [6457827717110365317, 3203168211198807973]


def test_draws_are_uniform_and_do_not_know_each_other():
    u = uniforms(Outputs(Z.copy(), "logits"), 3, 8)
    assert ((u > 0) & (u < 1)).all()
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-4
    correlation = np.corrcoef(u.T)[np.triu_indices(8, 1)]
    assert np.abs(correlation).max() < 5 / np.sqrt(len(Z))


def test_rows_that_differ_in_the_last_bit_draw_something_else():
    near = np.nextafter(Z, np.inf)
    one, two = (uniforms(Outputs(z.copy(), "logits"), 3, 1)[:, 0] for z in (Z, near))
    assert abs(np.corrcoef(one, two)[0, 1]) < 5 / np.sqrt(len(Z))


def test_a_draw_is_a_function_of_the_row_and_the_seed():
    outputs = Outputs(Z.copy(), "logits")
    u = uniforms(outputs, 3, 4)
    np.testing.assert_array_equal(uniforms(Outputs(Z[::-1].copy(), "logits"), 3, 4)[::-1], u)
    np.testing.assert_array_equal(uniforms(outputs, 3, 2), u[:, :2])
    assert (uniforms(outputs, 4, 4) != u).all()
    zeros = np.array([[0.0, 1.0], [-0.0, 1.0]])
    both = uniforms(Outputs(zeros, "logits"), 3, 1)
    assert both[0] == both[1]
    single = Z.astype(np.float32)
    np.testing.assert_array_equal(
        uniforms(Outputs(single, "logits"), 3, 1), uniforms(Outputs(single.astype(float), "logits"), 3, 1)
    )
