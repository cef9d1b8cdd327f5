"""Files that are either whole or absent, and readable by their owner alone."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from privacy_gate.errors import StorageFailed


def private_dir(path: Path) -> Path:
    """Create `path` with mode 0700: stores, logs and annexes hold membership, which is personal data."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageFailed(f"{path}: {error.strerror or error}", "choose a folder this user may write to") from error
    return path


@contextlib.contextmanager
def atomic_write(path: Path, mode: int = 0o600) -> Iterator[IO[bytes]]:
    """Write beside `path`, fsync, rename: a reader sees the old file or the new one, never a part."""
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
        temporary = ""
    except OSError as error:
        raise StorageFailed(f"{path}: {error.strerror or error}", "free some space or choose another folder") from error
    finally:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def write_text(path: Path, text: str, mode: int = 0o600) -> None:
    """`atomic_write` for text in UTF-8."""
    with atomic_write(path, mode) as stream:
        stream.write(text.encode())


def sha256_of_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_json(value: Any) -> str:
    """Hex digest of a JSON-like value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
