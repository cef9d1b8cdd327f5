"""A folder written by `datasets.Dataset.save_to_disk`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate.errors import DataError, StorageFailed
from privacy_gate.request import DataManifest
from privacy_gate.sources import Records, reader
from privacy_gate.sources.images import declared, stacked
from privacy_gate.sources.numpy_arrays import FEATURES, mapped
from privacy_gate.sources.places import fresh
from privacy_gate.sources.tables import named, to_frame

_STATE, _SPLITS = "state.json", "dataset_dict.json"


def _accepts(path: Path) -> bool:
    return path.is_dir() and ((path / _STATE).is_file() or (path / _SPLITS).is_file())


@reader(id="huggingface", accepts=_accepts)
def huggingface(path: Path, manifest: DataManifest, work: Path) -> Records:
    """A frame; or, where one column holds images or arrays, that as `x` and the others as arrays beside it.

    Class labels are the whole numbers that a model trained on the dataset knows, not their names. Images go through
    `data.images` and are turned as their EXIF data says, as `datasets` does it. Images behind paths or URLs are not
    followed.
    """
    try:
        import datasets  # type: ignore[import-untyped]
    except ImportError as error:
        raise DataError(
            f"{path}: reading it needs the package datasets", "pip install 'privacy-gate[huggingface]'"
        ) from error
    _require_one(path)
    try:
        data = datasets.Dataset.load_from_disk(str(path.absolute()), keep_in_memory=False)
    except Exception as error:  # of the package, of its files, of Arrow: whatever a damaged folder makes it raise
        raise DataError(
            f"{path}: datasets cannot read it ({type(error).__name__})", "write it again: Dataset.save_to_disk"
        ) from error
    table, kinds = data.data.table, data.features
    arrays = {name: shape for name in table.column_names if (shape := _shape(kinds[name])) is not None}
    chosen = [name for name in arrays if name not in manifest.drop and name in (manifest.features or arrays)]
    if not chosen:
        return to_frame(table, path, manifest)
    if len(chosen) > 1:
        raise DataError(
            f"{path}: the columns {', '.join(chosen)} all hold images or arrays", "name one as data.features"
        )
    (name,) = chosen
    column = table.column(name)
    shape = arrays[name]
    x = _images(column, path, name, manifest, work) if shape == () else _array(column, shape, path, name, work)
    return {FEATURES: x, **_beside(table, name, path, manifest)}


def _require_one(path: Path) -> None:
    """One dataset, not a dictionary of them, all of whose files lie in the folder."""
    if (path / _SPLITS).is_file():
        splits = _json(path / _SPLITS).get("splits")
        names = [str(split) for split in splits] if isinstance(splits, list) else []
        raise DataError(
            f"{path}: holds several splits: {', '.join(names) or 'unnamed'}",
            f"name one of them: {path.name}/{names[0] if names else 'train'}",
        )
    files = _json(path / _STATE).get("_data_files")
    for each in files if isinstance(files, list) else [None]:
        name = each.get("filename") if isinstance(each, dict) else None
        if not isinstance(name, str) or name != Path(name).name or not (path / name).is_file():
            raise DataError(
                f"{path}: {_STATE} names a file that is not in the folder", "write it again: Dataset.save_to_disk"
            )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__})", "copy the folder again") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: is not what save_to_disk writes", "write it again: Dataset.save_to_disk")
    return found


def _shape(kind: Any) -> tuple[int, ...] | None:
    """Shape of one record's array; () for an image, which the transform decides; None for anything else."""
    name = type(kind).__name__
    if name == "Image":
        return ()
    if name.startswith("Array") and hasattr(kind, "shape"):
        return tuple(kind.shape) if all(isinstance(length, int) for length in kind.shape) else None
    lengths = []
    while getattr(kind, "length", -1) > 0 and hasattr(kind, "feature"):
        lengths.append(kind.length)
        kind = kind.feature
    return tuple(lengths) if lengths and type(kind).__name__ == "Value" else None


def _images(column: Any, path: Path, name: str, manifest: DataManifest, work: Path) -> NDArray[Any]:
    def shots() -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
        for row, value in enumerate(column):
            content = value["bytes"].as_py() if value.is_valid else None
            if content is None:
                raise DataError(
                    f"{path}: {name} of record {row} is not in the file",
                    "write it again with save_to_disk, which stores the images themselves",
                )
            yield f"{name} of record {row}", partial(io.BytesIO, content)

    return stacked(shots(), len(column), declared(manifest, path), path, work, upright=True)


def _array(column: Any, shape: tuple[int, ...], path: Path, name: str, work: Path) -> NDArray[Any]:
    """[n, ...] of a column of nested lists of one shape, chunk by chunk into a file."""
    place, row, out = fresh(work) / f"{FEATURES}.npy", 0, None
    for chunk in column.chunks:
        values = getattr(chunk, "storage", chunk)
        while hasattr(values, "flatten") and hasattr(values.type, "value_type"):
            values = values.flatten()
        if values.null_count or len(values) != len(chunk) * int(np.prod(shape)):
            raise DataError(f"{path}: {name} has missing values", "every record needs its whole array")
        numbers = values.to_numpy(zero_copy_only=False)
        if numbers.dtype.kind not in "biuf":
            raise DataError(f"{path}: {name} holds {values.type}, no numbers", "name a column of numbers")
        try:
            if out is None:
                out = np.lib.format.open_memmap(place, "w+", numbers.dtype, (len(column), *shape))
            out[row : row + len(chunk)] = numbers.reshape(-1, *shape)
        except OSError as error:
            raise StorageFailed(f"{work}: {error.strerror or type(error).__name__}", "free some space") from error
        row += len(chunk)
    if out is None:
        return np.empty((0, *shape), dtype=np.float32)
    out.flush()
    return mapped(place)


def _beside(table: Any, name: str, path: Path, manifest: DataManifest) -> dict[str, NDArray[Any]]:
    """The other columns that hold one value per record, and all that the manifest names."""
    import pyarrow as pa

    def plain(field: Any) -> bool:
        return not pa.types.is_nested(field.type) and not isinstance(field.type, pa.BaseExtensionType)

    others = [field.name for field in table.schema if field.name != name and plain(field)]
    wanted = (named(manifest) - {name} - set(manifest.drop)) & set(table.column_names)
    if odd := sorted(wanted - set(others)):
        raise DataError(f"{path}: column {odd[0]!r} does not hold one value per record", "name another column")
    if FEATURES in others:
        raise DataError(f"{path}: has a column {FEATURES!r} beside the arrays of {name!r}", "rename one of them")
    frame = table.select(others).unify_dictionaries().to_pandas()
    return {column: frame[column].to_numpy() for column in others}
