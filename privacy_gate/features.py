"""Feature tables on their way between processes: an array, a typed pandas frame, or rows of arrays on disk.

Arrays that memory would not hold stay where they are (`Stored`): they are read in blocks, each of which is let go
before the next, and handed to other processes by name.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, cast, overload

import numpy as np
from numpy.typing import NDArray

from privacy_gate.datamodel import Ints
from privacy_gate.errors import DataError, StorageFailed

if TYPE_CHECKING:
    import pandas as pd

Seal: TypeAlias = "tuple[int, ...]"

LARGE = 1 << 30  # bytes of features from which they stay on disk
BLOCK = 1 << 26  # bytes of features that are looked at at once


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """Rows of .npy files in any order, read when they are asked for. StorageFailed where a file was changed since.

    files         of one type and one shape per row
    seals         `seal` of each file when it was first read: what is digested, scored and trained on is one content
    where         [n] number of the file that each row is in
    rows          [n] its row there
    dtype, shape  as of an array
    """

    files: tuple[Path, ...]
    seals: tuple[Seal, ...]
    where: NDArray[np.uint8]
    rows: Ints
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        """Axes, that of the rows included."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Of all rows, if they were in memory."""
        return len(self.rows) * _width(self)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """The rows of a slice, index or mask, in memory."""
        where, wanted = self.where[rows], self.rows[rows]
        found = np.empty((len(wanted), *self.shape[1:]), dtype=self.dtype)
        for number in np.unique(where).tolist():
            here = where == number
            _require_unchanged(self.files[number], self.seals[number])
            # Mapped anew each time: pages that stay mapped would count as this process's memory.
            found[here] = np.load(self.files[number], mmap_mode="r", allow_pickle=False)[wanted[here]]
            _require_unchanged(self.files[number], self.seals[number])
        return found

    def take(self, rows: NDArray[Any]) -> Stored:
        """The rows of an index or mask, still on disk."""
        wanted = self.rows[rows]
        return Stored(self.files, self.seals, self.where[rows], wanted, self.dtype, (len(wanted), *self.shape[1:]))


def seal(file: Path) -> Seal:
    """What tells whether a file is still the same: inode, size, and times, of which nobody can set the last one back.

    Raises StorageFailed.
    """
    try:
        status = file.stat()
    except OSError as error:
        place = f"{file.parent.name}/{file.name}"
        raise StorageFailed(f"{place}: {error.strerror or error}", "keep the records until the run ends") from error
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _require_unchanged(file: Path, sealed: Seal) -> None:
    if seal(file) != sealed:
        raise StorageFailed(
            f"{file.parent.name}/{file.name} was changed while it was in use",
            "let nobody write to the records while the gate reads them, then run again",
        )


Features: TypeAlias = "NDArray[Any] | pd.DataFrame"
AnyFeatures: TypeAlias = "NDArray[Any] | pd.DataFrame | Stored"


def is_frame(features: AnyFeatures) -> TypeGuard[pd.DataFrame]:
    """Whether the features have named, typed columns."""
    return not isinstance(features, np.ndarray | Stored)


def in_memory(features: AnyFeatures) -> Features:
    """The features themselves, read where they are on disk."""
    return features[:] if isinstance(features, Stored) else features


@overload
def take(features: Features, rows: NDArray[Any]) -> Features: ...


@overload
def take(features: AnyFeatures, rows: NDArray[Any]) -> AnyFeatures: ...


def take(features: AnyFeatures, rows: NDArray[Any]) -> AnyFeatures:
    """The given rows (index or mask), in that order; a frame gets a fresh 0..n-1 index; on disk only while large."""
    if isinstance(features, Stored):
        taken = features.take(rows)
        return taken if taken.nbytes > LARGE else taken[:]
    if isinstance(features, np.ndarray):
        return cast("NDArray[Any]", features[rows])
    return features.iloc[np.flatnonzero(rows) if rows.dtype == bool else rows].reset_index(drop=True)


@overload
def concat(parts: Sequence[Features]) -> Features: ...


@overload
def concat(parts: Sequence[AnyFeatures]) -> AnyFeatures: ...


def concat(parts: Sequence[AnyFeatures]) -> AnyFeatures:
    """Rows of several tables under each other; all arrays, all on disk, or all frames with the same columns."""
    if all(isinstance(part, Stored) for part in parts):
        return _joined([cast("Stored", part) for part in parts])
    if any(isinstance(part, Stored) for part in parts):
        raise TypeError("some features are on disk, others in memory: settle them first")
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate([cast("NDArray[Any]", part) for part in parts])
    import pandas as pd

    return pd.concat([cast("pd.DataFrame", part) for part in parts], ignore_index=True)


def _joined(parts: Sequence[Stored]) -> Stored:
    sealed = dict(pair for part in reversed(parts) for pair in zip(part.files, part.seals, strict=True))
    files = tuple(dict.fromkeys(path for part in parts for path in part.files))
    numbers = [np.array([files.index(path) for path in part.files], dtype=np.uint8)[part.where] for part in parts]
    rows = np.concatenate([part.rows for part in parts])
    seals = tuple(sealed[path] for path in files)
    return Stored(files, seals, np.concatenate(numbers), rows, parts[0].dtype, (len(rows), *parts[0].shape[1:]))


def settle(parts: Sequence[Features], work: Path) -> list[AnyFeatures]:
    """The sets of one run, all in memory or, where they are arrays of more than LARGE bytes together, all on disk.

    parts  as read; memory maps of whole .npy files stay where they are, other arrays are written below `work`
    Raises DataError where large arrays differ in type.
    """
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) < len(parts) or sum(array.nbytes for array in arrays) <= LARGE:
        return [np.asarray(part) if isinstance(part, np.memmap) else part for part in parts]
    if len({array.dtype for array in arrays}) > 1:
        types = ", ".join(sorted({str(array.dtype) for array in arrays}))
        raise DataError(f"the sets have arrays of different types: {types}", "write them all with one type")
    return [_stored(array, work / f"features-{i}.npy") for i, array in enumerate(arrays)]


def _stored(array: NDArray[Any], spare: Path) -> Stored:
    file = _file_of(array)
    if file is None:
        np.save(spare, array, allow_pickle=False)
        file = spare
    rows = np.arange(len(array), dtype=np.int64)
    return Stored((file.absolute(),), (seal(file),), np.zeros(len(array), np.uint8), rows, array.dtype, array.shape)


def _file_of(array: NDArray[Any]) -> Path | None:
    """The .npy file that a memory map shows as a whole; None for other arrays."""
    if not isinstance(array, np.memmap) or not isinstance(array.filename, str | Path):
        return None
    path = Path(array.filename)
    try:
        whole = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError):
        return None
    same = isinstance(whole, np.memmap) and (whole.offset, whole.shape, whole.dtype, whole.strides) == (
        array.offset, array.shape, array.dtype, array.strides,
    )  # fmt: skip
    return path if same else None


def _width(features: NDArray[Any] | Stored) -> int:
    """Bytes of one row."""
    return int(np.prod(features.shape[1:], dtype=np.int64)) * features.dtype.itemsize


def batch_rows(features: AnyFeatures, most: int) -> int:
    """How many rows go together, at most `most`: fewer where rows are so wide that they would fill the memory."""
    if not isinstance(features, np.ndarray | Stored):
        return most
    return max(1, min(most, BLOCK // max(_width(features), 1)))


def blocks(features: NDArray[Any] | Stored, most: int = 1 << 16) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Rows and what is in them, BLOCK bytes or `most` rows at a time."""
    step = batch_rows(features, most)
    for start in range(0, len(features), step):
        rows = slice(start, start + step)
        yield rows, np.asarray(features[rows])


def save(features: AnyFeatures, stem: Path) -> Path:
    """Write `stem`.npy (an array, for memory mapping), `stem`.arrow (a frame) or `stem`.rows (names of files).

    Returns the path.
    """
    if isinstance(features, Stored):
        path = stem.with_suffix(".rows")
        with path.open("wb") as stream:
            np.savez(stream, where=features.where, rows=features.rows)
        named = [(str(file), *told) for file, told in zip(features.files, features.seals, strict=True)]
        stem.with_suffix(".files").write_text(json.dumps(named))
        return path
    if isinstance(features, np.ndarray):
        path = stem.with_suffix(".npy")
        np.save(path, features, allow_pickle=False)
        return path
    path = stem.with_suffix(".arrow")
    _save_frame(features, path)
    return path


def _save_frame(frame: pd.DataFrame, path: Path) -> None:
    """As Arrow has it: Parquet would make numbers of categories that are numbers."""
    import pyarrow as pa
    from pyarrow import feather

    # Of text in objects, pandas would make its own text type again.
    objects = [str(name) for name, dtype in frame.dtypes.items() if dtype == np.dtype(object)]
    table = pa.Table.from_pandas(frame, preserve_index=False)
    metadata = {**(table.schema.metadata or {}), b"objects": json.dumps(objects).encode()}
    feather.write_feather(table.replace_schema_metadata(metadata), path)
    del table
    release_unused()


def release_unused() -> None:
    """Give back the memory that Arrow keeps for later tables: it may be as much as the records."""
    if "pyarrow" in sys.modules:
        import pyarrow as pa

        pa.default_memory_pool().release_unused()


def _load_frame(path: Path) -> pd.DataFrame:
    from pyarrow import feather

    table = feather.read_table(path)
    frame = table.to_pandas()
    objects = json.loads(table.schema.metadata[b"objects"])
    return cast("pd.DataFrame", frame.astype(dict.fromkeys(objects, object)))


def load(path: Path) -> AnyFeatures:
    """Read what `save` wrote; arrays are memory-mapped read-only."""
    if path.suffix == ".rows":
        return _load_stored(path)
    if path.suffix == ".npy":
        return cast("NDArray[Any]", np.load(path, mmap_mode="r", allow_pickle=False))
    return _load_frame(path)


def _load_stored(path: Path) -> Stored:
    named = json.loads(path.with_suffix(".files").read_text())
    files, seals = tuple(Path(file) for file, *_ in named), tuple(tuple(told) for _, *told in named)
    arrays = read_npz(path)
    _require_unchanged(files[0], seals[0])
    first = np.load(files[0], mmap_mode="r", allow_pickle=False)
    return Stored(files, seals, arrays["where"], arrays["rows"], first.dtype, (len(arrays["rows"]), *first.shape[1:]))


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz, without pickles; DataError if it is none."""
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("a single array")
        with archive:
            return {name: archive[name] for name in archive.files}
    # An encrypted archive is a RuntimeError, a damaged one zlib's, a damaged header, parsed as Python, the tokenizer's.
    except (
        ValueError, OSError, zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, SyntaxError, tokenize.TokenError,
        OverflowError,
    ) as error:  # fmt: skip
        raise DataError(
            f"{path}: not a readable .npz ({error})", "write it with numpy.savez, without objects"
        ) from error


def row_hashes(features: AnyFeatures, labels: NDArray[Any]) -> NDArray[np.uint64]:
    """[n] a 64-bit content hash of each (features, label) row; equal rows of one table have equal hashes."""
    if isinstance(features, Stored):
        hashes = np.concatenate([np.empty(0, np.uint64), *(_of_bytes(block) for _, block in blocks(features))])
    else:
        import pandas as pd

        frame = pd.DataFrame(features.reshape(len(labels), -1)) if isinstance(features, np.ndarray) else features
        hashes = pd.util.hash_pandas_object(frame, index=False).to_numpy(np.uint64)
    return hashes * np.uint64(0x9E3779B97F4A7C15) + labels.astype(np.uint64)


def _of_bytes(block: NDArray[Any]) -> NDArray[np.uint64]:
    """[n] of rows of bytes: hashing column by column, as for tables, takes too long where rows are wide."""
    # 0.0 and -0.0 are one number, as all NaN are.
    plain = np.where(np.isnan(block), np.nan, block) + 0.0 if block.dtype.kind == "f" else block
    rows = np.ascontiguousarray(plain.astype(block.dtype, copy=False)).reshape(len(block), -1)
    return np.array([int.from_bytes(hashlib.blake2b(row.data, digest_size=8).digest()) for row in rows], np.uint64)


def digest(features: AnyFeatures) -> str:
    """sha256 over content, shape, column names, types and category levels; the same in memory and on disk."""
    h = hashlib.sha256()
    if isinstance(features, np.ndarray | Stored):
        h.update(f"{features.dtype.str}{features.shape}".encode())
        for _, block in blocks(features):
            h.update(np.ascontiguousarray(block).data)
        return h.hexdigest()
    import pandas as pd

    h.update(repr([(str(c), _type(t)) for c, t in features.dtypes.items()]).encode())
    h.update(pd.util.hash_pandas_object(features, index=False).to_numpy(np.uint64).tobytes())
    return h.hexdigest()


def _type(dtype: Any) -> str:
    """A category is its levels in their order, too: models know them by their numbers."""
    levels = getattr(dtype, "categories", None)
    return str(dtype) if levels is None else f"{dtype} {[repr(level) for level in levels.tolist()]} {dtype.ordered}"
