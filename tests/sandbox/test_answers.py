"""What models return, read: arrays, tables with named columns, labels; and what is not clear is not read."""

from __future__ import annotations

import decimal
import json

import numpy as np
import pandas as pd
import pytest

from privacy_gate.errors import ModelOutputUnusable
from privacy_gate.sandbox.answers import read
from privacy_gate.sandbox.outputs import AUTO, Form, averaged, checked, kind_of, sealed

P = np.array([[0.2, 0.8], [0.7, 0.3], [0.45, 0.55]])
NAMED = Form(labels=("no", "yes"))
LABELS = NAMED.of("labels")
HOT = [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]


def values(answer, form=AUTO, own=None, **options):
    return read(answer, form, 3, own, **options).outputs.values


# --- columns with names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        pd.DataFrame({"yes": P[:, 1], "no": P[:, 0]}),
        pd.DataFrame({"prediction": ["yes", "no", "yes"], "probability_no": P[:, 0], "probability_yes": P[:, 1]}),
        pd.DataFrame({"p(yes)": P[:, 1], "p(no)": P[:, 0], "label": pd.Categorical(["yes", "no", "yes"])}),
        pd.DataFrame({"yes": P[:, 1], "no": P[:, 0]}).convert_dtypes(),
        {"yes": P[:, 1].tolist(), "no": P[:, 0].tolist()},
        [{"no": row[0], "yes": row[1]} for row in P],
        [{"yes": row[1], "no": row[0], "label": "yes"} for row in P],
    ],
    ids=["classes", "beginning", "both-ends", "nullable", "dict", "records", "records-and-label"],
)
def test_columns_named_after_classes_are_put_in_their_order(answer):
    found = read(answer, NAMED, 3)
    np.testing.assert_array_equal(found.outputs.values, P)
    assert (found.outputs.kind, found.classes) == ("probabilities", ("no", "yes"))


def test_the_declared_order_wins_over_the_datas_and_the_models_own_over_both():
    frame = pd.DataFrame({"no": P[:, 0], "yes": P[:, 1]})
    declared = Form(classes=("yes", "no"), labels=("no", "yes"))
    assert read(frame, declared, 3).classes == ("yes", "no")
    np.testing.assert_array_equal(values(frame, declared), P[:, ::-1])
    assert read(frame, declared, 3, own=("no", "yes")).classes == ("no", "yes")


def test_numbers_as_names_match_by_value_and_by_text():
    form = Form(labels=(0, 1))
    flipped = P[:, ::-1]
    for names in ([1, 0], ["1", "0"], [1.0, 0.0], ["probability_1", "probability_0"]):
        np.testing.assert_array_equal(values(pd.DataFrame(flipped, columns=names), form), P)
    # Nobody named these: their order is the model's, whatever the classes are called.
    np.testing.assert_array_equal(values(pd.DataFrame(P), Form(classes=(1, 0))), P)


def test_a_shadow_that_never_saw_a_class_names_the_others():
    frame = pd.DataFrame({"c": P[:, 1], "a": P[:, 0]})
    found = read(frame, Form(classes=("a", "b", "c")), 3)
    assert found.classes == ("a", "c")
    np.testing.assert_array_equal(found.outputs.values, P)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        # A decision beside a score: of which class? Two columns must not pass for two classes.
        (pd.DataFrame({"prediction": [1, 0, 1], "probability": [0.8, 0.7, 0.55]}), "columns prediction, probability"),
        (pd.DataFrame({"prediction": ["yes", "no", "yes"], "score": [0.8, 0.7, 0.55]}), "columns prediction, score"),
        (pd.DataFrame({"id": [7.5, 8.5, 9.5], "yes": P[:, 1], "no": P[:, 0]}), "neither a class's nor the label"),
        (
            pd.DataFrame({"p_no": P[:, 0], "p_yes": P[:, 1], "z_no": P[:, 0], "z_yes": P[:, 1]}),
            "several columns are named after each class",
        ),
        (pd.DataFrame(np.c_[P, P], columns=["x_no", "x_yes", "x_no", "x_yes"]), "the same name"),
        (pd.DataFrame({"a": P[:, 0], "b": P[:, 1], "c": P[:, 1]}), "cannot be told"),
        (pd.DataFrame({"no": ["a", "b", "c"], "yes": P[:, 1]}), "neither"),
        ({"a": [0.1, 0.2, 0.3], "b": [1.0]}, "no table"),
        ({"a": 0.5}, "no table"),
        ({}, "no table"),
        ([{"no": 0.5, "yes": 0.5}, {"no": 1.0}, {"no": 0.5, "yes": 0.5}], "different columns"),
        ({"a": P, "b": P}, "several numbers per record"),
        ([[0.5, 0.5], [0.5], [0.1, 0.9]], "different lengths"),
        (pd.DataFrame(index=range(3)), "shape"),
    ],
)
def test_what_is_not_clear_is_an_error(answer, says):
    with pytest.raises(ModelOutputUnusable, match=says):
        read(answer, NAMED, 3)


def test_names_that_say_nothing_leave_the_order_as_it_is():
    frame = pd.DataFrame({"a": P[:, 0], "b": P[:, 1]})
    found = read(frame, NAMED, 3)
    np.testing.assert_array_equal(found.outputs.values, P)
    assert found.classes is None  # nothing was told of the classes: data.classes must


def test_a_hostile_name_of_a_column_stays_on_its_line():
    frame = pd.DataFrame({"\x1b[31mred\n": P[:, 0], "b": P[:, 1], "c": P[:, 1]})
    with pytest.raises(ModelOutputUnusable) as error:
        read(frame, NAMED, 3)
    assert "\x1b" not in error.value.what
    assert "\n" not in error.value.what


# --- one column -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        P[:, 1],
        P[:, 1:],
        P[:, 1].tolist(),
        P[:, 1:].tolist(),
        pd.Series(P[:, 1]),
        pd.DataFrame({"score": P[:, 1]}),
        pd.DataFrame({"yes": P[:, 1]}),
        {"scores": P[:, 1]},
        {"whatever": P[:, 1]},
        np.array(P[:, 1].tolist(), dtype=object),
    ],
    ids=["array", "matrix", "list", "nested", "series", "frame", "named", "dict", "other-dict", "objects"],
)
def test_one_column_is_the_positive_class(answer):
    found = read(answer, NAMED, 3).outputs
    assert found.kind == "probabilities"
    np.testing.assert_array_equal(found.values[:, 1], P[:, 1])
    np.testing.assert_array_equal(found.values[:, 0], 1 - P[:, 1])


def test_positive_may_be_the_first_class_by_declaration_or_by_name():
    declared = Form(classes=("no", "yes"), positive=0)
    np.testing.assert_array_equal(values(P[:, 0], declared)[:, 0], P[:, 0])
    np.testing.assert_array_equal(values(pd.DataFrame({"no": P[:, 0]}), NAMED)[:, 0], P[:, 0])
    logits = np.array([-2.0, 3.0, 0.5])
    np.testing.assert_array_equal(values(logits, declared), np.stack([logits, np.zeros(3)], axis=1))
    assert Form.from_json(declared.as_json()) == declared


def test_scores_beyond_probabilities_are_logits_unless_the_config_says_otherwise():
    column = np.array([0.5, 1.5, 0.2])
    assert read(column, NAMED, 3).outputs.kind == "logits"
    with pytest.raises(ModelOutputUnusable, match="not probabilities"):
        read(column, NAMED.of("probabilities"), 3)


def test_rows_in_a_column_and_tables_of_other_libraries():
    pa = pytest.importorskip("pyarrow")
    np.testing.assert_array_equal(values(pd.Series(P.tolist()), NAMED), P)
    np.testing.assert_array_equal(values(pd.DataFrame({"probabilities": P.tolist()}), NAMED), P)
    np.testing.assert_array_equal(values(pa.table({"yes": P[:, 1], "no": P[:, 0]}), NAMED), P)


# --- columns that the config picks ----------------------------------------------------------------------------------

BESIDE = pd.DataFrame({"label": ["yes", "no", "yes"], "score": P[:, 1]})


def picking(column, **settings):
    return Form(**{"classes": ("no", "yes"), "labels": ("no", "yes"), "column": column, **settings})


@pytest.mark.parametrize(
    "answer",
    [
        BESIDE,
        BESIDE.assign(label=[1, 0, 1]),
        BESIDE.assign(label=[1.0, 0.0, 1.0], seconds=[0.25, 7.5, 1.5]),
        BESIDE.to_dict("list"),
        {**BESIDE.to_dict("list"), "probabilities": P[:, 0]},
        BESIDE.to_dict("records"),
        BESIDE.convert_dtypes(),
        BESIDE.iloc[:, ::-1],
    ],
    ids=["text", "index", "more", "dict", "dict-of-known-names", "records", "nullable", "turned"],
)
def test_the_score_beside_a_label_is_picked_by_its_name(answer):
    found = read(answer, picking("score"), 3)
    np.testing.assert_array_equal(found.outputs.values, np.stack([1 - P[:, 1], P[:, 1]], axis=1))
    assert (found.outputs.kind, found.outputs.labels_only, found.classes) == ("probabilities", False, None)
    about_no = read(answer, picking("score", positive=0), 3).outputs.values
    np.testing.assert_array_equal(about_no, found.outputs.values[:, ::-1])


def test_a_picked_column_that_is_named_after_a_class_is_about_it():
    frame = pd.DataFrame({"no": P[:, 0], "seconds": [0.5, 1.5, 2.5]})
    np.testing.assert_array_equal(values(frame, picking("no"))[:, 0], P[:, 0])
    np.testing.assert_array_equal(values(pd.DataFrame({0: P[:, 0], 7: P[:, 1]}), picking(7))[:, 1], P[:, 1])


def test_a_picked_column_may_hold_logits_or_all_classes():
    logits = BESIDE.assign(score=[3.5, -2.0, 0.25])
    found = read(logits, picking("score"), 3).outputs
    assert found.kind == "logits"
    np.testing.assert_array_equal(found.values[:, 1] - found.values[:, 0], [3.5, -2.0, 0.25])
    np.testing.assert_array_equal(values(BESIDE.assign(score=P.tolist()), picking("score")), P)


@pytest.mark.parametrize(
    ("answer", "column"),
    [
        (pd.DataFrame({"b": P[:, 1], "label": ["yes", "no", "yes"], "a": P[:, 0]}), ("a", "b")),
        (np.stack([P[:, 1], [7.5, 8.5, 9.5], P[:, 0]], axis=1), (2, 0)),
        (np.array([["yes", 0.8, 0.2], ["no", 0.3, 0.7], ["yes", 0.55, 0.45]], dtype=object), (2, 1)),
        (pd.DataFrame(np.stack([P[:, 1], [7.5, 8.5, 9.5], P[:, 0]], axis=1)), (2, 0)),
    ],
    ids=["names", "array", "objects", "frame-without-names"],
)
def test_a_list_is_a_column_for_each_class_in_their_order(answer, column):
    np.testing.assert_array_equal(values(answer, picking(column)), P)


@pytest.mark.parametrize(
    "table", [np.c_[[1, 0, 1], P[:, 1]], np.array([["yes", 0.8], ["no", 0.3], ["yes", 0.55]], "O")]
)
def test_the_score_of_an_array_is_picked_by_its_index(table):
    np.testing.assert_array_equal(values(table, picking(1))[:, 1], P[:, 1])
    np.testing.assert_array_equal(values(P[:, 1], picking(0))[:, 1], P[:, 1])


@pytest.mark.parametrize(
    ("answer", "column", "says"),
    [
        (BESIDE, "scores", "columns label, score: output.column says scores, which is none of them"),
        (BESIDE, 1, "output.column says 1, which is none of them"),  # names are there: places are not counted
        (
            pd.DataFrame(np.c_[P, P], columns=list("abbc")),
            "b",
            "output.column says b, which is none of them, or several",
        ),
        (P, "yes", "its columns have no names"),
        (P, 2, "answers with 2 columns, and output.column says 2"),
        (P[:, 1], 1, "answers with 1 columns, and output.column says 1"),
        (BESIDE, ("label", "score"), "are no numbers"),
        (pd.DataFrame({"yes": P[:, 1], "no": P[:, 0]}), ("yes", "no"), "in another order"),
        (BESIDE.assign(score=["a", "b", "c"]), "score", "none of the classes"),
        (np.zeros((3, 2, 2)), 1, "shape"),
        (BESIDE[:2], "score", "shape"),
        (BESIDE.assign(score=[0.5, np.nan, 0.5]), "score", "NaN"),
    ],
)
def test_columns_that_cannot_be_picked(answer, column, says):
    with pytest.raises(ModelOutputUnusable, match=says):
        read(answer, picking(column), 3)


def test_one_score_for_more_than_two_classes_is_refused():
    three = picking("score", classes=("no", "perhaps", "yes"))
    with pytest.raises(ModelOutputUnusable, match="one column of scores, and there are 3 classes") as error:
        read(BESIDE, three, 3)
    assert "one column per class" in error.value.hint


@pytest.mark.parametrize("kind", ["auto", "labels"])
def test_labels_are_picked_and_no_score_is_hidden_by_that(kind):
    form = picking("label", kind=kind)
    for answer in (BESIDE[["label"]], BESIDE[["label"]].assign(rank=[3, 1, 2], why=["a", "b", "c"])):
        found = read(answer, form, 3)
        assert found.outputs.values.tolist() == HOT
        assert found.outputs.labels_only
    for answer in (BESIDE, BESIDE.assign(score=P.tolist()), BESIDE.assign(score=np.log(P[:, 1]))):
        with pytest.raises(ModelOutputUnusable, match="numbers beside the labels") as error:
            read(answer, form, 3)
        assert "label_only: true" in error.value.hint
        assert read(answer, form, 3, decide=True).outputs.values.tolist() == HOT  # of a shadow they are of no use


@pytest.mark.parametrize("positive", [0, 1])
def test_the_score_of_the_label_beside_it_is_not_taken_for_that_of_one_class(positive):
    sure = pd.DataFrame({"label": ["yes", "no", "yes"], "score": [0.8, 0.7, 0.55]})
    with pytest.raises(ModelOutputUnusable, match="the score of the label beside it"):
        read(sure, picking("score", positive=positive), 3)
    # Another threshold than a half parts the labels, too.
    values(sure.assign(label=["yes", "no", "no"]), picking("score"))
    values(sure.assign(label=["yes", "yes", "yes"]), picking("score"))


def test_a_shadow_of_another_make_is_read_as_a_whole():
    for column in ("score", ("a", "b"), 1, (1, 2), 0):
        for answer in (P, pd.DataFrame({"yes": P[:, 1], "no": P[:, 0]})):
            if isinstance(answer, pd.DataFrame) and column != "score":
                continue
            np.testing.assert_array_equal(values(answer, picking(column), decide=True), P)
    np.testing.assert_array_equal(values(BESIDE, picking("score"), decide=True)[:, 1], P[:, 1])
    np.testing.assert_array_equal(values(np.c_[[1, 0, 1], P[:, 1]], picking(1), decide=True)[:, 1], P[:, 1])


def test_the_hint_names_the_column_that_may_be_the_score():
    with pytest.raises(ModelOutputUnusable) as error:
        read(BESIDE, NAMED, 3)
    assert error.value.hint.startswith("say `output: {column: score}` if it is the score of one class")
    assert len(error.value.hint) < 300  # longer ones are cut on their way
    values(BESIDE, Form(labels=("no", "yes"), column="score"))  # and it helps
    for name in ("a b\x1b[2J", "x" * 100, "a: b"):
        with pytest.raises(ModelOutputUnusable) as error:
            read(BESIDE.rename(columns={"score": name}), NAMED, 3)
        assert error.value.hint.startswith("list one column per class as output.column")
        assert name not in error.value.hint


def test_what_is_picked_travels_and_old_forms_keep_their_text():
    for column in ("score", 0, ("a", "b"), (2, 0)):
        form = picking(column)
        assert Form.from_json(json.loads(json.dumps(form.as_json()))) == form
    assert "column" not in NAMED.as_json()
    assert Form.from_json(NAMED.as_json()) == NAMED


# --- labels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        np.array(["yes", "no", "yes"]),
        np.array(["yes", "no", "yes"], dtype=object),
        np.array([["yes"], ["no"], ["yes"]]),
        ["yes", "no", "yes"],
        pd.Series(["yes", "no", "yes"]),
        pd.Series(["yes", "no", "yes"], dtype="category"),
        pd.DataFrame({"prediction": ["yes", "no", "yes"]}),
        [{"label": "yes"}, {"label": "no"}, {"label": "yes"}],
    ],
    ids=["text", "objects", "column", "list", "series", "category", "frame", "records"],
)
def test_labels_of_the_data_are_decisions(answer):
    for form in (NAMED, LABELS):
        found = read(answer, form, 3)
        assert found.outputs.values.tolist() == HOT
        assert (found.outputs.kind, found.outputs.resolution, found.outputs.labels_only) == ("probabilities", 1.0, True)
        assert found.classes == ("no", "yes")


@pytest.mark.parametrize(
    ("answer", "classes"),
    [
        ([1, 0, 1], (0, 1)),
        ([1.0, 0.0, 1.0], (0, 1)),
        ([True, False, True], (0, 1)),
        ([True, False, True], (False, True)),
        ([2, 1, 2], (1, 2)),
        (np.array([2, "a", 2], dtype=object), ("a", 2)),
        ([7.5, -1.0, 7.5], (-1.0, 7.5)),
    ],
)
def test_labels_are_compared_by_value(answer, classes):
    assert values(np.asarray(answer), Form("labels", classes)).tolist() == HOT


def test_indices_are_labels_where_no_class_is_called_so():
    assert values([1, 0, 1], LABELS).tolist() == HOT
    # 1 is the first class by value and the second by index: only values count then.
    with pytest.raises(ModelOutputUnusable, match=r"^1 of 3 labels .* none of the classes 1, 2\n"):
        read([1, 0, 1], Form("labels", (1, 2)), 3)
    # Without the config's word, indices are no labels: they may be the scores of a model that is very sure.
    with pytest.raises(ModelOutputUnusable, match="class labels only"):
        read([1, 0, 1], NAMED, 3)


@pytest.mark.parametrize(
    "answer",
    [
        np.array(["yes", "perhaps", "no"]),
        np.array(["yes", None, "no"], dtype=object),
        np.array(["yes", ["no"], "no"], dtype=object),
        np.array(["yes", decimal.Decimal(1), "no"], dtype=object),
        np.array(["yes", 10**400, "no"], dtype=object),
        np.array(["yes", float("nan"), "no"], dtype=object),
    ],
    ids=["text", "none", "list", "decimal", "huge", "nan"],
)
def test_a_label_that_is_no_class_is_counted_and_not_quoted(answer):
    for form in (NAMED, LABELS):
        with pytest.raises(ModelOutputUnusable) as error:
            read(answer, form, 3)
        assert error.value.what.startswith("1 of 3 labels")
        assert "perhaps" not in str(error.value)


def test_labels_of_nobody_knows_what():
    for answer in ([0, 1, 1], [0.0, 1.0, 1.0]):
        with pytest.raises(ModelOutputUnusable, match="class labels only"):
            read(answer, AUTO, 3)
    with pytest.raises(ModelOutputUnusable, match="nobody says which classes"):
        read([0, 1, 1], Form("labels"), 3)
    with pytest.raises(ModelOutputUnusable, match="class labels only"):
        read([0, 1, 1], Form("probabilities", (0, 1)), 3)


def test_scores_where_labels_were_said_are_refused_of_a_candidate_and_decided_of_a_shadow():
    logits = np.log(P)
    for answer in (P, P.astype(np.float32), logits, P[:, 1], pd.DataFrame({"yes": P[:, 1], "no": P[:, 0]})):
        with pytest.raises(ModelOutputUnusable, match="scores, not with labels alone"):
            read(answer, LABELS, 3)
        assert values(answer, LABELS, decide=True).tolist() == HOT
    assert values(np.array(HOT), LABELS).tolist() == HOT  # one-hot answers are labels in other words
    assert values(np.array(HOT, dtype=int), LABELS).tolist() == HOT


def test_decisions_travel_as_truth_values():
    told = read(["yes", "no", "yes"], LABELS, 3).outputs
    arrived = checked(sealed(told), "probabilities", 3)
    assert arrived.labels_only
    np.testing.assert_array_equal(arrived.values, told.values)
    assert kind_of(arrived) == "labels"
    for broken in (np.zeros((3, 2), bool), np.ones((3, 2), bool)):
        with pytest.raises(ModelOutputUnusable, match="one true class"):
            checked(broken, "probabilities", 3)
    # Probabilities of exactly 0 and 1 are probabilities: whoever has an interface for them may say more elsewhere.
    assert not checked(np.array(HOT), "probabilities", 3).labels_only


def test_decisions_that_change_from_answer_to_answer_become_scores():
    one, other = (read(labels, LABELS, 2).outputs for labels in (["yes", "no"], ["yes", "yes"]))
    mean = averaged([one, one, one, other])
    assert mean.values.tolist() == [[0.0, 1.0], [0.75, 0.25]]
    assert (mean.resolution, mean.labels_only) == (0.25, False)
