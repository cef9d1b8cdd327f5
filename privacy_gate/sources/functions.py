"""Records that a function of the team makes: `dataset: path.py:function`, run in a process of its own."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privacy_gate.catalog import did_you_mean
from privacy_gate.errors import ConfigError, DataError, GateError, StorageFailed, WorkerDied
from privacy_gate.request import DataManifest
from privacy_gate.sandbox import jobs
from privacy_gate.sandbox.environment import clean_environment
from privacy_gate.sandbox.guard import keep_nice
from privacy_gate.sandbox.runtime import HERE
from privacy_gate.sandbox.untrusted import clean
from privacy_gate.storage import private_dir, write_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from numpy.typing import NDArray

PATIENCE = 3600.0
"""Seconds that a function has, unless its caller says otherwise."""

TABLE = "records.arrow"
META = "meta.json"
_META_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Function:
    """A function in a file beside the config."""

    path: Path
    name: str


def array_file(number: int) -> str:
    """Where the child leaves an array."""
    return f"array_{number}.npy"


def locate(reference: str, folder: Path, key: str = "dataset") -> Function:
    """The file and function behind `path.py:function`, found without running it.

    key  of the config, for messages
    Raises ConfigError.
    """
    file, separator, name = reference.rpartition(":")
    if not separator or not file or not name.isidentifier():
        raise ConfigError(f"{key}: {reference!r} is not path.py:function", f"write {key}: path.py:function")
    path = (folder / file).resolve()
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        hint = did_you_mean(path.name, beside) if beside else f"paths start at {folder.resolve()}"
        raise ConfigError(f"{key}: there is no file {path}", hint)
    names = _defined(parse(path))
    if names is not None and name not in names:
        hint = did_you_mean(name, sorted(names)) if names else "the file defines no function"
        raise ConfigError(f"{key}: {path.name} defines no {name!r}", hint)
    return Function(path, name)


def parse(path: Path) -> ast.Module:
    """The syntax tree of a Python file; ConfigError where it is none."""
    try:
        return ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise ConfigError(f"{path}:{line}: not valid Python ({type(error).__name__})", "mend the file") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})", "give this user read access") from error


def _defined(tree: ast.Module) -> set[str] | None:
    """Names that are bound at the top level; None where statements other than the plain ones may bind more."""
    names: set[str] = set()
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names.update((alias.asname or alias.name).partition(".")[0] for alias in aliases)
            case ast.Assign() | ast.AnnAssign():
                names.update(n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
            case ast.Expr() | ast.Pass() | ast.Assert() | ast.AugAssign() | ast.Delete() | ast.Raise():
                pass
            case _:
                return None
    return None if "*" in names else names


def call(
    reference: str,
    manifest: DataManifest,
    base: Path,
    work: Path,
    *,
    logs: Path | None = None,
    timeout: float = PATIENCE,
) -> pd.DataFrame | Mapping[str, NDArray[Any]]:
    """What the function makes: a frame, or arrays by name, memory-mapped from a new folder below `work`.

    It runs in the config's folder, in a session of its own, with the environment variables of `data.env` beside the
    few that all children get. What it prints goes into a private log, which is kept if it fails.
    Errors: ConfigError if there is no such function, DataError for what it raises or returns, WorkerDied if it ends or
    hangs, StorageFailed.
    """
    function = locate(reference, base)
    variables = _variables(manifest)
    with _place(work, logs) as (folder, log):
        out, scratch = private_dir(folder / "out"), private_dir(folder / "scratch")
        order = {
            "file": str(function.path),
            "function": function.name,
            "label": manifest.label,
            "out": str(out.absolute()),
            "parent": os.getpid(),
        }
        path = folder / "job.json"
        write_text(path, json.dumps(order))
        hint = f"what it printed is in {log.name} in the {'logs' if logs else 'work folder'} of the store"
        code = _run(path, {**clean_environment(os.environ, scratch), **variables}, base, log, timeout, reference, hint)
        meta = _meta(out, code, reference, hint)
        if "error" in meta:
            raise _reported(meta["error"], reference, hint)
        shutil.rmtree(scratch, ignore_errors=True)
        return _records(meta, out, manifest, reference)


def _variables(manifest: DataManifest) -> dict[str, str]:
    if absent := [name for name in manifest.env if name not in os.environ]:
        raise DataError(
            f"data.env: {', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not set",
            "set them where the gate runs, or take them out of data.env",
        )
    return {name: os.environ[name] for name in manifest.env}


@contextmanager
def _place(work: Path, logs: Path | None) -> Iterator[tuple[Path, Path]]:
    """A private folder, which stays if all goes well, and a log, which stays if not."""
    private_dir(work)
    try:
        folder = Path(tempfile.mkdtemp(prefix="dataset-", dir=work))
    except OSError as error:
        raise StorageFailed(f"{work}: {error.strerror or error}", "choose a folder this user may write to") from error
    log = work / f"{folder.name}.log"
    try:
        yield folder, log
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, GateError) and logs is not None and log.exists():
            jobs.keep_log(log, logs)
        raise
    log.unlink(missing_ok=True)


def _run(
    job: Path, environment: dict[str, str], base: Path, log: Path, timeout: float, reference: str, hint: str
) -> int:
    """The child's exit code; on Linux, nothing that it started is left."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        child = subprocess.Popen(  # noqa: S603  # our own interpreter and module, a path of our own making
            [*HERE.command("privacy_gate.sources.child"), str(job.absolute())],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=base,
            start_new_session=True,
        )
        keep_nice(child.pid)
        try:
            return child.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise WorkerDied(f"{reference} did not end within {timeout:g} s", f"make it faster; {hint}") from error
        finally:
            jobs._end(child)


def _meta(out: Path, code: int, reference: str, hint: str) -> Mapping[str, Any]:
    try:
        with jobs.open_file(out / META) as stream:
            meta = json.loads(stream.read(_META_LIMIT))
        if not isinstance(meta, dict):
            raise ValueError("no object")
    except FileNotFoundError:
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        why = "out of memory, perhaps; " if code == -signal.SIGKILL else ""
        raise WorkerDied(f"{reference} ended without records ({how})", why + hint) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{reference} left nothing that can be read", hint) from error
    return meta


def _reported(error: Any, reference: str, hint: str) -> DataError | StorageFailed:
    """The error that the child told of: the gate's own words, or the kind and place of what the function raised."""
    told = error if isinstance(error, dict) else {}
    if told.get("gate") is True:
        mend = clean(told.get("hint", ""), 300)
        return DataError(f"{reference}: {clean(told.get('what', ''), 500)}", f"{mend}; {hint}" if mend else hint)
    if told.get("full") is True:  # nobody's mistake in the config or the function
        return StorageFailed(f"{reference}: there is no space left for its records", f"free some space; {hint}")
    name, where = jobs.dotted(told.get("class")) or "an error", jobs.dotted(told.get("where"))
    return DataError(f"{reference} raised {name}{f' in {where}' if where else ''}", hint)


def _records(
    meta: Mapping[str, Any], out: Path, manifest: DataManifest, reference: str
) -> pd.DataFrame | dict[str, NDArray[Any]]:
    """What the child left, checked as if a stranger had written it: plain files, no pickles, as long as each other."""
    from privacy_gate.sources.arrow import table
    from privacy_gate.sources.numpy_arrays import FEATURES, mapped
    from privacy_gate.sources.tables import to_frame

    try:
        if meta.get("kind") == "table":
            jobs.open_file(out / TABLE).close()
            return to_frame(table(out / TABLE), Path(reference), manifest)
        names = meta.get("names")
        if not isinstance(names, list) or FEATURES not in names or len(set(map(str, names))) != len(names):
            raise ValueError("no names")
        arrays = {}
        for number, name in enumerate(names):
            path = out / array_file(number)
            jobs.open_file(path).close()
            arrays[str(name)] = mapped(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{reference} left nothing that can be read", "run it by hand, and look at its result"
        ) from error
    if len({len(array) for array in arrays.values()}) > 1:
        raise DataError(f"{reference} made arrays of different lengths", "one row per record in every array")
    return arrays
