"""What the records tell without any model: can a classifier name the members from their inputs, are there near copies?

A leak is only a leak if members and non-members are alike but for their membership. Both looks use records, labels and
the answer key, never an answer of the model under audit. `coordinates` gives attackers the records as numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate.datamodel import Bools, Floats, Ints
from privacy_gate.errors import NotEvaluable
from privacy_gate.features import AnyFeatures, Features, Stored, in_memory, take
from privacy_gate.thresholds import person_folds
from privacy_gate.validity import Inputs

if TYPE_CHECKING:
    import pandas as pd

MOST_PERSONS = 20_000
MOST_RECORDS = 40_000
MOST_CELLS = 300_000_000  # rows times columns that are read; images are wide
MOST_COLUMNS = 2_048  # wider arrays are thinned to as many
BOOSTED_COLUMNS = 256  # beyond them a linear model finds as much in a tenth of the time
CATEGORIES = 250  # the most frequent ones; the histograms of the boosting end at 255
LINEAR_COLUMNS = 1_024  # wider tables are reduced to their main components
COMPONENTS = 128
TEXT_COMPONENTS = 16
FEWEST = 4  # persons of either kind in either half

RADIUS = 0.05  # root mean square difference of near copies per column, in robust standard deviations
HAMMING = 0.01  # share of columns in which near copies may differ, where all columns are binary
PROJECTED = 128  # columns that distances are taken in; wider tables are projected at random
QUERIES = 5_000  # persons of either kind that are compared
COORDINATES = 32  # columns that attackers see of a record
ENCODED = 512  # columns that the coordinates are the main components of
BASIS_ROWS = 20_000  # records that the components are computed from
_CLIPPED, _MISSING = 10.0, -20.0  # in robust standard deviations: rounding in float32 stays below the radius
_CHUNK = 512
_CELLS = 1 << 23  # rows times columns that are looked at at once

_STREAM = 31  # keeps these draws apart from every other use of the run's seed
_COORDINATES_STREAM = 67
_FOLD_SEED = 1_000_003  # the halves of this test are not those of the attacks


def look(features: AnyFeatures, labels: Ints, member: Bools, persons: Ints, seed: int) -> Inputs:
    """Scores of a blind classifier on held-out persons, and near copies across the sets.

    `features` has R or more rows (array of any shape, memory map, or frame), of which the first R are the audited ones;
    labels [R] class indices, member [R], persons [R]. Lopez-Paz & Oquab, ICLR 2017 (classifier two-sample test).
    """
    rng = np.random.default_rng([_STREAM, seed])
    width = int(np.prod(features.shape[1:])) if features.ndim > 1 else 1
    rows = _drawn(member, persons, max(width, 1), rng)
    table = _table(features if len(rows) == len(features) else take(features, rows), labels[rows], rng)
    side, people = member[rows], persons[rows]
    near, expected, compared, note = _near_copies(table, side, people, rng)
    held, scores = _blind(table, labels[rows], side, people, seed)
    if len(rows) < len(labels):
        note = f"{note}; {len(rows):,} of {len(labels):,} records were drawn" if note else ""
    return Inputs(scores, side[held], people[held], near, expected, compared, note)


def coordinates(features: AnyFeatures, count: int) -> Floats:
    """[count, d] the first `count` records as d <= 32 columns of mean 0 and variance 1, cut off at 10 deviations.

    Numbers as they are and how many of them are missing, categories one-hot, texts by their words; the main components
    where that is more than 32 columns. Membership, labels and models are not looked at. d = 0: all records are equal.
    """
    rng = np.random.default_rng([_COORDINATES_STREAM])
    nothing = np.zeros(count, dtype=np.int64)
    columns = _encoded(_table(take(features, np.arange(count)), nothing, rng, ENCODED))
    columns = columns[:, columns.any(axis=0)]
    if columns.shape[1] > COORDINATES:
        columns = _components(columns, rng)
    # Equal to the last bit on every machine, or a rank might change.
    return np.asarray(np.round(np.clip(_standard(columns), -_CLIPPED, _CLIPPED), 6) + 0.0)


def _encoded(table: _Table) -> Floats:
    """[n, p] every column of mean 0; every column of numbers, and all columns of a category together, of variance 1."""
    missing = np.isnan(table.numbers).sum(axis=1, keepdims=True)
    parts = [_standard(part) for part in (table.numbers, missing, table.words)]
    often = max(2, min(CATEGORIES, ENCODED // max(table.codes.shape[1], 1)))
    for codes in table.codes.T:
        # Codes count from the most frequent one; the rare ones share a column, the missing ones have one.
        block = np.eye(often + 1)[np.where(codes < 0, often, np.minimum(codes, often - 1))]
        block -= block.mean(axis=0)
        block[:, np.abs(block).max(axis=0) < 1e-9] = 0.0  # a constant column, up to rounding
        parts.append(block / (np.sqrt(np.square(block).sum() / len(block)) or 1.0))
    return np.concatenate(parts, axis=1)


def _components(columns: Floats, rng: np.random.Generator) -> Floats:
    """[n, d] main components of [n, p] columns, d <= 32."""
    from sklearn.decomposition import PCA

    some = np.sort(rng.permutation(len(columns))[:BASIS_ROWS])
    wanted = min(COORDINATES, len(some))
    found = PCA(wanted, svd_solver="covariance_eigh").fit(columns[some]).transform(columns)
    # Records that span fewer dimensions leave components of rounding errors, which must not be blown up to variance 1.
    return np.asarray(found[:, found.std(axis=0) > 1e-6 * found.std()], dtype=np.float64)


def _drawn(member: Bools, persons: Ints, width: int, rng: np.random.Generator) -> Ints:
    """Rows of at most MOST_PERSONS persons, of either kind as many as there are or half of it; ascending."""
    most = min(MOST_PERSONS, max(MOST_CELLS // width, 4 * FEWEST))
    inside, outside = np.unique(persons[member]), np.unique(persons[~member])
    sizes = [max(most // 2, most - len(other)) for other in (outside, inside)]
    chosen = [rng.permutation(group)[:size] for group, size in zip((inside, outside), sizes, strict=True)]
    rows = np.flatnonzero(np.isin(persons, np.concatenate(chosen)))
    limit = min(MOST_RECORDS, max(MOST_CELLS // width, 4 * FEWEST))
    return np.sort(rng.permutation(rows)[:limit]) if len(rows) > limit else rows


# --- records as numbers ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Records as numbers; nothing here was learnt from membership.

    numbers  [n, p] with NaN where missing
    codes    [n, q] of categories, the most frequent first; -1 missing, CATEGORIES for all rare ones
    words    [n, t] components of texts
    exact    [n] one number per combination of all that is not numeric
    """

    numbers: NDArray[np.float32]
    codes: Ints
    words: NDArray[np.float32]
    exact: Ints


def _table(features: AnyFeatures, labels: Ints, rng: np.random.Generator, most: int = MOST_COLUMNS) -> _Table:
    count = len(labels)
    if isinstance(features, np.ndarray | Stored) and features.dtype.kind in "fiub":
        empty = np.empty((count, 0), dtype=np.float32)
        return _Table(_thinned(features, rng, most), _codes([labels], count), empty, np.zeros(count, int))
    frame = _frame(in_memory(features), count)
    numbers, found = np.empty((count, frame.shape[1])), 0
    categories, texts = [labels], []
    exact = np.zeros(count, dtype=np.int64)
    for name in range(frame.shape[1]):
        column = frame.iloc[:, name]
        values = _numeric(column)
        if values is not None:
            numbers[:, found] = values  # one by one: all of them beside the table would be another copy
            found += 1
            continue
        words = column.astype("string").fillna("").to_numpy(dtype=object)
        coded = np.unique(words.astype(str), return_inverse=True)[1]
        exact = np.unique(exact * (int(coded.max(initial=0)) + 1) + coded, return_inverse=True)[1]
        categories.append(np.where(column.isna().to_numpy(), -1, coded))
        if np.mean([" " in word for word in words]) > 0.2:
            texts.append(words)
    return _Table(_thinned(numbers[:, :found], rng, most), _codes(categories, count), _words(texts, count), exact)


def _frame(features: Features, count: int) -> pd.DataFrame:
    import pandas as pd

    if isinstance(features, np.ndarray):
        return pd.DataFrame(features.reshape(count, -1)).infer_objects()
    return features


def _numeric(column: pd.Series[Any]) -> Floats | None:
    """[n] float64, NaN where missing; None for text and categories."""
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(column) or pd.api.types.is_timedelta64_dtype(column):
        # Counted from the middle: float32 has no room for nanoseconds since 1970.
        values = np.where(column.isna().to_numpy(), np.nan, column.astype("int64").to_numpy(dtype=np.float64))
        return np.asarray(values - np.nanmedian(values) if np.isfinite(values).any() else values)
    if isinstance(column.dtype, pd.CategoricalDtype) or not pd.api.types.is_numeric_dtype(column):
        return None
    if pd.api.types.is_complex_dtype(column):
        return None
    return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))


def _thinned(values: NDArray[Any] | Stored, rng: np.random.Generator, most: int = MOST_COLUMNS) -> NDArray[np.float32]:
    """[n, p] with p at most `most`: means of runs of neighbours, and single columns drawn at random."""
    width = int(np.prod(values.shape[1:], dtype=np.int64))
    out = np.empty((len(values), min(width, most)), dtype=np.float32)
    starts = np.linspace(0, width, most // 2, endpoint=False, dtype=np.int64)
    lengths = np.diff(starts, append=width)
    single = np.sort(rng.choice(width, most // 2, replace=False)) if width > most else None
    largest = float(np.finfo(np.float32).max) / 4
    step = max(1, min(_CHUNK, _CELLS // max(width, 1)))
    for begin in range(0, len(values), step):
        rows = np.asarray(values[begin : begin + step])
        part = np.clip(rows.reshape(len(rows), width).astype(np.float64), -largest, largest)  # NaN stays
        if single is not None:
            part = np.concatenate([np.add.reduceat(part, starts, axis=1) / lengths, part[:, single]], axis=1)
        out[begin : begin + step] = part
    return out


def _codes(categories: list[Any], count: int) -> Ints:
    columns = []
    for values in categories:
        found, index, often = np.unique(values, return_inverse=True, return_counts=True)
        rank = np.empty(len(found), dtype=np.int64)
        rank[np.argsort(-often, kind="stable")] = np.arange(len(found))
        columns.append(np.where(values == -1, -1, np.minimum(rank[index], CATEGORIES)))
    return np.stack(columns, axis=1) if columns else np.empty((count, 0), dtype=np.int64)


def _words(texts: list[Any], count: int) -> NDArray[np.float32]:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    parts = [np.empty((count, 0))]
    for words in texts:
        try:
            weights = TfidfVectorizer(max_features=4_000, sublinear_tf=True).fit_transform(words)
        except ValueError:  # no word in it at all
            continue
        wanted = min(TEXT_COMPONENTS, weights.shape[1] - 1, count - 1)
        if wanted >= 1:
            parts.append(TruncatedSVD(wanted, random_state=0).fit_transform(weights))
    return np.concatenate(parts, axis=1).astype(np.float32)


# --- a classifier that sees inputs only -----------------------------------------------------------------------------


def _blind(table: _Table, labels: Ints, member: Bools, persons: Ints, seed: int) -> tuple[Ints, Floats]:
    """Rows of the held-out half of the persons, and how much each looks like a member; none where too few."""
    try:
        ((fit, held),) = person_folds(member, persons, seed + _FOLD_SEED, repeats=1)
    except NotEvaluable:
        return np.empty(0, dtype=np.int64), np.empty(0)
    if any(len(np.unique(persons[half & side])) < FEWEST for half in (fit, held) for side in (member, ~member)):
        return np.empty(0, dtype=np.int64), np.empty(0)
    scores = _linear(table, member, fit)
    columns = table.numbers.shape[1] + table.words.shape[1] + table.codes.shape[1]
    if columns <= BOOSTED_COLUMNS:
        # A sum sees what either sees: of a thousand records trees learn little about a mean that is shifted slightly.
        scores = scores + _boosted(table, member, fit)
    # Equal to the last bit on every machine, or a rank might change.
    return np.flatnonzero(held), np.round(scores[held], 6)


def _boosted(table: _Table, member: Bools, fit: Bools) -> Floats:
    """[n] log odds of boosted trees, fitted on the rows of `fit` [n]; scaled to variance 1."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    codes = np.where(table.codes < 0, np.nan, table.codes).astype(np.float32)
    X = np.concatenate([codes, table.numbers, table.words], axis=1)
    some = ~np.isnan(X[fit]).all(axis=0)
    model = HistGradientBoostingClassifier(
        learning_rate=0.08,
        max_iter=60,
        max_leaf_nodes=8,
        min_samples_leaf=20,
        l2_regularization=1.0,
        max_bins=63 if table.codes.max(initial=0) < 60 else 255,
        categorical_features=np.flatnonzero(some[: codes.shape[1]]),
        early_stopping=False,
        class_weight="balanced",
        random_state=0,
    ).fit(X[fit][:, some], member[fit])
    return _standard(model.decision_function(X[:, some])[:, None])[:, 0]


def _linear(table: _Table, member: Bools, fit: Bools) -> Floats:
    """[n] log odds of a regularised logistic regression, fitted on the rows of `fit` [n]; scaled to variance 1."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import OneHotEncoder

    numbers = _standard(table.numbers)
    wanted = min(COMPONENTS, *numbers.shape)
    if numbers.shape[1] > LINEAR_COLUMNS and wanted < numbers.shape[1]:
        numbers = PCA(wanted, svd_solver="randomized", random_state=0).fit_transform(numbers)
    classes = OneHotEncoder(max_categories=CATEGORIES, sparse_output=False).fit_transform(table.codes)
    missing = np.isnan(table.numbers).sum(axis=1, keepdims=True)
    X = np.concatenate([_standard(part) for part in (numbers, missing, classes, table.words)], axis=1)
    model = LogisticRegression(C=0.01, class_weight="balanced", max_iter=500).fit(X[fit], member[fit])
    return _standard(model.decision_function(X)[:, None])[:, 0]


def _standard(values: NDArray[Any]) -> Floats:
    """Columns of mean 0 and variance 1, 0 where missing or constant."""
    seen = np.where(np.isnan(values), np.float64(0.0), values.astype(np.float64))
    count = np.maximum((~np.isnan(values)).sum(axis=0), 1)
    centred = np.where(np.isnan(values), 0.0, seen - seen.sum(axis=0) / count)
    spread = np.sqrt(np.square(centred).sum(axis=0) / count)
    return np.asarray(centred / np.where(spread > 0, spread, 1.0))


# --- near copies ----------------------------------------------------------------------------------------------------


def _near_copies(
    table: _Table, member: Bools, persons: Ints, rng: np.random.Generator
) -> tuple[int | None, float, int, str]:
    """Non-members with a near copy among members, how many to expect, how many were compared, and how.

    Dense data have near copies by nature: as many as members have among the members of other persons.
    """
    points, within, how = _points(table, rng)
    queries = [_one_each(persons, side, rng)[:QUERIES] for side in (member, ~member)]
    if points.shape[1] == 0 and len(np.unique(table.exact)) <= 1:
        return None, 0.0, 0, "the records have no columns that differ"
    if any(len(rows) < FEWEST for rows in queries):
        return None, 0.0, 0, "too few persons to compare"
    references = np.flatnonzero(member)
    of_members, of_others = (
        int(_has_near(points, table.exact, persons, rows, references, within).sum()) for rows in queries
    )
    expected = of_members / len(queries[0]) * len(queries[1])
    return of_others, expected, len(queries[1]), how


def _one_each(persons: Ints, side: Bools, rng: np.random.Generator) -> Ints:
    """One row at random of each person of a side, persons in random order."""
    rows = rng.permutation(np.flatnonzero(side))
    _, first = np.unique(persons[rows], return_index=True)
    return rows[np.sort(first)]


def _points(table: _Table, rng: np.random.Generator) -> tuple[NDArray[np.float32], float, str]:
    """[n, d] points, the squared distance of near ones, and the words for it."""
    numbers = table.numbers
    also = " and all other columns are equal" if len(np.unique(table.exact)) > 1 else ""
    varying = [j for j in range(numbers.shape[1]) if not _constant(numbers[:, j])]
    numbers = numbers[:, varying]
    width = numbers.shape[1]
    if width and all(_two_valued(numbers[:, j]) for j in range(width)):
        low = numbers.min(axis=0)
        differing = int(HAMMING * width)
        return (numbers > low).astype(np.float32), differing + 0.5, f"at most {differing} of {width} bits differ{also}"
    scaled = np.stack([_scaled(numbers[:, j]) for j in range(width)], axis=1) if width else numbers
    if width > PROJECTED:
        # Distances survive a random projection within some per cent (Johnson & Lindenstrauss 1984).
        scaled = scaled @ rng.normal(scale=PROJECTED**-0.5, size=(width, PROJECTED)).astype(np.float32)
    return scaled, RADIUS**2 * max(width, 1), f"the {width} numeric columns differ by {RADIUS:g} sd each{also}"


def _constant(values: NDArray[np.float32]) -> bool:
    return bool(np.isnan(values).all() or (not np.isnan(values).any() and values.min() == values.max()))


def _two_valued(values: NDArray[np.float32]) -> bool:
    low, high = values.min(), values.max()
    return bool(((values == low) | (values == high)).all())


def _scaled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n] from the median, in robust standard deviations, bounded; missing values stand apart, together."""
    quartiles = np.nanquantile(values.astype(np.float64), (0.25, 0.5, 0.75))
    spread = float(quartiles[2] - quartiles[0]) / 1.349 or float(np.nanstd(values.astype(np.float64))) or 1.0
    scaled = np.clip((values.astype(np.float64) - quartiles[1]) / spread, -_CLIPPED, _CLIPPED)
    return np.where(np.isnan(scaled), _MISSING, scaled).astype(np.float32)


def _has_near(
    points: NDArray[np.float32], exact: Ints, persons: Ints, rows: Ints, references: Ints, within: float
) -> Bools:
    """[q] whether a reference of another person, equal in `exact`, lies within that squared distance of each row."""
    found = np.zeros(len(rows), dtype=np.bool_)
    for asked, known in _groups(exact, rows, references):
        others = points[references[known]]
        squares = np.square(others).sum(axis=1)
        for begin in range(0, len(asked), _CHUNK):
            part = asked[begin : begin + _CHUNK]
            here = points[rows[part]]
            distance = np.square(here).sum(axis=1)[:, None] + squares - 2 * (here @ others.T)
            other = persons[rows[part]][:, None] != persons[references[known]]
            found[part] = ((distance <= within) & other).any(axis=1)
    return found


def _groups(exact: Ints, rows: Ints, references: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Positions in rows and in references that share their `exact`."""
    by_row, by_reference = (np.argsort(exact[at], kind="stable") for at in (rows, references))
    keys = np.intersect1d(exact[rows], exact[references])
    sorted_rows, sorted_references = exact[rows][by_row], exact[references][by_reference]
    ends = [
        (np.searchsorted(values, keys), np.searchsorted(values, keys, side="right"))
        for values in (sorted_rows, sorted_references)
    ]
    for k in range(len(keys)):
        (a, b), (p, q) = ((int(start[k]), int(end[k])) for start, end in ends)
        yield by_row[a:b], by_reference[p:q]
