"""From what the config says of the answers, and the data's labels, to the `Form` that they are read in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate.datamodel import Audit, Ints, Outputs
from privacy_gate.errors import ConfigError
from privacy_gate.request import Output
from privacy_gate.sandbox.outputs import Form, plain
from privacy_gate.sandbox.untrusted import clean

MOST_CLASSES = 4096  # distinct labels; more are no classes, and need not travel
_SHOWN = 10
_SURE = 5.0  # standard deviations from which two classes are told to be swapped


def form_of(output: Output, data_classes: Sequence[Any] | None, raw_labels: NDArray[Any]) -> Form:
    """How the candidate's answers are read, before it was asked. Raises ConfigError.

    data_classes  data.classes of the config
    raw_labels    [U] label values of all records
    """
    if output.classes and data_classes and _plain(output.classes) != _plain(data_classes):
        raise ConfigError(
            f"output.classes says {_shown(output.classes)}, data.classes says {_shown(data_classes)}",
            "they are the same: the label values in the order of the model's columns; give one of them",
        )
    declared = tuple(output.classes or data_classes or ()) or None
    if declared is not None and len(set(_plain(declared))) != len(declared):
        raise ConfigError(f"{_named(output)} names a class twice: {_shown(declared)}", "list every class once")
    column = tuple(output.column) if isinstance(output.column, list) else output.column
    if isinstance(column, tuple) and (declared is None or len(declared) != len(column)):
        count = "nobody says which classes in which order" if declared is None else f"there are {len(declared)} classes"
        raise ConfigError(
            f"output.column lists {len(column)} columns, one per class; {count}",
            "list output.classes in the order of these columns",
        )
    labels = distinct(raw_labels)
    if output.positive is None:
        return Form(output.kind, declared, 1, labels, column)
    known = declared if declared is not None else labels
    if known is None or len(known) != 2:
        count = "the data have no two classes" if known is None else f"there are {len(known)} classes"
        raise ConfigError(
            f"output.positive says what a one-column score is about; {count}", "leave it out, or list two classes"
        )
    if plain(output.positive) not in _plain(known):
        among = f" {_shown(known)}" if declared is not None else " in the data"
        raise ConfigError(
            f"output.positive is {clean(output.positive, 40)!r}, which is none of the classes{among}",
            "write it as the label is written in the data",
        )
    place = _plain(known).index(plain(output.positive))
    if declared is not None:
        return Form(output.kind, declared, 1 if place else 0, labels, column)
    return Form(output.kind, (known[1 - place], known[place]), 1, labels, column)


def left_out(output: Output) -> Iterator[str]:
    """What a report says where the config picks columns out of the answers."""
    if output.column is None:
        return
    columns = output.column if isinstance(output.column, list) else [output.column]
    one = len(columns) == 1
    yield (
        f"of the model's answers, {'the column' if one else 'the columns'} {_shown(columns)} alone"
        f" {'was' if one else 'were'} looked at (output.column): what others tell is not part of this verdict"
    )


def agreed(output: Output, data_classes: Sequence[Any] | None, of_model: tuple[Any, ...] | None) -> None:
    """Raises ConfigError where the config names other classes than the model itself, or another order."""
    declared = tuple(output.classes or data_classes or ())
    if of_model is None or not declared or _plain(declared) == _plain(of_model):
        return
    same = sorted(map(str, _plain(declared))) == sorted(map(str, _plain(of_model)))
    raise ConfigError(
        f"{_named(output)} says {_shown(declared)}, the model itself says {_shown(of_model)}"
        + (": the same classes in another order" if same else ""),
        f"leave {_named(output)} out: the model knows the order of its columns"
        if same
        else "the labels in the data must be the values that the model was trained on",
    )


def in_order(answers: Outputs, audit: Audit) -> None:
    """Raises ConfigError where two columns are plainly read as each other's class.

    Attacks that look at the true class would then look at the wrong one, and find that members stand out for nothing.
    Whatever a model has learned, it takes a record for a class no less often if it is of that class than if it is of
    another one. Asked of members, where nobody is worse than guessing, class against class; by 5 standard deviations at
    their largest, so that chance has no part in it.
    """
    count, labels, persons = len(audit.classes), audit.labels[audit.member], audit.persons[audit.member]
    top = answers.values[: len(audit.member)][audit.member].argmax(axis=1)
    taken = np.bincount(labels * count + top, minlength=count * count).reshape(count, count)
    rates = taken / np.maximum(taken.sum(axis=1, keepdims=True), 1)
    # A mean of numbers between -1 and 1 has variance 1 over the number of its independent parts at most (Kish).
    variances = np.array([_variance(persons[labels == k]) for k in range(count)])
    told = np.add.outer(rates.diagonal(), rates.diagonal()) - rates - rates.T
    surely = told + _SURE * np.sqrt(np.add.outer(variances, variances))
    np.fill_diagonal(surely, 0.0)
    one, other = np.unravel_index(int(surely.argmin()), surely.shape)
    if surely[one, other] < 0:
        names = [clean(audit.classes[k], 40) for k in (one, other)]
        right, wrong = rates[one, one] + rates[other, other], rates[one, other] + rates[other, one]
        raise ConfigError(
            f"the model takes members of the classes {names[0]} and {names[1]} for each other ({50 * wrong:.0f} %) "
            f"more often than for what they are ({50 * right:.0f} %): its columns are read as the wrong classes",
            "list output.classes in the order of its columns; for a one-column score name the class that it is about "
            "as output.positive; or look whether the labels in the data are those that it was trained on",
        )


def _variance(persons: Ints) -> float:
    sizes = np.unique(persons, return_counts=True)[1].astype(np.float64)
    return float(np.square(sizes).sum() / max(len(persons), 1) ** 2) if len(persons) else math.inf


def distinct(raw_labels: NDArray[Any]) -> tuple[Any, ...] | None:
    """The label values, numbers before texts, sorted; None where there are too many to be classes."""
    found = {plain(value): value for value in np.unique(raw_labels).tolist()} if raw_labels.dtype != object else {}
    if raw_labels.dtype == object:
        for value in dict.fromkeys(raw_labels.tolist()):
            found.setdefault(plain(value), value)
    found.pop(None, None)
    if not 1 <= len(found) <= MOST_CLASSES:
        return None
    return tuple(found[key] for key in sorted(found, key=lambda key: (isinstance(key, str), key)))


def _named(output: Output) -> str:
    return "output.classes" if output.classes else "data.classes"


def _plain(values: Sequence[Any]) -> list[float | str | None]:
    return [plain(value) for value in values]


def _shown(values: Sequence[Any]) -> str:
    told = ", ".join(clean(value, 40) for value in list(values)[:_SHOWN])
    return f"{told} and {len(values) - _SHOWN} more" if len(values) > _SHOWN else told
