"""Text tables, parquet and Arrow: real files, written by what writes them in practice."""

import gzip
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from privacy_gate import sources
from privacy_gate.errors import DataError, GateError, UsageError
from privacy_gate.request import DataManifest, Source
from privacy_gate.storage import sha256_of_file


def refuse(uri: str) -> Path:
    raise AssertionError(f"nothing is to be fetched, got {uri}")


def manifest(**settings: Any) -> DataManifest:
    return DataManifest.model_validate({"members": "m", "nonmembers": "n", **settings})


def read(folder: Path, source: Any, **settings: Any) -> Any:
    return sources.read(Source.model_validate(source), manifest(**settings), folder, refuse, folder / "work")


FRAME = pd.DataFrame({"age": [31.5, 40.25, 7.0], "town": ["a", "?", "b"], "who": ["007", "7", "x"], "y": [0, 1, 0]})


def same(found: Any, frame: pd.DataFrame = FRAME) -> None:
    pd.testing.assert_frame_equal(found, frame, check_dtype=True)


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.tsv", "t.tsv.gz", "T.CSV"])
def test_text_tables(tmp_path: Path, name: str) -> None:
    text = FRAME.to_csv(index=False, sep="\t" if ".tsv" in name else ",").encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    same(read(tmp_path, name, person="who"))


def test_ids_and_persons_stay_text_unless_they_are_features(tmp_path: Path) -> None:
    pd.DataFrame({"who": ["007"], "n": ["01"], "y": [0]}).to_csv(tmp_path / "t.csv", index=False)
    found = read(tmp_path, "t.csv", person="who", id="n")
    assert (found["who"][0], found["n"][0]) == ("007", "01")
    assert read(tmp_path, "t.csv", person="who", features=["who"])["who"].dtype == np.int64
    assert read(tmp_path, "t.csv", person="who", schema={"who": "integer"})["who"].dtype == np.int64


def test_a_long_column_of_two_kinds_is_one_kind(tmp_path: Path) -> None:
    """pandas reads long files in parts by default, and each part has its own idea."""
    rows = 300_000
    (tmp_path / "t.csv").write_text("a\n" + "1\n" * rows + "x\n")
    assert {type(value) for value in read(tmp_path, "t.csv")["a"].tolist()} == {str}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", b""),
        ("t.csv", b"a,b\n1,2,3\n1,2,3,4\n"),
        ("t.csv", b"a\n\xff\xfe\n"),
        ("t.csv.gz", b"no gzip"),
        ("t.csv.gz", gzip.compress(b"a\n" + bytes(range(48, 58)) * 100, mtime=0)[:20]),
        ("t.csv.gz", gzip.compress(b"a\n1\n", mtime=0)[:10] + b"\xff" * 20),
        ("t.parquet", b"PAR1 and nothing else PAR1"),
        ("t.parquet", b""),
        ("t.arrow", b"ARROW1\0\0 torn"),
        ("t.arrow", b""),
        ("t.feather", b"FEA1"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name) as caught:
        read(tmp_path, name)
    assert caught.value.hint


def test_notes_of_pandas_that_are_damaged(tmp_path: Path) -> None:
    table = pa.Table.from_pandas(FRAME)
    notes = table.schema.metadata[b"pandas"].replace(b"pandas_type", b"pandas_typo")
    pq.write_table(table.replace_schema_metadata({b"pandas": notes}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet: cannot be read"):
        read(tmp_path, "t.parquet")


@pytest.mark.parametrize("format", sources.CATALOG.names())
def test_a_format_that_is_not_what_is_there(tmp_path: Path, format: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "noise.bin").write_bytes(b"\xff\xfe noise")
    for path in ("empty", "noise.bin"):
        with pytest.raises(DataError, match=path) as caught:
            read(tmp_path, {"path": path, "format": format}, images={})
        assert caught.value.hint


def test_a_home_of_nobody(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such user"):
        read(tmp_path, "~nobody-of-this-name/t.csv")


def test_words_of_a_record_are_in_no_error(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a\n" + "secret" * 3 + "\xff", encoding="latin-1")
    with pytest.raises(DataError) as caught:
        read(tmp_path, "t.csv")
    assert "secret" not in str(caught.value)


# --- parquet --------------------------------------------------------------------------------------------------------


def test_a_file_keeps_its_types(tmp_path: Path) -> None:
    frame = FRAME.assign(
        level=pd.Categorical(["b", "a", "b"], categories=["b", "a"]),
        seen=pd.to_datetime(["2020-01-01", "2021-01-01", None]),
        small=np.array([1, 2, 3], np.int8),
        maybe=pd.array([1, None, 3], dtype="Int64"),
    )
    frame.to_parquet(tmp_path / "t.parquet")
    same(read(tmp_path, "t.parquet"), frame)
    frame.to_feather(tmp_path / "t.feather")
    same(read(tmp_path, "t.feather"), frame)


def test_the_way_to_a_file_is_no_partition(tmp_path: Path) -> None:
    folder = tmp_path / "year=2020"
    folder.mkdir()
    FRAME.to_parquet(folder / "t.parquet")
    same(read(tmp_path, "year=2020/t.parquet"))
    same(read(tmp_path, "year=2020"))


def test_an_index_that_the_manifest_names_is_a_column(tmp_path: Path) -> None:
    FRAME.set_index("who").to_parquet(tmp_path / "t.parquet")
    assert read(tmp_path, "t.parquet", person="who")["who"].tolist() == ["007", "7", "x"]
    assert "who" not in read(tmp_path, "t.parquet")


def test_partitions_are_columns_in_the_order_of_the_folders(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "age": np.arange(12.0),
            "year": np.repeat([2019, 2020, -1], 4),
            "place": (["a b/c", "d", None, "007"] * 3),
            "y": np.arange(12) % 2,
        }
    )
    pq.write_to_dataset(pa.Table.from_pandas(frame), str(tmp_path / "t"), partition_cols=["year", "place"])
    (tmp_path / "t" / "_SUCCESS").touch()
    found = read(tmp_path, "t")
    assert found["year"].dtype == np.int64
    key = ["year", "age"]
    expected = frame.sort_values(key).reset_index(drop=True)
    pd.testing.assert_frame_equal(found.sort_values(key).reset_index(drop=True)[expected.columns], expected)
    assert found["year"].tolist() == [-1] * 4 + [2019] * 4 + [2020] * 4
    again = read(tmp_path, "t")
    pd.testing.assert_frame_equal(found, again)


def test_the_type_of_a_partition_does_not_depend_on_which_values_come_first(tmp_path: Path) -> None:
    for part in ("zone=1", "zone=02"):
        (tmp_path / "t" / part).mkdir(parents=True)
        FRAME.to_parquet(tmp_path / "t" / part / "0.parquet")
    assert read(tmp_path, "t")["zone"].tolist() == ["02"] * 3 + ["1"] * 3
    (tmp_path / "t" / "zone=02").rename(tmp_path / "t" / "zone=2")
    assert read(tmp_path, "t")["zone"].dtype == np.int64
    assert set(read(tmp_path, "t", person="zone")["zone"]) == {"1", "2"}


def test_levels_are_joined_over_files(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    for i, values in enumerate((["a", "b"], ["c"])):
        pd.DataFrame({"level": pd.Categorical(values)}).to_parquet(tmp_path / "t" / f"{i}.parquet")
    found = read(tmp_path, "t")["level"]
    assert found.tolist() == ["a", "b", "c"]
    assert found.dtype == pd.CategoricalDtype(["a", "b", "c"])


def test_whole_numbers_and_fractions_of_two_files_go_together(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    for i, values in enumerate(([1, 2], [0.5])):
        pd.DataFrame({"a": values}).to_parquet(tmp_path / "t" / f"{i}.parquet")
    assert read(tmp_path, "t")["a"].tolist() == [1.0, 2.0, 0.5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: FRAME.assign(extra=1).to_parquet(f / "2.parquet"), "differ in their columns: extra"),
        (lambda f: FRAME.assign(age="old").to_parquet(f / "2.parquet"), "types that do not go together"),
        (lambda f: (f / "notes.txt").write_text("x"), "1 files are no parquet, the first is notes.txt"),
        (lambda f: (f / "2.parquet").write_bytes(b"torn"), "cannot be read"),
        (lambda f: (f / "loop").symlink_to(f), "loop is neither a file nor a folder"),
        (
            lambda f: ((f / "zone=1").mkdir(), FRAME.to_parquet(f / "zone=1" / "2.parquet")),
            "not all files are partitioned",
        ),
    ],
)
def test_folders_that_do_not_go_together(tmp_path: Path, change: Any, message: str) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    FRAME.to_parquet(folder / "1.parquet")
    change(folder)
    with pytest.raises(DataError, match=message):
        read(tmp_path, {"path": "t", "format": "parquet"})


def test_a_partition_that_is_in_the_files_too(tmp_path: Path) -> None:
    (tmp_path / "t" / "y=0").mkdir(parents=True)
    FRAME.iloc[[0, 2]].to_parquet(tmp_path / "t" / "y=0" / "1.parquet")
    assert read(tmp_path, "t")["y"].tolist() == [0, 0]
    FRAME.to_parquet(tmp_path / "t" / "y=0" / "2.parquet")
    with pytest.raises(DataError, match="'y' in a file is not what its folder"):
        read(tmp_path, "t")


def test_columns_of_lists_are_no_features(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1], "words": [["x", "y"]]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="column 'words' holds list"):
        read(tmp_path, "t.parquet")
    assert read(tmp_path, "t.parquet", drop=["words"])["a"].tolist() == [1]
    assert read(tmp_path, "t.parquet", features=["a"])["a"].tolist() == [1]


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    table = pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pa.OSFile(str(tmp_path / "t.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match="several columns are called 'a'"):
        read(tmp_path, "t.arrow")


@pytest.mark.parametrize("kind", [pa.ipc.new_file, pa.ipc.new_stream])
def test_arrow_as_a_file_and_as_a_stream(tmp_path: Path, kind: Any) -> None:
    table = pa.Table.from_pandas(FRAME)
    with pa.OSFile(str(tmp_path / "t.arrow"), "wb") as sink, kind(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    same(read(tmp_path, "t.arrow"))
    whole = (tmp_path / "t.arrow").read_bytes()
    (tmp_path / "t.arrow").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"t\.arrow"):
        read(tmp_path, "t.arrow")


# --- which reader, which place --------------------------------------------------------------------------------------


def test_the_kinds_that_there_are() -> None:
    assert sources.CATALOG.names() == ["arrow", "csv", "huggingface", "images", "numpy", "parquet"]


def test_a_folder_of_two_kinds_needs_a_format(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    FRAME.to_parquet(tmp_path / "t" / "1.parquet")
    np.save(tmp_path / "t" / "x.npy", np.zeros((2, 2)))
    with pytest.raises(DataError, match="looks like numpy and parquet") as caught:
        read(tmp_path, "t")
    assert "format:" in caught.value.hint
    with pytest.raises(DataError, match=r"1 files are no parquet, the first is x\.npy"):
        read(tmp_path, {"path": "t", "format": "parquet"})


def test_unknown_kinds_name_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").touch()
    with pytest.raises(DataError, match=r"unknown kind of file '\.xlsx'") as caught:
        read(tmp_path, "t.xlsx")
    assert all(name in caught.value.hint for name in ("arrow", "huggingface", "images"))
    (tmp_path / "t").mkdir()
    for i in range(10):
        (tmp_path / "t" / f"{i}.txt").touch()
    with pytest.raises(DataError, match=r"unknown kind of folder; in it: 0\.txt, .* and 2 more"):
        read(tmp_path, "t")
    with pytest.raises(UsageError, match="no data format is called 'parket'") as caught_format:
        read(tmp_path, {"path": "t.xlsx", "format": "parket"})
    assert "did you mean 'parquet'?" in caught_format.value.hint


def test_a_format_beats_the_name(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "records.txt", index=False)
    same(read(tmp_path, {"path": "records.txt", "format": "csv"}, person="who"))


def test_the_sha256_of_a_folder_is_over_its_files(tmp_path: Path) -> None:
    (tmp_path / "t" / "zone=1").mkdir(parents=True)
    for name in ("b.parquet", "zone=1/a.parquet"):
        FRAME.to_parquet(tmp_path / "t" / name)
    # As a shell would: (find -type f | sort | while read f; do echo "$f $(sha256sum <$f | cut -d' ' -f1)"; done)
    lines = "".join(f"{n} {sha256_of_file(tmp_path / 't' / n)}\n" for n in ("b.parquet", "zone=1/a.parquet"))
    agreed = hashlib.sha256(lines.encode()).hexdigest()
    (tmp_path / "t" / "b.parquet").rename(tmp_path / "t" / "zone=1" / "b.parquet")
    with pytest.raises(DataError, match="the folder is not the one") as caught:
        read(tmp_path, {"path": "t", "sha256": agreed})
    assert "sha256 is" in caught.value.what
    (tmp_path / "t" / "zone=1" / "b.parquet").rename(tmp_path / "t" / "b.parquet")
    with pytest.raises(DataError, match="not all files are partitioned"):  # after the sha256 was found right
        read(tmp_path, {"path": "t", "sha256": agreed})


def test_artifacts_are_fetched(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "kept.csv", index=False)
    asked = []

    def fetch(uri: str) -> Path:
        asked.append(uri)
        return tmp_path / "kept.csv"

    found = sources.read(Source(path="runs:/1/t.csv"), manifest(person="who"), tmp_path, fetch, tmp_path / "work")
    same(found)
    assert asked == ["runs:/1/t.csv"]


def test_every_error_here_is_the_callers() -> None:
    assert issubclass(DataError, UsageError)
    assert issubclass(UsageError, GateError)
