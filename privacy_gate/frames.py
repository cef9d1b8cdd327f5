"""Typed frames: column order, types and category levels as the candidate was trained with, the same in all sets.

A file format forgets: CSV makes 7 of "007", 3.0 of 3 beside a gap, and text of a category; a set that lacks a level
would number the others anew. What the config declares is set here, and what does not fit is an error that counts and
never quotes: values are people's. Levels that the config names may be named.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from privacy_gate.datamodel import Bools
from privacy_gate.errors import DataError
from privacy_gate.request import Column, DataManifest

if TYPE_CHECKING:
    import pandas as pd

Inputs: TypeAlias = Sequence[tuple[str, str]]

EXACT = 2**53
"""From here on a float64 no longer tells two neighbouring whole numbers apart."""

MOST_SHOWN = 10
"""Levels that a message names."""

_TYPES = {"integer": "int64", "float": "float64", "boolean": "bool", "datetime": "datetime64[us]"}
_WHOLE = re.compile(r"\s*[+-]?\d{1,40}(\.0*)?\s*", re.ASCII)
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?\s*", re.ASCII)
_ISO = re.compile(r"\s*\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}.*)?\s*", re.ASCII)
_TRUTH = {"true": True, "false": False, "1": True, "0": False}
_MISFIT = object()


# --- which columns --------------------------------------------------------------------------------------------------


def chosen(columns: Sequence[str], manifest: DataManifest, inputs: Inputs, where: str) -> list[str]:
    """The feature columns of one table, in the order in which the candidate gets them.

    They are those of `features`, else of the schema, else of the signature, else all that mean nothing else. A
    signature that was taken from a whole table also names the label; what the config says is no feature is none.
    Raises DataError, naming who asks for a column that is not there.
    """
    if manifest.columns is not None:
        asked, by = list(manifest.columns), "the schema"
        if manifest.features is not None:
            untyped = [name for name in manifest.features if name not in manifest.columns]
            if untyped:
                raise DataError(
                    f"schema: no type for feature column {untyped[0]!r}", "name it there, or leave out features:"
                )
            asked = [name for name in asked if name in manifest.features]
    elif manifest.features is not None:
        asked, by = list(manifest.features), "data.features"
    else:
        no_feature = {manifest.label, manifest.weight, *manifest.drop}
        asked, by = [name for name, _ in inputs if name not in no_feature], "the model's signature"
        if not asked:
            no_feature |= {manifest.person, manifest.id}
            asked = [name for name in columns if name not in no_feature]
    lacking = [name for name in asked if name not in set(columns)]
    if lacking:
        few = ", ".join(map(repr, lacking[:MOST_SHOWN])) + (", …" if len(lacking) > MOST_SHOWN else "")
        raise DataError(
            f"{where}: no feature column {few}, which {by} names",
            f"columns are: {', '.join(columns)[:300]}",
        )
    if not asked:
        raise DataError(f"{where}: no feature column is left", "check data.features and data.drop")
    return asked


# --- types ----------------------------------------------------------------------------------------------------------


def dtype_of(name: str) -> Any:
    """The pandas dtype that a declared type stands for; DataError if it stands for none.

    integer is int64 and boolean is numpy's bool: neither holds missing values. string is what pandas makes of text.
    """
    import pandas as pd

    if name == "string":
        return pd.Series(["text"]).dtype
    try:
        found = pd.api.types.pandas_dtype(_TYPES.get(name, name))
        _kind(found)
    # pandas reads a dtype's name with whatever its many types bring for it.
    except (TypeError, ValueError, AttributeError, ImportError, NotImplementedError, SyntaxError) as error:
        raise DataError(
            f"schema: there is no type {name!r}",
            "use integer, float, boolean, string, category, datetime, or a pandas dtype such as Int64 or float32",
        ) from error
    return found


def mistake(column: Column) -> str | None:
    """What is wrong with a column of a schema, whatever the data; None: nothing. Loads pandas for its types only."""
    if column.levels is not None and column.dtype != "category":
        return f"levels belong to a category, not to {column.dtype}"
    if column.levels is not None and (len(set(column.levels)) < len(column.levels) or not column.levels):
        return "list each level once, and at least one (1 and true are the same)"
    if column.dtype in {*_TYPES, "string", "category"}:
        return None
    try:
        dtype_of(column.dtype)
    except DataError as error:
        return f"{error.what.removeprefix('schema: ')}; {error.hint}"
    return None


def _kind(dtype: Any) -> str:
    """What a column of this type is a column of; TypeError for what no model is given."""
    import pandas as pd

    types = pd.api.types
    if isinstance(dtype, pd.SparseDtype):
        raise TypeError("columns that leave values out")
    if isinstance(dtype, pd.CategoricalDtype):
        return "category"
    if types.is_bool_dtype(dtype):
        return "boolean"
    if types.is_integer_dtype(dtype):
        return "integer"
    if types.is_float_dtype(dtype):
        return "float"
    if isinstance(dtype, pd.DatetimeTZDtype) or (isinstance(dtype, np.dtype) and dtype.kind == "M"):
        return "datetime"
    if dtype == np.dtype(object):
        return "object"
    if types.is_string_dtype(dtype) and not isinstance(dtype, np.dtype):
        return "text"
    raise TypeError(str(dtype))


def _is_number(part: pd.Series[Any]) -> bool:
    import pandas as pd

    types = pd.api.types
    if isinstance(part.dtype, pd.CategoricalDtype | pd.SparseDtype) or types.is_complex_dtype(part.dtype):
        return False
    return bool(types.is_numeric_dtype(part.dtype))


# --- with a schema --------------------------------------------------------------------------------------------------


def typed(frames: Sequence[pd.DataFrame], schema: Mapping[str, Column], sets: Sequence[str] = ()) -> list[pd.DataFrame]:
    """The frames with the schema's columns in its order, of its types, with the same category levels in all.

    sets  names of the frames, for messages. Rows, their order and their index stay.
    Raises DataError where a column is missing or values do not fit their type: column, set and count, no value.
    """
    import pandas as pd

    names = list(sets) or [f"table {number + 1}" for number in range(len(frames))]
    columns: list[dict[str, Any]] = [{} for _ in frames]
    for key, column in schema.items():
        for frame, name in zip(frames, names, strict=True):
            if key not in frame.columns:
                raise DataError(f"{name}: no feature column {key!r}, which the schema names")
        for place, part in zip(columns, _column([f[key] for f in frames], key, column, names), strict=True):
            place[key] = part
    return [pd.DataFrame(found, index=frame.index) for found, frame in zip(columns, frames, strict=True)]


def _column(parts: Sequence[pd.Series[Any]], key: str, column: Column, sets: Sequence[str]) -> list[pd.Series[Any]]:
    if wrong := mistake(column):
        raise DataError(f"schema: column {key!r}: {wrong}")
    if column.dtype != "category":
        dtype = dtype_of(column.dtype)
    else:
        dtype = _found_levels(parts, key) if column.levels is None else _declared_levels(column.levels)
    return [
        _converted(part, dtype, column.dtype, f"{name}: column {key!r}") for part, name in zip(parts, sets, strict=True)
    ]


def _converted(part: pd.Series[Any], dtype: Any, declared: str, what: str) -> pd.Series[Any]:
    """One column of one set, of its declared type."""
    import pandas as pd

    kind = _kind(dtype)
    if kind != "category" and part.dtype == dtype:
        return part
    if isinstance(part.dtype, pd.CategoricalDtype) and kind == "category" and _same_levels(part.dtype, dtype):
        return part
    missing = part.isna().to_numpy()
    if missing.any() and isinstance(dtype, np.dtype) and dtype.kind in "iub":
        other = "Int64 or float" if kind == "integer" else "category or object"
        raise DataError(
            f"{what} is declared {declared}, {int(missing.sum())} values are missing",
            f"say {other}, whichever the training script had",
        )
    values, misfits = _CONVERSIONS[kind](part, dtype, missing)
    if misfits.any():
        raise DataError(f"{what} is declared {declared}, {int(misfits.sum())} values {_WHY[kind]}", _mend(dtype))
    return values


_WHY = {
    "integer": "are no whole numbers that it can hold",
    "float": "are no numbers that it can hold",
    "boolean": "are neither true nor false",
    "text": "are no text",
    "category": "are not among its levels",
    "datetime": "are no points in time that it can hold",
}


def _mend(dtype: Any) -> str:
    kind = _kind(dtype)
    if kind == "category":
        levels = dtype.categories.tolist()
        few = ", ".join(map(repr, levels[:MOST_SHOWN])) + (", …" if len(levels) > MOST_SHOWN else "")
        return f"levels are {few}: list all that the model knows, with quotes around text such as yes, no or 007"
    if kind == "text":
        return "what read the column made something else of it: write it as text, or correct the schema"
    if kind == "datetime":
        return "write ISO dates (2024-12-31T23:59:00), with a time zone exactly where the type has one"
    return "correct the schema, or write the column as the training script had it"


# --- conversions: (column, dtype, which are missing) -> (column of that dtype, which values do not fit) ---------------

_Converted: TypeAlias = "tuple[pd.Series[Any], Bools]"


def _each(part: pd.Series[Any], change: Callable[[Any], Any], missing: Bools) -> tuple[list[Any], Bools]:
    """`change` of each value, None for missing ones and misfits, and which are misfits."""
    import pandas as pd

    if not pd.api.types.is_object_dtype(part.dtype):  # of objects, 1 and True would be the same
        codes, uniques = pd.factorize(part)
        changed = [*map(change, uniques.tolist()), None]
        found = [changed[code] for code in codes.tolist()]
    else:
        found = [None if gap else change(value) for value, gap in zip(part.tolist(), missing, strict=True)]
    misfits = np.array([value is _MISFIT for value in found], dtype=np.bool_)
    return [None if value is _MISFIT else value for value in found], misfits


def _bare(part: pd.Series[Any]) -> pd.Series[Any]:
    """A category as a column of its values."""
    import pandas as pd

    return part.astype(object) if isinstance(part.dtype, pd.CategoricalDtype) else part


def _raw(part: pd.Series[Any], missing: Bools) -> Any:
    """[n] numbers as numpy has them, 0 where missing."""
    own = part.dtype if isinstance(part.dtype, np.dtype) else part.dtype.numpy_dtype  # type: ignore[attr-defined]
    return part.mask(missing, 0).to_numpy(dtype=own) if missing.any() else part.to_numpy(dtype=own)


def _with_gaps(values: Any, dtype: Any, part: pd.Series[Any], missing: Bools) -> pd.Series[Any]:
    """[n] values as a column like `part`, of the given type, with its gaps."""
    import pandas as pd

    column = pd.Series(values, index=part.index, name=part.name).astype(dtype)
    return column.mask(missing) if missing.any() else column


def _numpy_type(dtype: Any) -> np.dtype[Any]:
    return np.dtype(dtype if isinstance(dtype, np.dtype) else dtype.numpy_dtype)


def _to_integer(part: pd.Series[Any], dtype: Any, missing: Bools) -> _Converted:
    bounds = np.iinfo(_numpy_type(dtype))
    if _is_number(part):
        raw = _raw(part, missing)
        misfits = np.zeros(len(part), dtype=np.bool_)
        if raw.dtype.kind == "f":
            misfits = ~np.isfinite(raw) | (np.abs(raw) > EXACT)
            misfits[~misfits] = raw[~misfits] != np.floor(raw[~misfits])
        elif raw.dtype.kind == "b":
            raw = raw.astype(np.int8)
        misfits |= (raw < bounds.min) | (raw > bounds.max)
        values = np.where(misfits, 0, raw).astype(bounds.dtype)
    else:
        found, misfits = _each(_bare(part), lambda value: _within(_whole(value), bounds), missing)
        values = np.array([0 if value is None else value for value in found], dtype=bounds.dtype)
    return _with_gaps(values, dtype, part, missing), misfits


def _whole(value: Any) -> Any:
    """A whole number, as int."""
    if isinstance(value, str):
        return int(value.partition(".")[0]) if _WHOLE.fullmatch(value) else _MISFIT
    if isinstance(value, Integral | np.bool_):
        return int(value)
    exact = isinstance(value, Decimal) or (isinstance(value, Real) and abs(float(value)) <= EXACT)
    return int(value) if exact and value == value // 1 else _MISFIT


def _within(value: Any, bounds: np.iinfo[Any]) -> Any:
    return value if value is not _MISFIT and bounds.min <= value <= bounds.max else _MISFIT


def _to_float(part: pd.Series[Any], dtype: Any, missing: Bools) -> _Converted:
    misfits = np.zeros(len(part), dtype=np.bool_)
    if _is_number(part):
        raw = _raw(part, missing).astype(np.float64)
    else:
        found, misfits = _each(_bare(part), _number, missing)
        raw = np.array([0.0 if value is None else value for value in found], dtype=np.float64)
    with np.errstate(over="ignore"):
        values = raw.astype(_numpy_type(dtype))
    misfits |= np.isfinite(raw) & ~np.isfinite(values)
    return _with_gaps(values, dtype, part, missing), misfits


def _number(value: Any) -> Any:
    """A finite number, as float."""
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return _MISFIT
    if not isinstance(value, str | Real | Decimal | np.bool_):
        return _MISFIT
    try:
        found = float(value)
    except (OverflowError, ValueError):
        return _MISFIT
    return found if np.isfinite(found) or not isinstance(value, str | Integral | Decimal) else _MISFIT


def _to_boolean(part: pd.Series[Any], dtype: Any, missing: Bools) -> _Converted:
    found, misfits = _each(_bare(part), _truth, missing)
    return _with_gaps(np.array([bool(value) for value in found], dtype=np.bool_), dtype, part, missing), misfits


def _truth(value: Any) -> Any:
    if isinstance(value, str):
        return _TRUTH.get(value.strip().lower(), _MISFIT)
    return bool(value) if isinstance(value, Real | np.bool_) and value in (0, 1) else _MISFIT


def _to_text(part: pd.Series[Any], dtype: Any, missing: Bools) -> _Converted:
    import pandas as pd

    found, misfits = _each(_bare(part), _text, missing)
    return pd.Series(found, index=part.index, name=part.name, dtype=object).astype(dtype), misfits


def _text(value: Any) -> Any:
    """Text, also of a whole number. Not of 7.0 or True: who knows what stood in the file."""
    if isinstance(value, str):
        return str(value)
    whole = isinstance(value, Integral) and not isinstance(value, bool | np.bool_)
    return str(int(value)) if whole else _MISFIT


def _to_datetime(part: pd.Series[Any], dtype: Any, missing: Bools) -> _Converted:
    import pandas as pd

    zone = dtype.tz if isinstance(dtype, pd.DatetimeTZDtype) else None
    unit: Any = np.datetime_data(dtype)[0] if zone is None else dtype.unit

    def moment(value: Any) -> Any:
        if isinstance(value, str) and not _ISO.fullmatch(value):
            return _MISFIT
        if not isinstance(value, str | datetime.date | np.datetime64):
            return _MISFIT
        try:
            found = pd.Timestamp(value).as_unit(unit, round_ok=False)
        except (ValueError, OverflowError):
            return _MISFIT
        if (found.tz is None) != (zone is None):
            return _MISFIT
        return found if zone is None else found.tz_convert(zone)

    found, misfits = _each(_bare(part), moment, missing)
    return pd.Series(found, index=part.index, name=part.name, dtype=dtype), misfits


def _to_object(part: pd.Series[Any], dtype: Any, missing: Bools) -> _Converted:
    return part.astype(dtype), np.zeros(len(part), dtype=np.bool_)


def _to_category(part: pd.Series[Any], dtype: Any, missing: Bools) -> _Converted:
    import pandas as pd

    place = _places(dtype.categories.tolist())
    found, misfits = _each(_bare(part), place, missing)
    codes = np.array([-1 if code is None else code for code in found], dtype=np.int64)
    values = pd.Categorical.from_codes(codes, dtype=dtype)
    return pd.Series(values, index=part.index, name=part.name), misfits


def _places(levels: Sequence[Any]) -> Callable[[Any], Any]:
    """value -> its place among the levels: as it is, or as a file may have written it where one level alone fits."""
    places = {_exact(level): place for place, level in enumerate(levels)}
    sort = _sort_of(levels)

    def place(value: Any) -> Any:
        forms = [value]
        if sort == "text" and not isinstance(value, str):
            forms = _spellings(value)
        elif sort == "number" and isinstance(value, str):
            forms = [v for v in (_whole(value), _number(value)) if v is not _MISFIT]
        elif sort == "truth" and isinstance(value, str):
            forms = [v for v in (_truth(value),) if v is not _MISFIT]
        found = {places[key] for form in forms if (key := _exact(form)) in places}
        return found.pop() if len(found) == 1 else _MISFIT

    return place


def _spellings(value: Any) -> list[str]:
    """How files write a value that was read as something other than text."""
    if isinstance(value, bool | np.bool_):
        return [str(bool(value)), str(bool(value)).lower(), str(bool(value)).upper()]
    whole = _whole(value)
    return (
        [str(value)] if whole is _MISFIT else [str(whole), str(float(whole))] if abs(whole) <= EXACT else [str(whole)]
    )


def _exact(value: Any) -> Any:
    """What a dictionary tells values by: 1 and 1.0 are one number, 1 and True and "1" are three levels."""
    if isinstance(value, bool | np.bool_):
        return ("truth", bool(value))
    return ("number", value) if isinstance(value, Real) else (type(value).__name__, value)


_CONVERSIONS: Mapping[str, Callable[[pd.Series[Any], Any, Bools], _Converted]] = {
    "integer": _to_integer,
    "float": _to_float,
    "boolean": _to_boolean,
    "text": _to_text,
    "category": _to_category,
    "datetime": _to_datetime,
    "object": _to_object,
}


# --- levels ---------------------------------------------------------------------------------------------------------


def _sort_of(values: Sequence[Any]) -> str:
    """text, number, truth or time, if all are of one sort; "" for a mixture."""
    sorts = {
        "truth"
        if isinstance(value, bool | np.bool_)
        else "number"
        if isinstance(value, Real)
        else "text"
        if isinstance(value, str)
        else "time"
        if isinstance(value, datetime.date)
        else ""
        for value in values
    }
    return sorts.pop() if len(sorts) == 1 else ""


def _declared_levels(levels: Sequence[Any]) -> pd.CategoricalDtype:
    import pandas as pd

    # A mixture stays one: pandas would make numbers of [1, true].
    return pd.CategoricalDtype(pd.Index(levels, dtype=None if _sort_of(levels) else object))


def _found_levels(parts: Sequence[pd.Series[Any]], key: str) -> pd.CategoricalDtype:
    """All levels of all sets: in their order where the sets agree on it, else sorted."""
    import pandas as pd

    dtypes = [part.dtype for part in parts if isinstance(part.dtype, pd.CategoricalDtype)]
    if len(dtypes) == len(parts) and all(_same_levels(dtypes[0], dtype) for dtype in dtypes):
        return dtypes[0]
    if any(dtype.ordered for dtype in dtypes):
        raise DataError(
            f"column {key!r} is an ordered category whose levels differ between the sets",
            "list them, in their order, under data.schema",
        )
    values: list[Any] = []
    for part in parts:
        of_part = part.cat.categories if isinstance(part.dtype, pd.CategoricalDtype) else part.dropna().unique()
        values += of_part.tolist()
    if values and not _sort_of(values):
        raise DataError(
            f"column {key!r} is a category of different kinds of value in the sets, such as numbers and text",
            "list its levels under data.schema, or write all sets alike",
        )
    levels = list({_exact(value): value for value in values}.values())
    if levels and _sort_of(levels) == "number" and all(abs(v) <= EXACT and v == v // 1 for v in levels):
        levels = [int(value) for value in levels]  # a gap made them 1.0 in one of the sets
    return pd.CategoricalDtype(pd.Index(sorted(levels)))


def _same_levels(one: pd.CategoricalDtype, other: pd.CategoricalDtype) -> bool:
    same = one.categories.dtype == other.categories.dtype and one.ordered == other.ordered
    return same and one.categories.tolist() == other.categories.tolist()


# --- without a schema -----------------------------------------------------------------------------------------------


def untyped(frames: Sequence[pd.DataFrame], inputs: Inputs = (), sets: Sequence[str] = ()) -> list[pd.DataFrame]:
    """The frames as they were read, but for what would make sets differ that are alike.

    inputs  the signature's columns: where it says integer and a file has 3.0, that is 3 again, if all values are so
    Categories get the levels of all sets; what is one in the first set alone is one in all, and the other way round.
    """
    names = list(sets) or [f"table {number + 1}" for number in range(len(frames))]
    kinds = dict(inputs)
    found = [frame.copy(deep=False) for frame in frames]
    for key in found[0].columns if found else ():
        if all(key in frame.columns for frame in found):
            parts = [frame[key] for frame in found]
            changed = _categories(parts, str(key), names)
            if kinds.get(str(key)) in ("long", "integer"):
                changed = _whole_again(changed)
            for frame, old, new in zip(found, parts, changed, strict=True):
                if new is not old:
                    frame[key] = new
    return found


def _categories(parts: Sequence[pd.Series[Any]], key: str, sets: Sequence[str]) -> Sequence[pd.Series[Any]]:
    import pandas as pd

    are = [isinstance(part.dtype, pd.CategoricalDtype) for part in parts]
    if not any(are):
        return parts
    if not are[0]:
        return [_bare(part).infer_objects() for part in parts]
    dtype = _found_levels(parts, key)
    return [
        _converted(part, dtype, "category", f"{name}: column {key!r}") for part, name in zip(parts, sets, strict=True)
    ]


def _whole_again(parts: Sequence[pd.Series[Any]]) -> Sequence[pd.Series[Any]]:
    """Numbers with a fraction part of 0 as whole ones; all sets as they are where one value is missing or is none."""
    floats = [part for part in parts if isinstance(part.dtype, np.dtype) and part.dtype.kind == "f"]
    if not floats or not all(_is_number(part) for part in parts):
        return parts
    for part in floats:
        values = part.to_numpy()
        if not (np.isfinite(values).all() and (np.abs(values) <= EXACT).all() and (values == np.floor(values)).all()):
            return parts
    return [part.astype(np.int64) if any(part is one for one in floats) else part for part in parts]
