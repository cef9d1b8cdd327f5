"""Arrow tables: .arrow, .feather and .ipc, in the file format or as a stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from privacy_gate.errors import DataError
from privacy_gate.request import DataManifest
from privacy_gate.sources import Records, reader
from privacy_gate.sources.tables import to_frame, told

_FILE, _OLD = b"ARROW1", b"FEA1"


def _accepts(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in (".arrow", ".feather", ".ipc")


@reader(id="arrow", accepts=_accepts)
def arrow(path: Path, manifest: DataManifest, work: Path) -> Records:
    """A frame with the types of the file; dictionaries are categories."""
    return to_frame(table(path), path, manifest)


def table(path: Path) -> Any:
    """The pyarrow.Table in a file, memory-mapped. Raises DataError."""
    import pyarrow as pa

    try:
        with path.open("rb") as stream:
            start = stream.read(len(_FILE))
        if start.startswith(_OLD):
            raise DataError(f"{path}: feather version 1 keeps no types", "write it again: DataFrame.to_feather")
        with pa.memory_map(str(path)) as source:
            stored = pa.ipc.open_file(source) if start == _FILE else pa.ipc.open_stream(source)
            found = stored.read_all()
            found.validate(full=True)  # offsets of a damaged file point anywhere
            return found
    except (ValueError, OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({told(error)})", "it is no whole Arrow file or stream") from error
