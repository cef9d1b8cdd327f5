"""Model URIs, private copies of model folders, and what an MLmodel file tells without loading anything."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from privacy_gate.errors import CandidateNotFound, DataError, GateError, StorageFailed, UnsupportedModel, UsageError
from privacy_gate.sandbox.mlmodel import MLMODEL as MLMODEL  # the registries take it from here
from privacy_gate.sandbox.mlmodel import Flavor, MLmodel, flavor_of, flavors
from privacy_gate.sandbox.mlmodel import read_mlmodel as read_mlmodel
from privacy_gate.sandbox.untrusted import clean
from privacy_gate.storage import private_dir, sha256_of_file

# Written by the download, not by the model: it would give copies of one model different digests.
_NOT_CONTENT = frozenset({"registered_model_meta"})

# --- URIs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Version:
    """models:/name/7; models:/name/latest has version None."""

    name: str
    version: str | None


@dataclass(frozen=True, slots=True)
class Alias:
    """models:/name@alias."""

    name: str
    alias: str


@dataclass(frozen=True, slots=True)
class Logged:
    """models:/m-<32 hex digits>: a logged model, registered or not."""

    model_id: str


@dataclass(frozen=True, slots=True)
class RunArtifact:
    """runs:/<run>/<path>."""

    run_id: str
    path: str


@dataclass(frozen=True, slots=True)
class Bare:
    """models:/name: says which model, not which version of it."""

    name: str


@dataclass(frozen=True, slots=True)
class Folder:
    """A local MLflow model folder."""

    path: Path


Address = Version | Alias | Logged | RunArtifact | Bare | Folder
_FORMS = "write models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN_ID/NAME, or the path of an MLflow model folder"


def parse(uri: str) -> Address:
    """What a model URI names; raises UsageError if it is none."""
    scheme, colon, rest = uri.partition(":")
    if colon and scheme == "models":
        return _parse_models(uri, rest)
    if colon and scheme == "runs":
        return parse_run(uri)
    if colon and scheme == "file":
        return Folder(Path(unquote(urlsplit(uri).path)))
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", uri):
        raise UsageError(f"{clean(uri, 200)}: not the URI of a model", _FORMS)
    return Folder(Path(uri))


def _parse_models(uri: str, rest: str) -> Address:
    wrong = UsageError(f"{clean(uri, 200)}: not the URI of a model", _FORMS)
    if not rest.startswith("/") or rest.startswith("//"):
        raise wrong
    parts = rest[1:].rstrip("/").split("/")
    if re.fullmatch(r"m-[0-9a-f]{32}", parts[0]) and len(parts) == 1:
        return Logged(parts[0])
    if len(parts) > 2 or not all(part.strip() for part in parts):
        raise wrong
    if len(parts) == 2:
        name, version = parts
        if version.isascii() and version.isdigit():
            return Version(name, str(int(version)))
        if version.lower() == "latest":
            return Version(name, None)
        raise UsageError(
            f"{clean(uri, 200)}: '{clean(version, 60)}' is not a version; stages are no longer supported",
            f"give the version an alias and write models:/{clean(name, 100)}@{clean(version, 60).lower()}",
        )
    name, at, alias = parts[0].rpartition("@")
    if not at:
        return Bare(parts[0])
    if not name or not alias:
        raise wrong
    return Alias(name, alias)


def parse_run(uri: str) -> RunArtifact:
    """`runs:/<run>/<path>`; raises UsageError for anything else, also for paths that climb out of the run."""
    match = re.fullmatch(r"runs:/+([A-Za-z0-9_-]+)/(.+)", uri)
    path = PurePosixPath(match[2].rstrip("/")) if match else PurePosixPath("..")
    if match is None or ".." in path.parts or path.is_absolute():
        raise UsageError(f"{clean(uri, 200)}: not the URI of a run's artifact", "write runs:/RUN_ID/PATH")
    return RunArtifact(match[1], str(path))


def listed(kind: str, known: Iterable[str]) -> str:
    """A hint that names what exists."""
    names = sorted((clean(n, 60) for n in known), key=lambda n: (len(n), n))
    if not names:
        return f"there is no {kind} yet"
    return f"known {kind}: {', '.join(names[:12])}{', …' if len(names) > 12 else ''}"


def bare(name: str, aliases: Iterable[str], latest: str | None) -> UsageError:
    """models:/name does not say which version."""
    name = clean(name, 100)
    ways = [f"models:/{name}@{clean(a, 60)}" for a in sorted(aliases)][:5]
    ways.append(f"models:/{name}/{latest or 'VERSION'}")
    return UsageError(f"models:/{name} does not say which version", f"write {' or '.join(ways)}")


# --- copies ---------------------------------------------------------------------------------------------------------


def new_folder(into: Path, prefix: str) -> Path:
    """An empty folder below `into` that only this user can enter."""
    private_dir(into)
    return Path(tempfile.mkdtemp(prefix=prefix, dir=into))


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder's content to `target`, files 0600, folders 0700.

    A link is copied as what it points at if that lies inside the source; raises UsageError if it does not.
    """
    root = source.resolve()
    try:
        if root.is_file():
            target.mkdir(mode=0o700, exist_ok=True)
            _copy_file(root, target / source.name)
            return
        for entry in _inside(root, root, ()):
            destination = target / entry.relative_to(root)
            if entry.is_dir():
                destination.mkdir(mode=0o700, parents=True, exist_ok=True)
            else:
                destination.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                _copy_file(entry, destination)
    except OSError as error:
        raise StorageFailed(f"copying {source}: {error.strerror or error}", "free some space") from error


def _inside(folder: Path, root: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    if folder.resolve() in above:
        raise UsageError(f"{clean(folder)}: a link that leads back to itself", "log the model without links")
    for entry in sorted(folder.iterdir()):
        real = entry.resolve()
        if not real.is_relative_to(root):
            raise UsageError(
                f"{clean(entry.relative_to(root))}: a link that leads out of the model's folder",
                "log the model with the file itself in place of the link",
            )
        if not real.exists() or not (real.is_file() or real.is_dir()):
            raise UsageError(
                f"{clean(entry.relative_to(root))}: neither a file nor a folder", "log the model without it"
            )
        yield entry
        if real.is_dir():
            yield from _inside(entry, root, (*above, folder.resolve()))


def _copy_file(source: Path, target: Path) -> None:
    descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as reader:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{source} is not a regular file")
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)


def make_private(folder: Path) -> None:
    """Modes 0700 and 0600 throughout a downloaded folder; raises UsageError if there is a link in it."""
    folder.chmod(0o700)
    for entry in sorted(folder.rglob("*")):
        if entry.is_symlink():
            raise UsageError(f"{clean(entry.relative_to(folder))}: a link in a download", "log the model without links")
        entry.chmod(0o700 if entry.is_dir() else 0o600)


def digest(folder: Path) -> str:
    """sha256 over the sorted (relative path, sha256 of content) of all files of a model.

    `registered_model_meta` is left out, since downloading writes it.
    """
    total = hashlib.sha256()
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    for name in sorted(files):
        if name not in _NOT_CONTENT:
            total.update(name.encode("utf-8", "surrogateescape") + b"\0")
            total.update(bytes.fromhex(sha256_of_file(files[name])))
    return total.hexdigest()


# --- the MLmodel file -----------------------------------------------------------------------------------------------

_GENERATIVE = frozenset(
    {
        "ag2",
        "agent",
        "agno",
        "anthropic",
        "autogen",
        "bedrock",
        "crewai",
        "diffusers",
        "dspy",
        "gemini",
        "groq",
        "haystack",
        "langchain",
        "litellm",
        "llama_index",
        "mistral",
        "openai",
        "promptflow",
        "pydantic_ai",
        "semantic_kernel",
        "sentence_transformers",
        "smolagents",
        "strands",
    }
)
_FORECASTING = frozenset({"prophet", "pmdarima", "diviner"})
_OTHER = {"statsmodels": "statistical", "johnsnowlabs": "generative", "crate": "R"}
# The flavors that are data, and the classes that MLflow makes for them and that read their file by a parser of their
# own. It calls whatever else an XGBoost model names, and unpickles what a LightGBM model calls anything but a Booster.
# Not PyTorch's .pt2: torch.export.load evaluates the expressions for sizes that such a file holds.
_CLASSES = {
    "lightgbm": frozenset({"lightgbm.basic.Booster"}),
    "xgboost": frozenset({"xgboost.core.Booster", "xgboost.sklearn.XGBClassifier", "xgboost.sklearn.XGBRFClassifier"}),
}
# Settings that MLflow writes and, for these classes, does not read.
_UNREAD = frozenset(
    {"lgb_version", "xgb_version", "model_format", "serialization_format", "skops_trusted_types", "python_version"}
)
_INERT = frozenset({".lgb", ".ubj", ".json", ".yaml", ".txt", ".md"})


def refuse_unsupported(mlmodel: MLmodel, uri: str) -> None:
    """Raise UnsupportedModel for what the MLmodel file alone shows to be no classifier, before anything is copied."""
    has = flavors(mlmodel)
    for name, settings in has.items():
        kind = _OTHER.get(name)
        if name in _GENERATIVE:
            kind = "generative"
        elif name in _FORECASTING:
            kind = "forecasting"
        elif name == "transformers" and not str(settings.get("task", "")).endswith("classification"):
            kind = f"{clean(settings.get('task', 'generative'), 40)}"
        if kind is not None:
            raise _unsupported(uri, f"flavor '{clean(name, 40)}' ({kind})")
        # lightgbm.sklearn.LGBMRegressor, xgboost.sklearn.XGBRanker, ...
        made = clean(settings.get("model_class", ""), 100)
        if made.endswith(("Regressor", "Ranker")):
            raise _unsupported(uri, f"flavor '{clean(name, 40)}', class {made}")
    metadata = mlmodel.get("metadata")
    task = str(metadata.get("task", "")) if isinstance(metadata, dict) else ""
    if task.startswith(("llm/", "agent/")):
        raise _unsupported(uri, f"task '{clean(task, 40)}' (generative)")
    if second := _second_model(flavor_of(mlmodel), has):
        raise UnsupportedModel(
            f"{clean(uri, 200)} may hold two models: flavor '{flavor_of(mlmodel)}', and {second}",
            "log it by mlflow's own log_model() with one flavor: what is judged must be what is served",
        )
    if flavor_of(mlmodel) == "pyfunc" and "python_function" not in has:
        raise _unsupported(uri, f"flavor '{clean(', '.join(sorted(has)), 80)}', which Python cannot load")


# Where a flavor names its file or folder, what that is called if it does not, and where python_function names it again.
_DATA = {
    "sklearn": ("pickled_model", None, ("data", "model_path")),
    "pytorch": ("model_data", None, ("data",)),
    "lightgbm": ("data", "model.lgb", ("data",)),
    "xgboost": ("data", "model.xgb", ("data",)),
}


def _second_model(flavor: Flavor, has: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What else than the flavor that is judged could be loaded, and be another model; None: nothing.

    `mlflow.pyfunc`, by which models are served, goes by python_function, and reads the MLmodel file beside its data.
    """
    if flavor == "pyfunc":
        return None
    if others := sorted(set(has) - {flavor, "python_function"}):
        return f"flavor '{clean(others[0], 40)}'"
    key, usual, keys = _DATA[flavor]
    own, served = has[flavor].get(key, usual), has.get("python_function", {})
    if isinstance(own, str) and "/" in own:
        return f"{clean(own, 80)}, which is not beside its MLmodel file"
    if served.get("loader_module") not in (None, f"mlflow.{flavor}"):
        return f"python_function by {clean(served['loader_module'], 80)}"
    wrong = [served[name] for name in keys if name in served and served[name] != own]
    return f"python_function with {clean(wrong[0], 80)}" if wrong else None


def _unsupported(uri: str, what: str) -> GateError:
    return UnsupportedModel(
        f"{clean(uri, 200)} is not a classifier: {what}", "the gate audits classifiers with at least two classes"
    )


def executes_code(mlmodel: MLmodel, folder: Path) -> bool:
    """Whether loading the model may run code: its own, or a function of the environment that it names.

    False only if all files are plain data, and every setting of its flavors is known to bring and to name no code.
    """
    has = flavors(mlmodel)
    native = next((name for name in has if name in _CLASSES), None)
    if native is None or not set(has) <= {native, "python_function"}:
        return True
    if not all(_is_plain(native, key, value, folder) for settings in has.values() for key, value in settings.items()):
        return True
    if "data" not in has[native] or not _names_files(mlmodel.get("saved_input_example_info"), folder):
        return True
    files = [path for path in folder.rglob("*") if path.is_file()]
    named = {MLMODEL, *_NOT_CONTENT}
    return any(path.suffix not in _INERT and path.relative_to(folder).as_posix() not in named for path in files)


def _is_plain(native: str, key: str, value: Any, folder: Path) -> bool:
    """Whether a setting of a flavor that is data leaves it data. Values are a stranger's: of any type."""
    match key:
        case "code" | "model_code_path":
            return not value
        case "model_class":  # null is no Booster: MLflow unpickles that
            return isinstance(value, str) and value in _CLASSES[native]
        case "loader_module":
            return isinstance(value, str) and value == f"mlflow.{native}"
        case "predict_fn":
            return isinstance(value, str) and value == "predict"
        case "data":
            return isinstance(value, str) and "/" not in value and _stays_inside(value, folder)
        case "env":  # where it is listed what has to be installed, which loading does not do
            return isinstance(value, str | dict) and _names_files({"env": value}, folder)
        case _:
            return key in _UNREAD


def _names_files(value: Any, folder: Path) -> bool:
    """Whether every text in it, read as a path, leads nowhere but into the folder."""
    if isinstance(value, dict):
        return all(_names_files(inner, folder) for inner in value.values())
    if isinstance(value, list):
        return all(_names_files(inner, folder) for inner in value)
    return not isinstance(value, str) or ("://" not in value and _stays_inside(value, folder))


def _stays_inside(value: str, folder: Path) -> bool:
    try:
        return (folder / value).resolve().is_relative_to(folder.resolve())
    except ValueError:  # no path at all: a null character, half a surrogate pair
        return False


MOST_INPUTS = 1 << 16  # columns of a signature


def inputs(mlmodel: MLmodel) -> tuple[tuple[str, str], ...]:
    """(name, MLflow type) of the signature's columns, in its order; () for tensors, for none, and for junk."""
    try:
        columns = json.loads(mlmodel["signature"]["inputs"])
        found = tuple((column["name"], column["type"]) for column in columns[: MOST_INPUTS + 1])
    except (KeyError, TypeError, ValueError, RecursionError):  # nothing else comes of what a stranger wrote there
        return ()
    named = all(isinstance(name, str | int) and isinstance(type, str) for name, type in found)
    names = [str(name) for name, _ in found]
    if not named or len(set(names)) < len(names) or len(names) > MOST_INPUTS or "tensor" in {t for _, t in found}:
        return ()
    return tuple((name, clean(type, 40)) for name, (_, type) in zip(names, found, strict=True))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A private copy of a model folder and what its MLmodel file tells."""

    folder: Path
    digest: str
    flavor: Flavor
    executes_code: bool
    model_id: str | None
    run_id: str | None
    inputs: tuple[tuple[str, str], ...] = ()


def take(folder: Path, uri: str) -> Snapshot:
    """Examine a private copy: what is hashed, classified and later scored are the same bytes."""
    for name in _NOT_CONTENT:  # what is not hashed is not there: else a model could keep its weights in it
        if (folder / name).is_file():
            (folder / name).unlink()
    mlmodel = read_mlmodel(folder)
    refuse_unsupported(mlmodel, uri)
    return Snapshot(
        folder=folder,
        digest=digest(folder),
        flavor=flavor_of(mlmodel),
        executes_code=executes_code(mlmodel, folder),
        model_id=_text(mlmodel.get("model_id")),
        run_id=_text(mlmodel.get("run_id")),
        inputs=inputs(mlmodel),
    )


def _text(value: Any) -> str | None:
    return clean(value, 200) if isinstance(value, str) and value else None


def take_local(source: Path, uri: str, into: Path) -> Snapshot:
    """Screen a local model folder, copy it below `into`, examine the copy."""
    if not source.is_dir():
        raise CandidateNotFound(f"{clean(uri, 200)}: no such folder", _FORMS)
    refuse_unsupported(read_mlmodel(source), uri)
    folder = new_folder(into, "model-")
    copy(source, folder)
    return take(folder, uri)


def only_file(folder: Path, uri: str) -> Path:
    """The file that was fetched into an empty folder; raises DataError if there is none."""
    found = sorted(folder.iterdir())
    if len(found) != 1:
        raise DataError(f"{clean(uri, 200)}: nothing there", "name an artifact of the run")
    return found[0]
