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
from privacy_gate.request import DataManifest

if TYPE_CHECKING:
    import pandas as pd

Records: TypeAlias = "pd.DataFrame | Mapping[str, NDArray[Any]]"


@dataclass(frozen=True, slots=True)
class Reader:
    """One kind of file or folder.

    id       what `format:` calls it
    accepts  whether a path looks like this kind, by its name and, for folders, by what lies in it; opens no data
    read     (path, manifest) -> all columns as a frame, or arrays by name; raises DataError
    """

    id: str
    accepts: Callable[[Path], bool]
    read: Callable[[Path, DataManifest], Records]


CATALOG: Catalog[Reader] = Catalog("data format", __name__)


def reader(*, id: str, accepts: Callable[[Path], bool]) -> Callable[[Callable[[Path, DataManifest], Records]], Any]:
    """Enter a reading function into the catalog."""

    def register(read: Callable[[Path, DataManifest], Records]) -> Any:
        CATALOG.add(id, Reader(id, accepts, read))
        return read

    return register
