"""The gate's side of a shadow worker: a plain process that gets job numbers and leaves arrays, nothing else.

Workers run the code of strangers. What one writes, into the pipe or into files, is read here as if an attacker had
written it: bounded, of a known size, never unpickled. What has no known form ends the run with an error.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import signal
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate import errors
from privacy_gate.datamodel import Floats, Outputs
from privacy_gate.errors import GateError, ModelOutputUnusable, RecipeFailed, StorageFailed
from privacy_gate.sandbox import runtime
from privacy_gate.sandbox.environment import clean_environment
from privacy_gate.sandbox.guard import keep_nice
from privacy_gate.sandbox.jobs import dotted
from privacy_gate.sandbox.outputs import PROBE_WIDTH, checked, probed
from privacy_gate.sandbox.untrusted import clean
from privacy_gate.shadows.worker import DONE, READY, Order
from privacy_gate.signals import PROBES

_TOKEN_LIMIT = 64  # bytes that a worker may say at once
_META_LIMIT = 256 << 10
_TRACE_LIMIT = 4 << 30  # bytes that a worker may leave of what one shadow answered while it was trained
_TYPES: Mapping[str, np.dtype[Any]] = {"float32": np.dtype(np.float32), "float64": np.dtype(np.float64)}
_GROWN = 300 << 20  # bytes that a worker may grow by after its first shadow before another takes its place
_REPORTABLE = (
    *("RecipeFailed", "ModelOutputUnusable", "ModuleMissing"),
    *("UnsupportedModel", "DataError", "ConfigError", "UsageError"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a worker told of one shadow, checked.

    outputs  [U, K]
    probes   probe -> [n] or [n, d] on the records that were asked about
    absent   probe -> why there is nothing
    failed   probe -> class of the error that it raised; these are in `absent`, too
    trace    [E, U, K] float32 answers after each step; None where the recipe told of none
    steps    [E]
    """

    outputs: Outputs
    probes: Mapping[str, Floats]
    absent: Mapping[str, str]
    failed: Mapping[str, str]
    trace: NDArray[np.float32] | None
    steps: tuple[int, ...]


@dataclass(slots=True, eq=False)
class Pool:
    """What all workers of one training share.

    order          what they are to do
    folder         private; holds the order, the answers and the workers' scratch space
    log            open file descriptor for what they print
    rows, columns  shape of an answer
    asked          records that probes are asked about
    environment    settings beside the allow-list
    answers        open folder: a worker cannot put another one in its place
    """

    order: Order
    folder: Path
    log: int
    rows: int
    columns: int
    asked: int
    environment: Mapping[str, str]
    answers: int
    _jobs: itertools.count[int] = field(default_factory=itertools.count)

    @classmethod
    def of(
        cls, order: Order, folder: Path, log: Path, shape: tuple[int, int, int], environment: Mapping[str, str]
    ) -> Pool:
        """Write the order, open the log and the folder of answers. Raises StorageFailed.

        shape  rows, columns, asked
        """
        try:
            with (folder / "order.pkl").open("wb") as stream:
                runtime.Portable(stream).dump(order)
            for name in ("answers", "scratch"):
                (folder / name).mkdir(mode=0o700)
            descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
            answers = os.open(folder / "answers", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            raise StorageFailed(f"{folder}: {error.strerror or error}", "free some space") from error
        return cls(order, folder, descriptor, *shape, environment, answers)

    def close(self) -> None:
        """After the last worker has ended."""
        os.close(self.log)
        os.close(self.answers)

    def worker(self) -> Worker:
        """Start a fresh interpreter, without the caller's main module and environment, in a session of its own."""
        heard, said = os.pipe()
        os.set_blocking(heard, False)
        scratch = self.folder / "scratch"
        try:
            process = subprocess.Popen(  # noqa: S603  # a chosen interpreter, our own module, paths of our own making
                [
                    *self.order.context.runtime.command("privacy_gate.shadows.worker"),
                    str(self.folder.absolute()),
                    str(os.getpid()),
                    str(said),
                ],
                stdin=subprocess.PIPE,
                stdout=self.log,
                stderr=self.log,
                env={**clean_environment(os.environ, scratch, self.order.context.runtime), **self.environment},
                cwd=scratch,  # what trainers leave behind (logs, checkpoints) tells of records
                pass_fds=(said,),
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            os.close(heard)
            raise errors.WorkerDied(
                f"no worker could be started: {error.strerror or error}", "fewer --jobs need fewer processes"
            ) from error
        finally:
            os.close(said)
        keep_nice(process.pid)
        return Worker(process, heard)

    def number(self) -> int:
        """A job number that was not used before: an answer cannot be one of an earlier attempt."""
        return next(self._jobs)

    def answer(self, job: int, shadow: int) -> Answer:
        """What the worker left for this job. Raises the error that it reports, or ModelOutputUnusable."""
        try:
            meta = json.loads(self._read(f"{job}.json", _META_LIMIT))
            if isinstance(told := meta.get("error"), dict):
                raise _reported(told, shadow)
            outputs = self._outputs(job, meta)
            found = self._probes(job, meta, shadow)
            trace, steps = self._trace(job, meta.get("trace"), outputs.kind)
            return Answer(outputs, *found, trace, steps)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelOutputUnusable(f"shadow {shadow}: its worker left no readable answer") from error
        except _Unfit as error:
            raise ModelOutputUnusable(f"shadow {shadow}: {error.cause.what}", error.cause.hint) from error
        finally:
            probes = (f"probe{i}" for i in range(len(self.order.probes)))
            for name in ("json", "values", "trace", *probes):
                with contextlib.suppress(OSError):
                    os.unlink(f"{job}.{name}", dir_fd=self.answers)

    def _outputs(self, job: int, meta: Mapping[str, Any]) -> Outputs:
        dtype, order, kind = _TYPES[meta["dtype"]], meta["order"], meta["kind"]
        if order not in ("C", "F") or kind not in ("logits", "probabilities"):
            raise ValueError(meta)
        raw = self._read(f"{job}.values", self.rows * self.columns * dtype.itemsize)
        values: NDArray[Any] = np.frombuffer(raw, dtype).reshape((self.rows, self.columns), order=order)
        with _fitting():
            return checked(values, kind, self.rows)

    def _probes(
        self, job: int, meta: Mapping[str, Any], shadow: int
    ) -> tuple[dict[str, Floats], dict[str, str], dict[str, str]]:
        told = meta.get("probes")
        if not isinstance(told, list) and self.order.probes:
            raise ValueError("no probes")
        values: dict[str, Floats] = {}
        absent: dict[str, str] = {}
        broken: dict[str, str] = {}
        for i, (name, one) in enumerate(zip(self.order.probes, told or (), strict=True)):
            if "failed" in one:
                broken[name], where = dotted(one["failed"]) or "an error", dotted(one["where"])
                absent[name] = f"shadow {shadow}: the probe failed: {broken[name]}{f' in {where}' if where else ''}"
            elif "absent" in one:
                absent[name] = f"shadow {shadow}: {clean(one['absent'], 500)}"
            else:
                values[name] = self._found(f"{job}.probe{i}", one["width"], PROBES[name].vector)
        return values, absent, broken

    def _found(self, name: str, width: Any, vector: bool) -> Floats:
        if type(width) is not int or not 0 <= width <= PROBE_WIDTH:
            raise ValueError("no such width")
        shape = (self.asked, width) if width else (self.asked,)
        raw = np.frombuffer(self._read(name, self.asked * max(width, 1) * 8), np.float64).reshape(shape)
        with _fitting():
            return probed(raw, self.asked, vector)

    def _trace(self, job: int, told: Any, kind: str) -> tuple[NDArray[np.float32] | None, tuple[int, ...]]:
        if not self.order.trace or told is None:
            return None, ()
        steps = tuple(told["steps"])
        size = len(steps) * self.rows * self.columns * 4
        increasing = all(type(step) is int for step in steps) and all(a < b for a, b in itertools.pairwise(steps))
        if not steps or not increasing or size > _TRACE_LIMIT or told["kind"] != kind:
            raise ValueError("no such steps")
        shape = (len(steps), self.rows, self.columns)
        raw = np.frombuffer(self._read(f"{job}.trace", size), np.float32).reshape(shape)
        with _fitting():
            return np.stack([checked(one, told["kind"], self.rows).values for one in raw]), steps

    def _read(self, name: str, limit: int) -> bytes:
        """A regular file of at most `limit` bytes; never what a link points at, never waiting for a pipe."""
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self.answers)
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(f"{name} is not a regular file")
            content = stream.read(limit + 1)
        if len(content) > limit:
            raise ValueError(f"{name} is too long")
        return content


class _Unfit(Exception):
    """An answer that can be read, and is none."""

    def __init__(self, cause: ModelOutputUnusable) -> None:
        super().__init__(cause.what)
        self.cause = cause


@contextlib.contextmanager
def _fitting() -> Iterator[None]:
    try:
        yield
    except ModelOutputUnusable as error:
        raise _Unfit(error) from error


def _reported(told: Mapping[str, Any], shadow: int) -> GateError:
    """The error that a worker told of, in words that cannot harm a terminal."""
    what, hint = clean(told.get("what", ""), 500), clean(told.get("hint", ""), 300)
    name = told.get("class")
    kind = getattr(errors, name) if name in (*_REPORTABLE, "StorageFailed") else RecipeFailed
    error: GateError = kind(f"shadow {shadow}: {what}", hint)
    return error


@dataclass(slots=True, eq=False)
class Worker:
    """One process, and what it is at. `since` is when its present shadow's time began, on the monotonic clock."""

    process: subprocess.Popen[bytes]
    heard: int  # read end of the pipe that it says its tokens into
    ready: bool = False  # it has imported its libraries
    shadow: int | None = None
    job: int = -1
    since: float = 0.0
    _said: bytes = b""
    _size: int | None = None  # resident bytes after its first shadow

    def give(self, job: int, shadow: int, seed: int) -> bool:
        """Hand over a shadow; False when the process is gone, which is then no fault of this shadow."""
        if self.process.poll() is not None or self.process.stdin is None:
            return False
        try:
            self.process.stdin.write(f"{job} {shadow} {seed}\n".encode())
        except OSError:
            return False
        self.job, self.shadow, self.since = job, shadow, time.monotonic()
        return True

    def listen(self) -> bool:
        """Take in what it said; True when it says that its shadow is done. Raises EOFError when it is gone."""
        try:
            said = os.read(self.heard, _TOKEN_LIMIT)
        except BlockingIOError:  # it ended, and something that it left behind holds the pipe
            said = b""
        if not said:
            raise EOFError
        self._said += said
        if not self.ready and self._said.startswith(READY):
            self._said = self._said[len(READY) :]
            self.ready, self.since = True, time.monotonic()
        expected = DONE % self.job if self.ready and self.shadow is not None else READY if not self.ready else b""
        if not expected.startswith(self._said):
            who = "a worker" if self.shadow is None else f"shadow {self.shadow}: its worker"
            raise ModelOutputUnusable(f"{who} spoke out of turn", "the recipe, or the model, meddles with its worker")
        if not self._said or self._said != expected:
            return False
        self._said, self.shadow = b"", None
        return True

    def grown(self) -> bool:
        """Whether it has gathered so much memory since its first shadow that it should be replaced."""
        try:
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        except (OSError, IndexError, ValueError):
            return False
        size = pages * resource.getpagesize()
        if self._size is None:
            self._size = size
        return size - self._size > _GROWN

    def end(self) -> int:
        """Kill it with all that it started; its exit code."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        os.close(self.heard)
        return code
