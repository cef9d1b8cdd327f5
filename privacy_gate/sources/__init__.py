"""Where records come from: files, folders, URLs, functions. One reader per file; the folder is the list.

A reader turns one place into one table: a frame with all its columns, or arrays by name, `x` among them. What the
columns mean, and which of them are features, is the manifest's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from numpy.typing import NDArray

from privacy_gate.catalog import Catalog
from privacy_gate.errors import DataError
from privacy_gate.request import DataManifest, Source
from privacy_gate.sources import functions, places
from privacy_gate.sources.places import shown
from privacy_gate.storage import private_dir

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CATALOG", "Reader", "Records", "choose", "read", "reader", "shown"]

Records: TypeAlias = "pd.DataFrame | Mapping[str, NDArray[Any]]"
Read: TypeAlias = "Callable[[Path, DataManifest, Path], Records]"


@dataclass(frozen=True, slots=True)
class Reader:
    """One kind of file or folder.

    id       what `format:` calls it
    accepts  whether a path looks like this kind, by its name and, for folders, by what lies in it; opens no data
    read     (path, manifest, private folder for what does not fit into memory) -> all columns as a frame, or arrays by
             name; raises DataError
    """

    id: str
    accepts: Callable[[Path], bool]
    read: Read


CATALOG: Catalog[Reader] = Catalog("data format", __name__)


def reader(*, id: str, accepts: Callable[[Path], bool]) -> Callable[[Read], Read]:
    """Enter a reading function into the catalog."""

    def register(read: Read) -> Read:
        CATALOG.add(id, Reader(id, accepts, read))
        return read

    return register


def read(
    source: Source,
    manifest: DataManifest,
    base: Path,
    fetch: Callable[[str], Path],
    work: Path,
    *,
    logs: Path | None = None,
    timeout: float = functions.PATIENCE,
) -> Records:
    """The records of one source, all columns: a frame, or arrays by name with `x`, memory-mapped where they are large.

    base     folder that relative paths start at: the config's
    fetch    what gets an artifact: `runs:/RUN/path` -> local file or folder
    work     private folder for what is fetched, decoded or made; arrays that are read later lie in it: it outlives them
    logs     private folder that the log of a function that failed is moved to; None: it stays in `work`
    timeout  seconds that a function has

    Errors: DataError for places, kinds, contents and functions that raise; StorageFailed where a server or a disk does
    not answer; WorkerDied for functions that end or hang.
    """
    private_dir(work)
    if source.dataset is not None:
        return functions.call(source.dataset, manifest, base, work, logs=logs, timeout=timeout)
    path = places.locate(source, base, fetch, work)
    try:
        return choose(source, path).read(path, manifest, work)
    except DataError as error:
        # A fetched copy has a name of the gate's own, which tells nobody anything.
        raise DataError(error.what.replace(str(path), shown(source)), error.hint) from error


def choose(source: Source, path: Path) -> Reader:
    """The reader of a path: the one that `format:` names, or the only one that knows it. Raises UsageError."""
    if source.format is not None:
        return CATALOG[source.format]
    fitting = [reader for reader in CATALOG if reader.accepts(path)]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(CATALOG.names())
    if fitting:
        several = " and ".join(reader.id for reader in fitting)
        raise DataError(
            f"{path}: looks like {several}", f"say which with format:, or keep one kind per folder; formats: {names}"
        )
    if path.is_dir():
        there = places.glance(path)
        raise DataError(f"{path}: unknown kind of folder; in it: {there}", f"say which with format:, one of {names}")
    raise DataError(
        f"{path}: unknown kind of file {path.suffix!r}",
        f"use .npz, .csv, .parquet or another that is known, or say with format: which of {names} it is",
    )
