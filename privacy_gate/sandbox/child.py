"""The process that a candidate is loaded in: `python -I -m privacy_gate.sandbox.child JOB.json`.

It forks a worker and watches over it. The worker reads a job, writes `meta.json` and an array for each time that it
asked the model, for each probe or each stage; stdout and stderr are the log. When the worker ends, or the gate ends or
says so (SIGTERM), the watcher kills all that the worker started: on Linux it is the parent that orphans fall to,
whatever their session.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privacy_gate.errors import DataError, GateError, ModelOutputUnusable
from privacy_gate.sandbox.guard import PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG, end_all, keep_nice, prctl
from privacy_gate.sandbox.untrusted import where

if TYPE_CHECKING:
    from privacy_gate.datamodel import Outputs
    from privacy_gate.features import AnyFeatures
    from privacy_gate.sandbox.outputs import Kind


def _follow(parent: int, last: signal.Signals) -> None:
    """Get the signal `last` when `parent` ends."""
    prctl(PR_SET_PDEATHSIG, last)
    if os.getppid() != parent:  # it went away before the line above
        os._exit(1)


# --- the watcher ----------------------------------------------------------------------------------------------------


def watch(path: str, work: Callable[[str], int] | None = None) -> int:
    """Run the job in a worker; its exit code, negative for the signal that ended it, once nothing of it is left.

    work  what the worker does with the job; default: `main`
    """
    parent = json.loads(Path(path).read_text())["parent"]
    os.umask(0o077)  # write nothing that others can read
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signals = {signal.SIGTERM, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    _follow(parent, signal.SIGTERM)
    watcher = os.getpid()
    worker = os.fork()
    if worker == 0:
        os.setsid()  # what the model sends to its own group must not reach the watcher
        keep_nice()
        _follow(watcher, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        sys.exit((work or main)(path))
    status = None
    while status is None and signal.sigwait(signals) != signal.SIGTERM:
        status = _reap(worker)
    end_all(worker)
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


# --- the worker -----------------------------------------------------------------------------------------------------


def run(job: dict[str, Any], out: Path) -> dict[str, Any]:
    """Describe, and score, probe or tell the stages; returns what goes into meta.json."""
    from dataclasses import asdict

    from privacy_gate.sandbox import models

    model = models.load(Path(job["folder"]), job["flavor"])
    description = models.describe(model, job["flavor"])
    meta: dict[str, Any] = {"description": asdict(description), "type": type(model).__name__}
    if job["features"] is None or description.kind == "regressor":
        return meta
    if "probes" in job:
        meta["probes"] = _probe(model, job, out)
    elif "stages" in job:
        meta["rounds"] = _stages(model, job, out)
    else:
        meta["kind"], told = _score(model, job, out)
        if told is not None:  # the answers name their classes: labels, or columns with names
            meta["description"]["classes"] = told
    return meta


def _score(model: Any, job: dict[str, Any], out: Path) -> tuple[str, list[Any] | None]:
    """Leave every answer in a file of its own, for the gate to compare and average; their kind, and their classes."""
    import numpy as np

    from privacy_gate import features as tables
    from privacy_gate.sandbox import feeding, models
    from privacy_gate.sandbox.outputs import BATCH, QUERIES, SAME, Form, kind_of, sealed, wobble

    features = feeding.load(job["features"])
    batch = tables.take(features, np.arange(min(tables.batch_rows(features, BATCH), len(features))))

    form, device = Form.from_json(job["form"]), job["device"]
    named: list[tuple[Any, ...] | None] = []

    def ask(rows: AnyFeatures, kind: Kind, name: str) -> Outputs:
        found = models.answered(model, rows, form.of(kind), BATCH, device=device)
        named.append(found.classes)
        np.save(out / f"{name}.npy", sealed(found.outputs), allow_pickle=False)
        return found.outputs

    try:
        first = ask(features, form.kind, "outputs")
        kind = kind_of(first)
        again = ask(batch, kind, "outputs_again")
        if wobble(first, again, lambda: ask(batch, kind, "outputs_once_more")) > SAME:
            for i in range(1, QUERIES):
                ask(features, kind, f"outputs_{i}")
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
    if any(classes != named[0] for classes in named):
        raise ModelOutputUnusable("the model names other classes from call to call", "it must name all of them")
    return first.kind, None if named[0] is None else list(named[0])


def _probe(model: Any, job: dict[str, Any], out: Path) -> list[dict[str, str]]:
    """Leave what each probe finds in a file of its own; what each has to say beside numbers."""
    import numpy as np

    from privacy_gate import features as tables
    from privacy_gate.sandbox import asking, feeding, models
    from privacy_gate.sandbox.outputs import Form

    form, device = Form.from_json(job["form"]), job["device"]
    features, labels = tables.in_memory(feeding.load(job["features"])), np.load(job["labels"], allow_pickle=False)
    access = asking.Loaded(
        model,
        job["classes"],
        lambda rows, kind: models.query(model, rows, form.of(kind), device=device),
        asking.stand_between(job["protect"], job["seed"], released=True),
        form.kind,
    )
    told: list[dict[str, str]] = []
    (out / "doing").write_text("0")
    for found in asking.ask(access, job["probes"], features, labels, job["seed"]):
        if isinstance(found, asking.Nothing):
            told.append({"failed": found.failed, "where": found.where} if found.failed else {"absent": found.reason})
        else:
            np.save(out / f"probe_{len(told)}.npy", found, allow_pickle=False)
            told.append({})
        (out / "doing").write_text(str(min(len(told), len(job["probes"]) - 1)))
    return told


def _stages(model: Any, job: dict[str, Any], out: Path) -> int:
    """Leave what the model answers after some of its rounds in files of their own; how many rounds it has."""
    import numpy as np

    from privacy_gate import features as tables
    from privacy_gate.sandbox import feeding, stages

    features, found = tables.in_memory(feeding.load(job["features"])), stages.stages_of(model)
    for i, step in enumerate(stages.steps(found.rounds)):
        np.save(out / f"stage_{i}.npy", found.at(step, features), allow_pickle=False)
    return found.rounds


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
        meta = {"error": {"class": type(error).__qualname__, "where": where(error), "gate": False}}
        code = 1
    (out / "meta.json").write_text(json.dumps(meta, default=str))
    return code


def leave(code: int) -> None:
    """End as the worker did, by the same signal if by one."""
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    leave(watch(sys.argv[1]))
