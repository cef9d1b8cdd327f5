"""Finished shadows on disk: one file each, named by everything that it depends on, read back only if it is whole.

What else was asked of a shadow, by probes or while it was trained, lies beside it, in a file for each question.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from privacy_gate.datamodel import Floats, Outputs
from privacy_gate.errors import StorageFailed
from privacy_gate.storage import atomic_write, private_dir

FORMAT = 1
_SUFFIX = ".npz"
_LOCK = ".lock"
_DIGEST = 64  # hex digits of a sha256
_T = TypeVar("_T")
_STALE = 86400.0  # seconds after which half a file cannot belong to a gate that is still writing it


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What is kept of one shadow.

    outputs                    [U, K] of the shadow on all records, before any output defence
    accuracy_in, accuracy_out  on the records that it trained on, and on all others; None where there are none
    """

    outputs: Outputs
    accuracy_in: float | None
    accuracy_out: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Extra:
    """What a shadow was asked beside its outputs.

    of      sha256 of the outputs of the model that was asked: a recipe that repeats itself only nearly makes others
    values  what a probe found [n] or [n, d], or answers after each step [E, U, K] float32; None where there is nothing
    steps   [E] the steps; empty for probes
    kind    of the answers; "" for probes
    reason  why there is nothing
    """

    of: str
    values: Floats | NDArray[np.float32] | None
    steps: tuple[int, ...] = ()
    kind: Literal["", "logits", "probabilities"] = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Stored:
    """One entry of a store, as `shadows list` shows it."""

    key: str
    size: int  # bytes
    used: float  # seconds since the epoch, of the last reading or writing

    @property
    def what(self) -> str:
        """A shadow, or what lies beside one: a probe, or a trace."""
        return self.key.partition(".")[2] or "shadow"


class Store:
    """Shadows under `root`/shadows; nobody but the owner can read them, since they tell membership.

    Any number of gates may share one store: entries appear whole or not at all, and two gates that train the same
    shadow write the same bytes. `corrupt` counts the entries that were thrown away.
    """

    def __init__(self, root: Path) -> None:
        self.root = private_dir(root)
        self._folder = _own(self.root / "shadows")
        self.corrupt = 0

    def path(self, key: str) -> Path:
        """Where the entry of this key is, or would be."""
        return self._folder / f"{key}{_SUFFIX}"

    def __contains__(self, key: object) -> bool:
        return self.path(str(key)).is_file()

    def get(self, key: str) -> Trained | None:
        """The shadow of this key; None when there is none, or when it is corrupt, which removes it."""
        return self._read(key, _decode)

    def beside(self, key: str) -> Extra | None:
        """What lies beside a shadow under this key; None when there is nothing, or when it is corrupt, as in `get`."""
        return self._read(key, _decode_extra)

    def _read(self, key: str, decode: Callable[[bytes, str], _T]) -> _T | None:
        path = self.path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageFailed(f"{path}: {error.strerror or error}", "make the store readable") from error
        try:
            found = decode(content, key)
        except _Corrupt:
            self.corrupt += 1
            path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(OSError):  # only tells `prune` what was used last; a read-only store is fine
            os.utime(path)
        return found

    def put(self, key: str, shadow: Trained | Extra) -> None:
        """Keep a shadow, or what lies beside one. Raises StorageFailed on a full disk; then nothing is left of it."""
        content = _encode(shadow, key) if isinstance(shadow, Trained) else _encode_extra(shadow, key)
        with atomic_write(self.path(key)) as stream:
            stream.write(content)

    def list(self) -> list[Stored]:
        """All entries, the most recently used first."""
        entries = []
        for path in self._folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):  # another gate pruned it
                status = path.stat()
                entries.append(Stored(path.stem, status.st_size, status.st_mtime))
        return sorted(entries, key=lambda e: (-e.used, e.key))

    def verify(self) -> Sequence[str]:
        """Keys of the corrupt entries; nothing is removed."""
        broken = []
        for entry in self.list():
            with contextlib.suppress(FileNotFoundError):
                try:
                    _whole(self.path(entry.key).read_bytes(), entry.key)
                except _Corrupt:
                    broken.append(entry.key)
        return sorted(broken)

    def prune(self, *, older_than: float | None = None, max_bytes: int | None = None) -> Sequence[str]:
        """Remove entries not used for `older_than` seconds, then the least recently used beyond `max_bytes`.

        Returns the removed keys. Left-overs of killed gates go too.
        """
        now, kept, removed = time.time(), 0, []
        age = np.inf if older_than is None else older_than
        room = np.inf if max_bytes is None else max_bytes
        for entry in self.list():
            kept += entry.size
            if now - entry.used > age or kept > room:
                self.path(entry.key).unlink(missing_ok=True)
                kept -= entry.size
                removed.append(entry.key)
        for half in self._folder.glob(f".*{_SUFFIX}.*"):
            with contextlib.suppress(FileNotFoundError):
                if now - half.stat().st_mtime > _STALE:
                    half.unlink()
        for log in _own(self.root / "logs").glob("*.log"):
            with contextlib.suppress(FileNotFoundError):
                if now - log.stat().st_mtime > _STALE:
                    log.unlink()
        _sweep(_own(self.root / "work"))
        return sorted(removed)

    @contextlib.contextmanager
    def workdir(self) -> Iterator[Path]:
        """A private folder for records on their way to workers; gone afterwards, or when the next gate starts."""
        parent = _own(self.root / "work")
        _sweep(parent)
        try:
            lock, name = tempfile.mkstemp(dir=parent, suffix=_LOCK)
            fcntl.flock(lock, fcntl.LOCK_EX)  # first the lock: a folder that stands alone would never be swept
            folder = Path(name.removesuffix(_LOCK))
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise StorageFailed(f"{parent}: {error.strerror or error}", "choose another store") from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            Path(name).unlink(missing_ok=True)
            os.close(lock)

    def log(self) -> Path:
        """A new private file for what workers print."""
        descriptor, name = tempfile.mkstemp(dir=_own(self.root / "logs"), prefix="shadows-", suffix=".log")
        os.close(descriptor)
        return Path(name)


def _own(path: Path) -> Path:
    """A folder that the gate made: its mode is the gate's to set, even if a umask or a copy loosened it."""
    private_dir(path)
    try:
        path.chmod(0o700)
    except OSError as error:
        raise StorageFailed(f"{path}: {error.strerror or error}", "choose a store of your own") from error
    return path


def _sweep(parent: Path) -> None:
    """Remove the work folders of gates that were killed: the kernel released their locks."""
    for lock in parent.glob(f"*{_LOCK}"):
        with contextlib.suppress(OSError), lock.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError while the gate is alive
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink()


class _Corrupt(Exception):
    """An entry that is not what was written."""


def _encode(shadow: Trained, key: str) -> bytes:
    return _sealed(
        {
            "format": FORMAT,
            "key": key,
            "kind": shadow.outputs.kind,
            "resolution": shadow.outputs.resolution,
            "accuracy_in": shadow.accuracy_in,
            "accuracy_out": shadow.accuracy_out,
        },
        outputs=shadow.outputs.values,
    )


def _decode(content: bytes, key: str) -> Trained:
    meta, arrays = _whole(content, key)
    if "outputs" not in arrays:
        raise _Corrupt(key)
    kind: Literal["logits", "probabilities"] = meta["kind"]
    return Trained(Outputs(arrays["outputs"], kind, meta["resolution"]), meta["accuracy_in"], meta["accuracy_out"])


def _encode_extra(extra: Extra, key: str) -> bytes:
    meta = {"format": FORMAT, "key": key, "of": extra.of, "steps": extra.steps, "kind": extra.kind}
    arrays = {} if extra.values is None else {"values": extra.values}
    return _sealed({**meta, "reason": extra.reason}, **arrays)


def _decode_extra(content: bytes, key: str) -> Extra:
    meta, arrays = _whole(content, key)
    if "of" not in meta:
        raise _Corrupt(key)
    return Extra(meta["of"], arrays.get("values"), tuple(meta["steps"]), meta["kind"], meta["reason"])


def _sealed(meta: dict[str, Any], **arrays: NDArray[Any]) -> bytes:
    """An .npz whose archive comment is the sha256 of all bytes before it: checked before anything is parsed."""
    text = json.dumps(meta, sort_keys=True, allow_nan=False).encode()
    buffer = io.BytesIO()
    # The type of `savez` knows nothing of arrays by name.
    np.savez(buffer, **arrays, meta=np.frombuffer(text, dtype=np.uint8))  # type: ignore[arg-type]
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = b"0" * _DIGEST
    payload = buffer.getvalue()[:-_DIGEST]
    return payload + hashlib.sha256(payload).hexdigest().encode()


def _whole(content: bytes, key: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What was sealed, meta and arrays; _Corrupt for anything else."""
    payload, digest = content[:-_DIGEST], content[-_DIGEST:]
    if hashlib.sha256(payload).hexdigest().encode() != digest:
        raise _Corrupt(key)
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        meta = json.loads(archive["meta"].tobytes())
        if meta["key"] != key or meta["format"] != FORMAT:
            raise _Corrupt(key)  # a file that was renamed
        return meta, {name: archive[name] for name in archive.files if name != "meta"}
