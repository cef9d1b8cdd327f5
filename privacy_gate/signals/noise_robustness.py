"""How often a record is still classified rightly after small random changes: label-only, for tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate.datamodel import Bools, Floats, Ints
from privacy_gate.errors import NotEvaluable
from privacy_gate.features import Features, concat
from privacy_gate.signals import Access, probe

if TYPE_CHECKING:
    import pandas as pd

NOISE = (0.05, 0.1, 0.2, 0.4)  # per level: standard deviations added to continuous columns
SWAPS = (0.01, 0.02, 0.05, 0.1)  # per level: share of the discrete columns that get another value
DRAWS = 6  # per level
FEW = 20  # whole numbers with at most so many values are taken as names of kinds
ROWS = 16_384  # asked at once, as far as whole copies of all records allow
CELLS = 16_777_216  # the same for wide tables

_STREAM = 41  # keeps these draws apart from every other use of the run's seed


@probe(
    name="noise_robustness",
    unit="0 to 1",
    paper="Choquette-Choo et al., ICML 2021 (random noise and flips); Li & Zhang, CCS 2021",
    needs="labels",
    fits="tables",
    queries=f"{len(NOISE) * DRAWS + 1} answers per record",
)
def noise_robustness(access: Access, features: Features, labels: Ints, seed: int) -> Floats:
    """[n] whether the top class is the label, and of how many changed copies; 0 to 1, above 1/2 where it is.

    Continuous columns get Gaussian noise in robust standard deviations, a few discrete ones another observed value.
    All records are changed alike, so that a record's number depends on itself and on the columns' statistics alone.
    Raises NotEvaluable for images and for tables of constant columns.
    """
    table = _table(features)
    rng = np.random.default_rng([_STREAM, seed])
    changes = [table.change(level, rng) for level in range(len(NOISE)) for _ in range(DRAWS)]
    return robustness(_right(access, table, [None, *changes], labels))


def robustness(right: Bools) -> Floats:
    """[n] from right [1 + levels x draws, n]: the record itself first, then the copies, small changes before large.

    The record's own answer counts more than all copies together: no threshold does worse than the gap attack. Then the
    number of right copies counts, then where they are: no two ways to spread them over the levels are one score.
    """
    levels = len(NOISE)
    counts = right[1:].reshape(levels, DRAWS, -1).sum(axis=1)
    places = (DRAWS + 1) ** np.arange(levels - 1, -1, -1)
    weights = (DRAWS + 1) ** levels + places
    most = int(weights.sum()) * DRAWS
    return np.asarray(((most + 1) * right[0] + weights @ counts) / (2 * most + 1), dtype=np.float64)


# --- what is changed ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """One way to change any record of a table.

    added    [continuous] noise, in units of the column
    columns  discrete columns that get another value
    turns    how many levels further that value is, as a share of the column's levels: [columns] in [0, 1)
    """

    added: Floats
    columns: Ints
    turns: Floats


@dataclass(frozen=True, slots=True, eq=False)
class _Discrete:
    """A column of few values: `code` [n] number of the record's value, -1 where missing; `first` [levels] a row."""

    column: int
    code: Ints
    first: Ints

    def rows(self, turn: float) -> Ints:
        """[n] for each record, a row that has the value which lies `turn` further; missing stays missing."""
        levels = len(self.first)
        step = 1 + int(turn * (levels - 1))
        other = self.first[(self.code + step) % levels]
        return np.where(self.code < 0, np.arange(len(self.code)), other)


@dataclass(frozen=True, slots=True, eq=False)
class _Continuous:
    """The columns of many values: [columns] robust standard deviation, smallest and largest value, whole or not."""

    columns: Ints
    spread: Floats
    low: Floats
    high: Floats
    whole: Bools

    def noisy(self, values: Floats, added: Floats, k: slice | int = slice(None)) -> Floats:
        """`values` of the columns `k`, within the observed range: a value that nobody has may be refused."""
        moved = np.clip(values + added, self.low[k], self.high[k])
        whole = np.where(self.whole[k], np.rint(moved), moved)
        return np.asarray(np.where(np.isfinite(values), whole, values))


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    features: Features
    continuous: _Continuous
    discrete: tuple[_Discrete, ...]

    def change(self, level: int, rng: np.random.Generator) -> Change:
        """A random change of the given size; at least one discrete column gets another value, if there are any."""
        added = NOISE[level] * self.continuous.spread * rng.normal(size=len(self.continuous.columns))
        count = -int(-SWAPS[level] * len(self.discrete) // 1)
        columns = rng.permutation(len(self.discrete))[:count]
        return Change(added, columns, rng.random(count))

    def changed(self, change: Change) -> Features:
        """All records, changed; types, names and categories stay."""
        if isinstance(self.features, np.ndarray):
            return self._changed_array(self.features, change)
        return self._changed_frame(self.features, change)

    def _changed_array(self, features: NDArray[Any], change: Change) -> NDArray[Any]:
        out = np.array(features)
        where = self.continuous.columns
        if len(where):
            out[:, where] = self.continuous.noisy(features[:, where].astype(np.float64), change.added)
        for k, turn in zip(change.columns, change.turns, strict=True):
            one = self.discrete[k]
            out[:, one.column] = features[one.rows(turn), one.column]
        return out

    def _changed_frame(self, features: pd.DataFrame, change: Change) -> pd.DataFrame:
        out = features.copy()
        for k, column in enumerate(self.continuous.columns):
            old = features.iloc[:, int(column)]
            new = self.continuous.noisy(_numbers(old), change.added[k], k)
            out.isetitem(int(column), _as_typed(new, old))
        for k, turn in zip(change.columns, change.turns, strict=True):
            one = self.discrete[k]
            out.isetitem(one.column, features.iloc[:, one.column].array.take(one.rows(turn)))
        return out


# --- the columns ----------------------------------------------------------------------------------------------------


def _table(features: Features) -> _Table:
    if isinstance(features, np.ndarray):
        if features.ndim != 2:
            raise NotEvaluable(
                f"noise_robustness changes tables; these records have {features.ndim - 1} axes",
                "augmentation_robustness does the same for images",
            )
        columns = [(features[:, j], features.dtype.kind in "biuf") for j in range(features.shape[1])]
    else:
        columns = [_column(features.iloc[:, j]) for j in range(features.shape[1])]
    continuous: list[tuple[int, Floats]] = []
    discrete: list[_Discrete] = []
    for j, (column, numeric) in enumerate(columns):
        numbers = np.asarray(column, dtype=np.float64) if numeric else None
        if numbers is not None and not _of_few_values(numbers):
            continuous.append((j, numbers[np.isfinite(numbers)]))
        elif len((one := _levels(j, column, numbers)).first) > 1:
            discrete.append(one)
    if not continuous and not discrete:
        raise NotEvaluable("noise_robustness: every column is constant", "there is nothing that could be changed")
    return _Table(features, _statistics(continuous), tuple(discrete))


def _column(column: pd.Series) -> tuple[Any, bool]:
    """A column's values, and whether they are numbers: then as float64, missing ones as nan."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    numeric = is_bool_dtype(column.dtype) or is_numeric_dtype(column.dtype)
    return (_numbers(column) if numeric else column), numeric


def _numbers(column: pd.Series) -> Floats:
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def _as_typed(values: Floats, like: pd.Series) -> Any:
    import pandas as pd

    return pd.Series(values, index=like.index).astype(like.dtype).array


def _of_few_values(numbers: Floats) -> bool:
    """Two values, or few whole numbers."""
    found = np.unique(numbers[np.isfinite(numbers)])
    return len(found) <= 2 or (len(found) <= FEW and bool((found == np.rint(found)).all()))


def _levels(j: int, column: Any, numbers: Floats | None) -> _Discrete:
    """The values of a column in an order that comes from the values, never from the order of the records."""
    import pandas as pd

    try:
        code, values = pd.factorize(column if numbers is None else numbers)
    except TypeError as error:
        raise NotEvaluable(
            f"noise_robustness: column {j} holds values that cannot be told apart ({error})",
            "store one plain value per cell",
        ) from error
    names = [(type(value).__name__, str(value)) for value in values]
    rank = np.empty(len(names), dtype=np.int64)
    rank[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
    code = np.where(code < 0, -1, rank[code] if len(names) else -1)
    first = np.full(len(names), len(code), dtype=np.int64)
    present = np.flatnonzero(code >= 0)
    np.minimum.at(first, code[present], present)
    return _Discrete(j, code, first)


def _statistics(columns: list[tuple[int, Floats]]) -> _Continuous:
    spreads = [_spread(values) for _, values in columns]
    return _Continuous(
        np.array([j for j, _ in columns], dtype=np.int64),
        np.array(spreads, dtype=np.float64),
        np.array([values.min() for _, values in columns], dtype=np.float64),
        np.array([values.max() for _, values in columns], dtype=np.float64),
        np.array([bool((values == np.rint(values)).all()) for _, values in columns], dtype=np.bool_),
    )


def _spread(values: Floats) -> float:
    """Standard deviation by the quartiles; where half of the values are one, by the 1 % tails; else as it is."""
    ordered = np.sort(values)
    for inner, normal in ((0.25, 1.349), (0.01, 4.653)):
        low, high = np.quantile(ordered, [inner, 1 - inner])
        if high > low:
            return float((high - low) / normal)
    return float(ordered.std())


# --- asking ---------------------------------------------------------------------------------------------------------


def _right(access: Access, table: _Table, changes: Sequence[Change | None], labels: Ints) -> Bools:
    """[changes, n] whether the top class is the label; None: the records as they are. Several copies at a time."""
    n, width = len(labels), max(1, table.features.shape[1])
    size = max(1, min(ROWS, CELLS // width) // max(n, 1))
    right = np.empty((len(changes), n), dtype=np.bool_)
    for start in range(0, len(changes), size):
        copies = [table.features if change is None else table.changed(change) for change in changes[start:][:size]]
        top = access.answers(concat(copies)).values.argmax(axis=1)
        right[start : start + len(copies)] = top.reshape(len(copies), n) == labels
    return right
