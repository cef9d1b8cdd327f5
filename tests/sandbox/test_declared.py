"""What the config says of the answers, against the data and the model."""

from __future__ import annotations

import numpy as np
import pytest

from privacy_gate.errors import ConfigError
from privacy_gate.request import Output
from privacy_gate.sandbox.declared import MOST_CLASSES, agreed, distinct, form_of
from privacy_gate.sandbox.outputs import Form

RAW = np.array(["yes", "no", "no"])


def output(**settings):
    return Output.model_validate(settings)


def test_classes_come_from_the_output_then_from_the_data_then_from_nobody():
    assert form_of(output(), None, RAW) == Form("auto", None, 1, ("no", "yes"))
    assert form_of(output(), ["yes", "no"], RAW).classes == ("yes", "no")
    assert form_of(output(classes=["yes", "no"]), None, RAW).classes == ("yes", "no")
    assert form_of(output(kind="labels", classes=[1, 0]), [1.0, 0.0], RAW).classes == (1, 0)
    assert Form.from_json(form_of(output(positive="no"), None, RAW).as_json()) == form_of(
        output(positive="no"), None, RAW
    )


def test_positive_alone_orders_two_classes():
    assert form_of(output(positive="no"), None, RAW) == Form("auto", ("yes", "no"), 1, ("no", "yes"))
    assert form_of(output(positive="yes"), None, RAW).classes == ("no", "yes")
    assert form_of(output(positive=True), None, np.array([0, 1, 1])).classes == (0, 1)
    declared = form_of(output(classes=["no", "yes"], positive="no"), None, RAW)
    assert (declared.classes, declared.positive) == (("no", "yes"), 0)


@pytest.mark.parametrize(
    ("settings", "data_classes", "says"),
    [
        ({"classes": ["a", "b"]}, ["b", "a"], "output.classes says a, b, data.classes says b, a"),
        ({"classes": ["a", "a"]}, None, "output.classes names a class twice: a, a"),
        ({}, [1, True], "data.classes names a class twice: 1, True"),
        ({"positive": "perhaps"}, None, "'perhaps', which is none of the classes in the data"),
        ({"positive": "c"}, ["a", "b"], "'c', which is none of the classes a, b"),
        ({"positive": "a"}, ["a", "b", "c"], "there are 3 classes"),
        ({"positive": "a", "classes": ["a", "b", "c"]}, None, "there are 3 classes"),
    ],
)
def test_contradictions_in_the_config(settings, data_classes, says):
    with pytest.raises(ConfigError, match=says):
        form_of(output(**settings), data_classes, RAW)


def test_the_models_own_classes_must_be_the_configs():
    agreed(output(), None, ("no", "yes"))
    agreed(output(classes=["no", "yes"]), None, None)
    agreed(output(), [0, 1], (False, True))
    with pytest.raises(ConfigError, match=r"data\.classes says yes, no, the model itself says no, yes: the same"):
        agreed(output(), ["yes", "no"], ("no", "yes"))
    with pytest.raises(ConfigError, match=r"output.classes says a, b, the model itself says 0, 1\n"):
        agreed(output(classes=["a", "b"]), None, (0, 1))


def test_distinct_labels():
    assert distinct(np.array([3, 1, 2, 1])) == (1, 2, 3)
    assert distinct(np.array(["b", 2, "a", 1.0, True, None], dtype=object)) == (1.0, 2, "a", "b")
    assert all(type(value) is int for value in distinct(np.array([3, 1], dtype=np.int8)))  # it travels as JSON
    assert distinct(np.arange(MOST_CLASSES + 1)) is None
    assert distinct(np.array([None, None], dtype=object)) is None
