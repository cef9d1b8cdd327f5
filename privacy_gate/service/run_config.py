"""What a version's own run may say: which records it was trained on, and nothing else.

Whoever may log to a run is a stranger: a file there that named code, commands or a policy would make registering a
model the execution of code. Places are those of the run itself, or below the roots that the service's file names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field, model_validator

from privacy_gate import frames
from privacy_gate.documents import Document, parse
from privacy_gate.errors import ConfigError, DataError, Diagnostic
from privacy_gate.registry import Registry
from privacy_gate.request import Column, Config, DataManifest, ImageTransform, Settings, Sha256
from privacy_gate.sources import CATALOG as READERS
from privacy_gate.sources import urls

FOLDER = "privacy_gate"
FILE = f"{FOLDER}/data.yaml"

# Readers of plain values. That of `datasets` folders is left out: what a folder may make the package do is its own.
FORMATS = ("csv", "parquet", "numpy", "arrow", "images")
_ENDINGS = {
    **dict.fromkeys((".csv", ".csv.gz", ".tsv", ".tsv.gz"), "csv"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".arrow", ".feather", ".ipc"), "arrow"),
    ".npz": "numpy",
}
_ROLES = ("members", "nonmembers", "population", "seen")
_WIDEST = 8192  # pixels of a side that images may be resized to

_NOT_DATA = "is the service's to say; a run names its records and nothing else"
_RUNS_CODE = "would run code that came with the model; log the records themselves: csv, parquet, npz, arrow or images"
_REFUSED = {
    **{field.alias or name: _NOT_DATA for name, field in Config.model_fields.items()},
    **dict.fromkeys(
        ("profile", "suite", "trust", "recipe", "command", "formats", "out", "device", "records"), _NOT_DATA
    ),
    "data": "this file is that section: write its keys at the top",
    "dataset": _RUNS_CODE,
    "env": "no function is called, so no variable of the service is shown to one",
}


class RunSource(Settings):
    """One set of records: a file or folder, and no function."""

    path: str = Field(min_length=1, max_length=1000, description="beside this file; runs:/ of this run; or in a root")
    format: Literal["csv", "parquet", "numpy", "arrow", "images"] | None = None
    sha256: Sha256 | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class RunData(Settings):
    """privacy_gate/data.yaml among the artifacts of a run: the data section of a config, without what runs code."""

    members: RunSource
    nonmembers: RunSource
    population: RunSource | None = None
    seen: RunSource | None = None
    label: str = "y"
    classes: list[str | int | float | bool] | None = None
    id: str | None = None
    person: str | None = None
    groups: list[str] = Field([])
    weight: str | None = None
    features: list[str] | None = None
    columns: dict[str, Column] | None = Field(None, alias="schema", min_length=1)
    images: ImageTransform | None = None
    drop: list[str] = Field([])
    missing: Literal["refuse", "allow"] = "refuse"
    train_size: int | None = Field(None, gt=0)


def note(run: str) -> str:
    """What the report says of such records."""
    return (
        f"the records were named by {FILE} of run {run}, which whoever registered the version chose: that they are the "
        "training records, and that the others were not trained on, is not checked by anybody"
    )


def records(registry: Registry, run: str, roots: Sequence[str], closed: Sequence[Path], work: Path) -> DataManifest:
    """The data section that a run's own file stands for; places are absolute, each with its format.

    run     id; "": the version names none
    roots   absolute folders, or URLs, below which records may lie as well
    closed  folders of the service, of which nothing is read even where they lie below a root
    work    private folder for the copy of the file
    Errors: DataError, ConfigError with every finding at its line, RegistryUnreachable.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", run):
        raise DataError("the version names no run, so nothing says which records it was trained on", _LOG)
    uri = f"runs:/{run}/{FILE}"
    try:
        file = registry.fetch(uri, work)
    except DataError as error:
        raise DataError(error.what, _LOG) from error
    return manifest(parse(file, uri), run, roots, closed)


_LOG = f"log {FILE} to the run that the model is registered from, or use `data: config`"


def manifest(document: Document, run: str, roots: Sequence[str], closed: Sequence[Path]) -> DataManifest:
    """`records`, of the file as it was read. Raises ConfigError with every finding."""
    refused = dict(_refused(document.tree))
    findings = [document.finding(trail, "not-data", reason) for trail, reason in refused.items()]
    rest = replace(document, tree=_without(document.tree, refused), findings=(*document.findings, *findings))
    data = rest.validated(RunData)
    found = data.model_dump(by_alias=True, exclude_unset=True)
    wrong: list[Diagnostic] = []
    for role in _ROLES:
        source: RunSource | None = getattr(data, role)
        if source is None:
            continue
        try:
            place = placed(source.path, run, roots, closed)
            found[role] = {"path": place, "format": _format(source), "sha256": source.sha256}
        except DataError as error:
            wrong.append(document.finding((role,), "place", f"{error.what} ({error.hint})"))
    for name, column in (data.columns or {}).items():
        if message := frames.mistake(column):
            wrong.append(document.finding(("schema", name), "schema-column", message))
    if data.images is not None and data.images.size is not None and not all(0 < s <= _WIDEST for s in data.images.size):
        wrong.append(document.finding(("images", "size"), "size", f"from 1 to {_WIDEST} pixels"))
    if wrong:
        raise ConfigError.at(wrong)
    return DataManifest.model_validate(found)


def _refused(tree: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Keys that are another's to set, and why, wherever they stand."""
    for key in tree:
        if key in _REFUSED:
            yield (key,), _REFUSED[key]
    for role in _ROLES:
        source = tree.get(role)
        if not isinstance(source, dict):
            continue
        for key in ("dataset", "env"):
            if key in source:
                yield (role, key), _REFUSED[key]
        kind = source.get("format")
        if isinstance(kind, str) and kind in READERS.names() and kind not in FORMATS:
            yield (
                (role, "format"),
                f"{kind} is read by a package that may do more than read; write {', '.join(FORMATS)}",
            )


def _without(tree: Mapping[str, Any], refused: Mapping[tuple[str, ...], str]) -> dict[str, Any]:
    """The rest, so that each key is complained about once."""
    return {
        key: {k: v for k, v in value.items() if (key, k) not in refused} if isinstance(value, dict) else value
        for key, value in tree.items()
        if (key,) not in refused
    }


def _format(source: RunSource) -> str:
    """Never left to what lies there: a stranger put it there. Raises DataError."""
    if source.format is not None:
        return source.format
    name = source.path.lower()
    fitting = [kind for ending, kind in _ENDINGS.items() if name.endswith(ending)]
    if not fitting:
        raise DataError(f"{source.path!r}: its name does not say what it is", f"add format: {', '.join(FORMATS)}")
    return fitting[0]


# --- places ---------------------------------------------------------------------------------------------------------


def placed(path: str, run: str, roots: Sequence[str], closed: Sequence[Path]) -> str:
    """The place that a path of the file means: an artifact of the run, or a file, folder or URL below a root.

    Links are followed here, once: what is returned has none. Raises DataError for all other places; of those outside of
    the roots nothing is looked at, so that nobody learns whether they are there.
    """
    if any(ord(character) < 32 or character == "\x7f" for character in path):
        raise DataError(f"{path!r}: control characters in a path", "write a plain one")
    match = re.fullmatch(r"runs:/([^/]*)/(.*)", path)
    if match is not None:
        if match[1] != run:
            raise DataError(f"{path!r}: an artifact of another run", f"of run {run} alone; log the records to it")
        return f"runs:/{run}/{_inside(match[2], path)}"
    if path.startswith("/"):
        return _local(path, roots, closed)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", path) or "::" in path:
        return _url(path, roots)
    return f"runs:/{run}/{FOLDER}/{_inside(path, path)}"


def _inside(name: str, shown: str) -> str:
    """A path within the artifacts, that no server reads as another one. Raises DataError."""
    parts = name.removesuffix("/").split("/")
    if any(part in ("", ".", "..") for part in parts) or re.search(r"[\\%?#*:\[\]]", name):
        raise DataError(f"{shown!r}: not the plain path of an artifact", "letters, digits, _ - . + = , and /, no ..")
    return "/".join(parts)


def _local(path: str, roots: Sequence[str], closed: Sequence[Path]) -> str:
    outside = DataError(f"{path!r}: not below a data root", "log the records to the run, or ask for a data root")
    lexical = PurePosixPath(path)
    if ".." in lexical.parts:
        raise outside
    for root in roots:
        if _is_url(root) or not lexical.is_relative_to(root):
            continue
        real, top = Path(path).resolve(), Path(root).resolve()
        if not real.is_relative_to(top):
            raise DataError(f"{path!r}: a link leads out of the data root", "put the records themselves there")
        own = [folder.resolve() for folder in closed]
        if any(real.is_relative_to(folder) or folder.is_relative_to(real) for folder in own):
            raise DataError(f"{path!r}: the service's own files", "records of people are elsewhere")
        if not real.is_file() and not real.is_dir():
            raise DataError(f"{path!r}: there is no such file or folder", "check the path")
        if real.is_dir() and (link := _link(real)) is not None:
            raise DataError(f"{path!r}: {link!r} in it is a link or a device", "put the records themselves there")
        return str(real)
    raise outside


def _link(folder: Path) -> str | None:
    """A name below the folder that is neither a plain file nor a folder; None: there is none."""
    for here, folders, files in os.walk(folder):
        for name in (*folders, *files):
            entry = Path(here, name)
            if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                return entry.relative_to(folder).as_posix()
    return None


def _is_url(root: str) -> bool:
    return urls.is_url(root)


def _url(path: str, roots: Sequence[str]) -> str:
    """A URL that begins with a root, letter by letter: two readers of a URL may disagree on its host, not on that."""
    for root in filter(_is_url, roots):
        start = root.rstrip("/") + "/"
        if path.startswith(start):
            urls.examine(path)
            rest = path.removeprefix(start)
            parts = rest.removesuffix("/").split("/")
            if not re.fullmatch(r"[A-Za-z0-9._~+=,/ @-]*", rest) or any(part in ("", ".", "..") for part in parts):
                break
            return path
    raise DataError(
        f"{urls.shown(path)!r}: not below a data root", "log the records to the run, or ask for a data root"
    )
