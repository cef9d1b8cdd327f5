"""Typed frames: order, types and levels the same in all sets; what does not fit is counted, never quoted."""

import datetime
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_gate import features, frames
from privacy_gate.build import build
from privacy_gate.errors import ConfigError, DataError
from privacy_gate.request import Column, DataManifest


def column(dtype: str, *levels: Any) -> Column:
    return Column(dtype=dtype, levels=list(levels) or None)


def one(values: Any, declared: Column) -> Any:
    """One column of one set, typed."""
    series = values if isinstance(values, pd.Series) else pd.Series(values)
    return frames.typed([series.to_frame("a")], {"a": declared}, ["members"])[0]["a"]


# --- what fits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "dtype", "kept", "expected"),
    [
        ([1.0, 2.0], "integer", "int64", [1, 2]),
        (["007", " -2", "3.0"], "integer", "int64", [7, -2, 3]),
        ([True, False], "integer", "int64", [1, 0]),
        ([Decimal(2**60), 1], "integer", "int64", [2**60, 1]),
        ([1.0, np.nan], "Int64", "Int64", [1, None]),
        (["9007199254740993", None], "Int64", "Int64", [2**53 + 1, None]),
        (pd.Series([1, None], dtype="Int64"), "Int8", "Int8", [1, None]),
        ([255, 0], "uint8", "uint8", [255, 0]),
        ([1, 2], "float", "float64", [1.0, 2.0]),
        (["1.5", "-2e3", None], "float", "float64", [1.5, -2000.0, None]),
        ([0.5, np.nan], "float32", "float32", [0.5, None]),
        ([0.5, np.nan], "Float64", "Float64", [0.5, None]),
        (["true", "FALSE", "1"], "boolean", "bool", [True, False, True]),
        ([1.0, 0.0], "boolean", "bool", [True, False]),
        (pd.Series([True, False], dtype="boolean"), "boolean", "bool", [True, False]),
        (["007", "x", None], "string", str(pd.Series(["x"]).dtype), ["007", "x", None]),
        ([2**62, 7], "string", str(pd.Series(["x"]).dtype), [str(2**62), "7"]),
        (pd.Series(["b", None], dtype="category"), "string", str(pd.Series(["x"]).dtype), ["b", None]),
        (["a", None], "string[python]", "string", ["a", None]),
        (pd.Series(["a", 1, None], dtype=object), "object", "object", ["a", 1, None]),
        (["2024-01-02", None], "datetime", "datetime64[us]", [pd.Timestamp(2024, 1, 2), None]),
        ([datetime.date(2024, 1, 2)], "datetime64[ns]", "datetime64[ns]", [pd.Timestamp(2024, 1, 2)]),
        (
            ["2024-01-02T00:00:00+02:00"],
            "datetime64[us, UTC]",
            "datetime64[us, UTC]",
            [pd.Timestamp("2024-01-01T22:00", tz="UTC")],
        ),
        ([1, None], "int64[pyarrow]", "int64[pyarrow]", [1, None]),
    ],
)
def test_values_get_the_declared_type(values: Any, dtype: str, kept: str, expected: list[Any]) -> None:
    found = one(values, column(dtype))
    assert str(found.dtype) == kept
    assert [None if gap else value for value, gap in zip(found.tolist(), found.isna(), strict=True)] == expected


@pytest.mark.parametrize(
    ("values", "levels", "expected"),
    [
        (["b", "a", None], ("b", "a", "never seen"), ["b", "a", None]),
        ([2, 1], ("1", "2"), ["2", "1"]),  # a file without types made numbers of text
        ([2.0, np.nan], ("1", "2"), ["2", None]),  # and a gap in it made fractions of these
        (["02", "1.0"], (1, 2), [2, 1]),
        ([1.5, 2.0], (2, 1.5), [1.5, 2.0]),
        ([True, False], ("True", "False"), ["True", "False"]),
        (["true", "False"], (False, True), [True, False]),
        (pd.Series([1, "1"], dtype=object), (1, "1"), [1, "1"]),
    ],
)
def test_declared_levels_keep_their_order(values: Any, levels: tuple[Any, ...], expected: list[Any]) -> None:
    found = one(values, column("category", *levels))
    assert found.cat.categories.tolist() == list(levels)
    assert [None if gap else value for value, gap in zip(found.tolist(), found.isna(), strict=True)] == expected


def test_a_category_of_another_order_is_recoded() -> None:
    """To pandas, two unordered categories of the same levels are equal; to a model that sees codes they are not."""
    found = one(pd.Series(["a", "b"], dtype=pd.CategoricalDtype(["a", "b"])), column("category", "b", "a"))
    assert found.cat.codes.tolist() == [1, 0]
    assert found.tolist() == ["a", "b"]


def test_the_frame_has_the_schemas_columns_in_its_order_and_nothing_else() -> None:
    frame = pd.DataFrame({"x": [1], "secret": ["s"], "z": ["a"], "y": [1.0]}, index=[7])
    schema = {"z": column("category", "a"), "y": column("integer"), "x": column("float32")}
    (found,) = frames.typed([frame], schema)
    assert list(found.columns) == ["z", "y", "x"]
    assert [str(dtype) for dtype in found.dtypes] == ["category", "int64", "float32"]
    assert found.index.tolist() == [7]
    assert frame.dtypes["x"] == np.int64  # what was given stays as it was


# --- what does not ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "declared", "count"),
    [
        (["secret", "7"], column("integer"), 1),
        ([1.5, 2.0], column("integer"), 1),
        ([float(2**53 + 2), 1.0], column("integer"), 1),  # no longer exact: its neighbours read the same
        ([1.0, np.inf], column("integer"), 1),
        ([300, -200, 1], column("Int8"), 2),
        ([-1, 2**63], column("UInt64"), 1),
        ([2**70], column("integer"), 1),
        (["secret", "nan", "1_0"], column("float"), 3),
        ([1e39, 1.0], column("float32"), 1),
        ([10**400], column("float"), 1),
        (["secret", "true"], column("boolean"), 1),
        ([2, 1], column("boolean"), 1),
        ([1.0, 7.0], column("string"), 2),
        ([True], column("string"), 1),
        ([b"secret"], column("string"), 1),
        (["secret", "a"], column("category", "a", "b"), 1),
        (["yes"], column("category", True, False), 1),
        ([1.5], column("category", "1"), 1),
        (["31/12/2024", "2024-02-30", "secret"], column("datetime"), 3),
        (["2024-01-01T00:00:00+02:00"], column("datetime"), 1),
        (["2024-01-01"], column("datetime64[us, UTC]"), 1),
        ([pd.Timestamp("2024-01-01T00:00:00.000000001")], column("datetime"), 1),
        ([20240101], column("datetime"), 1),
        (["1000-01-01"], column("datetime64[ns]"), 1),
    ],
)
def test_what_does_not_fit_is_counted_and_not_quoted(values: Any, declared: Column, count: int) -> None:
    with pytest.raises(DataError, match=rf"members: column 'a' is declared .*, {count} values") as caught:
        one(values, declared)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(("dtype", "mend"), [("integer", "Int64 or float"), ("boolean", "category or object")])
def test_gaps_where_the_type_has_none_name_the_types_that_have(dtype: str, mend: str) -> None:
    with pytest.raises(DataError, match="2 values are missing") as caught:
        one([1.0, None, None], column(dtype))
    assert mend in caught.value.hint


def test_declared_levels_are_named_and_others_are_not() -> None:
    with pytest.raises(DataError, match="1 values are not among its levels") as caught:
        one(["north", "patient 12"], column("category", "north", "south"))
    assert "'north', 'south'" in caught.value.hint
    assert "12" not in str(caught.value)


def test_a_column_that_is_not_there_is_named_with_its_set() -> None:
    both = [pd.DataFrame({"a": [1], "b": [1]}), pd.DataFrame({"a": [1]})]
    with pytest.raises(DataError, match="nonmembers: no feature column 'b', which the schema names"):
        frames.typed(both, {"a": column("integer"), "b": column("integer")}, ["members", "nonmembers"])


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (column("intger"), "no type 'intger'"),
        (column("complex128"), "no type 'complex128'"),
        (column("Sparse[int]"), "no type"),
        (column("timedelta64[ns]"), "no type"),
        (column("period[D]"), "no type"),
        (column("__import__('os')"), "no type"),
        (column("string", "a"), "belong to a category"),
        (column("category", 1, True), "once"),
    ],
)
def test_a_schema_that_means_nothing_is_refused_without_data(declared: Column, said: str) -> None:
    assert said in (frames.mistake(declared) or "")
    with pytest.raises(DataError, match="schema: column 'a'"):
        one([1], declared)


def test_plain_types_are_known_without_pandas() -> None:
    code = (
        "import sys; from privacy_gate.frames import mistake; from privacy_gate.request import Column\n"
        "names = ['integer', 'float', 'boolean', 'string', 'category', 'datetime']\n"
        "print([mistake(Column(dtype=n)) for n in names].count(None), 'pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["6", "False"]


# --- levels that nobody declared -------------------------------------------------------------------------------------


def test_levels_are_those_of_all_sets_sorted() -> None:
    sets = [pd.DataFrame({"a": ["c", None]}), pd.DataFrame({"a": ["a"]}), pd.DataFrame({"a": ["b"]})]
    found = frames.typed(sets, {"a": column("category")})
    assert [frame["a"].cat.categories.tolist() for frame in found] == [["a", "b", "c"]] * 3
    assert found[0]["a"].cat.codes.tolist() == [2, -1]


def test_a_gap_in_one_set_makes_no_other_level() -> None:
    sets = [pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [3.0, np.nan]})]
    found = frames.typed(sets, {"a": column("category")})
    assert found[0]["a"].cat.categories.tolist() == [1, 2, 3]
    assert found[0]["a"].cat.categories.dtype == np.int64
    assert found[1]["a"].cat.codes.tolist() == [2, -1]


def test_numbers_in_one_set_and_text_in_another_are_not_guessed_at() -> None:
    sets = [pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": ["1", "x"]})]
    with pytest.raises(DataError, match="different kinds of value"):
        frames.typed(sets, {"a": column("category")})


def test_an_order_of_levels_that_all_sets_share_is_kept() -> None:
    dtype = pd.CategoricalDtype(["low", "mid", "high"], ordered=True)
    sets = [pd.DataFrame({"a": pd.Series(values, dtype=dtype)}) for values in (["low"], ["high", "mid"])]
    for found in (frames.typed(sets, {"a": column("category")}), frames.untyped(sets)):
        assert [frame["a"].cat.categories.tolist() for frame in found] == [["low", "mid", "high"]] * 2
        assert all(frame["a"].cat.ordered for frame in found)
    sets[1]["a"] = sets[1]["a"].cat.remove_unused_categories()
    with pytest.raises(DataError, match="ordered category whose levels differ"):
        frames.untyped(sets)


# --- without a schema ------------------------------------------------------------------------------------------------


def test_without_a_schema_all_is_as_it_was_but_levels() -> None:
    first = pd.DataFrame({"n": [1, 2], "t": ["a", "b"], "c": pd.Categorical(["x", "y"]), "f": [0.5, 1.0]})
    second = pd.DataFrame({"n": [1.5], "t": [3], "c": pd.Categorical(["w"]), "f": [2.0]})
    a, b = frames.untyped([first, second])
    assert a["c"].dtype == b["c"].dtype
    assert a["c"].cat.categories.tolist() == b["c"].cat.categories.tolist() == ["w", "x", "y"]
    pd.testing.assert_frame_equal(a.drop(columns="c"), first.drop(columns="c"))
    pd.testing.assert_frame_equal(b.drop(columns="c"), second.drop(columns="c"))
    assert pd.concat([a, b])["c"].dtype == a["c"].dtype


def test_the_first_set_says_whether_a_column_is_a_category() -> None:
    category, text = pd.DataFrame({"c": pd.Categorical(["x", "y"])}), pd.DataFrame({"c": ["x", "z", None]})
    for found in frames.untyped([category, text]):
        assert found["c"].cat.categories.tolist() == ["x", "y", "z"]
    a, b = frames.untyped([text, category])
    assert a["c"].dtype == b["c"].dtype == text["c"].dtype
    assert b["c"].tolist() == ["x", "y"]


@pytest.mark.parametrize(
    ("others", "kind", "dtype"),
    [
        ([3.0, 4.0], "long", np.int64),
        ([3.0, 4.0], "integer", np.int64),
        ([3.0, 4.0], "double", np.float64),
        ([3.5, 4.0], "long", np.float64),
        ([3.0, np.nan], "long", np.float64),  # nobody knows which type with gaps the training had
        ([3.0, 2.0**53 + 2], "long", np.float64),
    ],
)
def test_whole_numbers_come_back_only_without_loss(others: list[float], kind: str, dtype: type) -> None:
    sets = [pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": others})]
    found = frames.untyped(sets, [("a", kind)])
    assert found[1]["a"].dtype == dtype
    assert pd.concat(found)["a"].dtype == dtype


# --- which columns ----------------------------------------------------------------------------------------------------


def manifest(**settings: Any) -> DataManifest:
    return DataManifest.model_validate({"members": "m.csv", "nonmembers": "n.csv", **settings})


COLUMNS = ["id", "b", "a", "y", "who", "w", "site"]


@pytest.mark.parametrize(
    ("settings", "inputs", "expected"),
    [
        ({}, (), ["id", "b", "a", "who", "w", "site"]),
        ({"person": "who", "id": "id", "weight": "w", "drop": ["site"]}, (), ["b", "a"]),
        ({"features": ["a", "b"]}, (("b", "double"),), ["a", "b"]),
        ({"schema": {"a": "float", "b": "float"}}, (("b", "double"),), ["a", "b"]),
        ({"schema": {"a": "float", "b": "float"}, "features": ["b"]}, (), ["b"]),
        ({"person": "who"}, (("a", "double"), ("b", "double")), ["a", "b"]),
        (
            {"person": "who", "weight": "w", "drop": ["site"]},
            tuple((name, "x") for name in COLUMNS),
            ["id", "b", "a", "who"],
        ),
    ],
)
def test_the_most_explicit_list_of_features_wins(
    settings: dict[str, Any], inputs: tuple[tuple[str, str], ...], expected: list[str]
) -> None:
    assert frames.chosen(COLUMNS, manifest(**settings), inputs, "m.csv") == expected


@pytest.mark.parametrize(
    ("settings", "inputs", "said"),
    [
        ({"schema": {"z": "float"}}, (), "m.csv: no feature column 'z', which the schema names"),
        ({"features": ["z"]}, (), "m.csv: no feature column 'z', which data.features names"),
        ({}, (("z", "double"),), "m.csv: no feature column 'z', which the model's signature names"),
        ({"schema": {"a": "float"}, "features": ["b"]}, (), "schema: no type for feature column 'b'"),
        ({"drop": COLUMNS}, (), "no feature column is left"),
    ],
)
def test_who_asks_for_a_column_that_is_not_there_is_said(
    settings: dict[str, Any], inputs: tuple[tuple[str, str], ...], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        frames.chosen(COLUMNS, manifest(**settings), inputs, "m.csv")


# --- properties -------------------------------------------------------------------------------------------------------

SCHEMA = {
    "c": column("category", "b", "a", "é", "1"),
    "i": column("Int64"),
    "f": column("float32"),
    "s": column("string"),
    "d": column("datetime"),
    "b": column("boolean"),
}
row = st.tuples(
    st.sampled_from(["a", "b", "é", "1", None]),
    st.none() | st.integers(-(2**63), 2**63 - 1).map(str),
    st.none() | st.floats(width=32, allow_infinity=False),
    st.none() | st.text(max_size=3),
    st.none() | st.datetimes(),
    st.sampled_from(["true", "False", "0"]),
)
rows = st.lists(row, max_size=8)


def raw(of: list[Any]) -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series([r[i] for r in of], dtype=object) for i, name in enumerate(SCHEMA)})


@settings(max_examples=60, deadline=None)
@given(rows, st.data())
def test_typing_some_rows_is_some_of_the_typed_rows(of: list[Any], data: st.DataObject) -> None:
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(of), max_size=len(of))), dtype=bool)
    frame = raw(of)
    (whole,), (part,) = frames.typed([frame], SCHEMA), frames.typed([frame[mask]], SCHEMA)
    pd.testing.assert_frame_equal(whole[mask], part)
    (again,) = frames.typed([whole], SCHEMA)
    pd.testing.assert_frame_equal(again, whole)


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_levels_do_not_depend_on_which_set_holds_them(sets: list[list[Any]], random: Any) -> None:
    everything = [r for of in sets for r in of]
    random.shuffle(everything)
    cut = random.randint(0, len(everything))
    for values in (lambda of: raw(of), lambda of: raw(of).astype({"c": "category"})):
        found = []
        for parts in (sets, [everything], [everything[:cut], everything[cut:]]):
            frames_of = [values(of) for of in parts]
            found += frames.typed(frames_of, {"c": column("category")})
        levels = [frame["c"].cat.categories.tolist() for frame in found]
        assert all(one == levels[0] for one in levels)


@settings(max_examples=30, deadline=None)
@given(rows.filter(len))
def test_typed_frames_survive_the_way_to_another_process(tmp_path_factory: Any, of: list[Any]) -> None:
    (typed,) = frames.typed([raw(of)], SCHEMA)
    back = features.load(features.save(typed, tmp_path_factory.mktemp("way") / "features"))
    assert isinstance(back, pd.DataFrame)
    pd.testing.assert_frame_equal(back, typed)
    assert back["c"].cat.categories.tolist() == ["b", "a", "é", "1"]


def test_equal_values_have_equal_hashes_and_only_the_digest_knows_the_order_of_levels() -> None:
    labels = np.zeros(3, dtype=np.int64)
    found = [
        frames.typed([pd.DataFrame({"a": ["x", "y", None]})], {"a": column("category", *levels)})[0]
        for levels in (("x", "y"), ("y", "x"), ("z", "y", "x"))
    ]
    for other in found[1:]:
        np.testing.assert_array_equal(features.row_hashes(found[0], labels), features.row_hashes(other, labels))
        # Models know levels by their numbers: shadows of other levels are others.
        assert features.digest(found[0]) != features.digest(other)
    changed = frames.typed([pd.DataFrame({"a": ["y", "x", None]})], {"a": column("category", "y", "x")})[0]
    assert features.digest(changed) != features.digest(found[0])


def test_parquet_and_csv_of_the_same_records_give_the_same_frame(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "c": pd.Categorical(["b", None, "a"], ["b", "a", "z"]),
            "n": pd.array([1, None, 3], dtype="Int64"),
            "d": pd.to_datetime(["2024-01-01", None, "2024-01-03T04:05:06"], format="ISO8601"),
        }
    )
    schema = {"c": column("category", "b", "a", "z"), "n": column("Int64"), "d": column("datetime")}
    frame.to_parquet(tmp_path / "f.parquet")
    frame.to_csv(tmp_path / "f.csv", index=False)
    a, b = frames.typed([pd.read_parquet(tmp_path / "f.parquet"), pd.read_csv(tmp_path / "f.csv")], schema)
    pd.testing.assert_frame_equal(a, b)


def test_a_wrong_schema_is_told_with_its_line(tmp_path: Path) -> None:
    text = """apiVersion: privacy-gate/v1
data:
  members: m.csv
  nonmembers: n.csv
  features: [a, z]
  schema:
    a: intger
    b: {dtype: string, levels: [x]}
    c: {dtype: category, levels: [x, x]}
    d: {dtype: category, levels: ["007", "no"]}
"""
    (tmp_path / "gate.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        build(config=tmp_path / "gate.yaml")
    said = str(caught.value)
    lines = text.splitlines()
    for fragment, what in (("a: intger", "no type 'intger'"), ("b: {", "belong to a category"), ("c: {", "once")):
        number = next(i for i, line in enumerate(lines, 1) if fragment in line)
        assert any(f":{number}:" in line and what in line for line in said.splitlines()), said
    assert any(":5:" in line and "'z'" in line for line in said.splitlines()), said
    assert "d" not in [line.split(":")[-1].strip() for line in said.splitlines()]
