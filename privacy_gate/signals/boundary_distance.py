"""How far a record is from the next class, found by asking for classes alone: HopSkipJump, all records at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate.datamodel import Bools, Floats, Ints
from privacy_gate.errors import ModelOutputUnusable, NotEvaluable, UnsupportedModel
from privacy_gate.features import Features
from privacy_gate.signals import Access, probe

if TYPE_CHECKING:
    import pandas as pd

STARTS = 4  # records of another class from which the way to the boundary is searched
NEAREST = 32  # records of another class that are tried as starts, nearest first
HALVINGS = 12  # of a stretch that crosses the boundary: its end is known to 1/4096 of the stretch
STEPS = 6
DIRECTIONS = 20  # asked for the first gradient; the t-th step asks sqrt(t) times as many
TRIALS = 6  # lengths of one step: each half of the one before
RADIUS = 0.05  # of the directions, as a share of the distance
MOST_QUERIES = (
    1 + NEAREST + STARTS * HALVINGS + sum(int(DIRECTIONS * np.sqrt(t)) + TRIALS + HALVINGS for t in range(1, STEPS + 1))
)
ROWS = 16_384  # asked at once
CELLS = 8_388_608  # the same for wide records

_STREAM = 42  # keeps these draws apart from every other use of the run's seed
_BLOCK = 512  # records whose distances to all others are held at once


@probe(
    name="boundary_distance",
    unit="standard deviations of the columns, L2",
    paper="Chen, Jordan & Wainwright, S&P 2020 (HopSkipJump, algorithm 2); Li & Zhang, CCS 2021; "
    "Choquette-Choo et al., ICML 2021",
    needs="labels",
    queries=f"at most {MOST_QUERIES} answers per record",
    shadows=False,
)
def boundary_distance(access: Access, features: Features, labels: Ints, seed: int) -> Floats:
    """[n] L2 length of the smallest change found that alters the top class; 0 where the record is misclassified.

    An upper bound: every length belongs to a change that was tried. Where no change alters the class, the largest
    length seen. Columns without numbers stay as they are. Raises NotEvaluable without numeric columns, where one
    class is answered for all, and where the model takes no fractions.
    """
    space = _space(features)
    model = _Model(access, space)
    own = model.top_of_records()
    right = own == labels
    if len(np.unique(own)) < 2:
        raise NotEvaluable(
            "boundary_distance: the model gives every record the same class", "there is no boundary to be found"
        )
    rng = np.random.default_rng([_STREAM, seed])
    found = np.zeros(len(labels))
    rows = np.flatnonzero(right)
    if len(rows):
        found[rows] = _lengths(model, own, rows, rng)
    reached = np.isfinite(found)
    if not reached[rows].any() and len(rows):
        raise NotEvaluable(
            "boundary_distance: no change of the numeric columns alters any record's class",
            "the model decides by the other columns; noise_robustness changes those too",
        )
    return np.where(reached, found, found[reached].max(initial=0.0))


# --- the space in which records move --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Space:
    """Records as points [n, d] in standard deviations of the columns that vary, and the way back."""

    features: Features
    columns: Ints  # [d] of a frame, or of a flattened array
    points: Floats
    middle: Floats  # [d]
    scale: Floats  # [d]

    def records(self, rows: Ints, points: Floats) -> Features:
        """The records `rows` with the given points [n, d] in place of their own."""
        values = points * self.scale + self.middle
        if isinstance(self.features, np.ndarray):
            flat = self.features[rows].reshape(len(rows), -1).astype(_fractional(self.features.dtype))
            flat[:, self.columns] = values
            return np.asarray(flat.reshape(len(rows), *self.features.shape[1:]))
        frame = self.features.iloc[rows].reset_index(drop=True)
        for k, column in enumerate(self.columns):
            frame.isetitem(int(column), values[:, k].astype(_fractional(frame.dtypes.iloc[int(column)])))
        return frame

    def retyped(self) -> bool:
        """Whether columns of whole numbers or truth values have to become fractions."""
        if isinstance(self.features, np.ndarray):
            return bool(self.features.dtype != _fractional(self.features.dtype))
        dtypes = [self.features.dtypes.iloc[int(column)] for column in self.columns]
        return any(dtype != _fractional(dtype) for dtype in dtypes)


def _fractional(dtype: Any) -> np.dtype[Any]:
    return np.dtype(np.float32) if dtype == np.float32 else np.dtype(np.float64)


def _space(features: Features) -> _Space:
    columns, table = _numbers(features)
    table = np.where(np.isfinite(table), table, np.nan)
    whole = np.isfinite(table).all(axis=0)
    columns, table = columns[whole], table[:, whole]  # a missing value is nowhere: such a column stays as it is
    # Sorted: the sums must not depend on the order of the records.
    ordered = np.sort(table, axis=0)
    middle, scale = ordered.mean(axis=0), ordered.std(axis=0)
    vary = ordered[0] < ordered[-1] if len(table) else np.zeros(len(columns), dtype=np.bool_)
    if not vary.any():
        raise NotEvaluable(
            "boundary_distance: no numeric column that varies and is never missing",
            "noise_robustness serves tables of categories",
        )
    middle, scale = middle[vary], scale[vary]
    return _Space(features, columns[vary], (table[:, vary] - middle) / scale, middle, scale)


def _numbers(features: Features) -> tuple[Ints, Floats]:
    """The numeric columns, and their values [n, columns]."""
    if isinstance(features, np.ndarray):
        if features.dtype.kind not in "biuf" or features.ndim < 2:
            raise NotEvaluable(
                f"boundary_distance moves records of numbers; these are {features.ndim}-axis {features.dtype}",
                "store one row of numbers per record",
            )
        flat = features.reshape(len(features), -1).astype(np.float64)
        return np.arange(flat.shape[1]), flat
    return _numeric_columns(features)


def _numeric_columns(frame: pd.DataFrame) -> tuple[Ints, Floats]:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    columns = [j for j, dtype in enumerate(frame.dtypes) if is_bool_dtype(dtype) or is_numeric_dtype(dtype)]
    values = [frame.iloc[:, j].to_numpy(dtype=np.float64, na_value=np.nan) for j in columns]
    return np.array(columns, dtype=np.int64), np.stack(values, axis=1) if columns else np.empty((len(frame), 0))


@dataclass(frozen=True, slots=True, eq=False)
class _Model:
    access: Access
    space: _Space

    def top_of_records(self) -> Ints:
        """[n] the class of each record, its columns written as the fractions that they will be."""
        rows = np.arange(len(self.space.points))
        if not self.space.retyped():
            return self.top(rows, self.space.points)
        try:
            return self.top(rows, self.space.points)
        # What a model says to a table of other types: the gate's words, or scikit-learn's and torch's.
        except (ModelOutputUnusable, UnsupportedModel, ValueError, TypeError, RuntimeError) as error:
            raise NotEvaluable(
                f"boundary_distance: the model takes no fractions in its columns of whole numbers "
                f"({type(error).__name__})",
                "noise_robustness keeps the types of the columns",
            ) from error

    def top(self, rows: Ints, points: Floats) -> Ints:
        """[m] the class of the records `rows` [m] moved to `points` [m, d]."""
        size = self.rows_at_once()
        parts = [
            self.access.answers(self.space.records(rows[s : s + size], points[s : s + size])).values.argmax(axis=1)
            for s in range(0, len(rows), size)
        ]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def rows_at_once(self) -> int:
        """How many moved records are held and asked at a time."""
        return max(1, min(ROWS, CELLS // max(1, int(np.prod(self.space.features.shape[1:])))))


# --- the search -----------------------------------------------------------------------------------------------------


def _lengths(model: _Model, own: Ints, rows: Ints, rng: np.random.Generator) -> Floats:
    """[rows] how far the boundary is from each; infinite where no start lies across it."""
    width = model.space.points.shape[1]
    across = _starts(model, own, rows)
    found = np.isfinite(across).all(axis=1)
    search = _Search(model, rows[found], own[rows[found]], across[found])
    for step in range(1, STEPS + 1):
        # One set of directions for all records: a record's number depends on the record, not on its row.
        directions = rng.normal(size=(int(DIRECTIONS * np.sqrt(step)), width))
        search.advance(directions / np.linalg.norm(directions, axis=1, keepdims=True), step)
    lengths = np.full(len(rows), np.inf)
    lengths[found] = search.best
    return lengths


class _Search:
    """Where the search stands: for each record a point just across the boundary."""

    def __init__(self, model: _Model, rows: Ints, own: Ints, across: Floats) -> None:
        self._model, self._rows, self._own = model, rows, own
        self._home = model.space.points[rows]
        self._at = across
        self.best = self._length()

    def advance(self, directions: Floats, step: int) -> None:
        """One step of HopSkipJump: along the boundary's normal, then back towards the record."""
        length = self._length()[:, None]
        forward = self._normals(directions, RADIUS * length)
        stride = length / np.sqrt(step)
        waiting, beyond = np.arange(len(self._rows)), self._at.copy()
        for _ in range(TRIALS):
            tried = self._at[waiting] + stride[waiting] * forward[waiting]
            over = self._over(waiting, tried)
            beyond[waiting[over]] = tried[over]
            waiting = waiting[~over]
            stride = stride / 2
        self._at = _onto_boundary(self._model, self._rows, self._own, self._home, beyond)
        self.best = np.minimum(self.best, self._length())

    def _length(self) -> Floats:
        return np.asarray(np.linalg.norm(self._at - self._home, axis=1))

    def _over(self, which: Ints, points: Floats) -> Bools:
        return np.asarray(self._model.top(self._rows[which], points) != self._own[which])

    def _normals(self, directions: Floats, radius: Floats) -> Floats:
        """[n, d] unit vectors into the other class, by which of the directions lead there (equation 16)."""
        n, count = len(self._at), len(directions)
        signs = np.empty((n, count))
        size = max(1, self._model.rows_at_once() // count)
        for start in range(0, n, size):
            some = np.arange(start, min(start + size, n))
            points = self._at[some, None, :] + radius[some, None, :] * directions
            over = self._over(np.repeat(some, count), points.reshape(len(some) * count, -1))
            signs[some] = np.where(over.reshape(len(some), count), 1.0, -1.0)
        mean = signs.mean(axis=1, keepdims=True)
        # All on one side: their mean says no more than which side it is.
        normals = np.where(np.abs(mean) < 1, signs - mean, signs) @ directions
        return np.asarray(normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300))


def _onto_boundary(model: _Model, rows: Ints, own: Ints, home: Floats, beyond: Floats) -> Floats:
    """[n, d] the nearest tried point of another class on the straight way from `home` to `beyond`, which is one."""
    near, far = np.zeros((len(rows), 1)), np.ones((len(rows), 1))
    for _ in range(HALVINGS):
        middle = (near + far) / 2
        over = (model.top(rows, home + middle * (beyond - home)) != own)[:, None]
        near, far = np.where(over, near, middle), np.where(over, middle, far)
    return np.asarray(home + far * (beyond - home))


def _starts(model: _Model, own: Ints, rows: Ints) -> Floats:
    """[rows, d] the nearest boundary point on the ways to the nearest records of another class; nan where none is."""
    points = model.space.points
    others = _nearest_of_another_class(points, own, rows)
    across = np.zeros(others.shape, dtype=np.bool_)
    for group in range(0, NEAREST, STARTS):
        # Columns without numbers keep their values: the other record's numbers alone need not be of another class.
        asked = others[:, group : group + STARTS] >= 0
        asked &= (across.sum(axis=1) < STARTS)[:, None]
        record, place = np.nonzero(asked)
        if len(record):
            tops = model.top(rows[record], points[others[record, group + place]])
            across[record, group + place] = tops != own[rows[record]]
    record, place = np.nonzero(across & (across.cumsum(axis=1) <= STARTS))
    home = points[rows[record]]
    reached = _onto_boundary(model, rows[record], own[rows[record]], home, points[others[record, place]])
    shortest_first = np.lexsort((np.linalg.norm(reached - home, axis=1), record))
    found, first = np.unique(record[shortest_first], return_index=True)
    best = np.full((len(rows), points.shape[1]), np.nan)
    best[found] = reached[shortest_first[first]]
    return best


def _nearest_of_another_class(points: Floats, own: Ints, rows: Ints) -> NDArray[np.int64]:
    """[rows, NEAREST] the nearest records of another class, nearest first; -1 where there are no more.

    Among equally distant ones the records' own values decide, never their order.
    """
    order = np.lexsort(points.T)
    ranked, classes = points[order], own[order]
    squares = (ranked**2).sum(axis=1)
    count = min(NEAREST, len(order))
    found = np.full((len(rows), NEAREST), -1, dtype=np.int64)
    for start in range(0, len(rows), _BLOCK):
        some = rows[start : start + _BLOCK]
        distance = squares + (points[some] ** 2).sum(axis=1)[:, None] - 2 * points[some] @ ranked.T
        # Rounded: equal distances must be equal, whatever the order in which they were summed.
        distance = np.where(classes == own[some][:, None], np.inf, np.round(distance, 9))
        nearest = np.argsort(distance, axis=1, kind="stable")[:, :count]
        there = np.isfinite(np.take_along_axis(distance, nearest, axis=1))
        found[start : start + len(some), :count] = np.where(there, order[nearest], -1)
    return found
