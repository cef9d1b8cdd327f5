"""From the raw array that a model answered with to `Outputs`, or the reason why it is none.

What a model answers when it is asked again is averaged; what probes found is checked like answers are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from privacy_gate.datamodel import Floats, Ints, Outputs
from privacy_gate.errors import ModelOutputUnusable

Kind = Literal["auto", "logits", "probabilities", "labels"]


@dataclass(frozen=True, slots=True)
class Form:
    """How a model's raw answers are to be read.

    kind      what they are; "auto": the model's native interface and the numbers tell
    classes   [K] label values in the order of the columns; None: not declared
    positive  index of the class that a one-column score is about
    labels    distinct label values of the data, sorted: the classes of labels and of columns that are named after
              them, where none are declared. They say nothing of columns without names
    column    the one column that is read, by name or index; or one per class, in the order of `classes`; None: all
    """

    kind: Kind = "auto"
    classes: tuple[Any, ...] | None = None
    positive: Literal[0, 1] = 1
    labels: tuple[Any, ...] | None = None
    column: str | int | tuple[str | int, ...] | None = None

    @property
    def names(self) -> tuple[Any, ...] | None:
        """The classes that an answer may name; None where nobody knows them."""
        return self.classes if self.classes is not None else self.labels

    def of(self, kind: Kind) -> Form:
        """The same, once it is known what the answers are."""
        return replace(self, kind=kind)

    def about(self, positive: int | None) -> Form:
        """The same of a one-column score that is about this class; None: as it is."""
        return self if positive is None else replace(self, positive=1 if positive else 0)

    def entire(self) -> Form:
        """The same of an answer that is read as a whole."""
        return replace(self, column=None)

    def as_json(self) -> dict[str, Any]:
        """For a job, and for names of what is kept; `from_json` reads it."""
        told = asdict(self)
        if self.column is None:  # what came later must not give another name to what was kept without it
            del told["column"]
        return told

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Form:
        """What `as_json` wrote."""
        classes, labels = (None if told[name] is None else tuple(told[name]) for name in ("classes", "labels"))
        column = told.get("column")
        column = tuple(column) if isinstance(column, list | tuple) else column
        return cls(told["kind"], classes, told["positive"], labels, column)


AUTO = Form()

BATCH = 1024  # rows in a batch; the first one is asked twice
SAME = 1e-6  # two answers to one batch that differ by more come from a model that throws dice
ROUNDED = 1e-4  # up to this, sums over tables of different lengths may differ in float32
QUERIES = 16  # answers per record that are averaged then: an attacker can ask again, too
PROBE_WIDTH = 1 << 12  # numbers per record that a probe may give

SUM_TOLERANCE = 1e-3  # beyond it, rows are not probabilities; within it, they are rounded ones
_ALONE = "it must answer with one column per class"
_ROUNDING = 1e-6  # rows closer than this to 1 are left alone: dividing would break ties that attacks must see


def kind_of(outputs: Outputs) -> Kind:
    """How the next answer of the same model is to be read."""
    return "labels" if outputs.labels_only else outputs.kind


def checked(raw: NDArray[Any], kind: Kind, rows: int, positive: Literal[0, 1] = 1) -> Outputs:
    """[rows, K] finite logits or probabilities out of `raw`.

    One column is the positive class's: [rows] or [rows, 1] becomes two columns.
    kind      "auto": probabilities iff every row is non-negative and sums to 1 within 1e-3, else logits
    positive  index of that class
    Truth values, one true per row, are decisions: this is how labels travel between processes.
    """
    if raw.dtype.kind not in "fiub":
        raise ModelOutputUnusable(
            f"the model answers with values of type {raw.dtype}, not with numbers",
            "log it so that it answers with one score per class (pyfunc_predict_fn='predict_proba')",
        )
    if raw.ndim == 0 or len(raw) != rows or raw.ndim > 2 or raw.size == 0:
        raise ModelOutputUnusable(
            f"the model answers with an array of shape {list(raw.shape)} to {rows} records",
            "it must answer with one row per record and one column per class",
        )
    if raw.dtype.kind == "b" and raw.ndim == 2 and raw.shape[1] > 1 and kind != "logits":
        if (raw.sum(axis=1) != 1).any():
            raise ModelOutputUnusable(
                "the model answers with truth values, and not with one true class per record", _ALONE
            )
        return one_hot(raw.argmax(axis=1), raw.shape[1])
    values = raw if raw.dtype in (np.float32, np.float64) else raw.astype(np.float64)
    broken = int(np.count_nonzero(~np.isfinite(values).reshape(rows, -1).all(axis=1)))
    if broken:
        raise ModelOutputUnusable(
            f"the model answers with NaN or infinity for {broken} of {rows} records",
            "look for overflow in the model, or for missing values in the data",
        )
    if values.ndim == 1 or values.shape[1] == 1:
        values, kind = _two_classes(raw, values.reshape(rows), kind, positive)
    if kind == "auto":
        kind = "probabilities" if _stray(values) == 0 else "logits"
    if kind == "logits":
        return Outputs(values, "logits")
    return _probabilities(values)


def _two_classes(
    raw: NDArray[Any], column: NDArray[Any], kind: Kind, positive: Literal[0, 1]
) -> tuple[NDArray[Any], Kind]:
    """Two columns from the probability of the positive class, or its logit against the other."""
    if kind != "logits" and (raw.dtype.kind in "iub" or np.isin(column, (0, 1)).all()):
        raise ModelOutputUnusable(
            "the model answers with class labels only, one per record, and they are not the data's",
            "log it so that it answers with probabilities (pyfunc_predict_fn='predict_proba'); if labels are all that "
            "is released, say `output: {kind: labels, classes: [...]}` with the labels as the data hold them",
        )
    if kind == "probabilities" or (kind == "auto" and bool(((column >= 0) & (column <= 1)).all())):
        other, told = 1 - column, "probabilities"
    else:
        other, told = np.zeros_like(column), "logits"
    return np.stack([other, column] if positive == 1 else [column, other], axis=1), cast("Kind", told)


def _stray(values: NDArray[Any]) -> int:
    """How many rows are not probabilities."""
    ok = (values >= 0).all(axis=1) & (np.abs(values.sum(axis=1, dtype=np.float64) - 1) <= SUM_TOLERANCE)
    return int(np.count_nonzero(~ok))


def _probabilities(values: NDArray[Any]) -> Outputs:
    stray = _stray(values)
    if stray:
        raise ModelOutputUnusable(
            f"{stray} of {len(values)} answers are not probabilities (negative, or not summing to 1 within 1e-3)",
            "say `output: logits` in the configuration if the model answers with logits",
        )
    # A float32 probability near 1 steps by 2^-24; float64 is as fine as the signals' own arithmetic.
    resolution = float(np.finfo(np.float32).epsneg) if values.dtype == np.float32 else 0.0
    total = values.sum(axis=1, keepdims=True, dtype=np.float64)
    off = np.abs(total - 1) > _ROUNDING
    if off.any():
        values = np.where(off, values / total, values).astype(values.dtype)  # a finer type would hide the resolution
    return Outputs(values, "probabilities", resolution)


# --- labels ---------------------------------------------------------------------------------------------------------


def plain(value: Any) -> float | str | None:
    """A label value as what it is compared by: 1, 1.0, True and numpy's 1 are one label; None: it can be none."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool | int | float):
        try:
            return float(value)
        except OverflowError:
            return None
    return str(value) if isinstance(value, str) else None


def coded(labels: NDArray[Any], classes: Sequence[Any], *, indices: bool) -> Ints:
    """[n] class index of each label value [n]; -1 for one that is no class.

    indices  take 0..K-1 for class indices where no class has any of these numbers for its value. Where one has, 1 may
             be either: then only values count
    """
    index = {plain(value): k for k, value in enumerate(classes)}
    numbers = {float(k) for k in range(len(classes))}
    if indices and not numbers & set(index):
        index |= {number: int(number) for number in numbers}
    index.pop(None, None)
    if labels.dtype.kind in "fiub":
        values, places = np.unique(labels, return_inverse=True)
        found = np.array([index.get(plain(value), -1) for value in values], dtype=np.int64)
        return np.asarray(found[places.reshape(-1)], dtype=np.int64)
    return np.array([index.get(plain(value), -1) for value in labels.tolist()], dtype=np.int64)


def one_hot(codes: NDArray[Any], classes: int) -> Outputs:
    """Decisions [n] as answers [n, K] that tell nothing else: `Outputs.labels_only`."""
    values = np.zeros((len(codes), classes))
    values[np.arange(len(codes)), codes] = 1.0
    return Outputs(values, "probabilities", 1.0)


def sealed(outputs: Outputs) -> NDArray[Any]:
    """[n, K] as it travels to the gate: decisions as truth values, which `checked` reads as such."""
    return outputs.values > 0 if outputs.labels_only else outputs.values


# --- asked again ----------------------------------------------------------------------------------------------------

_CLASSES_CHANGE = (
    "the model changes its number of classes from call to call",
    "it must answer with one column per class",
)


def difference(one: Outputs, other: Outputs) -> float:
    """Largest difference between two answers to the same records. Raises ModelOutputUnusable for another K."""
    if one.values.shape[1] != other.values.shape[1]:
        raise ModelOutputUnusable(*_CLASSES_CHANGE)
    n = min(len(one.values), len(other.values))
    return float(np.max(np.abs(one.values[:n].astype(np.float64) - other.values[:n])))


def wobble(first: Outputs, again: Outputs, once_more: Callable[[], Outputs]) -> float:
    """Largest difference between two answers to the first batch; above `SAME` the model throws dice.

    first      to all records
    again      to the first batch alone; where it is off by no more than rounding is, long tables and short ones may
               be summed in another order: then the same batch `once_more` decides
    """
    found = difference(first, again)
    return difference(again, once_more()) if SAME < found <= ROUNDED else found


def changed(one: Outputs, other: Outputs) -> float:
    """Share of records whose top class differs between two answers."""
    n = min(len(one.values), len(other.values))
    return float(np.mean(one.values[:n].argmax(axis=1) != other.values[:n].argmax(axis=1)))


def averaged(answers: Iterable[Outputs]) -> Outputs:
    """[n, K] the mean probability over several answers to the same records, in float64.

    Logits become the log of the mean softmax: still logits, as fine in their tails as the single answers.
    How fine they are is left to be measured: a mean over q answers has steps of a q-th of theirs, or none. Of q
    decisions the steps are 1/q.
    """
    total: Floats | None = None
    count, last = 0, None
    for last in answers:
        count += 1
        if total is not None and total.shape != last.values.shape:
            raise ModelOutputUnusable(*_CLASSES_CHANGE)
        values = last.values.astype(np.float64)
        if last.kind == "logits":
            values = values - np.logaddexp.reduce(values, axis=1, keepdims=True)
            total = values if total is None else np.logaddexp(total, values)
        else:
            total = values if total is None else total + values
    if total is None or last is None:
        raise ValueError("no answers")
    mean = total - np.log(count) if last.kind == "logits" else total / count
    return Outputs(mean, last.kind, 1 / count if last.labels_only else 0.0)


# --- probes ---------------------------------------------------------------------------------------------------------


def probed(raw: Any, rows: int, vector: bool) -> Floats:
    """[rows] finite numbers, or [rows, d] where the probe gives a vector; ModelOutputUnusable for anything else."""
    if not isinstance(raw, np.ndarray) or raw.dtype.kind not in "fiub" or raw.dtype.itemsize > 8:
        raise ModelOutputUnusable("a probe gives no array of numbers")
    fits = raw.ndim == 2 and 1 <= raw.shape[1] <= PROBE_WIDTH if vector else raw.ndim == 1
    if not fits or len(raw) != rows:
        raise ModelOutputUnusable(
            f"a probe gives an array of shape {list(raw.shape)} for {rows} records",
            f"it must give [n{', d' if vector else ''}] numbers",
        )
    values = np.ascontiguousarray(raw, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ModelOutputUnusable("a probe gives NaN or infinity")
    return values
