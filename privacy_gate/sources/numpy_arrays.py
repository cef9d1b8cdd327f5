"""Arrays by name: an .npz, or a folder with one .npy each (`x.npy`, `y.npy`), which may be larger than the memory."""

from __future__ import annotations

import os
import tokenize
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from privacy_gate.errors import DataError
from privacy_gate.features import read_npz
from privacy_gate.request import DataManifest
from privacy_gate.sources import Records, reader
from privacy_gate.sources.places import files_below, is_hidden

FEATURES = "x"
_CAPITAL = "X"  # as mathematics, and many a script, call the features; taken where there is no small one


def _accepts(path: Path) -> bool:
    if path.is_file():
        return path.suffix.lower() == ".npz"
    return any((path / f"{name}.npy").is_file() for name in (FEATURES, _CAPITAL))


@reader(id="numpy", accepts=_accepts)
def numpy(path: Path, manifest: DataManifest, work: Path) -> Records:
    """All arrays: of an .npz in memory, of a folder mapped into it, read-only. No pickles."""
    arrays = read_npz(path) if path.is_file() else folder(path)
    if path.is_file() and FEATURES not in arrays and _CAPITAL not in arrays:
        raise DataError(
            f"{path}: holds no array {FEATURES!r}, the features; its arrays are {', '.join(arrays)[:300] or 'none'}",
            f"save it as numpy.savez(file, {FEATURES}=..., y=...), or use {{dataset: records.py:members}}",
        )
    return _named(arrays)


def _named(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The same with the features under the name that they have everywhere."""
    if FEATURES in arrays or _CAPITAL not in arrays:
        return arrays
    return {FEATURES if name == _CAPITAL else name: array for name, array in arrays.items()}


def folder(path: Path) -> dict[str, NDArray[Any]]:
    """Name -> memory map of each .npy of a folder. Raises DataError for anything else in it."""
    files = [file for file in files_below(path) if not is_hidden(file.name)]
    odd = [file.relative_to(path).as_posix() for file in files if file.suffix != ".npy" or file.parent != path]
    if odd:
        raise DataError(f"{path}: holds {odd[0]}, which is no .npy", "keep nothing but .npy files in the folder")
    if not _accepts(path):
        raise DataError(f"{path}: there is no {FEATURES}.npy in it", f"{FEATURES}.npy holds the features")
    arrays = _named({file.stem: mapped(file) for file in files})
    for name, array in arrays.items():
        if len(array) != len(arrays[FEATURES]):
            raise DataError(
                f"{path}: {name}.npy has {len(array)} records, {FEATURES}.npy {len(arrays[FEATURES])}",
                "one row per record in every array",
            )
    return arrays


def mapped(path: Path) -> NDArray[Any]:
    """The array of an .npy, memory-mapped read-only; none of it is read. Raises DataError if it is none."""
    try:
        shape, dtype, start = _header(path)
        # Believe the file's size, not its header: pages beyond the end would kill the process.
        if int(np.prod(shape, dtype=object)) * dtype.itemsize != path.stat().st_size - start:
            raise ValueError("header and size disagree")
        if not shape:
            raise ValueError("a single value")
        mode = None if 0 in shape else "r"  # nothing cannot be mapped
        return cast("NDArray[Any]", np.load(path, mmap_mode=cast("Any", mode), allow_pickle=False))
    # A header is a Python literal: what is none fails in Python's own ways.
    except (OSError, ValueError, EOFError, OverflowError, SyntaxError, tokenize.TokenError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)[:200]
        raise DataError(
            f"{path}: not a readable .npy ({said})", "write it with numpy.save, an array of numbers or text"
        ) from error


def _header(path: Path) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, type and where the values start; ValueError for types that are no plain values."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        if dtype.kind not in "biufUSM":
            raise ValueError(f"values of type {dtype}")
        return shape, dtype, stream.tell()
