"""Text tables with a header line: .csv and .tsv, as they are or compressed with gzip."""

from __future__ import annotations

import zlib
from pathlib import Path

from privacy_gate.errors import DataError
from privacy_gate.request import DataManifest
from privacy_gate.sources import Records, reader
from privacy_gate.sources.tables import as_text, told

_SEPARATORS = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}


def _accepts(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(tuple(_SEPARATORS))


@reader(id="csv", accepts=_accepts)
def csv(path: Path, manifest: DataManifest, work: Path) -> Records:
    """A frame with the types that pandas finds; `person` and `id` stay text, so that "007" is not 7."""
    import pandas as pd

    ending = next((end for end in _SEPARATORS if path.name.lower().endswith(end)), ".csv")
    try:
        # "?" and the like stay what they are: the model's own pipeline knows what they mean.
        return pd.read_csv(
            path,
            sep=_SEPARATORS[ending],
            compression="gzip" if ending.endswith(".gz") else None,
            dtype=dict.fromkeys(as_text(manifest), str),
            low_memory=False,  # else a long column may be numbers in one stretch and text in the next
        )
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({told(error)})", "expected a table with a header line") from error
