"""What readers of tables share: from Arrow to a frame, which columns stay text, what may be told of an error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from privacy_gate.errors import DataError
from privacy_gate.request import Column, DataManifest

if TYPE_CHECKING:
    import pandas as pd


def as_text(manifest: DataManifest) -> list[str]:
    """Columns that are read as text: those that name persons and records, and what the schema says is text.

    A person column that is a feature as well has the type that the model knows.
    """
    features = manifest.features or list(manifest.columns or ())
    names = [name for name in (manifest.person, manifest.id) if name is not None and name not in features]
    return names + [name for name, column in (manifest.columns or {}).items() if _is_text(column)]


def _is_text(column: Column) -> bool:
    """Whether a CSV reader must not make numbers of it: "007" would be 7."""
    levels = column.levels or []
    return column.dtype.startswith(("string", "str")) or (bool(levels) and all(isinstance(v, str) for v in levels))


def told(error: BaseException) -> str:
    """What went wrong, without the error's own words where these may quote a record."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if type(error).__name__ in ("ParserError", "EmptyDataError"):  # counts of lines and fields
        return str(error).strip()
    return type(error).__name__


def to_frame(table: Any, path: Path, manifest: DataManifest) -> pd.DataFrame:
    """An Arrow table as a frame, dictionaries as categories; a column that pandas made its index is a column again.

    Errors: DataError for two columns of one name, and for a feature whose values are lists or structures.
    """
    import pyarrow as pa

    names = [str(name) for name in table.column_names]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path}: several columns are called {', '.join(map(repr, twice))}", "give each its own name")
    wanted = features_of(names, manifest)
    for field in table.schema:
        if pa.types.is_nested(field.type) and field.name in wanted:
            raise DataError(
                f"{path}: column {field.name!r} holds {field.type}, not one value per record",
                "give each value a column of its own, write them to a folder of .npy files, or drop: the column",
            )
    try:
        table = table.unify_dictionaries()
        # Each column is let go when it was made: else the records would be held twice.
        frame: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
    # What pandas notes about its columns is JSON in the file: damaged, it lacks keys.
    except (ValueError, TypeError, LookupError, AttributeError, NotImplementedError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({told(error)})", "use columns of types that pandas knows") from error
    for name in frame.index.names:
        if name in named(manifest):
            frame[name] = frame.index.get_level_values(name)
    return frame.reset_index(drop=True)


def named(manifest: DataManifest) -> set[str]:
    """Every column that the manifest names."""
    single = {manifest.label, manifest.person, manifest.id, manifest.weight}
    lists = {*manifest.groups, *manifest.drop, *(manifest.features or ()), *(manifest.columns or ())}
    return {name for name in single | lists if name is not None}


def features_of(names: list[str], manifest: DataManifest) -> set[str]:
    """The columns that may be features: those that the manifest says, else all that it says nothing else of."""
    if manifest.features is not None or manifest.columns is not None:
        return {*(manifest.features or ()), *(manifest.columns or ())}
    return set(names) - named(manifest)
