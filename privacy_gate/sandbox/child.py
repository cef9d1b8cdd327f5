"""The process that a candidate is loaded in: `python -I -m privacy_gate.sandbox.child JOB.json`.

It reads a job, writes `meta.json`, `outputs.npy` and `outputs_again.npy`, and keeps stdout and stderr for the log.
"""

from __future__ import annotations

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


def _confine(parent: int) -> None:
    """Die with the gate, leave no core file behind, write nothing that others can read."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the gate went away before the line above
        os._exit(1)


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


def main(path: str) -> int:
    """Run one job; 0 if meta.json holds an answer, 1 if it holds an error."""
    job = json.loads(Path(path).read_text())
    _confine(job["parent"])
    out = Path(job["out"])
    code = 0
    try:
        meta = run(job, out)
    except Exception as error:
        traceback.print_exc()
        gate = isinstance(error, GateError)
        meta = {
            "error": {
                "class": type(error).__name__,
                "what": error.what if isinstance(error, GateError) else f"{type(error).__name__}: {error}",
                "hint": error.hint if isinstance(error, GateError) else "",
                "gate": gate,
            }
        }
        code = 1
    (out / "meta.json").write_text(json.dumps(meta, default=str))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
