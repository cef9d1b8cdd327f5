"""Scoring models that nobody trusts: each in a process of its own, which returns arrays and nothing else.

The child has a clean environment, no terminal, a session of its own and a time limit. It is not yet a jail: it may
read what its user may read and open connections. What it answers is checked here as if an attacker had written it.

What a model says when it fails may quote records: errors name the kind and the place of a failure, and the model's own
words go to a private log. A log of a failure is kept in `logs`, if a folder for it is given.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from privacy_gate import features as tables
from privacy_gate.datamodel import Candidate, Description, Outputs
from privacy_gate.errors import (
    DataError,
    GateError,
    ModelOutputUnusable,
    NotEvaluable,
    StorageFailed,
    UnsupportedModel,
    WorkerDied,
)
from privacy_gate.features import Features
from privacy_gate.sandbox.environment import clean_environment
from privacy_gate.sandbox.outputs import Kind, checked
from privacy_gate.sandbox.untrusted import clean
from privacy_gate.storage import private_dir

__all__ = ["Scored", "describe", "examine", "score"]

BATCH = 1024  # rows in a batch; the first one is scored twice
SAME = 1e-6  # two answers to one batch that differ by more come from a model that throws dice
_META_LIMIT = 64 << 20
_GRACE = 10.0  # seconds in which the watcher must have ended what the model started


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What the candidate answered.

    outputs         [n, K]
    deterministic   whether the first batch, asked twice, was answered the same (within 1e-6)
    max_difference  largest difference between the two answers
    log             private file with what the model printed
    """

    outputs: Outputs
    deterministic: bool
    max_difference: float
    log: Path


def describe(candidate: Candidate, workdir: Path, *, timeout: float = 600.0, logs: Path | None = None) -> Description:
    """Load the candidate in a process of its own and ask what it is; refuses regressors."""
    with _job(workdir, logs) as job:
        return _described(candidate, _run(candidate, None, job, "auto", timeout), job)


def score(
    candidate: Candidate,
    features: Features,
    workdir: Path,
    *,
    kind: Kind = "auto",
    timeout: float = 600.0,
    logs: Path | None = None,
) -> Scored:
    """Score `features` in a process of its own; `examine` without the description."""
    return examine(candidate, features, workdir, kind=kind, timeout=timeout, logs=logs)[1]


def examine(
    candidate: Candidate,
    features: Features,
    workdir: Path,
    *,
    kind: Kind = "auto",
    timeout: float = 600.0,
    logs: Path | None = None,
) -> tuple[Description, Scored]:
    """Describe and score the candidate in one process.

    workdir  holds training records while the child runs, and its log
    logs     where the log goes if this fails; without it, it stays in `workdir`
    Raises UnsupportedModel (a regressor), DataError (wrong columns), ModelOutputUnusable (not a prediction),
    NotEvaluable (the same answer to everything), WorkerDied (no answer, or none in `timeout` seconds).
    """
    with _job(workdir, logs) as job:
        meta = _run(candidate, features, job, kind, timeout)
        description = _described(candidate, meta, job)
        asked: Kind = "logits" if meta.get("kind") == "logits" else "probabilities"
        outputs = checked(_array(job.out / "outputs.npy", job), asked, len(features))
        again = checked(_array(job.out / "outputs_again.npy", job), asked, min(BATCH, len(features)))
        _evaluable(outputs, description)
        if again.values.shape[1] != outputs.values.shape[1]:
            raise ModelOutputUnusable("the model changes its number of classes from call to call", job.hint)
        difference = float(np.max(np.abs(outputs.values[: len(again.values)] - again.values)))
        return description, Scored(outputs, difference <= SAME, difference, job.log)


# --- one job --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Job:
    folder: Path
    out: Path
    scratch: Path
    log: Path
    keep: Path | None

    @property
    def hint(self) -> str:
        # Reports are shared: neither the model's words nor where this user's folders lie belong there.
        place = f"{self.keep.name}/{self.log.name} in the store" if self.keep else f"{self.log.name} in the work folder"
        return f"the model's own output is in {place}"


@contextlib.contextmanager
def _job(workdir: Path, logs: Path | None) -> Any:
    """A private folder for one child; only the log outlives it, since the rest holds training records."""
    private_dir(workdir)
    folder = Path(tempfile.mkdtemp(prefix="sandbox-", dir=workdir))
    log = workdir / f"{folder.name}.log"
    try:
        yield _Job(folder, private_dir(folder / "out"), private_dir(folder / "scratch"), log, logs)
    except GateError:
        if logs is not None and log.exists():
            _keep(log, logs)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _keep(log: Path, logs: Path) -> None:
    try:
        shutil.move(log, private_dir(logs) / log.name)
    except OSError as error:
        raise StorageFailed(
            f"the model's log cannot be kept: {error.strerror or type(error).__name__}", "free some space"
        ) from error


def _environment(candidate: Candidate, scratch: Path) -> dict[str, str]:
    kept = clean_environment(os.environ, scratch)
    # A model that is classified as plain data must load as plain data, whatever its files say.
    kept["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "true" if candidate.executes_code else "false"
    return kept


def _run(candidate: Candidate, features: Features | None, job: _Job, kind: Kind, timeout: float) -> Mapping[str, Any]:
    """The child's meta.json; every way of not answering is an error."""
    order = {
        "folder": str(candidate.snapshot.absolute()),
        "flavor": candidate.flavor,
        "features": None if features is None else str(_save(features, job.folder / "features").absolute()),
        "kind": kind,
        "batch_size": BATCH,
        "out": str(job.out.absolute()),
        "parent": os.getpid(),
    }
    path = job.folder / "job.json"
    path.write_text(json.dumps(order))
    descriptor = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as log:
        code = _spawn(path, _environment(candidate, job.scratch), job, log, timeout)
    meta = _meta(job, code)
    if isinstance(error := meta.get("error"), dict):
        raise _reported(error, features, job)
    return meta


def _save(features: Features, stem: Path) -> Path:
    try:
        return tables.save(features, stem)
    except OSError as error:
        raise StorageFailed(f"{stem.parent}: {error.strerror or error}", "free some space") from error
    except (ValueError, TypeError, OverflowError) as error:  # its words quote the value that did not fit
        raise DataError(
            f"the features cannot be handed over ({type(error).__name__})", "give every column values of one type"
        ) from error


def _spawn(path: Path, environment: dict[str, str], job: _Job, log: IO[bytes], timeout: float) -> int:
    """The child's exit code. On Linux, all that it started is gone when this returns, sessions of their own included.

    The child watches over the model's process (see `child`). A model that stops or kills its watcher, which one user's
    processes may do to each other, can still leave a process behind; elsewhere, so can one that leaves its session.
    """
    child = subprocess.Popen(  # noqa: S603  # our own interpreter and module, a path of our own making
        [sys.executable, "-I", "-m", "privacy_gate.sandbox.child", str(path.absolute())],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=job.scratch,
        start_new_session=True,
    )
    try:
        return child.wait(timeout)
    except subprocess.TimeoutExpired as error:
        raise WorkerDied(
            f"the model did not answer within {timeout:g} s",
            f"give it more time, or fewer records; {job.hint}",
        ) from error
    finally:
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Let the watcher end everything, then make sure of the watcher itself."""
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _meta(job: _Job, code: int) -> Mapping[str, Any]:
    try:
        with _open(job.out / "meta.json") as stream:
            meta = json.loads(stream.read(_META_LIMIT))
    except FileNotFoundError:
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise WorkerDied(
            f"the model's process ended without an answer ({how})",
            f"{'out of memory, perhaps; ' if code == -signal.SIGKILL else ''}{job.hint}",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelOutputUnusable("the model's process left no readable answer", job.hint) from error
    if not isinstance(meta, dict):
        raise ModelOutputUnusable("the model's process left no readable answer", job.hint)
    return meta


def _open(path: Path) -> IO[bytes]:
    """A regular file that the child wrote; never what a link of the child's points at."""
    stream = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(f"{path.name} is not a regular file")
    return stream


def _array(path: Path, job: _Job) -> NDArray[Any]:
    try:
        with _open(path) as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
            # Believe the file's size, not its header: a claimed shape alone could exhaust the memory.
            if int(np.prod(shape, dtype=object)) * dtype.itemsize != os.fstat(stream.fileno()).st_size - stream.tell():
                raise ValueError("header and size disagree")
            stream.seek(0)
            return cast("NDArray[Any]", np.load(stream, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise ModelOutputUnusable("the model's process left no readable predictions", job.hint) from error


_REPORTABLE: Mapping[str, type[GateError]] = {
    c.__name__: c for c in (DataError, ModelOutputUnusable, NotEvaluable, UnsupportedModel)
}


def _reported(error: Mapping[str, Any], features: Features | None, job: _Job) -> GateError:
    """The error that the child told of: the gate's own words, or the kind and place of what the model raised."""
    kind = _REPORTABLE.get(str(error.get("class"))) if error.get("gate") is True else None
    if kind is None:
        name, where = _name(error.get("class")) or "an error", _name(error.get("where"))
        what = f"the model could not be loaded and scored: {name}{f' in {where}' if where else ''}"
        return ModelOutputUnusable(what + _given(features), job.hint)
    what, hint = clean(error.get("what", ""), 500), clean(error.get("hint", ""), 300)
    return kind(what, f"{hint}; {job.hint}" if hint else job.hint)


def _name(told: Any) -> str:
    """A dotted name, with file and line perhaps; "" for anything else that claims to be one."""
    return (
        told if isinstance(told, str) and re.fullmatch(r"[\w.<>-]{1,200}( \([\w.<>-]{1,100}:\d{1,7}\))?", told) else ""
    )


def _given(features: Features | None) -> str:
    """What the gate itself knows of the columns, without a value of them."""
    if features is None or features.ndim != 2:
        return ""
    dtypes = [features.dtype] * features.shape[1] if isinstance(features, np.ndarray) else list(features.dtypes)
    numbers = sum(getattr(dtype, "kind", "O") in "biuf" for dtype in dtypes)
    return f"; it was given {len(dtypes)} feature columns, {len(dtypes) - numbers} of them no numbers"


def _described(candidate: Candidate, meta: Mapping[str, Any], job: _Job) -> Description:
    told = meta.get("description")
    if not isinstance(told, dict) or told.get("kind") not in ("classifier", "regressor", "module", "unknown"):
        raise ModelOutputUnusable("the model's process left no readable description", job.hint)
    if told["kind"] == "regressor":
        raise UnsupportedModel(
            f"{clean(meta.get('type', 'the model'), 100)} is a regressor",
            "the gate audits classifiers with at least two classes",
        )
    classes, recipe, versions = told.get("classes"), told.get("recipe"), told.get("versions")
    return Description(
        flavor=candidate.flavor,
        kind=told["kind"],
        classes=tuple(_cleaned(c) for c in classes) if isinstance(classes, list) else None,
        recipe=_cleaned(recipe) if isinstance(recipe, dict) else None,
        versions=_cleaned(versions) if isinstance(versions, dict) else {},
    )


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return {clean(k): _cleaned(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_cleaned(v) for v in value]
    return clean(value) if isinstance(value, str) else value


def _evaluable(outputs: Outputs, description: Description) -> None:
    classes = outputs.values.shape[1]
    if description.classes is not None and len(description.classes) != classes:
        raise ModelOutputUnusable(
            f"the model answers with {classes} columns and knows {len(description.classes)} classes",
            "log the model whose classes_ belong to its outputs",
        )
    if len(outputs.values) > 1 and (outputs.values == outputs.values[0]).all():
        raise NotEvaluable(
            f"the model gives the same answer to all {len(outputs.values)} records",
            "nothing can be learned from it; check that the features reach the model",
        )
