"""What the config says of the answers, against the data and the model."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from privacy_gate.datamodel import Audit, Outputs
from privacy_gate.documents import load_yaml
from privacy_gate.errors import ConfigError
from privacy_gate.request import Config, Output
from privacy_gate.sandbox.declared import MOST_CLASSES, agreed, distinct, form_of, in_order, left_out
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


def test_columns_are_picked_in_the_order_of_declared_classes():
    assert form_of(output(column="score", positive="no"), None, RAW) == Form(
        "auto", ("yes", "no"), 1, ("no", "yes"), "score"
    )
    assert form_of(output(column=0), None, RAW).column == 0
    assert form_of(output(column=["a", 1], classes=["no", "yes"]), None, RAW).column == ("a", 1)
    assert form_of(output(column=["a", "b"]), ["no", "yes"], RAW).classes == ("no", "yes")
    assert list(left_out(output(kind="labels"))) == []
    (told,) = left_out(output(column="score\x1b[2J"))
    assert told.startswith("of the model's answers, the column score")
    assert "\x1b" not in told
    assert "the columns a, b alone were looked at" in next(left_out(output(column=["a", "b"])))


@pytest.mark.parametrize(
    "column", [True, 1.0, -1, ["a", True], ["a"], [], ["a", "a"], {"a": 1}, ["a", ["b"]], [["a"], ["b"]]]
)
def test_columns_are_names_or_indices(column):
    with pytest.raises(ValidationError, match=r"a column is a name|a list names a column for each"):
        output(column=column)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"column": ["a", "b"], "classes": [0, 1, 2]}, "column: lists 2 columns, classes: 3 classes"),
        ({"column": ["a", "b"], "positive": 1}, "positive: says what a one-column score is about"),
    ],
)
def test_settings_of_the_answers_that_contradict_each_other(settings, says):
    with pytest.raises(ValidationError, match=says):
        output(**settings)


def test_a_wrong_column_is_told_with_its_line(tmp_path):
    path = tmp_path / "gate.yaml"
    path.write_text("data: {members: m.csv, nonmembers: n.csv}\noutput:\n  kind: probabilities\n  column: -1\n")
    with pytest.raises(ConfigError, match=r"gate\.yaml:4:11: error\[value_error\]: output\.column: a column is a name"):
        load_yaml(path, Config)
    path.write_text("data: {members: m.csv, nonmembers: n.csv}\noutput: {column: yes, positive: no}\n")
    assert load_yaml(path, Config).value.output == output(column="yes", positive="no")


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
        ({"column": ["a", "b"]}, None, "output.column lists 2 columns, one per class; nobody says which"),
        ({"column": ["a", "b"]}, ["x", "y", "z"], "output.column lists 2 columns, one per class; there are 3"),
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


# --- columns that are read as another class's -------------------------------------------------------------------------


def key(labels, classes, persons=None) -> Audit:
    """An answer key of as many members as others."""
    both = np.concatenate([labels, labels])
    return Audit(
        member=np.arange(len(both)) < len(labels),
        labels=both,
        persons=np.arange(len(both)) if persons is None else np.concatenate([persons, persons + persons.max() + 1]),
        classes=tuple("abcdefgh"[:classes]),
    )


def answers(top, classes) -> Outputs:
    """The top class with 0.6, the rest shared; non-members get the same answers."""
    one = np.full((len(top), classes), 0.4 / (classes - 1))
    one[np.arange(len(top)), top] = 0.6
    return Outputs(np.concatenate([one, one]), "probabilities")


def said(top, labels, classes, persons=None) -> str:
    try:
        in_order(answers(top, classes), key(labels, classes, persons))
    except ConfigError as error:
        return error.what
    return ""


def test_a_score_about_the_other_class_is_told():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    right = np.where(rng.random(400) < 0.75, labels, 1 - labels)
    assert not said(right, labels, 2)
    assert "classes a and b for each other (7" in said(1 - right, labels, 2)


@pytest.mark.parametrize("order", [[0, 1, 2, 4, 3], [1, 2, 0, 3, 4], [4, 3, 2, 1, 0]])
def test_two_columns_of_many_or_a_turn_of_three_are_told(order):
    labels = np.arange(1000) % 5
    assert "for each other" in said(np.array(order)[labels], labels, 5)


def test_models_that_have_learned_little_or_nothing_are_none_of_it():
    """Guesses, constants and models that never name a rare class: 600 worlds, none may be refused."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        classes = int(rng.integers(2, 6))
        labels = rng.choice(classes, 60, p=rng.dirichlet(np.ones(classes)))
        labels[:classes] = np.arange(classes)
        assert not said(rng.integers(0, classes, 60), labels, classes)
        assert not said(np.full(60, int(rng.integers(classes))), labels, classes)
        assert not said(np.where(labels == 0, 1, labels), labels, classes)


def test_the_records_of_one_person_are_one_witness():
    """Right for nobody: proof if these are 400 people, an accident if they are two."""
    labels = np.arange(400) % 2
    assert said(1 - labels, labels, 2)
    assert not said(1 - labels, labels, 2, persons=labels)
