"""Parquet: one file, or a folder of them, whose folders may be partitions (`region=north/`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from privacy_gate.errors import DataError
from privacy_gate.request import DataManifest
from privacy_gate.sources import Records, reader
from privacy_gate.sources.places import files_below, is_hidden
from privacy_gate.sources.tables import as_text, to_frame, told

_ENDINGS = (".parquet", ".pq")
_ABSENT = "__HIVE_DEFAULT_PARTITION__"  # what Hive, and all after it, call a missing value


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(_ENDINGS) and not is_hidden(name)


def _accepts(path: Path) -> bool:
    return _is_parquet(path.name) if path.is_file() else any(_is_parquet(file.name) for file in files_below(path))


@reader(id="parquet", accepts=_accepts)
def parquet(path: Path, manifest: DataManifest, work: Path) -> Records:
    """A frame with the types of the file, or of all files of a folder under each other, in the order of their names.

    A partition becomes a column: of whole numbers if all its folders name one as Python writes it, else of text; what
    names persons or records is always text. `schema:` says more.
    """
    if path.is_file():
        return to_frame(_table(path, path.name), path, manifest)
    import pyarrow as pa

    files = [file for file in files_below(path) if not _is_ignored(file, path)]
    if odd := [file.relative_to(path).as_posix() for file in files if not _is_parquet(file.name)]:
        raise DataError(
            f"{path}: {len(odd)} files are no parquet, the first is {odd[0]}", "keep other files in another folder"
        )
    if not files:
        raise DataError(f"{path}: there is no parquet file in it", "name a folder of .parquet files")
    parts = [_partitions(file, path) for file in files]
    tables = [_table(file, file.relative_to(path).as_posix()) for file in files]
    tables = _with_partitions(tables, parts, path, as_text(manifest))
    for file, table in zip(files, tables, strict=True):
        if odd := sorted(set(tables[0].column_names) ^ set(table.column_names)):
            raise DataError(
                f"{path}: {file.relative_to(path).as_posix()} and {files[0].relative_to(path).as_posix()} differ in "
                f"their columns: {', '.join(odd)}",
                "write all files with the same columns",
            )
    try:
        whole = pa.concat_tables([t.select(tables[0].column_names) for t in tables], promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(
            f"{path}: its files have columns of the same name and types that do not go together ({told(error)})",
            "write all files with the same types",
        ) from error
    return to_frame(whole, path, manifest)


def _is_ignored(file: Path, folder: Path) -> bool:
    """Whether the file, or a folder that it is in, has a name that stands for no records."""
    return any(is_hidden(part) and "=" not in part for part in file.relative_to(folder).parts)


def _table(file: Path, name: str) -> Any:
    import pyarrow as pa
    from pyarrow import parquet as pq

    try:
        # Not by the path alone: pyarrow makes columns of folder names like a=1, wherever they are.
        with file.open("rb") as stream:
            return pq.ParquetFile(stream).read()
    except (ValueError, OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: cannot be read ({told(error)})", f"{name} is no whole parquet file") from error


def _partitions(file: Path, folder: Path) -> dict[str, str | None]:
    """Partition -> value, of the folders on the way to a file."""
    found: dict[str, str | None] = {}
    for part in file.relative_to(folder).parts[:-1]:
        key, separator, value = part.partition("=")
        if separator and key:
            if unquote(key) in found:
                raise DataError(f"{folder}: {file.relative_to(folder).as_posix()} names {key!r} twice")
            found[unquote(key)] = None if value == _ABSENT else unquote(value)
    return found


def _with_partitions(
    tables: list[Any], parts: Sequence[dict[str, str | None]], folder: Path, text: Sequence[str]
) -> list[Any]:
    import pyarrow as pa

    keys = list(parts[0])
    if any(list(part) != keys for part in parts):
        raise DataError(f"{folder}: not all files are partitioned by the same names", "partition all files alike")
    for key in keys:
        values = [part[key] for part in parts]
        whole = key not in text and all(value is None or _is_whole(value) for value in values)
        kind = pa.int64() if whole else pa.string()
        for i, value in enumerate(values):
            if key in tables[i].column_names:  # some writers keep it in the files as well
                _require_same(tables[i].column(key), value, key, folder)
            else:
                scalar = pa.scalar(int(value) if whole and value is not None else value, kind)
                tables[i] = tables[i].append_column(key, pa.repeat(scalar, len(tables[i])))
    return tables


def _is_whole(value: str) -> bool:
    """Whether it is a whole number of 64 bits, written as Python writes it: "007" is a name."""
    return len(value) < 20 and value.lstrip("-").isdecimal() and str(int(value)) == value and abs(int(value)) < 2**63


def _require_same(column: Any, value: str | None, key: str, folder: Path) -> None:
    if any((None if found is None else str(found)) != value for found in column.unique().to_pylist()):
        raise DataError(
            f"{folder}: the column {key!r} in a file is not what its folder {key}=… says", "write the folder again"
        )
