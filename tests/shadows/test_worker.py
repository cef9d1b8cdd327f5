from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from privacy_gate.datamodel import Outputs
from privacy_gate.errors import ModelOutputUnusable
from privacy_gate.request import Recipe
from privacy_gate.sandbox.outputs import Form
from privacy_gate.shadows import worker
from privacy_gate.shadows.recipes import Answered, Context
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


# --- how a shadow is asked ------------------------------------------------------------------------------------------


def asked(model, form, x, classes=("no", "yes")):
    context = Context(Recipe(), Path(), None, "pyfunc", classes)
    order = worker.Order("python", context, form, Path("features.npy"), {})
    return worker._ask(order, model)(x, form.kind)


X = np.array([[0.9], [0.1], [0.6]])


class Fitted:
    """Trained on label values, or on indices: it says which."""

    def __init__(self, classes):
        self.classes_ = np.array(classes)

    def predict_proba(self, x):
        return np.concatenate([1 - x, x], axis=1)

    def predict(self, x):
        return self.classes_[(x[:, 0] > 0.5).astype(int)]


def test_a_shadow_of_a_labels_only_candidate_tells_labels_in_the_candidates_order():
    labels = Form("labels", ("no", "yes"))
    expected = [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    flipped = [row[::-1] for row in expected]
    for model in (Fitted(["no", "yes"]), Fitted([0, 1]), lambda x: np.concatenate([1 - x, x], axis=1), lambda x: x):
        answer = asked(model, labels, X)
        assert answer.labels_only
        assert answer.values.tolist() == expected
    assert asked(lambda x: np.where(x[:, 0] > 0.5, "yes", "no"), labels, X).values.tolist() == expected
    assert asked(Fitted(["no", "yes"]), Form("labels", ("yes", "no")), X, ("yes", "no")).values.tolist() == flipped
    assert asked(lambda x: 1 - x, Form("labels", ("no", "yes"), positive=0), X).values.tolist() == expected


def test_columns_that_a_shadow_names_follow_the_candidates_class_order():
    form = Form("probabilities", ("a", "b", "c"))
    answer = asked(lambda x: pd.DataFrame({"c": x[:, 0], "a": 1 - x[:, 0]}), form, X, ("a", "b", "c"))
    np.testing.assert_array_equal(answer.values, np.stack([1 - X[:, 0], np.zeros(3), X[:, 0]], axis=1))


def test_a_shadow_is_read_by_the_picked_column_where_it_has_it_and_as_a_whole_where_it_has_none():
    expected = np.concatenate([1 - X, X], axis=1)
    beside = pd.DataFrame({"label": ["yes", "no", "yes"], "score": X[:, 0]})
    for column in ("score", 1):
        form = Form("probabilities", ("no", "yes"), column=column)
        for model in (Fitted(["no", "yes"]), Fitted([0, 1]), lambda x: np.concatenate([1 - x, x], axis=1)):
            np.testing.assert_array_equal(asked(model, form, X).values, expected)
    picked = Form("probabilities", ("no", "yes"), column="score")
    np.testing.assert_array_equal(asked(lambda x: beside, picked, X).values, expected)
    flipped = Form("probabilities", ("no", "yes"), 0, column="score")
    np.testing.assert_array_equal(asked(lambda x: beside, flipped, X).values, expected[:, ::-1])
    np.testing.assert_array_equal(asked(Fitted(["no", "yes"]), flipped, X).values, expected)


def test_answers_without_a_model_are_decided_where_the_candidate_tells_labels():
    context = Context(Recipe(), Path(), None, "pyfunc", ("no", "yes"))
    given = Answered(np.array([[0.3, 0.7], [0.8, 0.2]]), "probabilities", None)
    order = worker.Order("command", context, Form("labels", ("no", "yes")), Path("features.npy"), {})
    told = worker._answered(order, given, worker.Watch(order, X))
    assert told.outputs.labels_only
    assert told.outputs.values.tolist() == [[0.0, 1.0], [1.0, 0.0]]
