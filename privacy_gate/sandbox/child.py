"""The process that a candidate is loaded in: `python -I -m privacy_gate.sandbox.child JOB.json`.

It forks a worker and watches over it. The worker reads a job, writes `meta.json`, `outputs.npy` and
`outputs_again.npy`; stdout and stderr are the log. When the worker ends, or the gate ends or says so (SIGTERM), the
watcher kills all that the worker started: on Linux it is the parent that orphans fall to, whatever their session.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from privacy_gate.errors import DataError, GateError

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _follow(parent: int, last: signal.Signals) -> None:
    """Get the signal `last` when `parent` ends."""
    _prctl(_PR_SET_PDEATHSIG, last)
    if os.getppid() != parent:  # it went away before the line above
        os._exit(1)


# --- the watcher ----------------------------------------------------------------------------------------------------


def watch(path: str) -> int:
    """Run the job in a worker; its exit code, negative for the signal that ended it, once nothing of it is left."""
    parent = json.loads(Path(path).read_text())["parent"]
    os.umask(0o077)  # write nothing that others can read
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signals = {signal.SIGTERM, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _follow(parent, signal.SIGTERM)
    watcher = os.getpid()
    worker = os.fork()
    if worker == 0:
        os.setsid()  # what the model sends to its own group must not reach the watcher
        _follow(watcher, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        sys.exit(main(path))
    status = None
    while status is None and signal.sigwait(signals) != signal.SIGTERM:
        status = _reap(worker)
    _end_all(worker)
    return 1 if status is None else os.waitstatus_to_exitcode(status)


def _reap(worker: int) -> int | None:
    """Bury whoever has died; the worker's status if it was among them."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == worker:
            return status
        if pid == 0:
            return None


def _end_all(worker: int) -> None:
    """Kill child after child: the children of each fall to this process, until there is none."""
    if sys.platform != "linux":  # orphans fall to another; the worker's own group is all that can be found
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker, signal.SIGKILL)
        return
    while True:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    """The processes whose parent this one is: the second field after the name, which may hold anything, in stat."""
    found, own = [], os.getpid()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # ended meanwhile
            if int(stat.read_bytes().rpartition(b")")[2].split()[1]) == own:
                found.append(int(stat.parent.name))
    return found


# --- the worker -----------------------------------------------------------------------------------------------------


def run(job: dict[str, Any], out: Path) -> dict[str, Any]:
    """Describe and score; returns what goes into meta.json."""
    from dataclasses import asdict

    from privacy_gate.sandbox import models

    model = models.load(Path(job["folder"]), job["flavor"])
    description = models.describe(model, job["flavor"])
    meta: dict[str, Any] = {"description": asdict(description), "type": type(model).__name__}
    if job["features"] is None or description.kind == "regressor":
        return meta
    _score(model, job, out, meta)
    return meta


def _score(model: Any, job: dict[str, Any], out: Path, meta: dict[str, Any]) -> None:
    import numpy as np

    from privacy_gate import features as tables
    from privacy_gate.sandbox import models

    features = tables.load(Path(job["features"]))
    try:
        outputs = models.query(model, features, job["batch_size"], job["kind"])
        first = tables.take(features, np.arange(min(job["batch_size"], len(features))))
        again = models.query(model, first, job["batch_size"], outputs.kind)
    except GateError:
        raise
    except Exception as error:
        takes, got = models.expected_features(model, Path(job["folder"])), features.shape[1]
        if features.ndim == 2 and takes is not None and takes != got:
            raise DataError(
                f"the model takes {takes} feature columns, the data has {got}",
                "name the model's columns under data: features, or the others under data: drop",
            ) from error
        raise
    np.save(out / "outputs.npy", outputs.values, allow_pickle=False)
    np.save(out / "outputs_again.npy", again.values, allow_pickle=False)
    meta["kind"] = outputs.kind


def _where(error: BaseException) -> str:
    """Function, file and line that raised: no folder, which tells of people, and none of the error's own words."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    code = trace.tb_frame.f_code
    module = trace.tb_frame.f_globals.get("__name__", "")
    return f"{module}.{code.co_qualname} ({os.path.basename(code.co_filename)}:{trace.tb_lineno})"


def main(path: str) -> int:
    """Run one job; 0 if meta.json holds an answer, 1 if it holds an error."""
    job = json.loads(Path(path).read_text())
    out = Path(job["out"])
    code = 0
    try:
        meta = run(job, out)
    except GateError as error:
        traceback.print_exc()
        meta = {"error": {"class": type(error).__name__, "what": error.what, "hint": error.hint, "gate": True}}
        code = 1
    except Exception as error:
        traceback.print_exc()  # the only place for its words, which may quote a record
        meta = {"error": {"class": type(error).__qualname__, "where": _where(error), "gate": False}}
        code = 1
    (out / "meta.json").write_text(json.dumps(meta, default=str))
    return code


def _leave(code: int) -> None:
    """End as the worker did, by the same signal if by one."""
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    _leave(watch(sys.argv[1]))
