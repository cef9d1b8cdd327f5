"""Feature tables on their way between processes: a numpy array or a typed pandas frame, one file each."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from privacy_gate.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

Features: TypeAlias = "NDArray[Any] | pd.DataFrame"


def is_frame(features: Features) -> bool:
    """Whether the features have named, typed columns."""
    return not isinstance(features, np.ndarray)


def take(features: Features, rows: NDArray[Any]) -> Features:
    """The given rows (index or mask), in that order; a frame gets a fresh 0..n-1 index."""
    if isinstance(features, np.ndarray):
        return cast("NDArray[Any]", features[rows])
    return features.iloc[np.flatnonzero(rows) if rows.dtype == bool else rows].reset_index(drop=True)


def concat(parts: Sequence[Features]) -> Features:
    """Rows of several tables under each other; all arrays or all frames with the same columns."""
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate([cast("NDArray[Any]", part) for part in parts])
    import pandas as pd

    return pd.concat([cast("pd.DataFrame", part) for part in parts], ignore_index=True)


def save(features: Features, stem: Path) -> Path:
    """Write `stem`.npy (an array, for memory mapping) or `stem`.parquet (a frame); returns the path."""
    if isinstance(features, np.ndarray):
        path = stem.with_suffix(".npy")
        np.save(path, features, allow_pickle=False)
        return path
    path = stem.with_suffix(".parquet")
    features.to_parquet(path)
    return path


def load(path: Path) -> Features:
    """Read what `save` wrote; arrays are memory-mapped read-only."""
    if path.suffix == ".npy":
        return cast("NDArray[Any]", np.load(path, mmap_mode="r", allow_pickle=False))
    import pandas as pd

    return pd.read_parquet(path)


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz, without pickles; DataError if it is none."""
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("a single array")
        with archive:
            return {name: archive[name] for name in archive.files}
    # An encrypted archive is a RuntimeError, a damaged one zlib's.
    except (ValueError, OSError, zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:
        raise DataError(
            f"{path}: not a readable .npz ({error})", "write it with numpy.savez, without objects"
        ) from error


def row_hashes(features: Features, labels: NDArray[Any]) -> NDArray[np.uint64]:
    """[n] a 64-bit content hash of each (features, label) row; equal rows have equal hashes."""
    import pandas as pd

    frame = pd.DataFrame(features.reshape(len(labels), -1)) if isinstance(features, np.ndarray) else features
    hashes = pd.util.hash_pandas_object(frame, index=False).to_numpy(np.uint64)
    return cast("NDArray[np.uint64]", hashes * np.uint64(0x9E3779B97F4A7C15) + labels.astype(np.uint64))


def digest(features: Features) -> str:
    """sha256 over content, shape, column names and types."""
    h = hashlib.sha256()
    if isinstance(features, np.ndarray):
        h.update(f"{features.dtype.str}{features.shape}".encode())
        h.update(np.ascontiguousarray(features).tobytes())
        return h.hexdigest()
    import pandas as pd

    h.update(repr([(str(c), str(t)) for c, t in features.dtypes.items()]).encode())
    h.update(pd.util.hash_pandas_object(features, index=False).to_numpy(np.uint64).tobytes())
    return h.hexdigest()
