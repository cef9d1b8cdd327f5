"""What people decided about a report: a list beside it that only grows, each entry bound to the report and to the last.

The chain has no key: it finds accidents and careless edits. It cannot find that the newest entries were cut off.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from privacy_gate.errors import StorageFailed, UsageError
from privacy_gate.storage import sha256_of_json, write_text

FILE = "signoff.json"

Decision = Literal["approve", "reject", "conditional"]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Entry(BaseModel):
    """One person's decision.

    report_sha256  of the report that was decided about
    verdict        what that report said
    at             UTC, to the second
    previous       digest of the entry before; null for the first
    digest         sha256 over all the rest of the entry
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    report_sha256: Digest
    verdict: str
    at: str
    name: Annotated[str, Field(min_length=1, max_length=200)]
    role: Annotated[str, Field(min_length=1, max_length=200)]
    decision: Decision
    note: Annotated[str, Field(max_length=4000)]
    previous: Digest | None
    digest: Digest


class Signoffs(BaseModel):
    """signoff.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal["1.0"] = "1.0"
    entries: tuple[Entry, ...] = ()


def read(folder: Path) -> tuple[Entry, ...]:
    """All entries, oldest first, () if there are none; UsageError if the file was changed after it was written."""
    path = folder / FILE
    try:
        content = Signoffs.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise StorageFailed(f"{path}: {error.strerror or error}", "make it readable for this user") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(f"{path}: not a list of sign-offs: {where}: {first['msg']}", _RESTORE) from error
    _verify(content.entries, path)
    return content.entries


_RESTORE = "restore it from where it is kept, or move it away and sign off again"


def _verify(entries: Sequence[Entry], path: Path) -> None:
    previous: str | None = None
    for number, entry in enumerate(entries, start=1):
        if entry.previous != previous or entry.digest != _digest(entry):
            raise UsageError(f"{path}: entry {number} ({entry.name}) was changed, or one before it is gone", _RESTORE)
        previous = entry.digest


def _digest(entry: Entry) -> str:
    return sha256_of_json(entry.model_dump(mode="json", exclude={"digest"}))


def sign(
    folder: Path,
    *,
    report_sha256: str,
    verdict: str,
    name: str,
    role: str,
    decision: Decision,
    note: str,
    at: str,
) -> Entry:
    """Append a decision to the file in `folder`; UsageError if the file is broken or the decision is incomplete."""
    with _alone(folder):
        entries = read(folder)
        try:
            draft = Entry(
                report_sha256=report_sha256,
                verdict=verdict,
                at=at,
                name=name.strip(),
                role=role.strip(),
                decision=decision,
                note=note.strip(),
                previous=entries[-1].digest if entries else None,
                digest="0" * 64,
            )
        except ValidationError as error:
            first = error.errors()[0]
            raise UsageError(f"--{first['loc'][0]}: {first['msg']}", "privacy-gate signoff --help") from error
        entry = draft.model_copy(update={"digest": _digest(draft)})
        content = Signoffs(entries=(*entries, entry))
        text = json.dumps(content.model_dump(mode="json"), indent=2, ensure_ascii=True) + "\n"
        write_text(folder / FILE, text)
    return entry


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two people who sign at once must not lose one of the entries."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise StorageFailed(f"{folder}: {error.strerror or error}", "make it readable for this user") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
