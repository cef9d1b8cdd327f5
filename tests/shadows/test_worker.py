import numpy as np
import pytest
from scipy.special import softmax

from privacy_gate.datamodel import Outputs
from privacy_gate.errors import ModelOutputUnusable
from privacy_gate.shadows.worker import align

PROBABILITIES = np.array([[0.2, 0.8], [0.5, 0.5]], dtype=np.float32)


def test_columns_follow_the_candidates_class_order():
    answer = align(Outputs(PROBABILITIES, "probabilities", 0.01), np.array(["a", "b"]), ("b", "a"))
    assert (answer.values == PROBABILITIES[:, ::-1]).all()
    assert answer.resolution == 0.01


def test_a_class_that_the_shadow_never_saw_has_no_probability():
    answer = align(Outputs(PROBABILITIES, "probabilities"), np.array([1, 3]), (1, 2, 3))
    assert answer.values.dtype == np.float32
    assert answer.values.tolist() == [[PROBABILITIES[0, 0], 0, PROBABILITIES[0, 1]], [0.5, 0, 0.5]]


def test_in_logits_it_has_as_little_as_the_type_can_say():
    logits = np.array([[3.0, -1.0], [40.0, 41.0]])
    answer = align(Outputs(logits, "logits"), np.array([0, 2]), (0, 1, 2))
    assert np.isfinite(answer.values).all()
    given = softmax(answer.values, axis=1)
    # The missing class takes less than the smallest normal float64 away from the others.
    assert np.allclose(given[:, [0, 2]], softmax(logits, axis=1), rtol=0, atol=1e-300)
    assert (given[:, 1] <= np.finfo(np.float64).tiny).all()


def test_a_model_trained_on_indices():
    answer = align(Outputs(PROBABILITIES, "probabilities"), np.array([0, 1]), ("no", "yes"))
    assert (answer.values == PROBABILITIES).all()


@pytest.mark.parametrize(
    ("classes", "class_values", "said"),
    [(["no", "maybe"], ("no", "yes"), "maybe"), (None, (0, 1, 2), "2 columns"), ([0, 1, 2], (0, 1, 2), "2 columns")],
)
def test_answers_that_do_not_fit(classes, class_values, said):
    with pytest.raises(ModelOutputUnusable, match=said):
        align(Outputs(PROBABILITIES, "probabilities"), classes, class_values)


def test_nan():
    with pytest.raises(ModelOutputUnusable, match="finite"):
        align(Outputs(np.array([[np.nan, 1.0]]), "logits"), None, (0, 1))
