"""Other interpreters than the gate's own: which Python it is and what it has, found out before anything is loaded.

An interpreter is asked in a process of its own, with a clean environment and a time limit; packages that are installed
there may run code when it starts, so its answer is read as if an attacker had written it.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy_gate.errors import UsageError
from privacy_gate.sandbox import guard
from privacy_gate.sandbox.environment import clean_environment
from privacy_gate.sandbox.logged import normal
from privacy_gate.sandbox.runtime import Runtime
from privacy_gate.sandbox.untrusted import clean

OLDEST = (3, 11)  # Python that the gate's own part runs on
OLDEST_PYDANTIC = 2

# Module -> distribution: what the gate's own part imports where a model is loaded and shadows are trained. All of them
# are requirements of mlflow itself.
NEEDED = {
    "mlflow": "mlflow",
    "numpy": "numpy",
    "pandas": "pandas",
    "pyarrow": "pyarrow",
    "pydantic": "pydantic",
    "scipy": "scipy",
}
NEEDED_BY_FLAVOR = {
    "sklearn": {"sklearn": "scikit-learn"},
    "pytorch": {"torch": "torch"},
    "lightgbm": {"lightgbm": "lightgbm"},
    "xgboost": {"xgboost": "xgboost"},
}

_ASK_LIMIT, _GPU_LIMIT = 60.0, 300.0  # seconds; the second imports torch and starts CUDA
_MOST_BYTES = 4 << 20
_MOST_DISTRIBUTIONS = 5000
_OTHER_WAY = "environment: current is the gate's own Python, model is built from the model's requirements"

# Any Python 3 must be able to say that it is too old. The first distribution on the path is the one that is imported.
_WHAT = """
import json, sys
told = {"python": "%d.%d.%d" % tuple(sys.version_info[:3])}
if sys.version_info >= (3, 11):
    import importlib.metadata, importlib.util
    told["missing"] = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]
    told["versions"] = versions = {}
    for one in importlib.metadata.distributions():
        try:
            versions.setdefault(one.metadata["Name"].lower(), one.version)
        except Exception:
            pass
sys.stdout.write(json.dumps(told))
"""

_GPU = """
import json, sys
told = {"torch": None, "devices": 0}
try:
    import torch
except ImportError:
    pass
else:
    told["torch"] = torch.__version__
    if torch.cuda.is_available():
        one = torch.cuda.get_device_properties(0)
        told.update(
            devices=torch.cuda.device_count(), name=one.name, capability="%d.%d" % (one.major, one.minor),
            cuda=str(torch.version.cuda), cudnn=str(torch.backends.cudnn.version()),
        )
sys.stdout.write(json.dumps(told))
"""


def located(text: str, folder: Path) -> Path:
    """The interpreter that a config names, never resolved: a virtual environment is found by the link in it.

    folder  where relative paths start
    Raises UsageError: there is none, it cannot be run, or others may write to it.
    """
    path = Path(os.path.abspath(folder / text))
    try:
        status, beside = path.stat(), path.resolve().parent
    except OSError as error:
        raise UsageError(
            f"environment: {clean(path)}: {error.strerror or 'there is no such interpreter'}",
            f"paths start at the config; {_OTHER_WAY}",
        ) from error
    if stat.S_ISDIR(status.st_mode):
        raise UsageError(f"environment: {clean(path)} is a folder", "name the interpreter in it, e.g. .../bin/python")
    if not stat.S_ISREG(status.st_mode) or not os.access(path, os.X_OK):
        raise UsageError(f"environment: {clean(path)} cannot be run", f"name a Python interpreter; {_OTHER_WAY}")
    for place in (path, path.parent, beside):
        mode = place.stat().st_mode
        if mode & stat.S_IWOTH and not (stat.S_ISDIR(mode) and mode & stat.S_ISVTX):
            raise UsageError(
                f"environment: others may write to {clean(place)}, and so choose what the gate runs",
                f"chmod o-w {clean(place)}",
            )
    return path


def versions(python: Path, flavor: str = "") -> dict[str, str]:
    """Distribution, and "python" -> version of what the interpreter has.

    flavor  of the candidate, as in `Candidate.flavor`: its library must be there, too
    Raises UsageError: it is no Python, too old, or lacks what the gate's own part needs there.
    """
    needed = NEEDED | NEEDED_BY_FLAVOR.get(flavor, {})
    found = read(ask(python, _WHAT, sorted(needed), _ASK_LIMIT), python)
    if lacking := sorted(needed[name] for name in needed if name in found.missing):
        raise UsageError(
            f"environment: {clean(python)} lacks {', '.join(lacking)}",
            f"install what is missing there ({clean(python)} -m pip install {' '.join(lacking)}); the gate brings"
            " nothing but itself into another environment",
        )
    pydantic = found.versions.get("pydantic", "")
    major = re.match(r"\d+", pydantic)
    if major is not None and int(major[0]) < OLDEST_PYDANTIC:
        raise UsageError(
            f"environment: {clean(python)} has pydantic {pydantic}; the gate's own part needs {OLDEST_PYDANTIC}",
            f"{clean(python)} -m pip install 'pydantic>={OLDEST_PYDANTIC}'",
        )
    return dict(found.versions)


@dataclass(frozen=True, slots=True)
class Read:
    """What an interpreter told.

    versions  distribution, and "python" -> version
    missing   those of the modules asked about that it does not have
    """

    versions: Mapping[str, str]
    missing: frozenset[str]


def read(told: Mapping[str, Any], python: Path) -> Read:
    """An answer to the question what is there, checked. Raises UsageError, also for a Python that is too old."""
    version = told.get("python")
    if not isinstance(version, str) or not re.fullmatch(r"\d{1,3}\.\d{1,3}\.\d{1,3}", version):
        raise _unreadable(python)
    if tuple(map(int, version.split(".")[:2])) < OLDEST:
        raise UsageError(
            f"environment: {clean(python)} is Python {version}; the gate's own part needs "
            f"{'.'.join(map(str, OLDEST))} or newer",
            "log the model again from a newer Python, or load it with the gate's: environment: current",
        )
    listed, missing = told.get("versions"), told.get("missing")
    if not isinstance(listed, dict) or not isinstance(missing, list) or len(listed) > _MOST_DISTRIBUTIONS:
        raise _unreadable(python)
    found = {
        normal(name): one
        for name, one in listed.items()
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name)
        and isinstance(one, str)
        and re.fullmatch(r"\d[A-Za-z0-9.!+_-]{0,59}", one)
    }
    return Read({**found, "python": version}, frozenset(name for name in missing if isinstance(name, str)))


def gpu(runtime: Runtime) -> str:
    """Name of the CUDA device that torch would use there, and of what drives it. Raises UsageError if there is none."""
    python = runtime.python or Path(sys.executable)
    return read_gpu(ask(python, _GPU, (), _GPU_LIMIT, runtime), python)


def read_gpu(told: Mapping[str, Any], python: Path) -> str:
    """An answer to the question for a GPU, checked."""
    torch, devices = told.get("torch"), told.get("devices")
    mend = "leave --device out to train and to score on the CPU"
    if torch is None:
        raise UsageError(f"--device cuda: {clean(python)} has no torch", mend)
    if type(devices) is not int or devices < 1:
        raise UsageError(
            f"--device cuda: torch {clean(torch, 40)} finds no CUDA device here",
            f"it needs a build of torch with CUDA, a driver, and CUDA_VISIBLE_DEVICES not empty; {mend}",
        )
    name, *rest = (clean(told.get(key, "unknown"), 80) for key in ("name", "capability", "cuda", "cudnn"))
    return f"{name} (capability {rest[0]}, CUDA {rest[1]}, cuDNN {rest[2]})"


# --- one question ---------------------------------------------------------------------------------------------------


def ask(
    python: Path, script: str, arguments: Sequence[str], limit: float, runtime: Runtime | None = None
) -> Mapping[str, Any]:
    """The JSON object that a script prints there. Raises UsageError for everything else, and after `limit` seconds."""
    with tempfile.TemporaryDirectory(prefix="privacy-gate-") as scratch:
        environment = clean_environment(os.environ, Path(scratch), runtime or Runtime(python))
        argv = [str(python), "-I", "-B", "-c", script, *arguments]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with guard.guarded(argv, folder=Path(scratch), environment=environment, **streams) as (process, pipe):
            content = _printed(process, limit)
            # The guard holds stdout as long as anything runs: the end of nothing is the end of all.
            errno = guard.ended(process, pipe).errno if content == b"" else None
        if errno is not None:
            why = os.strerror(errno) if errno else "its process could not be prepared"
            raise UsageError(f"environment: {clean(python)} cannot be run: {why}", _OTHER_WAY)
    if content is None:
        raise UsageError(f"environment: {clean(python)} did not answer within {limit:g} s", _OTHER_WAY)
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise _unreadable(python)
    return told


def _printed(process: subprocess.Popen[bytes], limit: float) -> bytes | None:
    """All that it prints; None when it takes too long, no JSON when it is more than `_MOST_BYTES`."""
    assert process.stdout is not None
    pipe, end, content = process.stdout.fileno(), time.monotonic() + limit, b""
    os.set_blocking(pipe, False)
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while len(content) <= _MOST_BYTES:
            if (left := end - time.monotonic()) <= 0:
                return None
            if selector.select(left):
                if not (part := os.read(pipe, 1 << 16)):
                    return content
                content += part
    return b"too much"


def _unreadable(python: Path) -> UsageError:
    return UsageError(f"environment: {clean(python)} does not answer as a Python 3 does", _OTHER_WAY)
