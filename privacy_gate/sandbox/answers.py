"""From whatever a model returned to `Outputs`: arrays, tables with named columns, labels. Runs where models run.

Nothing is guessed that could be read in two ways: what is not clear is an error that tells the names of the columns,
and the setting that mends it. No value that a model answered is quoted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate.datamodel import Outputs
from privacy_gate.errors import ModelOutputUnusable
from privacy_gate.sandbox.outputs import SUM_TOLERANCE, Form, checked, coded, one_hot, plain
from privacy_gate.sandbox.untrusted import clean

_KEYS = ("logits", "probabilities", "probs", "scores")  # of a dict, in this order: what is read, whatever else it holds
_SHOWN = 8  # names that a message tells
ALONE = "return one column per class and nothing else, or name the classes under `output: {classes: [...]}`"


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """What a model answered.

    classes  [K] label values in the order of the columns, where the answer itself told them; None where it did not
    """

    outputs: Outputs
    classes: tuple[Any, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """An answer with named columns, [n] each."""

    names: tuple[Any, ...]
    columns: tuple[NDArray[Any], ...]

    def stacked(self, places: Sequence[int]) -> NDArray[Any]:
        """[n, D] some of them, in that order."""
        return np.stack([self.columns[i] for i in places], axis=1)


def read(answer: Any, form: Form, rows: int, own: tuple[Any, ...] | None = None, *, decide: bool = False) -> Read:
    """The answer to `rows` records, as `form` says that it is to be read.

    own     the fitted model's own classes, which win over the form's
    decide  where labels are wanted and scores are given: take the top class, for shadows of a candidate that tells
            labels alone. The candidate itself must not get rid of its scores: then this is an error
    Raises ModelOutputUnusable.
    """
    names = own if own is not None else form.names
    found = unpacked(answer, entire=form.column is not None)
    if form.column is None:
        return _read(found, form, rows, names, decide=decide)
    picked, unread = _picked(found, form, names, decide=decide)
    told = _read(picked, form, rows, names, decide=decide)
    if not decide:
        _require_whole(told, unread, names, form)
    return told


def _read(found: NDArray[Any] | Columns, form: Form, rows: int, names: tuple[Any, ...] | None, *, decide: bool) -> Read:
    order: tuple[Any, ...] | None = None
    if isinstance(found, Columns):
        found, order, positive = _chosen(found, names, form)
        form = form.about(positive)
    single = _single(found)
    if single.shape == (rows,) and (labelled := _labelled(single, form, names)) is not None:
        return Read(labelled, names)
    if form.kind != "labels":
        return Read(checked(found, form.kind, rows, form.positive), order)
    return Read(_decided(found, form, rows, decide=decide), order)


def _single(values: NDArray[Any]) -> NDArray[Any]:
    """[n] of the only column; the array itself where it has more."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def _labelled(column: NDArray[Any], form: Form, names: tuple[Any, ...] | None) -> Outputs | None:
    """One-hot answers out of label values [n]; None where the column is none of labels, or may not be read as such.

    Unless the config says that these are labels, they are only taken for such if every one is a class that is known.
    """
    whole = column.dtype.kind != "f" or bool((column == np.rint(column)).all())
    if form.kind in ("logits", "probabilities") or (form.kind == "auto" and not whole):
        return None
    if names is None:
        if form.kind == "auto":
            return None
        raise ModelOutputUnusable(
            "the model answers with labels, and nobody says which classes there are", "list them as output.classes"
        )
    codes = coded(column, names, indices=form.kind == "labels")
    strange = int((codes < 0).sum())
    if not strange:
        return one_hot(codes, len(names))
    if not whole or (form.kind == "auto" and column.dtype.kind in "fiub"):
        return None
    told = [clean(name, 40) for name in form.classes or ()]  # of the config; the data's own are not quoted
    shown = f" {', '.join(told[:_SHOWN])}{', ...' if len(told) > _SHOWN else ''}" if told else ""
    raise ModelOutputUnusable(
        f"{strange} of {len(column)} labels that the model answers with are none of the classes{shown}",
        "list the labels as the model answers them, and as the data hold them, under output.classes; better, log it so "
        "that it answers with one score per class (pyfunc_predict_fn='predict_proba')",
    )


def _decided(values: NDArray[Any], form: Form, rows: int, *, decide: bool) -> Outputs:
    """The top class of scores, as one-hot answers."""
    hot = values.dtype.kind in "fiub" and values.ndim == 2 and values.shape[1] > 1 and values.shape[0] == rows
    if hot and bool(((values == 0) | (values == 1)).all() and (values.sum(axis=1) == 1).all()):
        return one_hot(values.argmax(axis=1), values.shape[1])
    scores = checked(values, "auto", rows, form.positive)
    if not decide:
        raise more_than_labels()
    return one_hot(scores.values.argmax(axis=1), scores.values.shape[1])


def more_than_labels() -> ModelOutputUnusable:
    """What is said of a candidate that has scores to tell where the config says that it has none."""
    return ModelOutputUnusable(
        "the model answers with scores, not with labels alone, as the config says",
        "leave out `output: labels`; of a model that is released behind an interface that tells labels alone, say "
        "`defence: {output_coarsening: {label_only: true}}`",
    )


# --- columns that the config picks ---------------------------------------------------------------------------------


def _picked(
    found: NDArray[Any] | Columns, form: Form, names: tuple[Any, ...] | None, *, decide: bool
) -> tuple[NDArray[Any] | Columns, tuple[NDArray[Any], ...]]:
    """What `form.column` names, and the columns [n] that it does not. Raises ModelOutputUnusable: there is no such one.

    decide  of shadows, which may be of another make: those that have no such columns are read as a whole
    """
    wanted = form.column if isinstance(form.column, tuple) else (form.column,)
    if isinstance(found, Columns):
        places = [_column_of(found, one) for one in wanted]
        told = [i for i in places if i is not None]
        if len(told) < len(places):
            if decide:
                return found, ()
            lost = clean(wanted[places.index(None)], 40)
            raise _unclear(found, f"output.column says {lost}, which is none of them, or several", "write its name")
        rest = tuple(column for i, column in enumerate(found.columns) if i not in told)
        chosen = Columns(tuple(found.names[i] for i in told), tuple(found.columns[i] for i in told))
        return (chosen, rest) if len(told) == 1 else (_side_by_side(chosen, form), rest)
    table = found[:, None] if found.ndim == 1 else found
    if table.ndim != 2 or (decide and _answers_alone(table, wanted, names)):
        return found, ()
    indices = [one for one in wanted if isinstance(one, int)]
    if len(indices) < len(wanted):
        raise ModelOutputUnusable(
            "the model answers with an array, and its columns have no names",
            f"there are {table.shape[1]}: write an index from 0 to {table.shape[1] - 1} as output.column",
        )
    if max(indices) >= table.shape[1]:
        raise ModelOutputUnusable(
            f"the model answers with {table.shape[1]} columns, and output.column says {max(indices)}",
            "they are counted from 0",
        )
    columns = [_plainly(table[:, i]) for i in range(table.shape[1])]
    rest = tuple(column for i, column in enumerate(columns) if i not in indices)
    if len(indices) == 1:
        return columns[indices[0]], rest
    return _side_by_side(Columns(tuple(indices), tuple(columns[i] for i in indices)), form), rest


def _answers_alone(table: NDArray[Any], wanted: Sequence[Any], names: tuple[Any, ...] | None) -> bool:
    """Whether an array without names has a column per class and no other, as far as that can be told."""
    if any(isinstance(one, str) or one >= table.shape[1] for one in wanted):
        return True
    numbers = table.dtype.kind in "fiu" and names is not None and table.shape[1] == len(names) > 1
    return numbers and bool((table >= 0).all() and (np.abs(table.sum(axis=1) - 1) <= SUM_TOLERANCE).all())


def _plainly(column: NDArray[Any]) -> NDArray[Any]:
    """A column out of an array of objects."""
    return _opened(column) if column.dtype == object else column


def _side_by_side(chosen: Columns, form: Form) -> NDArray[Any]:
    """[n, K] one column per class, in the order of `form.classes`."""
    if any(column.ndim != 1 or column.dtype.kind not in "fiub" for column in chosen.columns):
        raise _unclear(chosen, "some of those that output.column lists are no numbers, one per record", "list others")
    named = [_place(name, form.classes or ()) for name in chosen.names if isinstance(name, str)]
    if len(named) == len(chosen.names) and None not in named and named != sorted(k for k in named if k is not None):
        raise _unclear(
            chosen, "they are named after the classes in another order", "list output.column in that of output.classes"
        )
    return chosen.stacked(range(len(chosen.columns)))


def _require_whole(told: Read, unread: Sequence[NDArray[Any]], names: tuple[Any, ...] | None, form: Form) -> None:
    """Raises ModelOutputUnusable where what the config picks out of an answer would be read as what it is not."""
    outputs = told.outputs
    if outputs.labels_only:
        if any(column.ndim != 1 or not _decisions(column, names) for column in unread):
            raise ModelOutputUnusable(
                "the model answers with numbers beside the labels that output.column picks: they may be scores",
                "name the score as output.column; of a model that is released behind an interface that tells labels "
                "alone, say `defence: {output_coarsening: {label_only: true}}` as well",
            )
        return
    if isinstance(form.column, tuple) or names is None or outputs.values.shape[1] != 2:
        return
    if len(names) != 2:
        raise ModelOutputUnusable(
            f"output.column names one column of scores, and there are {len(names)} classes",
            "list one column per class, in the order of output.classes",
        )
    score = outputs.values[:, 1].astype(np.float64)
    for column in unread if outputs.kind == "probabilities" else ():
        codes = coded(column, names, indices=True) if column.ndim == 1 else np.zeros(0)
        if set(codes.tolist()) != {0, 1} or len(codes) != len(score):
            continue
        low, high = score[codes == 0], score[codes == 1]
        # The score of whichever label was given is on one side of 1/2; one class's is parted by the labels' threshold.
        parted = high.min() >= low.max() or low.min() >= high.max()
        if not parted and ((score >= 0.5).all() or (score <= 0.5).all()):
            raise ModelOutputUnusable(
                "the column that output.column picks is the score of the label beside it, not of one class",
                "log the model so that it answers with one column per class (pyfunc_predict_fn='predict_proba')",
            )


# --- columns with names ---------------------------------------------------------------------------------------------


def _chosen(
    found: Columns, names: tuple[Any, ...] | None, form: Form
) -> tuple[NDArray[Any], tuple[Any, ...] | None, Any]:
    """What of a table is the answer: values [n] or [n, K], the classes of its columns if told, the positive class."""
    if len(found.columns) == 1:
        only = found.columns[0]
        binary = names is not None and len(names) == 2 and only.ndim == 1 and only.dtype.kind == "f"
        about = _place(found.names[0], names) if binary and names is not None else None
        return only, None, about
    if any(column.ndim != 1 for column in found.columns):
        raise _unclear(found, "some columns hold several numbers per record")
    places = {} if names is None else _class_columns(found, names)
    used = list(places.values()) or list(range(len(found.columns)))
    rest = [i for i in range(len(found.columns)) if i not in used]
    if not places:
        # Without names that tell, a column of decisions must not pass for a column of scores.
        used = [i for i in used if not _decisions(found.columns[i], names)]
        rest = [] if used else list(range(len(found.columns)))
        if len(used) < 2 or (names is not None and len(used) != len(names)):
            raise _unclear(found, "which of its columns are the classes' cannot be told")
    strange = [i for i in rest if not _decisions(found.columns[i], names)]
    if strange or any(found.columns[i].dtype.kind not in "fiub" for i in used):
        raise _unclear(found, "some columns are neither a class's nor the label")
    told = tuple(names[k] for k in places) if places and names is not None else None
    return found.stacked(used), told, None


def _place(name: Any, names: tuple[Any, ...]) -> int | None:
    """The class that a column is named after; as text where the values differ in type."""
    exact = [k for k, value in enumerate(names) if plain(value) == plain(name)]
    alike = exact or [k for k, value in enumerate(names) if str(value) == str(name)]
    return alike[0] if len(alike) == 1 else None


def _class_columns(found: Columns, names: tuple[Any, ...]) -> dict[int, int]:
    """Class -> its column: named like it, or like it between one beginning and one end; {}: none is.

    Where every column is a class's, some classes may be missing: a shadow need not have seen them all.
    Raises ModelOutputUnusable where two sets of columns are named so.
    """
    exact = {k: place for k, value in enumerate(names) if (place := _column_of(found, value)) is not None}
    if len(exact) == len(names) or (len(exact) == len(found.columns) > 1):
        return exact
    texts = [str(name) for name in found.names]
    if len(set(texts)) != len(texts):
        raise _unclear(found, "some columns have the same name")
    first = str(names[0])
    frames = {
        (text[:at], text[at + len(first) :])
        for text in texts
        for at in range(len(text) - len(first) + 1)
        if text.startswith(first, at)
    }
    wanted = [[f"{before}{value}{after}" for value in names] for before, after in sorted(frames)]
    fitting = [each for each in wanted if set(each) <= set(texts)]
    if len(fitting) > 1:
        raise _unclear(found, "several columns are named after each class")
    return {k: texts.index(name) for k, name in enumerate(fitting[0])} if fitting else {}


def _column_of(found: Columns, value: Any) -> int | None:
    exact = [i for i, name in enumerate(found.names) if plain(name) is not None and plain(name) == plain(value)]
    alike = exact or [i for i, name in enumerate(found.names) if str(name) == str(value)]
    return alike[0] if len(alike) == 1 else None


def _decisions(column: NDArray[Any], names: tuple[Any, ...] | None) -> bool:
    """Whether a column tells classes and no scores: labels that are known, or text, or whole numbers."""
    if column.dtype.kind not in "fiub":
        return True
    whole = column.dtype.kind != "f" or bool((column == np.rint(column)).all())
    if not whole:
        return False
    return column.dtype.kind != "f" or (names is not None and bool((coded(column, names, indices=True) >= 0).all()))


def _unclear(found: Columns, why: str, mend: str = "") -> ModelOutputUnusable:
    shown = ", ".join(clean(name, 40) for name in found.names[:_SHOWN])
    more = f" and {len(found.names) - _SHOWN} more" if len(found.names) > _SHOWN else ""
    return ModelOutputUnusable(f"the model answers with the columns {shown}{more}: {why}", mend or _pick(found))


def _pick(found: Columns) -> str:
    """How to say which columns are to be read."""
    scores = [name for name, column in zip(found.names, found.columns, strict=True) if not _decisions(column, None)]
    only = str(scores[0]) if len(scores) == 1 else ""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,39}", only):
        return f"say `output: {{column: {only}}}` if it is the score of one class (of output.positive); or {ALONE}"
    return f"list one column per class as output.column, in the order of output.classes; or {ALONE}"


# --- what models return ---------------------------------------------------------------------------------------------


def unpacked(answer: Any, *, entire: bool = False) -> NDArray[Any] | Columns:
    """An array, or columns with names. Raises ModelOutputUnusable for rows of different lengths.

    entire  all columns of a dictionary, not only the one whose name tells that it is the answer
    """
    if isinstance(answer, Mapping):
        known = None if entire else next((key for key in _KEYS if key in answer), None)
        return _table(answer) if known is None else unpacked(answer[known])
    if type(answer).__module__.partition(".")[0] in ("pyarrow", "polars") and hasattr(answer, "to_pandas"):
        answer = answer.to_pandas()
    if hasattr(answer, "iloc") and hasattr(answer, "columns"):
        return _frame(answer)
    if isinstance(answer, list | tuple) and answer and all(isinstance(row, Mapping) for row in answer):
        return _records(answer)
    return _array(answer)


def _array(answer: Any) -> NDArray[Any]:
    if hasattr(answer, "detach"):
        answer = answer.detach().cpu()
        if str(getattr(answer, "dtype", "")) == "torch.bfloat16":  # numpy has no such type; float32 holds all of it
            answer = answer.float()
    elif hasattr(answer, "iloc") and hasattr(answer, "to_numpy"):
        answer = answer.to_numpy()
    try:
        values = np.asarray(answer)
        if values.dtype == object and values.ndim == 1 and len(values):
            values = _opened(values)
    except (ValueError, TypeError) as error:
        raise ModelOutputUnusable(
            "the model answers with rows of different lengths, or with what is no table at all",
            "it must answer with one row per record and one column per class",
        ) from error
    return values


def _opened(values: NDArray[Any]) -> NDArray[Any]:
    """[n] objects as what they are: rows of numbers, numbers, or labels."""
    listed = values.tolist()
    if all(isinstance(one, list | tuple | np.ndarray) for one in listed):
        return np.stack([np.asarray(one) for one in listed])
    if all(isinstance(one, float | np.floating) for one in listed):
        return values.astype(np.float64)
    return values


def _frame(answer: Any) -> NDArray[Any] | Columns:
    columns = tuple(_array(answer.iloc[:, i]) for i in range(answer.shape[1]))
    names = tuple(answer.columns.tolist())
    if type(answer.columns).__name__ == "RangeIndex" and names == tuple(range(len(columns))):  # nobody named them
        if len(columns) == 1:
            return columns[0]
        if columns and all(column.ndim == 1 and column.dtype.kind in "fiub" for column in columns):
            return np.stack(columns, axis=1)
    return Columns(names, columns) if columns else np.zeros((len(answer), 0))


def _table(answer: Mapping[Any, Any]) -> NDArray[Any] | Columns:
    columns = tuple(_array(column) for column in answer.values())
    if not columns or any(column.ndim == 0 or len(column) != len(columns[0]) for column in columns):
        raise ModelOutputUnusable("the model answers with a dictionary that is no table of columns", ALONE)
    return Columns(tuple(answer), columns)


def _records(answer: Sequence[Mapping[Any, Any]]) -> NDArray[Any] | Columns:
    names = tuple(answer[0])
    if any(len(row) != len(names) or any(name not in row for name in names) for row in answer):
        raise ModelOutputUnusable("the model answers with records of different columns", ALONE)
    return _table({name: [row[name] for row in answer] for name in names})
