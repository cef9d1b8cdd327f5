"""From what a config names to a file or folder on this machine: relative paths, artifacts of runs, URLs."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from privacy_gate.errors import DataError, StorageFailed
from privacy_gate.request import Source
from privacy_gate.sources import urls
from privacy_gate.storage import sha256_of_file

RUNS = "runs:/"
_SHOWN = 8  # names of a folder that a message lists


def shown(source: Source) -> str:
    """What messages call it; a URL without what may be a secret in it."""
    return urls.shown(source.shown) if urls.is_url(source.shown) else source.shown


def locate(source: Source, base: Path, fetch: Callable[[str], Path], work: Path) -> Path:
    """The file or folder itself, its sha256 checked; a URL is fetched into `work` first.

    Errors: DataError for places that are not there and contents that were not agreed on; StorageFailed as in
    `urls.fetch`.
    """
    named = source.path or ""
    if urls.is_url(named):
        path = urls.fetch(named, work, checked=source.sha256 is not None)
    else:
        path = fetch(named) if named.startswith(RUNS) else base / expanded(named)
    if not path.is_file() and not path.is_dir():
        raise DataError(f"{named}: no such file (looked at {path})", "paths are relative to the config file")
    if source.sha256 is not None:
        found = sha256_of(path)
        if found != source.sha256:
            what = "folder" if path.is_dir() else "file"
            raise DataError(
                f"{shown(source)}: sha256 is {found}, the manifest says {source.sha256}",
                f"the {what} is not the one that was agreed on; restore it or update the manifest on purpose",
            )
    return path


def expanded(named: str) -> Path:
    """The path with ~ put in. Raises DataError."""
    try:
        return Path(named).expanduser()
    except RuntimeError as error:
        raise DataError(f"{named}: there is no such user", "write the path without ~") from error


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes; of a folder, over one line per file, `relative/path sha256`, sorted by path."""
    if path.is_file():
        return sha256_of_file(path)
    lines = sorted((file.relative_to(path).as_posix(), sha256_of_file(file)) for file in files_below(path))
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in lines).encode()).hexdigest()


def files_below(folder: Path) -> list[Path]:
    """Every file below a folder, sorted by its path's parts. Raises DataError for links to folders and odd files."""
    found: list[Path] = []
    pending = [folder]
    while pending:
        try:
            entries = sorted(os.scandir(pending.pop()), key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"{folder}: cannot be read ({error.strerror})", "give this user read access") from error
        for entry in entries:
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                pending.append(path)
            elif entry.is_file():
                found.append(path)
            else:  # a link to a folder, which might lead anywhere or back; a broken link; a device
                name = path.relative_to(folder).as_posix()
                raise DataError(f"{folder}: {name} is neither a file nor a folder", "replace it by what it points to")
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def glance(folder: Path) -> str:
    """A few of the names in a folder, for messages."""
    names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in os.scandir(folder))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "nothing") + more


def is_hidden(name: str) -> bool:
    """Names that by custom are no records: `.DS_Store`, `_SUCCESS`, `_metadata`."""
    return name.startswith((".", "_"))


def fresh(work: Path) -> Path:
    """A new folder below `work`, which nobody else can read. Raises StorageFailed."""
    try:
        return Path(tempfile.mkdtemp(prefix="records-", dir=work))
    except OSError as error:
        raise StorageFailed(f"{work}: {error.strerror or error}", "choose a folder this user may write to") from error
