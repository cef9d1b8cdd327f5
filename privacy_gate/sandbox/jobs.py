"""One job of the sandbox: a child process in a folder of its own, and what it left there, read with suspicion."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from privacy_gate import features as tables
from privacy_gate.datamodel import Candidate
from privacy_gate.errors import (
    DataError,
    GateError,
    ModelOutputUnusable,
    ModuleMissing,
    NotEvaluable,
    StorageFailed,
    UnsupportedModel,
    WorkerDied,
)
from privacy_gate.features import AnyFeatures, Stored
from privacy_gate.sandbox import feeding
from privacy_gate.sandbox.environment import clean_environment
from privacy_gate.sandbox.guard import keep_nice
from privacy_gate.sandbox.runtime import HERE, Runtime
from privacy_gate.sandbox.untrusted import clean
from privacy_gate.storage import private_dir

_META_LIMIT = 64 << 20
_GRACE = 10.0  # seconds in which the watcher must have ended what the model started


@dataclass(frozen=True, slots=True)
class Job:
    """Where a child works: its private folder with what it reads, writes and may scribble in, and its log."""

    folder: Path
    out: Path
    scratch: Path
    log: Path
    keep: Path | None

    @property
    def hint(self) -> str:
        """Where the model's own words are."""
        # Reports are shared: neither the model's words nor where this user's folders lie belong there.
        place = f"{self.keep.name}/{self.log.name} in the store" if self.keep else f"{self.log.name} in the work folder"
        return f"the model's own output is in {place}"


@contextlib.contextmanager
def job_in(workdir: Path, logs: Path | None) -> Iterator[Job]:
    """A private folder for one child; only the log outlives it, since the rest holds training records."""
    private_dir(workdir)
    folder = Path(tempfile.mkdtemp(prefix="sandbox-", dir=workdir))
    log = workdir / f"{folder.name}.log"
    try:
        yield Job(folder, private_dir(folder / "out"), private_dir(folder / "scratch"), log, logs)
    except GateError:
        if logs is not None and log.exists():
            keep_log(log, logs)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def keep_log(log: Path, logs: Path) -> Path:
    """Where the log is now. Raises StorageFailed."""
    try:
        return Path(shutil.move(log, private_dir(logs) / log.name))
    except OSError as error:
        raise StorageFailed(
            f"the model's log cannot be kept: {error.strerror or type(error).__name__}", "free some space"
        ) from error


def _environment(candidate: Candidate, scratch: Path, runtime: Runtime) -> dict[str, str]:
    kept = clean_environment(os.environ, scratch, runtime)
    # A model that is classified as plain data must load as plain data, whatever its files say.
    kept["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "true" if candidate.executes_code else "false"
    return kept


def run(
    candidate: Candidate,
    features: AnyFeatures | None,
    job: Job,
    order: Mapping[str, Any],
    timeout: float,
    runtime: Runtime = HERE,
) -> Mapping[str, Any]:
    """The child's meta.json; every way of not answering is an error.

    order  what the child is asked for, beside the model and the features
    """
    with feeding.offered(features) as offer:
        where = None if features is None or offer else str(_save(features, job.folder / "features").absolute())
        order = {
            **order,
            "folder": str(candidate.snapshot.absolute()),
            "flavor": candidate.flavor,
            "features": offer.told if offer else where,
            "out": str(job.out.absolute()),
            "parent": os.getpid(),
            "device": runtime.device,
        }
        path = job.folder / "job.json"
        path.write_text(json.dumps(order))
        descriptor = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        handles = (offer.handle,) if offer else ()
        with os.fdopen(descriptor, "wb") as log:
            environment = _environment(candidate, job.scratch, runtime)
            code = _spawn(path, environment, job, log, timeout, runtime, handles)
    if offer:
        offer.check()
    meta = _meta(job, code)
    if isinstance(error := meta.get("error"), dict):
        raise _reported(error, features, job)
    return meta


def _save(features: AnyFeatures, stem: Path) -> Path:
    try:
        return tables.save(features, stem)
    except OSError as error:
        raise StorageFailed(f"{stem.parent}: {error.strerror or error}", "free some space") from error
    except (ValueError, TypeError, OverflowError) as error:  # its words quote the value that did not fit
        raise DataError(
            f"the features cannot be handed over ({type(error).__name__})", "give every column values of one type"
        ) from error


def _spawn(
    path: Path,
    environment: dict[str, str],
    job: Job,
    log: IO[bytes],
    timeout: float,
    runtime: Runtime,
    handles: tuple[int, ...] = (),
) -> int:
    """The child's exit code. On Linux, all that it started is gone when this returns, sessions of their own included.

    The child watches over the model's process (see `child`). A model that stops or kills its watcher, which one user's
    processes may do to each other, can still leave a process behind; elsewhere, so can one that leaves its session.
    """
    child = subprocess.Popen(  # noqa: S603  # a chosen interpreter, our own module, a path of our own making
        [*runtime.command("privacy_gate.sandbox.child"), str(path.absolute())],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=job.scratch,
        pass_fds=handles,
        start_new_session=True,
    )
    keep_nice(child.pid)
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


def _meta(job: Job, code: int) -> Mapping[str, Any]:
    try:
        with open_file(job.out / "meta.json") as stream:
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


def open_file(path: Path) -> IO[bytes]:
    """A regular file that the child wrote; never what a link of the child's points at."""
    stream = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(f"{path.name} is not a regular file")
    return stream


def array(path: Path, job: Job) -> NDArray[Any]:
    """An array that the child left, of whatever type and shape, never a pickle; ModelOutputUnusable for all else."""
    try:
        with open_file(path) as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
            # Believe the file's size, not its header: a claimed shape alone could exhaust the memory.
            if int(np.prod(shape, dtype=object)) * dtype.itemsize != os.fstat(stream.fileno()).st_size - stream.tell():
                raise ValueError("header and size disagree")
            stream.seek(0)
            return cast("NDArray[Any]", np.load(stream, allow_pickle=False))
    # numpy parses a header as Python: a damaged one is a SyntaxError, or the tokenizer's.
    except (OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError, OverflowError) as error:
        raise ModelOutputUnusable("the model's process left no readable predictions", job.hint) from error


_REPORTABLE: Mapping[str, type[GateError]] = {
    c.__name__: c
    for c in (DataError, ModelOutputUnusable, ModuleMissing, NotEvaluable, StorageFailed, UnsupportedModel)
}


def _reported(error: Mapping[str, Any], features: AnyFeatures | None, job: Job) -> GateError:
    """The error that the child told of: the gate's own words, or the kind and place of what the model raised."""
    kind = _REPORTABLE.get(str(error.get("class"))) if error.get("gate") is True else None
    if kind is None:
        name, where = dotted(error.get("class")) or "an error", dotted(error.get("where"))
        what = f"the model could not be loaded and scored: {name}{f' in {where}' if where else ''}"
        # Some import what they need when they are asked.
        sort = ModuleMissing if name == "ModuleNotFoundError" else ModelOutputUnusable
        return sort(what + _given(features), job.hint)
    what, hint = clean(error.get("what", ""), 500), clean(error.get("hint", ""), 300)
    return kind(what, f"{hint}; {job.hint}" if hint else job.hint)


def dotted(told: Any) -> str:
    """A dotted name, with file and line perhaps; "" for anything else that claims to be one."""
    return (
        told if isinstance(told, str) and re.fullmatch(r"[\w.<>-]{1,200}( \([\w.<>-]{1,100}:\d{1,7}\))?", told) else ""
    )


def _given(features: AnyFeatures | None) -> str:
    """What the gate itself knows of the columns, without a value of them."""
    if features is None or features.ndim != 2:
        return ""
    dtypes = (
        [features.dtype] * features.shape[1] if isinstance(features, np.ndarray | Stored) else list(features.dtypes)
    )
    numbers = sum(getattr(dtype, "kind", "O") in "biuf" for dtype in dtypes)
    return f"; it was given {len(dtypes)} feature columns, {len(dtypes) - numbers} of them no numbers"
